"""Segmentation metrics from confusion matrices, bootstrap intervals over images."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpcore.checks import expect


class Interval(NamedTuple):
    """A measured value with the ends of its bootstrap 95 % interval over images."""

    value: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Pictures that only the second of two classifiers gets right, only the first, and the exact two-sided p."""

    corrected: int
    newly_wrong: int
    p: float


def confusion(predicted: Tensor, labels: Tensor, classes: int, void: int) -> Tensor:
    """K x K pixel counts, rows the true class, columns the predicted one; void pixels are left out.

    Maps of whole numbers, equal in shape: `predicted` in [0, K), `labels` in [0, K) or `void`; else a ValueError.
    """
    shape, expected = [*predicted.shape], [*labels.shape]
    expect("predicted", f"shape {shape}", shape == expected, f"that of labels, {expected}")
    for name, values in (("predicted", predicted), ("labels", labels)):
        expect(name, values.dtype, torch.can_cast(values.dtype, torch.long), "whole numbers")
    predicted, labels = predicted.long(), labels.long()  # cells need not fit into narrower numbers
    known = labels != void
    for name, values in (("predicted", predicted), ("labels", labels[known])):
        outside = values[(values < 0) | (values >= classes)][:1].tolist()
        expect(name, f"class {outside and outside[0]}", not outside, f"0 to {classes - 1}, or {void} in labels")
    return torch.bincount(labels[known] * classes + predicted[known], minlength=classes**2).view(classes, classes)


def class_iou(matrix: Tensor) -> Tensor:
    """Intersection over union of every class, ... x K for ... x K x K counts; NaN for classes that never occur."""
    hits = matrix.diagonal(dim1=-2, dim2=-1).double()
    return hits / (matrix.sum(-1) + matrix.sum(-2) - hits)


def miou(matrix: Tensor) -> Tensor:
    """Mean IoU over the classes that occur, one matrix for a whole data set (Long et al. 2015)."""
    return class_iou(matrix).nanmean(-1)


def accuracy(matrix: Tensor) -> Tensor:
    """Share of non-void pixels that are right: ... from ... x K x K counts."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1) / matrix.sum((-2, -1))


def bootstrap(statistic: Callable[..., Tensor], *samples: Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    """`statistic` of sums over N images with its percentile interval; all samples are resampled by the same images.

    It maps each sample's sums, R x ... of samples N x ..., to R values, one per resample, and does the same without R.
    Resamples in which it is undefined, such as the IoU of a class that none of their images shows, do not count.
    """
    return _interval(*_resampled(statistic, *samples, resamples=resamples, seed=seed))


def difference(
    first: Callable[..., Tensor], ours: Sequence[Tensor], second: Callable[..., Tensor], theirs: Sequence[Tensor]
) -> Interval:
    """`first` of our samples minus `second` of theirs, as in `bootstrap`, the two resampled independently: they need
    share neither images nor their number."""
    (a, several), (b, others) = _resampled(first, *ours, seed=0), _resampled(second, *theirs, seed=1)
    return _interval(a - b, several - others)


def _resampled(
    statistic: Callable[..., Tensor], *samples: Tensor, resamples: int = 1000, seed: int = 0
) -> tuple[float, Tensor]:
    """The statistic of all images, and of each resample."""
    count = len(samples[0])
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(drawn.shape, dtype=torch.double).scatter_add_(1, drawn, torch.ones_like(drawn).double())
    values = statistic(*(torch.tensordot(times, sample.double(), 1) for sample in samples))  # sums of counts are exact
    return float(statistic(*(sample.double().sum(0) for sample in samples))), values


def _interval(value: float, values: Tensor) -> Interval:
    low, high = values.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Interval(value, low, high)


def per_unit(values: Tensor, units: Tensor | None) -> Tensor:
    """Values N x ... of images summed over those of one unit, U x ...: what `bootstrap` is to resample where images are
    not independent, as frames of a video. `units` numbers the unit of each image, in any way; None: each is its own."""
    if units is None:
        return values
    expect("units", f"{len(units)} of them", len(units) == len(values), f"one for each of {len(values)} images")
    known, place = units.unique(return_inverse=True)
    return values.new_zeros(len(known), *values.shape[1:]).index_add(0, place, values)


def mean(values: Tensor, units: Tensor | None = None) -> Interval:
    """The mean of N images' values; resampled are images, or the units N that they belong to."""
    sums, number = (per_unit(each, units) for each in (values, torch.ones(len(values), dtype=torch.long)))
    return bootstrap(lambda total, images: total / images, sums, number)


def points(before: Tensor, after: Tensor) -> Tensor:
    """mIoU after minus before, in points of 100: ... from ... x K x K summed counts."""
    return 100 * (miou(after) - miou(before))


def gain(before: Tensor, after: Tensor) -> Interval:
    """`points` of all images, from paired N x K x K counts of the same images."""
    return bootstrap(points, before, after)


def score(matrices: Tensor) -> Interval:
    """mIoU of the data set in points of 100, from N x K x K counts per image."""
    return bootstrap(lambda m: 100 * miou(m), matrices)


def mcnemar(before: Tensor, after: Tensor, truth: Tensor) -> McNemar:
    """The exact McNemar test of two classifiers' predictions on the same pictures (all N)."""
    from scipy.stats import binomtest  # a second that few need to wait

    was, now = before == truth, after == truth
    corrected, newly_wrong = int((~was & now).sum()), int((was & ~now).sum())
    changed = corrected + newly_wrong
    return McNemar(corrected, newly_wrong, float(binomtest(corrected, changed).pvalue) if changed else 1.0)


def step_psnr(epsilon: float) -> float:
    """Peak signal-to-noise ratio in dB of an image in [0, 1] after a step by epsilon in every pixel and channel."""
    return -20 * math.log10(abs(epsilon))
