"""Notebook 15: what else a test batch can be given for the price of a guided step, on clean and corrupted images."""

import functools
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from gpcore import metrics
from gpcore.adapt import VIEWS, Tent, augmented
from gpcore.companion.cost import ALONE
from gpcore.companion.measure import Answer, answer_counts
from gpcore.companion.studies import Study
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide


def alternatives(study: Study, name: str) -> dict[str, Answer]:
    """What a user could do with a test batch, each a function from B x C x H x W images to logits.

    The epsilons were chosen on validation images. TENT, for networks with batch norm, goes on learning from call to
    call; "batch statistics" is its first half.
    """
    network, tuned = study.network(name), study.tuned(name)
    chosen: dict[str, Answer] = {
        ALONE: network,
        "guided step": lambda x: guide(network, x, tuned["epsilon"]).after,
        "entropy step": lambda x: guide(network, x, tuned["entropy"]["epsilon"], signal="entropy").after,
        **{f"mean over {views}s": functools.partial(augmented, network, views=views) for views in VIEWS},
    }
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        chosen |= {"batch statistics": Tent(network, rate=0.0), "TENT": Tent(network)}
    return chosen


def method_counts(
    study: Study, name: str, conditions: Sequence[tuple[str, int]], split: str, count: int, only: Sequence[str] = ()
) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Confusion counts N x K x K of each of `alternatives` in each condition: a kind of corruption, a severity or 0.

    `only` names the methods that are run, in that order; default all.
    """
    found = {}
    for kind, severity in conditions:
        every, generator = alternatives(study, name), torch.Generator().manual_seed(0)
        methods = {method: every[method] for method in only or every}
        change = functools.partial(corrupt, kind=kind, severity=severity, seed=generator) if severity else _same
        told = f"methods {name} {study.epsilon(name):g} {study.tuned(name)['entropy']['epsilon']:g} {kind}{severity}"
        keep = f"{told} {' '.join(methods)} by {study.batch}"  # TENT learns from batch to batch
        found[kind, severity] = answer_counts(study, methods, split, count, change, keep=keep)
    return found


def recovered(counts: Mapping[str, Mapping[str, Tensor]], methods: Sequence[str]) -> pd.DataFrame:
    """By condition, of which the first is clean: mIoU that the corruption takes from the network alone, and the share
    of it (per cent) that each of some methods brings back; with intervals over the images."""

    def share(clean: Tensor, alone: Tensor, after: Tensor) -> Tensor:
        return metrics.points(alone, after) / (metrics.miou(clean) - metrics.miou(alone))

    (_, first), *others = counts.items()
    clean, rows = first[ALONE], []
    for condition, each in others:
        for method in (method for method in methods if method in each):
            found = metrics.bootstrap(share, clean, each[ALONE], each[method])
            rows.append((condition, *metrics.gain(each[ALONE], clean), method, *found))
    columns = ["condition", "lost", "lost_low", "lost_high", "method", "share", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def recovered_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`recovered` for display, a column for each method; "most" where more than half comes back, whole interval."""
    table: dict[str, dict[str, str]] = {}
    for condition, *lost, method, share, low, high in rows.itertuples(index=False):
        row = table.setdefault(condition, {"lost (points)": "{:.1f} [{:.1f}, {:.1f}]".format(*lost)})
        row[f"{method} (% of it)"] = f"{share:.0f} [{low:.0f}, {high:.0f}]" + (" most" if low > 50 else "")
    return pd.DataFrame(table).T.rename_axis("condition")


def _same(images: Tensor) -> Tensor:
    return images
