"""From counts and rows to the tables that notebooks print and plot, each number with its interval over images."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gpcore import metrics

NAMES = {"fcn32s": "FCN-32s", "fcn16s": "FCN-16s", "fcn8s": "FCN-8s"}


def points(value: float, low: float, high: float) -> str:
    """A difference with its sign and its interval: "+1.23 [+0.80, +1.61]"."""
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def beside(rows: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Base, guided and gain of `experiments.gain_rows` beside the published ones, and the difference of the gains."""
    given = published.set_index("network").reindex(rows["network"].map(NAMES)).set_index(rows.index)
    paper_gain = given["guided"] - given["base"]
    table = pd.DataFrame(
        {
            "network": rows["network"].map(NAMES),
            "ε": rows["epsilon"],
            "base": rows["base"].round(2),
            "+GP": rows["guided"].round(2),
            "gain [95 %]": [points(*row) for row in rows[["gain", "low", "high"]].itertuples(index=False)],
            "corrected : newly wrong": (rows["corrected"] / rows["newly_wrong"]).round(2),
            "paper base": given["base"],
            "paper +GP": given["guided"],
            "gain − paper's": (rows["gain"] - paper_gain).round(2),
        }
    )
    return table.set_index("network").astype(object).where(lambda t: t.notna(), "–")


def gain_table(
    counts: Mapping[str, Tensor], values: Sequence[float], *, base: int, name: str = "epsilon"
) -> pd.DataFrame:
    """mIoU and its gain over setting number `base`, with intervals, for labelled V x N x K x K counts of V settings."""
    rows = []
    for label, matrices in counts.items():
        for value, after in zip(values, matrices, strict=True):
            gain = metrics.gain(matrices[base], after)
            rows.append(
                {"label": label, name: value, "miou": 100 * metrics.miou(after.sum(0)).item(), **gain._asdict()}
            )
    return pd.DataFrame(rows).rename(columns={"value": "gain"})


def image_spread(counts: Mapping[str, Tensor]) -> pd.DataFrame:
    """Mean and standard deviation over images of the change in an image's own mIoU, per iteration."""
    rows = []
    for label, matrices in counts.items():
        change = 100 * (metrics.miou(matrices) - metrics.miou(matrices[:1]))
        rows += [(label, i, c.mean().item(), c.std().item()) for i, c in enumerate(change)]
    return pd.DataFrame(rows, columns=["label", "iteration", "mean", "std"])


def by_group(rows: pd.DataFrame, by: str, value: str, *, scale: float = 1.0) -> pd.DataFrame:
    """Mean of `value` in each group, times `scale`, with its interval; one row of `rows` per image and group."""
    table = []
    for group, part in rows.groupby(by, sort=False):
        interval = metrics.bootstrap(torch.mean, scale * torch.tensor(part[value].to_numpy()))
        table.append((group, *interval))
    return pd.DataFrame(table, columns=[by, "mean", "low", "high"])


def distance_medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Median distance to the boundary of each kind of pixel, over all pixels, with its interval over images.

    Args:
        rows: `experiments.change_rows`.
    """
    images, far = rows["image"].max() + 1, rows["distance"].max() + 1
    table = []
    for kind, part in rows.groupby("kind", sort=False):
        histogram = np.zeros((images, far))
        np.add.at(histogram, (part["image"], part["distance"]), part["pixels"])
        interval = metrics.bootstrap(_median, torch.from_numpy(histogram))
        table.append((kind, int(histogram.sum()), *interval))
    return pd.DataFrame(table, columns=["kind", "pixels", "median", "low", "high"])


def _median(histograms: Tensor) -> Tensor:
    """The median of whole-pixel distances, interpolated within its pixel as for grouped data."""
    total = histograms.sum(0).cumsum(0)
    half = total[-1] / 2
    k = int((total < half).sum())
    below = total[k - 1] if k else 0.0
    return k + (half - below) / (total[k] - below)


def distance_shares(rows: pd.DataFrame, edges: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> pd.DataFrame:
    """Share in per cent of each kind's pixels by interval of distance [edge, next edge)."""
    bins = pd.cut(rows["distance"], [*edges, np.inf], right=False, labels=list(edges))
    sums = rows.groupby(["kind", bins], observed=False)["pixels"].sum()
    share = 100 * sums / sums.groupby("kind").transform("sum")
    return share.rename("share").reset_index()


def per_class(counts: Tensor, classes: Sequence[str], published: pd.DataFrame) -> pd.DataFrame:
    """IoU of every class, their mean and the global accuracy in per cent, beside published scores of the same names.

    Args:
        counts: N x K x K counts of a whole split.
        published: columns score and published.
    """
    matrix = counts.sum(0)
    values = [*metrics.class_iou(matrix).tolist(), metrics.miou(matrix).item(), metrics.accuracy(matrix).item()]
    table = pd.DataFrame({"score": [*classes, "mean IoU", "global accuracy"], "ours": values})
    table["ours"] *= 100
    return table.merge(published[["score", "published"]], how="left", on="score")
