"""The measurements behind the notebooks on inpainting and generation: what fills a hole, how well, and where.

Adversarially Robust Segmentation Models Learn Perceptually-Aligned Gradients, arXiv 2204.01099, sections 5.2 and 5.3.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor, nn

from gpcore import metrics, synthesis
from gpcore.companion.measure import count_pixels
from gpcore.companion.studies import Study


def scaled(values: int, steps: int, share: float = 1.0) -> dict[str, Any]:
    """Published settings for so many free values of an image: epsilon 21.6 for a hole of 3 x 60 x 60 values, and steps
    that add up to 72 there. Both grow with the root of the number, so that a value may change by as much as there, or
    by a `share` of that."""
    factor = share * math.sqrt(values / (3 * 60 * 60))
    return {"epsilon": 21.6 * factor, "steps": steps, "step_size": 72 * factor / steps}


def squares(size: Sequence[int], corners: Sequence[tuple[int, int]], side: int) -> Tensor:
    """Masks N x H x W, True in a square of `side` pixels at each (top, left) corner; `size` is H, W."""
    masks = torch.zeros(len(corners), *size, dtype=torch.bool)
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + side, left : left + side] = True
    return masks


def cut_out(pictures: Tensor, mask: Tensor) -> Tensor:
    """The square holes of B x C x H x W pictures, B x C x side x side."""
    side = math.isqrt(int(mask[0].sum()))
    return pictures.movedim(1, -1)[mask].view(len(pictures), side, side, -1).movedim(-1, 1)


def biharmonic(images: Tensor, mask: Tensor) -> Tensor:
    """B x C x H x W images, each one's hole filled smoothly: by the biharmonic equation."""
    pairs = zip(images.movedim(1, -1).numpy(), mask.numpy(), strict=True)
    smooth = [torch.from_numpy(inpaint_biharmonic(image, hole, channel_axis=-1)) for image, hole in pairs]
    return torch.stack(smooth).movedim(-1, 1).to(images)


def quality_rows(found: Mapping[str, Tensor], images: Tensor, mask: Tensor) -> pd.DataFrame:
    """How near filled images come to the true ones: rows image, method, the hole's root mean square error `error` (of
    255), the whole picture's psnr (dB) and ssim; and of what was drawn into the hole, which has to be a square,
    `high`, the share of high frequencies in per cent, and `cosine` with what was missing there."""
    from torchmetrics.functional import image as quality  # four seconds that few need to wait

    rows, start = [], synthesis.fill(images, mask)
    for method, pictures in found.items():
        drawn, missing = (cut_out(each - start, mask) for each in (pictures, images))
        values: list[Any] = [
            255 * hole_error(pictures, images, mask),
            quality.peak_signal_noise_ratio(pictures, images, data_range=1.0, reduction="none", dim=(1, 2, 3)),
            quality.structural_similarity_index_measure(pictures, images, data_range=1.0, reduction="none"),
            100 * high_frequency(drawn),
            torch.cosine_similarity(drawn.flatten(1), missing.flatten(1)),
        ]
        rows += [(image, method, *each) for image, each in enumerate(torch.stack(values, 1).tolist())]
    return pd.DataFrame(rows, columns=["image", "method", "error", "psnr", "ssim", "high", "cosine"])


def location_rows(found: Tensor, images: Tensor, labels: Tensor, mask: Tensor) -> pd.DataFrame:
    """How well one scene's holes, each in another place, were filled: rows top, left, label (the class in the hole's
    middle), inside (whether the hole shows that class alone), error (of 255), mean_colour, the error before, and
    cosine, of what was drawn with what was missing."""
    shown = cut_out(labels.unsqueeze(1), mask)[:, 0]
    middle = shown[:, shown.shape[1] // 2, shown.shape[2] // 2]
    drawn, plain = (quality_rows({"": each}, images, mask) for each in (found, synthesis.fill(images, mask)))
    rows = pd.DataFrame([hole.nonzero()[0].tolist() for hole in mask], columns=["top", "left"])
    rows["label"] = middle.numpy()
    rows["inside"] = (shown == middle.view(-1, 1, 1)).flatten(1).all(1).numpy()
    rows["error"], rows["mean_colour"], rows["cosine"] = drawn["error"], plain["error"], drawn["cosine"]
    return rows


def judged_rows(study: Study, judge: nn.Module, found: Mapping[str, Tensor], labels: Tensor) -> pd.DataFrame:
    """What a network that had no part in generated pictures recognises in them, in per cent: rows image, method,
    regions, the classes of the label map which it gives to more of their pixels than any other class, and pixels."""
    rows = []
    for method, pictures in found.items():
        with torch.no_grad():
            counts = count_pixels(study, judge(pictures), labels)
        there = counts.sum(2) > 0
        most = there & (counts.argmax(2) == torch.arange(len(study.classes)))
        shares = torch.stack([most.sum(1).double() / there.sum(1), metrics.accuracy(counts.double())], 1)
        rows += [(image, method, *each) for image, each in enumerate((100 * shares).tolist())]
    return pd.DataFrame(rows, columns=["image", "method", "regions", "pixels"])


def hole_error(found: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Root of the mean square of found - images over all channels of the pixels where `mask` is True, B."""
    squares = (found - images).square().mean(1) * mask
    return (squares.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)).sqrt()


def high_frequency(pictures: Tensor, *, radius: float = 0.25) -> Tensor:
    """The share of spectral energy at over `radius` cycles per pixel, B, of B x C x H x W pictures or perturbations.

    Channels' means count for nothing. White noise has about 1 - pi radius^2, up to a radius of .5, the finest that a
    grid shows and twice the default; zeros have 0.
    """
    energy = torch.fft.fft2(pictures).abs().square()
    y, x = (torch.fft.fftfreq(size, device=pictures.device) for size in pictures.shape[-2:])
    distance = torch.hypot(y.unsqueeze(1), x)
    total, high = ((energy * (distance > least)).flatten(1).sum(1) for least in (0, radius))
    share: Tensor = high / total.clamp_min(torch.finfo(total.dtype).tiny)
    return share
