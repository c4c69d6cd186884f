"""The measurements behind the notebooks on inpainting and generation: what fills a hole, how well, and where.

Adversarially Robust Segmentation Models Learn Perceptually-Aligned Gradients, arXiv 2204.01099, sections 5.2 and 5.3.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from skimage.restoration import inpaint_biharmonic
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from gpcore import attacks, metrics, synthesis
from gpcore.companion.measure import count_pixels
from gpcore.companion.studies import Study
from gpcore.untouched import untouched


def scaled(values: int, steps: int, share: float = 1.0) -> dict[str, Any]:
    """Published settings for so many free values of an image: epsilon 21.6 for a hole of 3 x 60 x 60 values, and steps
    that add up to 72 there. Both grow with the root of the number, so that a value may change by as much as there, or
    by a `share` of that."""
    factor = share * math.sqrt(values / (3 * 60 * 60))
    return {"epsilon": 21.6 * factor, "steps": steps, "step_size": 72 * factor / steps}


def largest_object(labels: Tensor, void: int, subjects: Sequence[int] = (), least: int = 0) -> Tensor:
    """The most pixels of labels H x W that hang together and are neither ground, class 0, nor void: H x W, bool.

    With `subjects` those of one class: of the first with so many as `least`, else of the last that is there at all.
    """
    masks = [labels == subject for subject in subjects] or [(labels > 0) & (labels != void)]
    found = torch.zeros_like(labels, dtype=torch.bool)
    for mask in masks:
        parts, number = ndimage.label(mask.numpy())
        if number:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            found = torch.from_numpy(parts == sizes.argmax())
            if sizes.max() >= least:
                break
    return found


def _object(study: Study, labels: Tensor, side: int) -> Tensor:
    """The object on which a hole of that side lies: of a study's subjects the first that would fill a quarter of it."""
    return largest_object(labels, study.void, [study.classes.index(name) for name in study.subjects], side**2 // 4)


def over_part(study: Study, labels: Tensor, side: int, share: float) -> tuple[int, int]:
    """The (top, left) corner of the square of `side` pixels that covers most nearly this share of the object's pixels
    in labels H x W; the first such in reading order."""
    whole = _object(study, labels, side).double()
    covered = avg_pool2d(whole[None], side, stride=1)[0] * side**2 / whole.sum()
    top, left = divmod(int((covered - share).abs().argmin()), covered.shape[1])
    return top, left


def about_object(study: Study, labels: Tensor, side: int) -> list[tuple[int, int]]:
    """Nine (top, left) corners of a square of `side` pixels: its middle at the object's, at the middles of the edges of
    the object's box and at the box's corners, or as near to there as the picture allows."""
    where = _object(study, labels, side).nonzero()
    ends = zip(where.amin(0).tolist(), where.amax(0).tolist(), labels.shape, strict=True)
    places = (
        [min(max((low * (2 - k) + high * k + 1 - side) // 2, 0), size - side) for k in range(3)]
        for low, high, size in ends
    )
    return list(product(*places))


def squares(size: Sequence[int], corners: Sequence[tuple[int, int]], side: int) -> Tensor:
    """Masks N x H x W, True in a square of `side` pixels at each (top, left) corner; `size` is H, W."""
    masks = torch.zeros(len(corners), *size, dtype=torch.bool)
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + side, left : left + side] = True
    return masks


def windows(
    images: Tensor, labels: Tensor, corners: Sequence[tuple[int, int]], side: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Parts of B x C x H x W images and of their labels B x H x W, `size` pixels high and wide, and the masks of the
    square holes at `corners`, each in the middle of its part or as near to it as the image's borders allow."""
    parts = []
    for image, truth, corner, mask in zip(
        images, labels, corners, squares(labels.shape[1:], corners, side), strict=True
    ):
        top, left = (
            min(max(start + (side - size) // 2, 0), whole - size)
            for start, whole in zip(corner, truth.shape, strict=True)
        )
        parts.append([each[..., top : top + size, left : left + size] for each in (image, truth, mask)])
    x, y, holes = (torch.stack(each) for each in zip(*parts, strict=True))
    return x, y, holes


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
    """How near filled images come to the true ones: rows image, method; of all that changed since the hole had the mean
    colour, `inside`, the share of the squares that lies in the hole, which has to be a square (per cent; NaN where
    nothing changed); of the hole the root mean square `error` (of 255); and of what was drawn there `high`, the share
    of high frequencies (per cent), and `cosine` with what was missing."""
    rows, start = [], synthesis.fill(images, mask)
    for method, pictures in found.items():
        drawn, missing = (cut_out(each - start, mask) for each in (pictures, images))
        values = [
            100 * drawn.square().flatten(1).sum(1) / (pictures - start).square().flatten(1).sum(1),
            255 * hole_error(pictures, images, mask),
            100 * high_frequency(drawn),
            torch.cosine_similarity(drawn.flatten(1), missing.flatten(1)),
        ]
        rows += [(image, method, *each) for image, each in enumerate(torch.stack(values, 1).tolist())]
    return pd.DataFrame(rows, columns=["image", "method", "inside", "error", "high", "cosine"])


def tried_rows(
    networks: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    mask: Tensor,
    tried: Iterable[Mapping[str, Any]],
    steps: int,
    void: int,
) -> pd.DataFrame:
    """`quality_rows` of every setting: a `share` for `scaled`, and options of `synthesis.inpaint`, which the rows name
    too."""
    values, rows = images.shape[1] * int(mask[0].sum()), []
    for setting in tried:
        options = scaled(values, steps, setting["share"]) | {k: v for k, v in setting.items() if k != "share"}
        found = {
            label: synthesis.inpaint(network, images, labels, mask, void=void, **options).images
            for label, network in networks.items()
        }
        rows.append(quality_rows(found, images, mask).assign(**setting))
    return pd.concat(rows, ignore_index=True)


@untouched
def pull(model: nn.Module, images: Tensor, labels: Tensor, mask: Tensor, *, void: int = 255) -> Tensor:
    """The norm, B, of the gradient outside the holes of each filled image's cross-entropy, a mean over pixels as
    `synthesis.inpaint` has it."""
    gradient = attacks.cross_entropy(model, labels, void=void)(synthesis.fill(images, mask))[1] * ~mask.unsqueeze(1)
    return attacks.norms(gradient).flatten() / (labels != void).flatten(1).sum(1)


def variation(rows: pd.DataFrame, value: str) -> metrics.Interval:
    """The mean over scenes of the standard deviation of a value over the scene's rows, in terms of their mean."""
    scenes = rows.groupby("scene")[value]
    return metrics.mean(torch.tensor((scenes.std() / scenes.mean()).to_numpy()))


def judged_rows(study: Study, judge: nn.Module, found: Mapping[str, Tensor], labels: Tensor) -> pd.DataFrame:
    """What a network that had no part in generated pictures recognises in them, in per cent: rows image, method,
    regions, the classes of the label map but for a ground, which it gives to more of their pixels than any other class,
    and pixels, those of a ground included."""
    rows = []
    for method, pictures in found.items():
        with torch.no_grad():
            counts = count_pixels(study, judge(pictures), labels)
        there = counts.sum(2) > 0
        if "ground" in study.classes:
            there[:, 0] = False
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
