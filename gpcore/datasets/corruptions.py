"""Corrupted images after ImageNet-C: Hendrycks, Dietterich: Benchmarking Neural Network Robustness, ICLR 2019."""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gpcore.checks import check_images, expect

KINDS = ("noise", "blur", "contrast", "fog")
SEVERITIES = 5
# ImageNet-C's: standard deviation, the same in pixels of 224, share of the contrast that is left, thickness of the fog
AMOUNTS = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    # below a fifth of a pixel, as 1 is in 32 rows, there is nothing left of it
    "blur": (1.0, 2.0, 3.0, 4.0, 6.0),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "fog": (1.5, 2.0, 2.5, 2.5, 3.0),
}
DECAYS = (2.0, 2.0, 1.7, 1.5, 1.4)  # of fog, per octave: thick fog is also rougher
OCTAVES = 5  # 3 x 3 to 33 x 33 knots: more would be finer than the pixels of small images


def corrupt(images: Tensor, kind: str, severity: int, *, seed: int | torch.Generator = 0) -> Tensor:
    """B x C x H x W float images in [0, 1], corrupted and clamped to [0, 1]: same shape and dtype.

    "noise" x + s n, n normal; "blur" Gaussian, s rows of H/224 pixels; "contrast" m + s (x - m) for each channel's mean
    m; "fog" (x + s f) M / (M + s) for M = max x (black stays black) and a smooth random field f in [0, 1]. All is done
    and drawn image by image, so the batch does not matter and a `torch.Generator` carries on through batches.
    Raises ValueError: unknown kind, severity outside 1 to 5, images that are no such floats.
    Source: section 4.1 and its published constants; the field is smooth noise in octaves instead of a plasma fractal.
    """
    expect("kind", repr(kind), kind in KINDS, f"one of {', '.join(KINDS)}")
    expect("severity", severity, severity in range(1, SEVERITIES + 1), f"1 to {SEVERITIES}")
    low, high = check_images(images)
    expect("images", f"values {low:.4g} to {high:.4g}", low >= 0 and high <= 1, "them in [0, 1]")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    corrupted = torch.empty_like(images)
    for i, image in enumerate(images):
        corrupted[i] = _corrupt(image, kind, severity - 1, generator)
    return corrupted.clamp(0, 1)


def _corrupt(image: Tensor, kind: str, level: int, generator: torch.Generator) -> Tensor:
    amount, (height, width) = AMOUNTS[kind][level], image.shape[-2:]
    if kind == "noise":
        return image + amount * _normal(image.shape, generator).to(image)
    if kind == "blur":
        from torchvision.transforms.v2.functional import gaussian_blur  # two seconds that few need to wait

        sigma = amount * height / 224
        radius = min(math.ceil(3 * sigma), height - 1, width - 1)  # borders are reflected, at most once
        blurred: Tensor = gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)
        return blurred
    if kind == "contrast":
        mean = image.mean((1, 2), keepdim=True)
        return mean + amount * (image - mean)
    brightest = image.max()
    fog = _field(height, width, DECAYS[level], generator).to(image)
    return (image + amount * fog) * brightest / (brightest + amount)


def _field(height: int, width: int, decay: float, generator: torch.Generator) -> Tensor:
    """H x W from 0 to 1: smooth noise in octaves, each twice as fine and 1/decay as strong as the one before."""
    side = max(height, width)  # a square that is cropped, so that it has no direction
    octaves = []
    for octave in range(1, OCTAVES + 1):
        knots = _normal(torch.Size([1, 1, 2**octave + 1, 2**octave + 1]), generator) / decay**octave
        octaves.append(interpolate(knots, (side, side), mode="bicubic", align_corners=True)[0, 0, :height, :width])
    field = torch.stack(octaves).sum(0)
    low, high = field.aminmax()
    return (field - low) / (high - low).clamp_min(torch.finfo(field.dtype).tiny)


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
