"""From counts and rows to the tables that notebooks print and plot, each number with its interval over images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gpcore import metrics
from gpcore.companion.studies import LABELS, PUBLISHED

GAIN = ["gain", "low", "high"]  # columns


def _miou(counts: Tensor) -> float:
    """mIoU in per cent of N images' counts, N x K x K."""
    return 100 * metrics.miou(counts.sum(0)).item()


def gains(counts: Mapping[Any, Tensor], name: str = "method", *, base: Any = None) -> pd.DataFrame:
    """mIoU of each of some N x K x K counts, called `name`, and its gain over that of `base` (default: the first) with
    its interval."""
    before = counts[next(iter(counts)) if base is None else base]
    rows = [(key, _miou(after), *metrics.gain(before, after)) for key, after in counts.items()]
    return pd.DataFrame(rows, columns=[name, "miou", *GAIN])


def gains_by(
    by: str, counts: Mapping[str, Mapping[Any, Tensor]], name: str = "method", *, base: Any = None
) -> pd.DataFrame:
    """The `gains` of several such counts, with what they are called in a first column `by`."""
    parts = {label: gains(each, name, base=base) for label, each in counts.items()}
    return pd.concat(parts, names=[by]).reset_index(by).reset_index(drop=True)


def differences(counts: Mapping[str, Tensor], pairs: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """mIoU of b minus that of a with its interval, for named pairs (a, b) of N x K x K counts."""
    rows = [(name, *metrics.gain(counts[a], counts[b])) for name, (a, b) in pairs.items()]
    return pd.DataFrame(rows, columns=["difference", "points", "low", "high"])


def intervals(rows: pd.DataFrame, by: str, value: str = "gain") -> dict[str, metrics.Interval]:
    """A column with its ends low and high as `Interval`s, by the labels in the column `by`."""
    return {label: metrics.Interval(*ends) for label, *ends in rows[[by, value, *GAIN[1:]]].itertuples(index=False)}


def signed(rows: pd.DataFrame) -> list[str]:
    """Differences with their signs and intervals, three columns: "+1.23 [+0.80, +1.61]"."""
    return [f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for value, low, high in rows.itertuples(index=False)]


def ranged(rows: pd.DataFrame) -> list[str]:
    """Values with their intervals, three columns: "47.5 [44.1, 50.2]"."""
    return [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in rows.itertuples(index=False)]


def gain_rows(
    measured: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]], epsilons: Mapping[str, float]
) -> pd.DataFrame:
    """For each network's `measure.guided_counts`: base and guided mIoU, the gain with its interval, and pixels."""
    columns = ["network", "epsilon", "base", "guided", *GAIN, "base_accuracy", "guided_accuracy"]
    rows = []
    for name, (counts, pixels) in measured.items():
        accuracies = [100 * share for share in metrics.accuracy(counts.sum(1)).tolist()]
        scores = [*map(_miou, counts), *metrics.gain(*counts), *accuracies]
        kinds = (int(pixels[kind].sum()) for kind in ("corrected", "newly_wrong"))
        rows.append((name, epsilons[name], *scores, *kinds, len(pixels["corrected"])))
    return pd.DataFrame(rows, columns=[*columns, "corrected", "newly_wrong", "images"])


def beside(rows: pd.DataFrame, published: pd.DataFrame, seeds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Base, guided and gain of `gain_rows` over n images beside the published ones, and the difference of the gains;
    with rows network, gain of several trainings each, between what their gains lie."""
    spread = {} if seeds is None else {name: _spread(part["gain"]) for name, part in seeds.groupby("network")}
    given = published.set_index("network").reindex(rows["network"].map(PUBLISHED)).set_index(rows.index)
    table = pd.DataFrame(
        {
            "network": rows["network"].map(LABELS),
            "ε": rows["epsilon"].map("{:g}".format),
            "base": rows["base"],
            "+GP": rows["guided"],
            "n": rows["images"].map(str),
            "gain [95 %]": signed(rows[GAIN]),
            **({"over trainings": rows["network"].map(spread)} if spread else {}),
            "corrected : newly wrong": rows["corrected"] / rows["newly_wrong"],
            "paper base": given["base"],
            "paper +GP": given["guided"],
            "gain − paper's": rows["gain"] - (given["guided"] - given["base"]),
        }
    )
    return table.set_index("network").map(lambda x: "–" if x != x else x if isinstance(x, str) else f"{x:.2f}")


def gain_difference(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], times: float = 1.0
) -> metrics.Interval:
    """By how much the first pair's gain, from before to after, exceeds `times` the second's, on the same images."""
    return metrics.bootstrap(lambda a, b, c, d: metrics.points(a, b) - times * metrics.points(c, d), *first, *second)


def paired(predicted: Mapping[str, Tensor], truth: Tensor) -> pd.DataFrame:
    """Accuracy of every method's N predictions, its gain over the first method with its interval over pictures, the
    pictures corrected and newly wrong, and the exact McNemar p."""
    alone, *_ = predicted.values()
    rows = []
    for method, classes in predicted.items():
        right = 100 * (classes == truth).double()
        gain = metrics.mean(right - 100 * (alone == truth).double())
        rows.append((method, right.mean().item(), *gain, *metrics.mcnemar(alone, classes, truth)))
    return pd.DataFrame(rows, columns=["method", "accuracy", *GAIN, "corrected", "newly_wrong", "p"])


def class_gains(counts: Tensor | Sequence[Tensor], classes: Sequence[str]) -> pd.DataFrame:
    """IoU of every class before and after, from 2 x N x K x K counts, and the gain with its interval over images."""
    before, after = (100 * metrics.class_iou(c.sum(0)) for c in counts)
    rows = []
    for k, name in enumerate(classes):
        gain = metrics.bootstrap(lambda a, b, k=k: 100 * (metrics.class_iou(b) - metrics.class_iou(a))[..., k], *counts)
        rows.append((name, before[k].item(), after[k].item(), *gain))
    return pd.DataFrame(rows, columns=["class", "base", "guided", *GAIN])


def widest_range(epsilons: Sequence[float], gains: Sequence[float]) -> tuple[float, float]:
    """Ends of the widest run (by ratio) of neighbouring positive epsilons that all gain; (0, 0) where none does."""
    best, run = (0.0, 0.0), list[float]()
    for epsilon, gain in sorted(zip(epsilons, gains, strict=True)):
        run = [*run, epsilon] if epsilon > 0 and gain > 0 else []
        if run and (not best[0] or run[-1] / run[0] > best[1] / best[0]):
            best = (run[0], run[-1])
    return best


def image_spread(counts: Mapping[str, Tensor]) -> pd.DataFrame:
    """Mean and standard deviation over images of the change in an image's own mIoU, per iteration."""
    change = {label: metrics.points(c[:1], c) for label, c in counts.items()}
    parts = {label: pd.DataFrame({"mean": c.mean(1), "std": c.std(1)}) for label, c in change.items()}
    return pd.concat(parts, names=["label", "iteration"]).reset_index()


def with_units(rows: pd.DataFrame, units: Tensor | None) -> pd.DataFrame:
    """Rows with a column `image`, counted from 0, and where images are not independent a column `unit`: that of
    `Study.units` which the image belongs to, and which every interval over these rows then resamples."""
    return rows if units is None else rows.assign(unit=units.numpy()[rows["image"].to_numpy()])


def unit(rows: pd.DataFrame) -> str:
    """The column of rows that says what is resampled."""
    return "unit" if "unit" in rows else "image"


def mean(rows: pd.DataFrame, value: str, *, scale: float = 1.0) -> metrics.Interval:
    """The mean of `value`, times `scale`, of one row per image, with its interval."""
    units = torch.tensor(rows["unit"].to_numpy()) if "unit" in rows else None
    return metrics.mean(scale * torch.tensor(rows[value].to_numpy()), units)


def by_group(rows: pd.DataFrame, by: str, value: str, *, scale: float = 1.0) -> pd.DataFrame:
    """Mean of `value` in each group, times `scale`, with its interval; one row of `rows` per image and group."""
    table = [(group, *mean(part, value, scale=scale)) for group, part in rows.groupby(by, sort=False)]
    return pd.DataFrame(table, columns=[by, "mean", "low", "high"])


def margin(rows: pd.DataFrame, value: str, method: str, other: str, *, scale: float = 1.0) -> metrics.Interval:
    """The mean over images by which one method's value exceeds another's; rows have the columns image and method."""
    return paired_mean(rows, "method", value, method, other, scale=scale)


def paired_mean(
    rows: pd.DataFrame, by: str, value: str, first: object, second: object, *, scale: float = 1.0
) -> metrics.Interval:
    """The mean over images by which `value` of the rows called `first` in the column `by` exceeds that of `second`."""
    keys = ["unit", "image"] if "unit" in rows else ["image"]
    wide = rows.pivot(index=keys, columns=by, values=value).astype(float)
    return mean(wide[[first]].sub(wide[second], axis=0).reset_index(), str(first), scale=scale)


def distance_medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Median distance to the boundary of each kind of pixel of `corrected_pixels.change_rows`, with its interval over
    images."""
    histograms = _distance_histograms(rows)
    table = [(kind, int(each.sum()), *metrics.bootstrap(_median, each)) for kind, each in histograms.items()]
    return pd.DataFrame(table, columns=["kind", "pixels", "median", "low", "high"])


def distance_difference(rows: pd.DataFrame, first: str, second: str) -> metrics.Interval:
    """The median distance of the first kind minus that of the second, paired over images."""
    histograms = _distance_histograms(rows)
    return metrics.bootstrap(lambda a, b: _median(a) - _median(b), histograms[first], histograms[second])


def _distance_histograms(rows: pd.DataFrame) -> dict[str, Tensor]:
    """Pixels of each kind by unit and whole distance, U x D."""
    of = unit(rows)
    units, far, found = rows[of].max() + 1, rows["distance"].max() + 1, dict[str, Tensor]()
    for kind, part in rows.groupby("kind", sort=False):
        histogram = np.zeros((units, far))
        np.add.at(histogram, (part[of], part["distance"]), part["pixels"])
        found[str(kind)] = torch.from_numpy(histogram)
    return found


def _median(histogram: Tensor) -> Tensor:
    """The median of ... x D pixels by whole distance, interpolated within its pixel as for grouped data."""
    total = torch.nn.functional.pad(histogram.cumsum(-1), (1, 0))
    half = total[..., -1:] / 2
    k = (total[..., 1:-1] < half).sum(-1, keepdim=True)
    below, upto = total.gather(-1, k), total.gather(-1, k + 1)
    median: Tensor = k + (half - below) / (upto - below)
    return median.squeeze(-1)


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


def _spread(gains: pd.Series) -> str:
    """Of several trainings the least and the greatest gain, and their number: "+0.12 to +0.34 (3)"; of one "–"."""
    return f"{gains.min():+.2f} to {gains.max():+.2f} ({len(gains)})" if len(gains) > 1 else "–"
