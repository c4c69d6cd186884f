"""Adversarial attacks of bounded size on classifiers and segmentation networks: FGSM, BIM and PGD.

All three are settings of one loop, `projected_gradient`, into which any other objective can be put; whoever puts in
one that runs a model does so under `untouched`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gpcore.checks import check_images, expect, warn_of_units
from gpcore.cut import Cut, Rest
from gpcore.gradient import as_generator, differentiable, logit_signal, normalise, pseudo_labels
from gpcore.untouched import untouched

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]  # of B x C x H x W images: a loss of each, B, and its gradient
Bounds = tuple[float, float] | None  # of the images' values

NORMS = {"linf": "sign", "l2": "l2"}  # and the direction in which a step of that norm changes a loss most


class Descent(NamedTuple):
    """The last iterates and the losses before each step, steps x B; or the best iterates and one more row of losses."""

    images: Tensor
    losses: Tensor


def cross_entropy(rest: Rest, labels: Tensor, *, void: int = 255, check: bool = False) -> Objective:
    """The objective CE = -l . log softmax(z), z = rest(x), summed over an image's pixels; void ones count nothing.

    Labels are tensors that `pseudo_labels` takes: classes B [x h x w] or distributions B x K [x h x w]. `check` warns
    at first of what `warn_of_units` does.
    """

    def objective(images: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal check
        logits, backward = differentiable(rest, images)
        if check:
            check = warn_of_units(images, logits)
        target = pseudo_labels(logits, labels, void=void)
        return -(target * logits.log_softmax(1)).flatten(1).sum(1), -backward(logit_signal(logits, target))

    return objective


def over_views(objective: Objective, views: Sequence[Callable[[Tensor], Tensor]]) -> Objective:
    """The mean of an objective over differentiable views of the images: (1/V) sum_v loss(v(x)), and its gradient.

    Each view maps B x C x H x W to images of any size.  Raises ValueError: no views.
    Source: Athalye et al., Synthesizing Robust Adversarial Examples, section 2.1, with the views drawn beforehand.
    """
    expect("views", "none", views, "at least one")

    def mean(images: Tensor) -> tuple[Tensor, Tensor]:
        losses, total = list[Tensor](), torch.zeros_like(images)
        for view in views:
            with torch.enable_grad():
                seen = view(leaf := images.detach().requires_grad_())
            loss, gradient = objective(seen.detach())
            losses.append(loss)
            total += torch.autograd.grad(seen, leaf, gradient)[0] / len(views)
        return torch.stack(losses).mean(0), total

    return mean


def projected_gradient(
    objective: Objective,
    images: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    norm: str = "linf",
    ascend: bool = False,
    start: Tensor | None = None,
    best: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> Descent:
    """Lowers an objective near the images, or raises it: x <- clip(project(x - step_size * normalise(gradient))).

    A step has length `step_size` in `norm`; project leads back to within epsilon (may be infinite) of the images; clip
    keeps x within `bounds`. It begins at the images or at `start`; `best` returns each image's best iterate instead of
    its last.  Raises ValueError, naming the argument that is off.
    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, section 2.1.
    """
    check_bounds(images, bounds, epsilon, norm)
    expect("step_size", step_size, 0 <= step_size < math.inf, "a finite number, at least 0")
    expect("steps", steps, steps >= 1, "at least 1")
    # in this layout networks of convolutions run a fifth faster; what is returned has the usual one
    images, sign = images.detach().contiguous(memory_format=torch.channels_last), 1 if ascend else -1
    x = images if start is None else start.detach()
    expect("start", f"shape {[*x.shape]}", x.shape == images.shape, f"that of the images, {[*images.shape]}")
    losses, kept, record = list[Tensor](), x, -math.inf * torch.ones(len(x), device=x.device)
    for step in range(steps + best):
        loss, gradient = objective(x)
        losses.append(loss)
        kept = torch.where(wide(sign * loss > record), x, kept)
        record = record.fmax(sign * loss)  # what is no number is no record
        if step < steps:
            x = x + sign * step_size * normalise(gradient, NORMS[norm])
            x = clip(images + project(x - images, epsilon, norm), bounds)
    return Descent((kept if best else x).contiguous(), torch.stack(losses))


def project(delta: Tensor, epsilon: float, norm: str) -> Tensor:
    """What is nearest to each of the perturbations B x C x H x W and has a `norm` of at most epsilon."""
    _check_norm(norm)
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    return delta * (epsilon / norms(delta).clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)


def clip(x: Tensor, bounds: Bounds) -> Tensor:
    return x if bounds is None else x.clamp(*bounds)


def random_noise(images: Tensor, epsilon: float, norm: str, *, seed: int | torch.Generator = 0) -> Tensor:
    """Noise of the images' shape, uniform in the ball of radius epsilon, drawn image by image."""
    expect("epsilon", epsilon, 0 <= epsilon < math.inf, "a finite number, at least 0")
    _check_norm(norm)
    generator, size = as_generator(seed), images[:1].numel()
    options: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": torch.float64}
    noise = []
    for _ in images:
        if norm == "linf":
            noise.append(2 * torch.rand(size, **options) - 1)
        else:  # all but two coordinates of a random point of a sphere are uniform in a ball
            point = torch.randn(size + 2, **options)
            noise.append((point / point.norm())[:size])
    return epsilon * torch.stack(noise).view_as(images).to(images) if noise else images.clone()


@untouched
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int = 40,
    step_size: float | None = None,
    norm: str = "linf",
    targeted: bool = False,
    random_start: bool = True,
    bounds: Bounds = (0.0, 1.0),
    void: int = 255,
    seed: int | torch.Generator = 0,
    check: bool = True,
) -> Descent:
    """Projected gradient descent: raises the CE to the labels; targeted, lowers the CE to the labels wanted.

    The model runs in its mode and is left as found.
    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, sections 2.1 and 5.

    Args:
        model: returns logits B x K or B x K x h x w, in any of the ways that `logits_of` knows.
        images: B x C x H x W within `bounds`.
        labels: classes B [x h x w] or distributions B x K [x h x w].
        epsilon: how far an image may be moved, in its units and in `norm`.
        steps: how many; 40 are section 5's for MNIST.
        step_size: their length, 2.5 epsilon / steps if not given.
        norm: "linf" or "l2".
        targeted: the labels are wanted, instead of to be avoided.
        random_start: begin at a random point of the ball, instead of at the images.
        bounds: the least and the largest value of an image, or None.
        void: the label of pixels that count nothing.
        seed: of the start.
        check: warns of images and outputs that are in odd units.

    Returns:
        The attacked images and each one's CE before every step, steps x B.

    Raises:
        ValueError: names the argument that is off, what came and what was expected.

    Example:
        >>> import torch
        >>> from gpcore.attacks import pgd
        >>> model = torch.nn.Conv2d(2, 2, 1, bias=False)
        >>> model.weight.data = torch.eye(2).view(2, 2, 1, 1)  # a pixel's logits are its two channels
        >>> images = torch.tensor([[[[0.75, 0.25]], [[0.25, 0.5]]]])  # 0 is predicted on the left, 1 on the right
        >>> pgd(model, images, torch.tensor([[[0, 1]]]), epsilon=0.125).images.tolist()
        [[[[0.625, 0.375]], [[0.375, 0.375]]]]
    """
    check_bounds(images, bounds, epsilon, norm)
    cut = Cut(model, images)
    images = cut.place
    return projected_gradient(
        cross_entropy(cut, labels, void=void, check=check),
        images,
        epsilon=epsilon,
        # enough to come from anywhere in the ball to its border and to move along it
        step_size=2.5 * epsilon / max(steps, 1) if step_size is None else step_size,
        steps=steps,
        norm=norm,
        ascend=not targeted,
        start=clip(images + random_noise(images, epsilon, norm, seed=seed), bounds) if random_start else None,
        bounds=bounds,
    )


def bim(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, *, steps: int = 10, **options: Any
) -> Descent:
    """Basic iterative method or I-FGSM: `pgd`, whose options it takes, from the images themselves.

    Ten steps are section 2.2's least of epsilon + 4 and 1.25 epsilon for 8 of 255 levels.
    Source: Kurakin, Goodfellow, Bengio: Adversarial Examples in the Physical World, section 2.2.
    """
    return pgd(model, images, labels, epsilon, steps=steps, random_start=False, **options)


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, **options: Any) -> Descent:
    """Fast gradient sign method: x + epsilon * sign(g); in l2 x + epsilon * g / ||g||. Options are those of `pgd`.

    Source: Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, section 4.
    """
    return pgd(model, images, labels, epsilon, steps=1, step_size=epsilon, random_start=False, **options)


def wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def norms(delta: Tensor) -> Tensor:
    return wide(torch.linalg.vector_norm(delta.flatten(1), dim=1))


def check_bounds(images: Tensor, bounds: Bounds, epsilon: float = 0.0, norm: str = "linf") -> None:
    """Raises ValueError unless images lie within their bounds, epsilon is no less than 0 and the norm is known."""
    low, high = check_images(images)
    expect("epsilon", epsilon, epsilon >= 0, "at least 0")
    _check_norm(norm)
    if bounds is not None:
        expect("bounds", bounds, bounds[0] < bounds[1], "(low, high) with low < high, or None")
        expect("images", f"values {low:.4g} to {high:.4g}", bounds[0] <= low and high <= bounds[1], f"within {bounds}")


def _check_norm(norm: str) -> None:
    expect("norm", repr(norm), norm in NORMS, f"one of {', '.join(NORMS)}")
