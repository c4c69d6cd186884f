"""Pictures out of a segmentation network's gradient: holes inpainted and images generated to fit a label map.

Adversarially Robust Segmentation Models Learn Perceptually-Aligned Gradients, arXiv 2204.01099; settings of the code
that it follows, Santurkar et al.: Image Synthesis with a Single (Robust) Classifier, made for 224 x 224 pixels.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from gpcore.attacks import (
    Bounds,
    Descent,
    check_bounds,
    clip,
    cross_entropy,
    norms,
    projected_gradient,
    random_noise,
    wide,
)
from gpcore.checks import check_classes, check_images, expect
from gpcore.cut import Cut
from gpcore.progress import progress
from gpcore.untouched import untouched


def _norm(change: Tensor) -> tuple[Tensor, Tensor]:
    size = norms(change)
    return size.flatten(), change / size.clamp_min(torch.finfo(change.dtype).tiny)


def _mean(change: Tensor) -> tuple[Tensor, Tensor]:
    return change.square().flatten(1).mean(1), 2 * change / change.shape[1:].numel()


# penalties of changes B x C x H x W outside the holes, B, and their gradients; where all is fixed, there are none
OUTSIDE = {"fixed": _mean, "norm": _norm, "mean": _mean}


@untouched
def inpaint(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    epsilon: float = 21.6,
    step_size: float = 0.1,
    steps: int = 720,
    norm: str = "l2",
    outside: str = "fixed",
    weight: float = 10.0,
    noise: float = 0.0,
    bounds: Bounds = (0.0, 1.0),
    void: int = 255,
    seed: int | torch.Generator = 0,
) -> Descent:
    """Fills holes to fit labels: lowers CE(x, labels) + weight * penalty((x - images) (1 - mask)), eq. 6.

    The loop is `projected_gradient`, from the `fill`ed images on; CE is the mean over an image's pixels that are not
    void. The penalty is the l2 norm, as printed, or the mean square over all values, as that code has it. The norm
    forbids all change outside the holes wherever its weight exceeds the norm of CE's gradient there: "fixed" keeps
    to that, where steps along the norm's own gradient would go to and fro. The model runs in its mode and is left as
    found.

    Args:
        model: returns logits B x K x h x w, in any of the ways that `logits_of` knows.
        images: B x C x H x W within `bounds`.
        labels: classes B x h x w of the whole pictures, holes too.
        mask: B x H x W, True in the holes.
        epsilon: how far a picture may get from the filled image, in units of the images and in `norm`.
        step_size: the length of a step in `norm`.
        steps: how many.
        norm: "linf" or "l2".
        outside: what happens outside the holes: "fixed", "norm" or "mean".
        weight: of the penalty on changes there; of no account where nothing changes.
        noise: the most that is added to the holes' filling, at random.
        bounds: the least and the largest value of an image, or None.
        void: the label of pixels that count nothing.
        seed: of the noise.

    Returns:
        Each picture at its least objective, and all objectives, (steps + 1) x B.

    Raises:
        ValueError: names the argument that is off, what came and what was expected.

    Example:
        >>> import torch
        >>> from gpcore.synthesis import inpaint
        >>> model = torch.nn.Conv2d(2, 2, 1, bias=False)
        >>> model.weight.data = torch.eye(2).view(2, 2, 1, 1)  # a pixel's logits are its two channels
        >>> images = torch.tensor([[[[0.75, 0.0]], [[0.25, 0.0]]]])
        >>> labels = torch.tensor([[[255, 1]]])  # nothing is asked of the left pixel, the right one
        >>> mask = torch.tensor([[[False, True]]])  # is a hole, which is first filled with the left one's colour
        >>> inpaint(model, images, labels, mask, norm="linf", epsilon=0.5, step_size=0.25, steps=2).images.tolist()
        [[[[0.75, 0.25]], [[0.25, 0.75]]]]
    """
    check_bounds(images, bounds, epsilon, norm)
    check_classes(labels)
    expect("outside", repr(outside), outside in OUTSIDE, f"one of {', '.join(OUTSIDE)}")
    expect("weight", weight, 0 <= weight < math.inf, "a finite number, at least 0")
    expect("noise", noise, 0 <= noise < math.inf, "a finite number, at least 0")
    cut = Cut(model, images)
    filled, hole = fill(cut.place, mask), mask.to(images.device).unsqueeze(1)
    start = clip(filled + hole * random_noise(filled, noise, "linf", seed=seed), bounds)
    pixels = (labels != void).flatten(1).sum(1).clamp_min(1).to(start)
    fit = cross_entropy(cut, labels, void=void)
    with progress(total=steps + 1, desc="synthesis") as bar:

        def objective(x: Tensor) -> tuple[Tensor, Tensor]:
            loss, gradient = fit(x)
            price, pull = OUTSIDE[outside]((x - start) * ~hole)
            gradient = gradient / wide(pixels) + weight * pull
            bar.update()
            return loss / pixels + weight * price, gradient * hole if outside == "fixed" else gradient

        return projected_gradient(
            objective, start, epsilon=epsilon, step_size=step_size, steps=steps, norm=norm, best=True, bounds=bounds
        )


def generate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float = 40.0,
    step_size: float = 1.0,
    steps: int = 60,
    **options: Any,
) -> Descent:
    """Generates images that fit labels: lowers CE(x, labels), eq. 7, by `inpaint`, whose options it takes.

    All is a hole: of the B x C x H x W images nothing but each one's mean colour is used, where it begins.
    """
    check_images(images)
    everywhere = torch.ones_like(images[:, 0], dtype=torch.bool)
    options |= {"epsilon": epsilon, "step_size": step_size, "steps": steps}
    return inpaint(model, images, labels, everywhere, **options)


def fill(images: Tensor, mask: Tensor) -> Tensor:
    """B x C x H x W images, where the B x H x W `mask` is True the mean colour of each one's other pixels.

    An image that is all hole gets its own mean colour.
    """
    check_images(images)
    size = [*images[:, 0].shape]
    found = f"{mask.dtype} of shape {[*mask.shape]}"
    expect("mask", found, mask.dtype == torch.bool and [*mask.shape] == size, f"torch.bool of shape {size}")
    hole = mask.to(images.device).unsqueeze(1)
    known = ~hole | wide(hole.flatten(1).all(1))
    colour = images.where(known, 0).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    return torch.where(hole, colour, images)
