"""Which epsilon to take on a network of one's own, and what to expect of it there."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.flop_counter import FlopCounterMode

from gpcore import metrics
from gpcore.checks import expect
from gpcore.metrics import Interval
from gpcore.perturb import guide, sweep
from gpcore.progress import progress


class Trial(NamedTuple):
    """One epsilon on all images: the score (mIoU, or a classifier's accuracy) and its gain over the model alone, in
    points of 100 with their intervals; of the pixels, or pictures, the per cent whose class is another than before; of
    a label map's pixels the per cent on islands, see `islands`; and the mean entropy in nats."""

    epsilon: float
    score: Interval
    gain: Interval
    changed: float
    islands: float
    entropy: float


@dataclass(frozen=True)
class Choice:
    """The epsilon of the highest score, 0 where no step beats the model alone; the trials in order of their epsilons,
    of which 0 is the model alone; on how many images; and what a step costs, in passes of the model."""

    epsilon: float
    trials: tuple[Trial, ...]
    images: int
    passes: float

    @property
    def best(self) -> Trial:
        return next(trial for trial in self.trials if trial.epsilon == self.epsilon)

    def __str__(self) -> str:
        lines = ["epsilon       score          gain [95 %]       changed  islands  entropy"]
        for trial in self.trials:
            gain = "{:+6.2f} [{:+.2f}, {:+.2f}]".format(*trial.gain)
            rest = f"{trial.changed:6.2f} %  {trial.islands:5.2f} %  {trial.entropy:7.3f}"
            lines.append(f"{trial.epsilon:<9g}{trial.score.value:8.2f} %  {gain:>24}  {rest}")
        worth = self.best.gain.value / (self.passes - 1)
        cost = f"a step costs {self.passes:.2f} passes: {worth:+.2f} points for each beyond the first"
        lines.append(f"best: {self.epsilon:g}, on {self.images} images; {cost}")
        return "\n".join(lines)


def choose_epsilon(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    epsilons: Sequence[float],
    *,
    void: int = 255,
    **options: Any,
) -> Choice:
    """Tries a guided step with each epsilon on labelled images, which should be none that results are reported on.

    Args:
        model: returns logits B x K or B x K x h x w, in any of the ways that `logits_of` knows.
        loader: pairs of images B x C x H x W and labels, B or B x H x W; logits of another size are made larger
            bilinearly.
        epsilons: in the images' units; without 0, which is tried anyway.
        void: the label of pixels that count nothing.
        options: those of `sweep`.

    Raises ValueError: no epsilons, no images, and what `sweep` refuses.
    """
    tried = sorted({0.0, *epsilons})
    expect("epsilons", f"{len(tried) - 1} of them", len(tried) > 1, "at least one that is not 0")
    parts, passes, score = list[Tensor](), 0.0, _miou
    for images, labels in progress(loader, desc="epsilons"):
        passes, score = passes or _passes(model, images, options), _miou if labels.dim() > 1 else _accuracy
        found = dict(sweep(model, images, tried, void=void, **options))
        parts.append(torch.stack([_counted(z, found[0.0], labels, void) for z in found.values()]))
    expect("loader", "no images", parts, "at least one batch")
    counts = torch.cat(parts, 1)  # E x N x (3 K + 4)
    alone, trials = counts[tried.index(0.0)], []
    for epsilon, each in zip(tried, counts, strict=True):
        gain = metrics.bootstrap(lambda before, after: score(after) - score(before), alone, each)
        known, changed, small, entropy = each[:, -4:].sum(0).tolist()
        shares = (100 * changed / known, 100 * small / known, entropy / known)
        trials.append(Trial(epsilon, metrics.bootstrap(score, each), gain, *shares))
    best = max(trials, key=lambda trial: (trial.score.value, trial.epsilon == 0))
    return Choice(best.epsilon, tuple(trials), counts.shape[1], passes)


def islands(labels: Tensor) -> Tensor:
    """Where B x H x W classes form 4-connected regions of one class smaller than 1/200 of the image: the same shape."""
    from scipy import ndimage  # a quarter of a second that few need to wait

    found = np.zeros(labels.shape, dtype=bool)
    for image, small in zip(labels.numpy(force=True), found, strict=True):
        for value in np.unique(image):
            regions, _ = ndimage.label(image == value)
            small |= (regions > 0) & (np.bincount(regions.ravel())[regions] < image.size / 200)
    return torch.from_numpy(found)


def _counted(logits: Tensor, before: Tensor, labels: Tensor, void: int) -> Tensor:
    """Of each image: by class the hits, the true and the predicted pixels; then how many pixels count, how many of them
    changed, how many are on islands, and the sum of their entropies: B x (3 K + 4)."""
    if logits.dim() == 4:
        size = labels.shape[1:]
        logits, before = (z if z.shape[2:] == size else interpolate(z, size, mode="bilinear") for z in (logits, before))
    else:
        logits, before, labels = (each.view(*each.shape, 1, 1) for each in (logits, before, labels))
    known, classes, now, was = labels != void, logits.shape[1], logits.argmax(1), before.argmax(1)
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
    small = islands(now).to(known.device) if known[0].numel() > 1 else torch.zeros_like(known)
    rows = []
    for k, truth, answer in zip(known, labels, now, strict=True):
        of = functools.partial(torch.bincount, minlength=classes)
        rows.append(torch.stack([of(truth[k & (truth == answer)]), of(truth[k]), of(answer[k])]).flatten())
    sums = [(each * known).flatten(1).sum(1) for each in (known, now != was, small, entropy)]
    return torch.cat([torch.stack(rows).double(), torch.stack(sums, 1).double()], 1).cpu()


def _miou(sums: Tensor) -> Tensor:
    """In points of 100 from ... x (3 K + 4) sums of `_counted`."""
    hits, true, predicted = sums[..., :-4].unflatten(-1, (3, -1)).unbind(-2)
    miou: Tensor = 100 * (hits / (true + predicted - hits)).nanmean(-1)
    return miou


def _accuracy(sums: Tensor) -> Tensor:
    """The same, of pictures that count as one pixel each."""
    hits: Tensor = sums[..., :-4].unflatten(-1, (3, -1))[..., 0, :].sum(-1)
    return 100 * hits / sums[..., -4]


def _passes(model: nn.Module, images: Tensor, options: Any) -> float:
    """What a guided step costs on a batch, in floating-point operations of the model alone."""
    spent = []
    for task in (lambda: model(images), lambda: guide(model, images, 0.0, **options)):
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            task()
        spent.append(flops.get_total_flops())
    return spent[1] / spent[0] if spent[0] else float("nan")
