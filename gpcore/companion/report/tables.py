"""From counts and rows to the tables that notebooks print and plot, each number with its interval over images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gpcore import metrics
from gpcore.companion.studies import LABELS, PUBLISHED


def points(value: float, low: float, high: float) -> str:
    """A difference with its sign and its interval: "+1.23 [+0.80, +1.61]"."""
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _miou(counts: Tensor) -> float:
    """mIoU in per cent of N images' counts, N x K x K."""
    return 100 * metrics.miou(counts.sum(0)).item()


def _gains(rows: pd.DataFrame) -> list[str]:
    """The columns gain, low, high as `points`."""
    return [points(*row) for row in rows[["gain", "low", "high"]].itertuples(index=False)]


def gain_rows(
    measured: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]], epsilons: Mapping[str, float]
) -> pd.DataFrame:
    """For each network's `measure.guided_counts`: base and guided mIoU, the gain with its interval, and pixels."""
    rows = []
    for name, ((before, after), pixels) in measured.items():
        rows.append(
            {
                "network": name,
                "epsilon": epsilons[name],
                "base": _miou(before),
                "guided": _miou(after),
                **dict(zip(("gain", "low", "high"), metrics.gain(before, after), strict=True)),
                "base_accuracy": 100 * metrics.accuracy(before.sum(0)).item(),
                "guided_accuracy": 100 * metrics.accuracy(after.sum(0)).item(),
                **{kind: int(each.sum()) for kind, each in pixels.items()},
                "images": len(before),
            }
        )
    return pd.DataFrame(rows)


def beside(rows: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Base, guided and gain of `gain_rows` beside the published ones, and the difference of the gains."""
    given = published.set_index("network").reindex(rows["network"].map(PUBLISHED)).set_index(rows.index)
    table = pd.DataFrame(
        {
            "network": rows["network"].map(LABELS),
            "ε": rows["epsilon"].map("{:g}".format),
            "base": rows["base"],
            "+GP": rows["guided"],
            "gain [95 %]": _gains(rows),
            "corrected : newly wrong": rows["corrected"] / rows["newly_wrong"],
            "paper base": given["base"],
            "paper +GP": given["guided"],
            "gain − paper's": rows["gain"] - (given["guided"] - given["base"]),
        }
    )
    return table.set_index("network").map(lambda x: "–" if x != x else x if isinstance(x, str) else f"{x:.2f}")


def gain_table(
    counts: Mapping[str, Tensor], values: Sequence[float], *, base: int, name: str = "epsilon"
) -> pd.DataFrame:
    """mIoU and its gain over setting number `base`, with intervals, for labelled V x N x K x K counts of V settings."""
    rows = [
        (label, value, _miou(after), *metrics.gain(matrices[base], after))
        for label, matrices in counts.items()
        for value, after in zip(values, matrices, strict=True)
    ]
    return pd.DataFrame(rows, columns=["label", name, "miou", "gain", "low", "high"])


def differences(counts: Any, pairs: Mapping[str, tuple[Any, Any]]) -> pd.DataFrame:
    """mIoU of setting b minus that of setting a with its interval, for named pairs (a, b) of V x N x K x K counts, or
    of a mapping's N x K x K counts."""
    rows = [(name, *metrics.gain(counts[a], counts[b])) for name, (a, b) in pairs.items()]
    return pd.DataFrame(rows, columns=["difference", "points", "low", "high"])


def gain_difference(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> metrics.Interval:
    """By how much the first pair's gain, of counts before and after, lies above the second's on the same images."""

    def gains(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        scores = [100 * metrics.miou(counts.sum(0)) for counts in (a, b, c, d)]
        return (scores[1] - scores[0]) - (scores[3] - scores[2])

    return metrics.bootstrap(gains, *first, *second)


def method_gains(counts: Mapping[tuple[str, int], Mapping[str, Tensor]]) -> pd.DataFrame:
    """mIoU of every method in every condition (`neighbours_in_time.method_counts`), and its gain over the first one
    with its interval."""
    rows = []
    for (kind, severity), found in counts.items():
        alone, *_ = found.values()
        condition = f"{kind} {severity}" if severity else "clean"
        rows += [(condition, method, _miou(after), *metrics.gain(alone, after)) for method, after in found.items()]
    return pd.DataFrame(rows, columns=["condition", "method", "miou", "gain", "low", "high"])


def best(counts: Mapping[str, Tensor]) -> str:
    """The method with the highest mIoU, by its N x K x K counts; of equals the first."""
    return max(counts, key=lambda method: _miou(counts[method]))


def paired(predicted: Mapping[str, Tensor], truth: Tensor) -> pd.DataFrame:
    """Accuracy of every method's N predictions, its gain over the first method with its interval over pictures, the
    pictures corrected and newly wrong, and the exact McNemar p."""
    alone, *_ = predicted.values()
    rows = []
    for method, classes in predicted.items():
        right = 100 * (classes == truth).double()
        gain = metrics.bootstrap(torch.mean, right - 100 * (alone == truth).double())
        rows.append((method, right.mean().item(), *gain, *metrics.mcnemar(alone, classes, truth)))
    return pd.DataFrame(rows, columns=["method", "accuracy", "gain", "low", "high", "corrected", "newly_wrong", "p"])


def paired_table(rows: pd.DataFrame, paper: Mapping[str, float]) -> pd.DataFrame:
    """`paired` for display, with the paper's accuracies `base` and `guided` beside the first two rows."""
    given = [paper["base"], paper["guided"], *[np.nan] * (len(rows) - 2)]
    table = pd.DataFrame(
        {
            "method": rows["method"],
            "accuracy (%)": rows["accuracy"].map("{:.2f}".format),
            "gain [95 %]": _gains(rows),
            "corrected : newly wrong": rows["corrected"].map(str) + " : " + rows["newly_wrong"].map(str),
            "p (McNemar)": rows["p"].map("{:.2g}".format),
            "paper (%)": ["–" if x != x else f"{x:.2f}" for x in given],
        }
    )
    return table.set_index("method")


def error_reduction(base: float, gain: float, low: float, high: float) -> dict[str, float]:
    """Share of a base score's error (100 minus it) that a gain removes, in per cent: value, low, high."""
    return {name: 100 * x / (100 - base) for name, x in (("value", gain), ("low", low), ("high", high))}


def class_gains(counts: Tensor | Sequence[Tensor], classes: Sequence[str]) -> pd.DataFrame:
    """IoU of every class before and after, from 2 x N x K x K counts, and the gain with its interval over images."""
    before, after = (100 * metrics.class_iou(c.sum(0)) for c in counts)
    rows = []
    for k, name in enumerate(classes):
        gain = metrics.bootstrap(
            lambda a, b, k=k: 100 * (metrics.class_iou(b.sum(0)) - metrics.class_iou(a.sum(0)))[k], *counts
        )
        rows.append((name, before[k].item(), after[k].item(), *gain))
    return pd.DataFrame(rows, columns=["class", "base", "guided", "gain", "low", "high"])


def widest_range(epsilons: Sequence[float], gains: Sequence[float]) -> tuple[float, float]:
    """Ends of the widest run (by ratio) of neighbouring positive epsilons that all gain; (0, 0) where none does."""
    best, run = (0.0, 0.0), list[float]()
    for epsilon, gain in sorted(zip(epsilons, gains, strict=True)):
        run = [*run, epsilon] if epsilon > 0 and gain > 0 else []
        if run and (not best[0] or run[-1] / run[0] > best[1] / best[0]):
            best = (run[0], run[-1])
    return best


def ranges(rows: pd.DataFrame) -> pd.DataFrame:
    """For every label of a sweep: the ends of its `widest_range`, their ratio, and the best gain with its epsilon."""
    table = []
    for label, part in rows.groupby("label", sort=False):
        low, high = widest_range(part["epsilon"].tolist(), part["gain"].tolist())
        gain, epsilon = max(zip(part["gain"], part["epsilon"], strict=True))
        table.append((label, low, high, high / low if low else 0.0, epsilon, gain))
    columns = ["network", "gains from ε", "to ε", "ratio", "best ε", "its gain"]
    return pd.DataFrame(table, columns=columns).set_index("network")


def settings(crfs: Mapping[str, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """Every network's DenseCRF, one column per number."""
    columns = ["network", "gaussian sxy", "gaussian weight", "bilateral sxy", "bilateral srgb", "bilateral weight"]
    rows = [(LABELS[name], *crf["gaussian"], *crf["bilateral"]) for name, crf in crfs.items()]
    return pd.DataFrame(rows, columns=columns)


def toy_numbers(toy: pd.DataFrame, case: str) -> dict[str, float]:
    """What the ledger asks of one case of notebook 11's toy: printed numbers matched, the angle between the two
    signals, and which way each moves the most likely class (1 or 0 for yes or no)."""
    part = toy[toy["case"] == case]
    onehot, uniform = (part[part["label"] == label]["eq. (5)"].to_numpy() for label in ("one-hot", "uniform"))
    top = int(part[part["label"] == "one-hot"]["y"].to_numpy().argmax())
    return {
        "matches": float(part["match"].sum()),
        "expected": float(len(part)),
        "cosine": float(onehot @ uniform / (np.linalg.norm(onehot) * np.linalg.norm(uniform))),
        "onehot_top_raised": float(onehot[top] > 0),
        "uniform_top_lowered": float(uniform[top] < 0),
    }


def image_spread(counts: Mapping[str, Tensor]) -> pd.DataFrame:
    """Mean and standard deviation over images of the change in an image's own mIoU, per iteration."""
    rows = []
    for label, matrices in counts.items():
        change = 100 * (metrics.miou(matrices) - metrics.miou(matrices[:1]))
        rows += [(label, i, c.mean().item(), c.std().item()) for i, c in enumerate(change)]
    return pd.DataFrame(rows, columns=["label", "iteration", "mean", "std"])


def by_group(rows: pd.DataFrame, by: str, value: str, *, scale: float = 1.0) -> pd.DataFrame:
    """Mean of `value` in each group, times `scale`, with its interval; one row of `rows` per image and group."""
    table = [
        (group, *metrics.bootstrap(torch.mean, scale * torch.tensor(part[value].to_numpy())))
        for group, part in rows.groupby(by, sort=False)
    ]
    return pd.DataFrame(table, columns=[by, "mean", "low", "high"])


def margin(rows: pd.DataFrame, value: str, method: str, other: str, *, scale: float = 1.0) -> metrics.Interval:
    """The mean over images by which one method's value exceeds another's; rows have the columns image and method."""
    wide = rows.pivot(index="image", columns="method", values=value).astype(float)
    return metrics.bootstrap(torch.mean, scale * torch.tensor((wide[method] - wide[other]).to_numpy()))


def distance_medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Median distance to the boundary of each kind of pixel of `corrected_pixels.change_rows`, with its interval over
    images."""
    images, far = rows["image"].max() + 1, rows["distance"].max() + 1
    table = []
    for kind, part in rows.groupby("kind", sort=False):
        histogram = np.zeros((images, far))
        np.add.at(histogram, (part["image"], part["distance"]), part["pixels"])
        table.append((kind, int(histogram.sum()), *metrics.bootstrap(_median, torch.from_numpy(histogram))))
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


def by_class(counts: Mapping[str, Tensor], classes: Sequence[str]) -> pd.DataFrame:
    """For every method's N x K x K counts of a whole split: IoU of every class, their mean and the global accuracy, in
    per cent."""
    rows = []
    for method, matrices in counts.items():
        matrix = matrices.sum(0)
        values = [*metrics.class_iou(matrix).tolist(), metrics.miou(matrix).item(), metrics.accuracy(matrix).item()]
        rows.append((method, *(100 * value for value in values)))
    return pd.DataFrame(rows, columns=["method", *classes, "mean IoU", "global accuracy"])


def per_class(counts: Tensor, classes: Sequence[str], published: pd.DataFrame) -> pd.DataFrame:
    """`by_class` of one method, a line per score, beside those of the same names in `published` (score, published)."""
    table = by_class({"ours": counts}, classes).set_index("method").T.rename_axis("score").reset_index()
    table.columns.name = None
    return table.merge(published[["score", "published"]], how="left", on="score")
