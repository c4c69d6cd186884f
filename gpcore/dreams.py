"""Images of what a network looks for: class images and units by gradient ascent, and Deep Dream.

For pictures that fit a label map see `gpcore.synthesis`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from gpcore.attacks import Bounds, check_bounds, clip
from gpcore.checks import check_classes, expect
from gpcore.cut import activations
from gpcore.gradient import as_generator, normalise
from gpcore.progress import progress
from gpcore.untouched import untouched


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
    settle: float = 0.5,
    grey: float = 127 / 255,
    bounds: Bounds = (0.0, 1.0),
    seed: int | torch.Generator = 0,
) -> Tensor:
    """Images that raise S_c(I) - l2 ||I||^2, S_c each one's class's logit, I counted from `grey`, where they begin.

    With a module `at`, c is a channel of what that returns, and S_c the sum over its places. Each step has the length
    `step_size`, the root mean square over an image's values, and shrinks by the share `settle`; then the image is
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
        settle=settle, pull=lambda x: 2 * l2 * (x - grey), after=lambda x: regularised(x - grey, blur, sparsity) + grey,
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
    weighed: Tensor = torch.fft.irfft2(torch.fft.rfft2(gradient) / f.to(gradient) ** power, s=size)
    return weighed


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
