"""Notebook 42: receptive fields, the patches in them that excite a unit most, and what remains when they change."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from gpcore.companion.measure import extract
from gpcore.networks.vgg import Trunk
from gpcore.saliency import attribute
from gpcore.saliency import unit as unit_at

GEOMETRY = ("kernel_size", "stride", "padding", "dilation")


class Field(NamedTuple):
    """A unit's receptive field: at place k it sees the pixels from start + stride k on, `size` of them, each way."""

    size: int
    stride: int
    start: int


class Strongest(NamedTuple):
    """Where each of N pictures excites each of C units most: values N x C, places (row, column) N x C x 2."""

    values: Tensor
    places: Tensor


class Upto(nn.Module):
    """The layers of a network, one after the other, as far as `at`; a `Trunk` normalises the images before."""

    def __init__(self, network: nn.Module, at: str) -> None:
        super().__init__()
        self.whole = network
        names = [name for name, _ in network.named_children()]
        self.names = names[: names.index(at) + 1]

    def layers(self) -> list[nn.Module]:
        return [self.whole.get_submodule(name) for name in self.names]

    def forward(self, images: Tensor) -> Tensor:
        x = (images - self.whole.mean) / self.whole.std if isinstance(self.whole, Trunk) else images
        for layer in self.layers():
            x = layer(x)
        return x if x.dim() == 4 else x[..., None, None]


def receptive_field(layers: Iterable[nn.Module]) -> Field:
    """The field of a unit after convolutions, pools and what acts on each place; a linear layer is a convolution.

    With kernel k, dilation d, stride s and padding p of each layer in turn: size += (k - 1) d stride,
    start -= p stride, stride *= s.  Raises ValueError: a layer whose kernel is not square.
    """
    size, stride, start, channels = 1, 1, 0, 1
    for layer in layers:
        if isinstance(layer, nn.Linear):  # over what is left of the picture
            size, channels = size + (math.isqrt(layer.in_features // channels) - 1) * stride, layer.out_features
        elif isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            kernel, step, padding, dilation = (_one(getattr(layer, name, 1)) for name in GEOMETRY)
            size, start, stride = size + (kernel - 1) * dilation * stride, start - padding * stride, stride * step
            channels = getattr(layer, "out_channels", channels)
    return Field(size, stride, start)


def _one(value: int | tuple[int, int]) -> int:
    pair = value if isinstance(value, tuple) else (value, value)
    if pair[0] != pair[1]:
        raise ValueError(f"layers: got one of {pair[0]} x {pair[1]}, expected a square kernel, stride and padding")
    return pair[0]


def field_rows(network: nn.Module, layers: Sequence[str], image: Tensor) -> pd.DataFrame:
    """For each layer the receptive field of a unit in the middle of a C x H x W image: computed; `measured`, the
    breadth of the pixels whose gradient, summed over units, is not zero; `half`, the side of the square in its
    middle from which half of the squared gradient comes."""
    rows = []
    for at in layers:
        part = Upto(network, at)
        field = receptive_field(part.layers())
        x = image[None, :, : 2 * field.size + 32, : 2 * field.size + 32].clone().requires_grad_()
        h = part(x)
        row, column = (n // 2 for n in h.shape[-2:])
        (gradient,) = torch.autograd.grad(h[0, :, row, column].sum(), x)
        energy = gradient[0].square().sum(0)
        seen = energy.sum(1).nonzero()
        middle = [field.start + field.stride * k + (field.size - 1) / 2 for k in (row, column)]
        y, x_ = torch.meshgrid(*(torch.arange(n) - m for n, m in zip(energy.shape, middle, strict=True)), indexing="ij")
        far = torch.maximum(y.abs(), x_.abs()).flatten()
        order = far.argsort()
        half = far[order][int((energy.flatten()[order].cumsum(0) < energy.sum() / 2).sum())]
        rows.append((at, field.size, int(seen[-1] - seen[0]) + 1, int(2 * half + 1), field.stride))
    return pd.DataFrame(rows, columns=["layer", "computed", "measured", "half", "stride"])


def strongest(network: nn.Module, images: Tensor, layers: Sequence[str], inner: Sequence[str]) -> dict[str, Strongest]:
    """For each layer the place in each of N x C x H x W images that excites each unit most.

    In the layers `inner` only places count whose receptive field lies within the image.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {at: [] for at in layers}
    last = Upto(network, [name for name, _ in network.named_children() if name in layers][-1])
    for image in images.split(1 if images.shape[-1] > 64 else 1000):
        for at, h in extract(last, image, [f"whole.{at}" for at in layers]).items():
            at, h = at.removeprefix("whole."), h if h.dim() == 4 else h[..., None, None]
            if at in inner:
                h = h + _outside(receptive_field(Upto(network, at).layers()), h.shape[-2:], image.shape[-2:])
            value, where = h.flatten(2).max(2)
            found[at].append((value, torch.stack([where // h.shape[-1], where % h.shape[-1]], -1)))
    return {at: Strongest(*map(torch.cat, zip(*parts, strict=True))) for at, parts in found.items()}


def _outside(field: Field, size: Sequence[int], image: Sequence[int]) -> Tensor:
    """Minus infinity where a field leaves the image, h x w."""
    starts = [field.start + field.stride * torch.arange(n) for n in size]
    y, x = ((s < 0) | (s + field.size > n) for s, n in zip(starts, image, strict=True))
    return torch.zeros(*size).masked_fill(y[:, None] | x, -math.inf)


def frames(field: Field, places: Tensor) -> list[tuple[int, int]]:
    """The upper left pixels (row, column) of the fields at N x 2 places."""
    return [(int(r), int(c)) for r, c in field.start + field.stride * places]


def patches(images: Tensor, field: Field, places: Tensor, ground: float = 0.5) -> Tensor:
    """From each of N x C x H x W images the field at its place: N x C x size x size; beyond the image is `ground`."""
    wide = pad(images, [field.size] * 4, value=ground)
    corners = ((r + field.size, c + field.size) for r, c in frames(field, places))
    return torch.stack([x[:, r : r + field.size, c : c + field.size] for x, (r, c) in zip(wide, corners, strict=True)])


def guided(part: Upto, unit: int, images: Tensor, places: Tensor) -> Tensor:
    """What guided backprop sends back from a unit at its place in each of N images: N x C x H x W, zero beyond fields.

    It is run on the field alone, as far as it lies in the image, widened to where the strides keep step.
    """
    field, maps = receptive_field(part.layers()), torch.zeros_like(images)
    for image, found, place in zip(images, maps, places.tolist(), strict=True):
        first = [max(0, (field.start + field.stride * k) // field.stride) for k in place]
        ends = [-(-(field.start + field.stride * k + field.size) // field.stride) * field.stride for k in place]
        y, x = (slice(field.stride * f, end) for f, end in zip(first, ends, strict=True))
        read = unit_at(unit, (place[0] - first[0], place[1] - first[1]))
        found[:, y, x] = attribute(part, image[None, :, y, x], read, rule="guided")[0]
    return maps


def selective(found: Strongest, count: int, top: int = 4) -> list[int]:
    """The units whose mean over the `top` pictures that excite them most is the largest multiple of that over all.

    No two of them have the same first picture; the weaker half of the units, by their largest value, has no part.
    """
    ordered = found.values.clamp(min=0).sort(0, descending=True)
    ratio = ordered.values[:top].mean(0) / ordered.values.mean(0)
    ratio[ordered.values[0] <= ordered.values[0].median()] = 0
    chosen = dict[int, int]()
    for unit in ratio.argsort(descending=True)[: int((ratio > 0).sum())].tolist():
        chosen.setdefault(int(ordered.indices[0, unit]), unit)
    return [*chosen.values()][:count]


def silent_rows(parts: Mapping[str, Mapping[str, Strongest]]) -> pd.DataFrame:
    """Of each network's layers: how many units there are, and how many no picture excites at all."""
    rows = [
        (name, at, each.values.shape[1], int((each.values.amax(0) <= 0).sum()))
        for name, found in parts.items()
        for at, each in found.items()
    ]
    return pd.DataFrame(rows, columns=["network", "layer", "units", "never active"])


def best_patches(images: Tensor, field: Field, found: Strongest, unit: int, count: int) -> Tensor:
    """The patches of the `count` images that excite a unit most, strongest first: count x C x size x size."""
    best = found.values[:, unit].topk(count).indices
    return patches(images[best], field, found.places[best, unit])


def redness(images: Tensor, field: Field, found: Strongest, count: int) -> Tensor:
    """By how much the red of each unit's best patches exceeds the mean of green and blue, on average: C."""
    best = found.values.topk(count, 0).indices
    row, column = (field.start + field.stride * found.places[best, torch.arange(best.shape[1])]).unbind(-1)
    colours = avg_pool2d(images, field.size, 1)[best, :, row, column].mean(0)
    return colours[:, 0] - colours[:, 1:].mean(1)


def remaining(
    part: Upto, images: Tensor, found: Strongest, changes: Mapping[str, Callable[[Tensor], Tensor]], count: int
) -> pd.DataFrame:
    """What remains of each unit's activation, in per cent, when images are changed: read at the same places, mean of
    the ratios over the `count` images that excited it most.  Rows unit, and a column for each change."""
    best = found.values.topk(count, 0).indices  # count x C
    units = torch.arange(best.shape[1])
    row, column = found.places[best, units].unbind(-1)
    before, rows = found.values[best, units].clamp(min=1e-6), {"unit": units.tolist()}
    for name, change in changes.items():
        with torch.no_grad():
            h = torch.cat([part(change(image[None])) for image in images])
        rows[name] = (100 * h[best, units, row, column] / before).mean(0).tolist()
    return pd.DataFrame(rows)
