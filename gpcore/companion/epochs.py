"""What an epoch is made of: items of a data set in random order, each varied at random, and stacked."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from gpcore.companion.studies import Recipe

Item = tuple[Tensor, ...]  # image and labels, or y, h and labels of one image


def augment(image: Tensor, labels: Tensor, recipe: Recipe, void: int = 255) -> Item:
    """An item turned, rescaled, cropped, mirrored and jittered at random, each as far as the recipe says.

    Labels follow. Without a crop an item keeps its size; what was not in the picture is grey then, its labels `void`.
    """
    low, high = recipe.scale
    zoom = low * (high / low) ** torch.rand(()).item() if low < high else low
    pair: Item = (tv_tensors.Image(image), tv_tensors.Mask(labels))
    if recipe.turn or (zoom != 1 and not recipe.crop):
        angle = recipe.turn * (2 * torch.rand(()).item() - 1)
        about = partial(v2.functional.affine, angle=angle, translate=[0, 0], shear=[0, 0])
        about = partial(about, scale=1.0 if recipe.crop else zoom, interpolation=v2.InterpolationMode.BILINEAR)
        pair = about(pair[0], fill=0.5), about(pair[1], fill=void)
    if recipe.crop:
        height, width = image.shape[-2:]
        side = min(round(recipe.crop / zoom), height)
        top, left = (int(torch.randint(extent - side + 1, ())) for extent in (height, width))
        pair = v2.Lambda(lambda x: v2.functional.resized_crop(x, top, left, side, side, [recipe.crop] * 2))(*pair)
    if recipe.mirror and torch.rand(()) >= 0.5:
        pair = v2.RandomHorizontalFlip(1.0)(*pair)
    if recipe.jitter:
        pair = v2.ColorJitter(*[recipe.jitter] * 3)(*pair)
    return tuple(part.as_subclass(Tensor) for part in pair)


def cut(y: Tensor, h: Tensor, labels: Tensor, recipe: Recipe) -> Item:
    """A random square crop of `recipe.crop` pixels, if any, that begins where a value of h does, so that all fit."""
    if size := recipe.crop:
        stride = -(-y.shape[-1] // h.shape[-1])
        top, left = (int(torch.randint((extent - size) // stride + 1, ())) for extent in labels.shape)
        h = h[:, top : top + size // stride, left : left + size // stride]
        y, labels = (x[..., top * stride :, left * stride :][..., :size, :size] for x in (y, labels))
    return y.float(), h.float(), labels.long()


def batches(items: Any, recipe: Recipe, vary: Callable[..., Item]) -> Iterator[Item]:
    """One epoch: `recipe.samples` of a data set or list in random order, varied by `augment` or `cut`, and stacked."""
    order = torch.randperm(len(items))[: recipe.samples].tolist()
    for start in range(0, len(order), recipe.batch):
        varied = [vary(*items[i], recipe) for i in order[start : start + recipe.batch]]
        yield tuple(map(torch.stack, zip(*varied, strict=True)))
