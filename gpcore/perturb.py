"""Guided perturbations: move the input a small step toward the network's own prediction and predict again.

Sankaranarayanan, Jain, Lim: Guided Perturbations: Self-Corrective Behavior in Convolutional Neural Networks, ICCV 2017.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpcore.checks import check_images, expect, logits_of, warn_of_units
from gpcore.cut import Cut
from gpcore.gradient import DIRECTIONS, SIGNALS, differentiable, logit_signal, normalise, pseudo_labels
from gpcore.untouched import untouched


@dataclass(frozen=True)
class Guided:
    """What `guide` returns.

    `trajectory` holds the logits (B x K or B x K x h x w) before the first step and after each one; the perturbed
    `images`, or the perturbed activation where `at` names a module; the last step's gradient `signal` there, before the
    sign is taken; the model's own `output` for the perturbed input; `repeated` is True where what follows `at` did not
    reproduce the logits when run alone, so that every pass ran the whole model.  One-channel logits are binary: [0, z].
    """

    trajectory: tuple[Tensor, ...]
    images: Tensor
    signal: Tensor
    output: Any
    repeated: bool

    @property
    def before(self) -> Tensor:
        return self.trajectory[0]

    @property
    def after(self) -> Tensor:
        return self.trajectory[-1]


@untouched
def guide(
    model: nn.Module,
    images: Tensor,
    epsilon: float,
    *,
    labels: str | Tensor = "onehot",
    at: str | None = None,
    steps: int = 1,
    renew: bool = True,
    signal: str = "ce",
    weight: Callable[[Tensor], Tensor] | None = None,
    direction: str = "sign",
    bounds: tuple[float, float] | None = None,
    void: int = 255,
    seed: int | torch.Generator = 0,
    check: bool = True,
) -> Guided:
    """Predicts, perturbs toward the label and predicts again: x + epsilon * sign(g), g = d(z . s)/dx for logits z.

    s is `logit_signal` of the (pseudo-)labels, held constant. The model runs in its mode, threads may share it in
    evaluation mode, and it is left as found.
    Source: section 3.1, figure 2; for the sign of epsilon and "eq5", appendix eq. (5).

    Args:
        model: returns logits B x K or B x K x h x w, in any of the ways that `logits_of` knows.
        images: B x C x H x W in [0, 1].
        epsilon: in units of the images, at a module of its output. Above 0 it lowers the cross-entropy to the label, or
            the entropy for signal "entropy"; below 0 it is FGSM.
        labels: what `pseudo_labels` makes of the logits by this name, or of this tensor.
        at: the module, by the end of its name, whose output is perturbed instead of the images.
        steps: how often that is done.
        renew: every step takes its pseudo-label from the logits before it, instead of all the first one.
        signal: "ce", "eq5" or "entropy".
        weight: makes of z what s is multiplied by, B x 1 [x h x w].
        direction: "sign", or "linf" or "l2" for g over its norm, see `normalise`.
        bounds: (low, high) to which images are clipped after each step.
        void: the label of pixels that count nothing.
        seed: of random labels.
        check: warns of images and outputs that are in odd units.

    Returns:
        The logits before and after, what was perturbed and by which signal.

    Raises:
        ValueError: names the argument that is off, what came and what was expected.

    Example:
        >>> import torch
        >>> from gpcore import guide
        >>> model = torch.nn.Conv2d(2, 2, 1, bias=False)
        >>> model.weight.data = torch.eye(2).view(2, 2, 1, 1)  # a pixel's logits are its two channels
        >>> images = torch.tensor([[[[0.75, 0.25]], [[0.25, 0.5]]]])  # 0 is predicted on the left, 1 on the right
        >>> out = guide(model, images, epsilon=0.125)
        >>> out.signal.sign().tolist()
        [[[[1.0, -1.0]], [[-1.0, 1.0]]]]
        >>> out.after.tolist()
        [[[[0.875, 0.125]], [[0.125, 0.625]]]]
    """
    expect("steps", steps, steps >= 1, "at least 1")
    _check(images, [epsilon], signal, direction, at, bounds)
    cut, trajectory = Cut(model, images, at), list[Tensor]()
    place = cut.place
    for step in range(steps):
        logits, backward = differentiable(cut, place)
        if step == 0:
            logits = logits if at is None else logits_of(cut.output)
            if check:
                warn_of_units(images, logits)
        trajectory.append(logits)
        if step == 0 or renew:
            target = pseudo_labels(logits, labels, void=void, seed=seed)
        gradient = backward(_weighted(logit_signal(logits, target, signal), logits, weight), at)
        place = place + epsilon * normalise(gradient, direction)
        if bounds is not None:
            place = place.clamp(*bounds)
    with torch.no_grad():
        output = cut(place)
    return Guided((*trajectory, logits_of(output)), place, gradient, output, cut.repeated)


def sweep(
    model: nn.Module,
    images: Tensor,
    epsilons: Iterable[float],
    *,
    labels: str | Tensor = "onehot",
    at: str | None = None,
    signal: str = "ce",
    weight: Callable[[Tensor], Tensor] | None = None,
    direction: str = "sign",
    bounds: tuple[float, float] | None = None,
    void: int = 255,
    seed: int | torch.Generator = 0,
    check: bool = True,
) -> Iterator[tuple[float, Tensor]]:
    """Yields (epsilon, logits after a one-step `guide` with that epsilon) from a single backward pass.

    Args:
        epsilons: in the order of the answers; all else is `guide`'s.

    Raises:
        ValueError: as `guide`, once the first answer is asked for.

    Example:
        >>> import torch
        >>> from gpcore import sweep
        >>> model = torch.nn.Conv2d(2, 2, 1, bias=False)
        >>> model.weight.data = torch.eye(2).view(2, 2, 1, 1)  # a pixel's logits are its two channels
        >>> images = torch.tensor([[[[0.75, 0.25]], [[0.25, 0.5]]]])  # 0 is predicted on the left, 1 on the right
        >>> for epsilon, logits in sweep(model, images, [-0.125, 0.125]):
        ...     print(epsilon, logits.tolist())
        -0.125 [[[[0.625, 0.375]], [[0.375, 0.375]]]]
        0.125 [[[[0.875, 0.125]], [[0.125, 0.625]]]]
    """
    epsilons = list(epsilons)
    _check(images, epsilons, signal, direction, at, bounds)

    @untouched
    def begin(model: nn.Module) -> tuple[Cut, Tensor]:
        cut = Cut(model, images, at)
        before, backward = differentiable(cut, cut.place)
        if check:
            warn_of_units(images, before)
        target = pseudo_labels(before, labels, void=void, seed=seed)
        return cut, normalise(backward(_weighted(logit_signal(before, target, signal), before, weight), at), direction)

    @untouched
    def answer(model: nn.Module, place: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(cut(place if bounds is None else place.clamp(*bounds)))

    cut, towards = begin(model)
    for epsilon in epsilons:
        yield epsilon, answer(model, cut.place + epsilon * towards)


class GuidedPerturbation(nn.Module):
    """A drop-in for `model` that answers for the perturbed input, in the form in which `model` answers.

    Args:
        model, epsilon, options: those of `guide`.

    Raises:
        TypeError: an option that `guide` has not.
        ValueError: as `guide`, when it is called.

    Example:
        >>> import torch
        >>> from gpcore import GuidedPerturbation
        >>> model = torch.nn.Conv2d(2, 2, 1, bias=False)
        >>> model.weight.data = torch.eye(2).view(2, 2, 1, 1)  # a pixel's logits are its two channels
        >>> better = GuidedPerturbation(model, epsilon=0.125)
        >>> better(torch.tensor([[[[0.75, 0.25]], [[0.25, 0.5]]]])).tolist()
        [[[[0.875, 0.125]], [[0.125, 0.625]]]]
    """

    def __init__(self, model: nn.Module, epsilon: float, **options: Any) -> None:
        super().__init__()
        inspect.signature(guide).bind(model, None, epsilon, **options)  # a misspelt option fails here, not in forward
        self.model, self.epsilon, self.options = model, epsilon, options

    def forward(self, images: Tensor) -> Any:
        return guide(self.model, images, self.epsilon, **self.options).output

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in {"epsilon": self.epsilon, **self.options}.items())


def _weighted(signal: Tensor, logits: Tensor, weight: Callable[[Tensor], Tensor] | None) -> Tensor:
    if weight is None:
        return signal
    factors, expected = weight(logits), [len(logits), 1, *logits.shape[2:]]
    expect("weight", f"factors of shape {[*factors.shape]}", [*factors.shape] == expected, f"{expected}")
    return signal * factors


def _check(
    images: Tensor,
    epsilons: list[float],
    signal: str,
    direction: str,
    at: str | None,
    bounds: tuple[float, float] | None,
) -> None:
    for epsilon in epsilons:
        expect("epsilon", epsilon, math.isfinite(epsilon), "a finite number")
    low, high = check_images(images)
    expect("signal", repr(signal), signal in SIGNALS, f"one of {', '.join(SIGNALS)}")
    expect("direction", repr(direction), direction in DIRECTIONS, f"one of {', '.join(DIRECTIONS)}")
    if bounds is not None:
        right = at is None and bounds[0] < bounds[1]
        expect("bounds", bounds, right, "(low, high) with low < high, and only for images (at=None)")
        inside = bounds[0] <= low and high <= bounds[1]
        expect("images", f"values {low:.4g} to {high:.4g}", inside, f"them within bounds {bounds}")
