"""Notebook 11: every label's sweep over epsilon on some networks, and the epsilon that validation images choose."""

from collections.abc import Mapping, Sequence

import pandas as pd
from torch import Tensor

from gpcore import metrics
from gpcore.companion import measure
from gpcore.companion.report import tables
from gpcore.companion.studies import Study

# Confusion counts N x K x K of a network under a label, by both their names, at each level: epsilon in 1/255
Swept = Mapping[tuple[str, str], Mapping[float, Tensor]]


def swept(
    study: Study,
    networks: Sequence[str],
    labels: Sequence[str],
    levels: Sequence[float],
    split: str,
    images: int | None = None,
) -> Swept:
    """The counts of one step at each level, of which 0 is the network alone."""
    epsilons = [level / 255 for level in levels]
    pairs = [(network, label) for network in networks for label in labels]
    found = (measure.sweep_counts(study, n, split, epsilons, labels=label, images=images) for n, label in pairs)
    return {pair: dict(zip(levels, counts, strict=True)) for pair, counts in zip(pairs, found, strict=True)}


def chosen(counts: Swept) -> dict[tuple[str, str], float]:
    """The level, not 0, with the highest mIoU of all images together; of equals the first."""
    return {
        pair: max((level for level in each if level), key=lambda level: metrics.miou(each[level].sum(0)).item())
        for pair, each in counts.items()
    }


def curves(counts: Swept, picked: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """Per network, label and level: mIoU, its gain with the interval, and whether the level is the one picked."""
    parts = []
    for (network, label), each in counts.items():
        rows = tables.gains(each, "level", base=0)
        rows.insert(0, "network", network)
        rows.insert(1, "label", label)
        parts.append(rows.assign(picked=rows["level"] == picked.get((network, label))))
    return pd.concat(parts, ignore_index=True)


def best(rows: pd.DataFrame) -> pd.DataFrame:
    """For display: per network and label the level picked and its gain, beside the highest gain of all levels."""
    table = []
    for (network, label), part in rows[rows["level"] != 0].groupby(["network", "label"], sort=False):
        own, most = part[part["picked"]], part.sort_values("gain").iloc[-1]
        gain = (f"{own['level'].item():g}", *tables.signed(own[tables.GAIN])) if len(own) else ("–", "–")
        table.append((network, label, *gain, f"{most['gain']:+.2f} at {most['level']:g}"))
    columns = ["network", "label", "ε from validation", "gain [95 %]", "highest on test"]
    return pd.DataFrame(table, columns=columns).set_index(["network", "label"])


def judged(
    counts: Mapping[str, Tensor], picked: Mapping[tuple[str, str], float], network: str, images: int
) -> pd.DataFrame:
    """Per label its level, the gain of that step and by how much the first label's is above it, from 2 x N x K x K
    counts before and after over so many images, with intervals."""
    first, *_ = counts.values()
    rows = [
        (label, picked[network, label], *metrics.gain(*each), *metrics.gain(each[1], first[1]), images)
        for label, each in counts.items()
    ]
    return pd.DataFrame(rows, columns=["label", "level", *tables.GAIN, "over", "over_low", "over_high", "images"])
