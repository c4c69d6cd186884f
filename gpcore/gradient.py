"""The signal that a label sends to a network's logits, and the gradient that it becomes at the input.

Sections and equations are those of Sankaranarayanan, Jain, Lim: Guided Perturbations, ICCV 2017.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gpcore.checks import check_classes, expect, finite, logits_of
from gpcore.cut import Rest

LABELS = ("onehot", "top2", "uniform", "random", "random-image")
SIGNALS = ("ce", "eq5", "entropy")
DIRECTIONS = ("sign", "linf", "l2")


def pseudo_labels(
    logits: Tensor, labels: str | Tensor = "onehot", *, void: int = 255, seed: int | torch.Generator = 0
) -> Tensor:
    """The label distribution l for B x K [x h x w] logits: same shape, sums to one over dim 1, all zero where void.

    "onehot" is the predicted class, "top2" half each of the two best, "uniform" 1/K, "random" a class per pixel and
    "random-image" one per image (drawn image by image, so a `torch.Generator` carries on through batches). An integer
    label map (B [x h x w]) becomes one-hot; a distribution of the logits' shape is taken as it is.  Source: section 5.
    """
    classes, size = logits.shape[1], (logits.shape[0], *logits.shape[2:])
    if isinstance(labels, Tensor) and labels.is_floating_point():
        found = f"a distribution of shape {[*labels.shape]}"
        expect("labels", found, labels.shape == logits.shape, f"{[*logits.shape]}")
        off = (labels.sum(1) - 1).abs()
        if not (off < 1e-3).all() or (labels < 0).any():
            raise ValueError(f"labels: a distribution is >= 0 and sums to one over dim 1, it is off by {off.max():.3g}")
        return labels.to(logits)
    if not isinstance(labels, str):
        check_classes(labels)
        found = f"{labels.dtype} of shape {[*labels.shape]}"
        expect("labels", found, labels.shape == size, f"an integer map of shape {[*size]}")
        labels = labels.to(logits.device, torch.int64)
        known = labels != void
        wrong = labels[known & ((labels < 0) | (labels >= classes))][:1].tolist()
        expect("labels", f"class {wrong and wrong[0]}", not wrong, f"0 to {classes - 1} or void = {void}")
        return _onehot(labels * known, classes, logits) * known.unsqueeze(1)
    expect("labels", repr(labels), labels in LABELS, f"a tensor or one of {', '.join(LABELS)}")
    if labels == "onehot":
        return _onehot(logits.max(1).indices, classes, logits)  # four times as fast as argmax, which this is
    if labels == "top2":
        first, second = logits.topk(2, 1).indices.unbind(1)
        return (_onehot(first, classes, logits) + _onehot(second, classes, logits)) / 2
    if labels == "uniform":
        return torch.full_like(logits, 1 / classes)
    generator = as_generator(seed)
    shape = size[1:] if labels == "random" else [1] * (len(size) - 1)
    chosen = torch.empty(size, dtype=torch.int64)
    for each in chosen:
        each.copy_(torch.randint(classes, shape, generator=generator, device=generator.device))
    return _onehot(chosen.to(logits.device), classes, logits)


def logit_signal(logits: Tensor, target: Tensor, signal: str = "ce") -> Tensor:
    """The signal at the logits for softmax output y and label distribution l: "ce" l - y, "eq5" (l . y)(l - y),
    "entropy" y (log y + H), minus the gradient of y's entropy H whatever the label.

    "ce" is minus the gradient of the cross-entropy; "eq5" weighs it per pixel, and is the gradient of the predicted
    probability where l is one-hot (for other l it is the gradient of no function of y).  Zero where l is zero (void).
    Source: appendix, eq. (4) and (5).
    """
    y = logits.softmax(1)
    if signal == "entropy":
        log_y = logits.log_softmax(1).clamp_min(torch.finfo(logits.dtype).min)  # 0 * -inf is NaN
        return y * (log_y - (y * log_y).sum(1, keepdim=True)) * (target.sum(1, keepdim=True) > 0)
    difference = (target - y).mul_(target.sum(1, keepdim=True) > 0)
    return (target * y).sum(1, keepdim=True) * difference if signal == "eq5" else difference


def normalise(gradient: Tensor, direction: str) -> Tensor:
    """A gradient's direction, image by image: its "sign", or itself over its largest value "linf" or its norm "l2".

    A gradient of zeros stays zero.
    """
    if direction == "sign":
        return gradient.sign()
    shape = (-1, *[1] * (gradient.dim() - 1))
    largest = gradient.flatten(1).abs().amax(1).view(shape)
    unit = gradient / largest.where(largest > 0, 1)
    if direction == "linf":
        return unit
    # of the rescaled, since tiny squares would vanish: at least 1, but 0 where the gradient is
    norm: Tensor = torch.linalg.vector_norm(unit.flatten(1), dim=1).view(shape)
    return unit / norm.clamp_min(1)


def differentiable(rest: Rest, place: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
    """Detached logits of `rest(place)` and the function that takes a signal at the logits back to `place`.

    That function is backward(signal, at=None, *, again=False): `at` is named where the logits do not depend on `place`,
    `again` keeps the graph for another signal.
    """
    leaf = place.detach().requires_grad_()
    logits = logits_of(rest(leaf))

    def backward(signal: Tensor, at: str | None = None, *, again: bool = False) -> Tensor:
        reached = logits.requires_grad and torch.autograd.grad(logits, leaf, signal, again, allow_unused=True)[0]
        if not isinstance(reached, Tensor):
            raise ValueError(
                f"at: the output does not depend on {at!r}" if at else "model: its output ignores the images"
            )
        expect("model", "a gradient with NaN or infinite values", finite(reached), "a finite one")
        return reached

    return logits.detach(), backward


def as_generator(seed: int | torch.Generator) -> torch.Generator:
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


def _onehot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    return like.new_zeros(labels.shape[0], classes, *labels.shape[1:]).scatter_(1, labels.unsqueeze(1), 1)
