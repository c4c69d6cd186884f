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

    s is `logit_signal` of the (pseudo-)`labels`, held constant. epsilon > 0 (image units, [0, 1]; at a layer its own)
    lowers the cross-entropy to the label, or the entropy for signal "entropy"; epsilon < 0 is FGSM. `at` perturbs a
    named module's output instead of the B x C x H x W images; `weight` makes B x 1 [x h x w] factors of s from z;
    `steps` repeats, the pseudo-label renewed each time or kept; `bounds` clips each step; `check` warns of images and
    outputs that are in odd units. The model runs in its mode, threads may share it in evaluation mode, and it is left
    as found.  Raises ValueError, naming the argument that is off.
    Source: section 3.1, figure 2; for the sign of epsilon and "eq5", appendix eq. (5).
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
    """Yields (epsilon, logits after a one-step `guide` with that epsilon) from a single backward pass."""
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
    """A drop-in for `model` that answers for the perturbed input; options are those of `guide`.

    Returns what `model(images)` returns: logits, or a dictionary that holds them under "out".
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
        expect(
            "images",
            f"values {low:.4g} to {high:.4g}",
            bounds[0] <= low and high <= bounds[1],
            f"them within bounds {bounds}",
        )
