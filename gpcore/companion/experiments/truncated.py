"""Notebook 09: what a step gains and costs that is taken at a layer instead of the input."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from gpcore import paths
from gpcore.companion import cost, measure
from gpcore.companion.report import tables
from gpcore.companion.report.panels import PAGE
from gpcore.companion.report.plots import PUBLISHED_LOOK
from gpcore.companion.studies import LABELS, Study


def place_counts(study: Study, name: str, images: int | None = None) -> dict[str, Tensor]:
    """Test counts N x K x K of a network alone, and after one step at each of its `cost.places`."""
    found = dict[str, Tensor]()
    for place, epsilon in cost.places(study, name).items():
        at = None if place == "input" else place
        alone, after = measure.sweep_counts(study, name, "test", [0, epsilon], at=at, images=images)
        found |= {cost.ALONE: alone, place: after}
    return found


def timing_rows(study: Study, names: Sequence[str], *, again: bool) -> pd.DataFrame:
    """`cost.timing` of some networks, with a column network: as notebook 09 recorded it last, or measured anew."""
    file = paths.FINISHED / study.name / "09_truncated" / "timing.csv"
    known = pd.read_csv(file) if file.is_file() else pd.DataFrame()
    wanted = [(name, place) for name in names for place in (cost.ALONE, *cost.places(study, name))]
    if not again and "network" in known and [*zip(known["network"], known["place"], strict=True)] == wanted:
        return known
    return pd.concat([cost.timing(study, name).assign(network=name) for name in names])


def cost_rows(study: Study, counts: Mapping[str, Mapping[str, Tensor]], times: pd.DataFrame) -> pd.DataFrame:
    """For each network and place: operations, memory and milliseconds, all three in multiples of the network alone,
    and the gain with its interval, from `place_counts` by network and `timing_rows`."""
    parts = []
    for name, each in counts.items():
        own = times[times["network"] == name].drop(columns="network")
        spent = cost.operations(study, name).merge(own, on="place").set_index("place")
        ratios = (spent / spent.iloc[0]).set_axis(["operations_ratio", "memory_ratio", "time_ratio"], axis=1)
        gained = tables.gains(each, "place").set_index("place").assign(epsilon=pd.Series(cost.places(study, name)))
        part = spent.join(ratios).join(gained).reset_index()
        part.insert(0, "network", LABELS[name])
        parts.append(part.assign(images=study.images["test"]))
    return pd.concat(parts, ignore_index=True)


def kept_rows(counts: Mapping[str, Mapping[str, Tensor]]) -> pd.DataFrame:
    """By how many points the gain at each layer lies above that at the input, with its interval: from `place_counts`
    by network."""
    parts = {}
    for name, each in counts.items():
        layers = [place for place in each if place not in (cost.ALONE, "input")]
        parts[LABELS[name]] = tables.differences(each, {f"{layer} − input": ("input", layer) for layer in layers})
    return pd.concat(parts, names=["network"]).reset_index("network")


def places(rows: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Above the gain of a step at each place with its interval, below its time; a column of plots for each network and
    a last one, with axes of its own, for the published numbers.  Rows place, gain, time_ratio, with network in ours."""
    parts = [*rows.groupby("network", sort=False), ("published FCN-32s, VOC 2012", published)]
    figure, axes = plt.subplots(2, len(parts), figsize=(PAGE, 3.4), layout="constrained", squeeze=False)
    for (gain, time), (name, part) in zip(axes.T, parts, strict=True):
        if "low" in part:
            reach = (part["gain"] - part["low"], part["high"] - part["gain"])
            gain.errorbar(part["place"], part["gain"], yerr=reach, fmt="o", capsize=3)
            gain.sharey(axes[0, 0])
            name = f"{name}, {part['images'].iloc[0]} images"
        else:
            gain.plot(part["place"], part["gain"], "D", **PUBLISHED_LOOK)
        gain.axhline(0, color="black", linewidth=0.8)
        gain.set_title(name)
        gain.margins(x=0.15, y=0.12)
        bars = time.bar(part["place"], part["time_ratio"], color="#9A9A9A", width=0.6)
        time.bar_label(bars, fmt="{:.1f}", padding=1, fontsize=6)
        time.set_ylim(0, 1.15 * max(each["time_ratio"].max() for _, each in parts))
    axes[0, 0].set_ylabel("gain (mIoU points)")
    axes[1, 0].set_ylabel("time (plain passes)")
    return figure
