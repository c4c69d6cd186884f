"""Pictures out of a network's gradient: holes inpainted, images to fit a label map or a class, and dreams.

Adversarially Robust Segmentation Models Learn Perceptually-Aligned Gradients, arXiv 2204.01099; settings of the code
that it follows, Santurkar et al.: Image Synthesis with a Single (Robust) Classifier, made for 224 x 224 pixels.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from gpcore.attacks import Bounds, Descent, check_bounds, clip, cross_entropy, projected_gradient, random_noise, wide
from gpcore.checks import check_classes, check_images, expect, logits_of
from gpcore.cut import Cut
from gpcore.gradient import as_generator, normalise
from gpcore.progress import progress
from gpcore.untouched import hooked, untouched


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
    outside: float = 10.0,
    noise: float = 0.0,
    bounds: Bounds = (0.0, 1.0),
    void: int = 255,
    seed: int | torch.Generator = 0,
) -> Descent:
    """Fills holes to fit labels: lowers CE(x, labels) + outside * mean(((x - images) (1 - mask))^2), eq. 6.

    The loop is `projected_gradient`, from the `fill`ed images on; CE is the mean over an image's pixels that are not
    void. The model runs in its mode and is left as found.

    Args:
        model: returns logits B x K x h x w, in any of the ways that `logits_of` knows.
        images: B x C x H x W within `bounds`.
        labels: classes B x h x w of the whole pictures, holes too.
        mask: B x H x W, True in the holes.
        epsilon: how far a picture may get from the filled image, in units of the images and in `norm`.
        step_size: the length of a step in `norm`.
        steps: how many.
        norm: "linf" or "l2".
        outside: the weight of changes outside the holes.
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
    expect("outside", outside, 0 <= outside < math.inf, "a finite number, at least 0")
    expect("noise", noise, 0 <= noise < math.inf, "a finite number, at least 0")
    cut = Cut(model, images)
    filled, hole = fill(cut.place, mask), mask.to(images.device).unsqueeze(1)
    start = clip(filled + hole * random_noise(filled, noise, "linf", seed=seed), bounds)
    pixels = (labels != void).flatten(1).sum(1).clamp_min(1).to(start)
    fit = cross_entropy(cut, labels, void=void)
    with progress(total=steps + 1, desc="synthesis") as bar:

        def objective(x: Tensor) -> tuple[Tensor, Tensor]:
            loss, gradient = fit(x)
            change = (x - start) * ~hole
            bar.update()
            return (
                loss / pixels + outside * change.square().flatten(1).mean(1),
                gradient / wide(pixels) + 2 * outside * change / change.shape[1:].numel(),
            )

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


@untouched
def class_images(
    model: nn.Module,
    classes: Tensor,
    size: int,
    *,
    at: str = "",
    l2: float = 0.0,
    blur: float = 0.0,
    sparsity: float = 0.0,
    jitter: int = 0,
    smooth: float = 0.0,
    steps: int = 60,
    step_size: float = 0.02,
    grey: float = 127 / 255,
    bounds: Bounds = (0.0, 1.0),
    seed: int | torch.Generator = 0,
) -> Tensor:
    """Images that raise S_c(I) - l2 ||I||^2, S_c each one's class's logit, I counted from `grey`, where they begin.

    With a module `at`, c is a channel of what that returns, and S_c the sum over its places. Each step has the length
    `step_size`, as root mean square over an image's values, and towards the end half of it; then the image is
    `regularised`. It sees the image moved at random by up to `jitter` pixels round its border, and goes along the
    gradient `smoothed` by that power.

    Args:
        model: returns logits B x K, for images B x 3 x size x size.
        classes: B integers.
        grey: the value that the model's own normalisation makes zero.
    Returns: B x 3 x size x size.  Raises ValueError: classes, steps, jitter; AttributeError: no module `at`.
    Source: Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2014, section 2; Yosinski et al. 2015;
    Olah, Mordvintsev, Schubert: Feature Visualization, 2017.
    """
    check_classes(classes)
    expect("sparsity", sparsity, 0 <= sparsity < 1, "0 to below 1")
    parameter = next(model.parameters())
    start = torch.full((len(classes), 3, size, size), grey, device=parameter.device, dtype=parameter.dtype)

    def one(h: Tensor) -> Tensor:
        """Zeros, but for ones at each image's class."""
        places = classes.to(h.device).view(-1, *[1] * (h.dim() - 1))
        return torch.zeros_like(h).scatter_(1, places.expand(-1, 1, *h.shape[2:]), 1)

    return _ascend(
        model, start, at, one, steps=steps, step_size=step_size, jitter=jitter, smooth=smooth, bounds=bounds, seed=seed,
        settle=0.5, pull=lambda x: 2 * l2 * (x - grey), after=lambda x: regularised(x - grey, blur, sparsity) + grey,
    )  # fmt: skip


@untouched
def dream(
    model: nn.Module,
    images: Tensor,
    at: str,
    *,
    octaves: int = 3,
    scale: float = 1.4,
    steps: int = 8,
    step_size: float = 0.03,
    jitter: int = 16,
    smooth: float = 0.0,
    bounds: Bounds = (0.0, 1.0),
    seed: int | torch.Generator = 0,
) -> Tensor:
    """Deep Dream: sends what the module `at` answers, h, back as its own gradient, that of ||h||^2 / 2, and steps on.

    It dreams of B x C x H x W images made smaller first, by `scale` from octave to octave, and takes what it adds there
    along into the next larger. Steps are those of `class_images`.
    Returns images like those given.  Raises ValueError: images, octaves, steps, jitter; AttributeError: no such module.
    Source: Mordvintsev, Olah, Tyka: Inceptionism, 2015.
    """
    check_bounds(images, bounds)
    expect("octaves", octaves, octaves >= 1, "at least 1")
    added, generator = torch.zeros_like(images), as_generator(seed)
    for octave in range(octaves - 1, -1, -1):
        size = [round(n / scale**octave) for n in images.shape[2:]]
        base, detail = (interpolate(x, size, mode="bilinear", antialias=True) for x in (images, added))
        added = -base + _ascend(
            model, clip(base + detail, bounds), at, lambda h: h,
            steps=steps, step_size=step_size, jitter=jitter, smooth=smooth, bounds=bounds, seed=generator,
        )  # fmt: skip
    return clip(images + added, bounds)


def _ascend(
    model: nn.Module,
    x: Tensor,
    at: str,
    signal: Callable[[Tensor], Tensor],
    *,
    steps: int,
    step_size: float,
    jitter: int,
    smooth: float,
    bounds: Bounds,
    seed: int | torch.Generator,
    settle: float = 0.0,
    pull: Callable[[Tensor], Tensor] = torch.zeros_like,
    after: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Steps along J^T signal(h) - pull(x), h what the module `at` answers, J its derivative; `after` each, `after`."""
    expect("steps", steps, steps >= 1, "at least 1")
    expect("jitter", jitter, jitter >= 0, "at least 0")
    generator, x = as_generator(seed), x.detach()
    for step in progress(range(steps), desc="ascent"):
        move = torch.randint(-jitter, jitter + 1, (2,), generator=generator, device=generator.device).tolist()
        leaf = x.roll(move, (2, 3)).contiguous(memory_format=torch.channels_last).requires_grad_()
        h = activations(model, leaf, at)
        gradient = torch.autograd.grad(h, leaf, signal(h.detach()))[0].roll([-n for n in move], (2, 3)) - pull(x)
        length = step_size * math.sqrt(x[:1].numel()) * (1 - settle * step / steps)
        x = clip(after(x + length * normalise(smoothed(gradient, smooth), "l2")), bounds)
    return x


def smoothed(gradient: Tensor, power: float) -> Tensor:
    """B x C x H x W with every frequency f, in cycles per pixel, divided by f^power; the mean as the lowest of them."""
    if not power:
        return gradient
    size = gradient.shape[-2:]
    f = torch.hypot(torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])).clamp_min(1 / max(size))
    return torch.fft.irfft2(torch.fft.rfft2(gradient) / f.to(gradient) ** power, s=size)


class _Reached(Exception):
    """What lies beyond a module is not asked for."""


def activations(model: nn.Module, images: Tensor, at: str = "") -> Tensor:
    """What the module `at` answers to images, and nothing beyond it is run; without `at`, the logits."""
    if not at:
        return logits_of(model(images))
    kept = list[Tensor]()

    def keep(output: Tensor) -> None:
        kept.append(output)
        raise _Reached

    with contextlib.suppress(_Reached), hooked(model.get_submodule(at), keep):
        model(images)
    expect("at", repr(at), kept, "a module that is called")
    return kept[0]


def regularised(images: Tensor, blur: float, sparsity: float) -> Tensor:
    """B x C x H x W blurred by a Gaussian of `blur` pixels; then the share `sparsity` of least norms is made zero."""
    if blur:
        reach = math.ceil(3 * blur)
        weights = torch.exp(-(torch.arange(-reach, reach + 1).to(images) ** 2) / (2 * blur**2))
        kernel = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
        images = pad(images, [reach] * 4, mode="replicate")
        images = conv2d(conv2d(images, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))
    if sparsity:
        norms = torch.linalg.vector_norm(images, dim=1, keepdim=True)
        images = images * (norms > norms.flatten(1).quantile(sparsity, 1).view(-1, 1, 1, 1))
    return images
