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

from gpcore import synthesis
from gpcore.checks import logits_of
from gpcore.companion.report.panels import Panel

COLOUR = "mean colour"


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


def middle(images: Tensor, side: int) -> Tensor:
    """Masks B x H x W with a square hole in the middle of each image B x C x H x W."""
    height, width = images.shape[-2:]
    return squares((height, width), [((height - side) // 2, (width - side) // 2)] * len(images), side)


def inpaintings(
    networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor, mask: Tensor, **settings: Any
) -> dict[str, Tensor]:
    """Holes filled in every way: with the mean colour, by the biharmonic equation, and by each network's gradient."""
    pairs = zip(images.movedim(1, -1).numpy(), mask.numpy(), strict=True)
    smooth = [torch.from_numpy(inpaint_biharmonic(image, hole, channel_axis=-1)) for image, hole in pairs]
    found = {COLOUR: synthesis.fill(images, mask), "biharmonic": torch.stack(smooth).movedim(-1, 1).to(images)}
    for name, network in networks.items():
        found[name] = synthesis.inpaint(network, images, labels, mask, **settings).images
    return found


def cut_out(pictures: Tensor, mask: Tensor) -> Tensor:
    """The square holes of B x C x H x W pictures, B x C x side x side."""
    side = math.isqrt(int(mask[0].sum()))
    return pictures.movedim(1, -1)[mask].view(len(pictures), side, side, -1).movedim(-1, 1)


def quality_rows(found: Mapping[str, Tensor], images: Tensor, mask: Tensor) -> pd.DataFrame:
    """How near filled images come to the true ones: rows image, method, the hole's root mean square error `error` (of
    255), the whole picture's psnr (dB) and ssim; and of what was drawn into the hole, which has to be a square,
    `high`, the share of high frequencies in per cent, and `cosine` with what was missing there."""
    from torchmetrics.functional import image as quality  # four seconds that few need to wait

    rows, start = [], synthesis.fill(images, mask)
    for method, pictures in found.items():
        drawn, missing = (cut_out(each - start, mask) for each in (pictures, images))
        values: list[Any] = [
            255 * synthesis.hole_error(pictures, images, mask),
            quality.peak_signal_noise_ratio(pictures, images, data_range=1.0, reduction="none", dim=(1, 2, 3)),
            quality.structural_similarity_index_measure(pictures, images, data_range=1.0, reduction="none"),
            100 * synthesis.high_frequency(drawn),
            torch.cosine_similarity(drawn.flatten(1), missing.flatten(1)),
        ]
        rows += [(image, method, *each) for image, each in enumerate(torch.stack(values, 1).tolist())]
    return pd.DataFrame(rows, columns=["image", "method", "error", "psnr", "ssim", "high", "cosine"])


def _columns(columns: Mapping[str, Tensor], count: int) -> list[list[Panel]]:
    """The first pictures or label maps of every column but the mean colour's, one to a row, under its name."""
    shown = [
        ("image" if each.dim() == 4 else "labels", each, title) for title, each in columns.items() if title != COLOUR
    ]
    return [[Panel(kind, each[i], "" if i else title) for kind, each, title in shown] for i in range(count)]


def picture_panels(found: Mapping[str, Tensor], images: Tensor, mask: Tensor, count: int) -> list[list[Panel]]:
    """The first images, one to a row: as they are, with their hole, and filled in every way but the mean colour."""
    return _columns({"image": images, "hole": found[COLOUR].masked_fill(mask.unsqueeze(1), 1.0), **found}, count)


def hole_panels(found: Mapping[str, Tensor], images: Tensor, mask: Tensor, count: int) -> list[list[Panel]]:
    """The holes alone, one method to a row: what was there, then what stands there now."""
    parts = {"image": cut_out(images, mask)} | {method: cut_out(each, mask) for method, each in found.items()}
    return [[Panel("image", part[i]) for i in range(count)] for part in parts.values()]


def location_rows(
    network: nn.Module, image: Tensor, labels: Tensor, side: int, stride: int, **settings: Any
) -> tuple[pd.DataFrame, Tensor]:
    """One image (1 x C x H x W; labels 1 x H x W) with a hole of `side` pixels at every position of a grid.

    Rows top, left, label (the class in the hole's middle), inside (whether the hole shows that class alone), error (of
    255), mean_colour, the error before, and cosine, of what was drawn with what was missing; and the filled images, one
    for each row.
    """
    height, width = image.shape[-2:]
    corners = [(t, left) for t in range(0, height - side + 1, stride) for left in range(0, width - side + 1, stride)]
    images, truth = image.expand(len(corners), -1, -1, -1), labels.expand(len(corners), -1, -1)
    mask = squares((height, width), corners, side)
    found = synthesis.inpaint(network, images, truth, mask, **settings).images
    drawn, plain = (quality_rows({"": each}, images, mask) for each in (found, synthesis.fill(images, mask)))
    rows = pd.DataFrame(corners, columns=["top", "left"])
    rows["label"] = [int(labels[0, top + side // 2, left + side // 2]) for top, left in corners]
    alone = (labels == torch.tensor(rows["label"].to_numpy()).view(-1, 1, 1)) | ~mask
    rows["inside"] = alone.flatten(1).all(1).tolist()
    rows["error"], rows["mean_colour"], rows["cosine"] = drawn["error"], plain["error"], drawn["cosine"]
    return rows, found


def location_panels(rows: pd.DataFrame, image: Tensor, labels: Tensor) -> list[Panel]:
    """The scene, its labels, and `location_rows` as maps: one value for each position of the hole."""
    maps = {"error": "error", "mean_colour": "error, mean colour", "cosine": "cosine"}
    limit = float(rows[["error", "mean_colour"]].to_numpy().max())
    panels = [Panel("image", image[0], "image"), Panel("labels", labels[0], "labels")]
    for column, title in maps.items():
        values = torch.tensor(rows.pivot(index="top", columns="left", values=column).to_numpy())
        kind, most = ("signed", None) if column == "cosine" else ("size", limit)
        panels.append(Panel(kind, values, title, most))
    return panels


def position_panels(rows: pd.DataFrame, found: Tensor, image: Tensor, side: int) -> list[list[Panel]]:
    """Above, what the image shows at each row's position; below, what the filled images show there."""
    corners = rows[["top", "left"]].to_numpy().tolist()
    places = [(slice(top, top + side), slice(left, left + side)) for top, left in corners]
    titles = [f"cosine {value:z.2f}" for value in rows["cosine"]]
    truth = [Panel("image", image[0][:, y, x], title) for (y, x), title in zip(places, titles, strict=True)]
    return [truth, [Panel("image", each[:, y, x]) for each, (y, x) in zip(found, places, strict=True)]]


def recognised(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What logits B x K x H x W recognise in each image, each B and in per cent: the classes of a label map B x H x W
    which they give to more of its pixels than any other class; and pixels."""
    predicted, classes = logits_of(logits).argmax(1), logits.shape[1]
    regions = []
    for guess, label in zip(predicted, labels, strict=True):
        there = label[label < classes].unique()
        most = torch.stack([guess[label == each].bincount(minlength=classes).argmax() for each in there])
        regions.append((most == there).double().mean())
    pixels = (predicted == labels).double().flatten(1).mean(1)
    return 100 * torch.stack(regions), 100 * pixels


def generations(
    networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor, **settings: Any
) -> dict[str, Tensor]:
    """Images of which the networks were given the labels and the mean colour, where each began; that comes first."""
    start = synthesis.fill(images, torch.ones_like(images[:, 0], dtype=torch.bool))
    drawn = {name: synthesis.generate(network, images, labels, **settings).images for name, network in networks.items()}
    return {COLOUR: start, **drawn}


def judged_rows(judge: nn.Module, found: Mapping[str, Tensor], labels: Tensor) -> pd.DataFrame:
    """What a network that had no part in generated pictures recognises in them: rows image, method, regions, pixels,
    in per cent."""
    rows = []
    for method, pictures in found.items():
        with torch.no_grad():
            pairs = zip(*recognised(judge(pictures), labels), strict=True)
        rows += [(image, method, regions.item(), pixels.item()) for image, (regions, pixels) in enumerate(pairs)]
    return pd.DataFrame(rows, columns=["image", "method", "regions", "pixels"])


def generated_panels(found: Mapping[str, Tensor], labels: Tensor, count: int) -> list[list[Panel]]:
    """The first label maps, one to a row, and what each network made of them."""
    return _columns({"labels": labels, **found}, count)
