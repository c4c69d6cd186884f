"""Notebook 42 drawn: filters, patches with the guided maps beside them, receptive fields, codes as pictures."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from gpcore.companion.experiments.what_units_see import (
    Field,
    Strongest,
    Upto,
    best_patches,
    frames,
    guided,
    patches,
    receptive_field,
)
from gpcore.companion.report.explorer import Explorer
from gpcore.companion.report.panels import OKABE_ITO, PAGE, credited, visible

DIGITS = (*OKABE_ITO[:6], "#AA8800", "#000000", "#882255", "#777777")  # a colour for each of ten classes


def mosaic(pictures: Tensor, columns: int, gap: int = 1, ground: float = 1.0) -> Tensor:
    """N x C x h x w pictures side by side, `columns` in a row, `gap` pixels between: one 3 x H x W picture."""
    pictures = pad(pictures.expand(-1, 3, -1, -1), [0, gap, 0, gap], value=ground)
    missing = -len(pictures) % columns
    pictures = torch.cat([pictures, torch.full((missing, *pictures.shape[1:]), ground)])
    rows = [torch.cat(list(row), 2) for row in pictures.split(columns)]
    return torch.cat(rows, 1)[:, : -gap or None, : -gap or None]


def magnified(pictures: Tensor, least: int = 48) -> Tensor:
    """N x C x h x w pictures with every pixel so many times that they are `least` wide."""
    times = -(-least // pictures.shape[-1])
    return pictures.repeat_interleave(times, 2).repeat_interleave(times, 3)


def filters(weights: Tensor, columns: int) -> Tensor:
    """The filters N x C x k x k as one picture, each on its own scale around grey; black where its norm is nothing."""
    weights = weights.detach()
    norms, scale = weights.flatten(1).norm(dim=1), weights.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    dead = (norms < norms.median() / 1000).view(-1, 1, 1, 1)
    shown = magnified((0.5 + weights / scale / 2).masked_fill(dead, 0), 24)
    return mosaic(shown, columns, 4)


def planes(weights: Tensor, units: int, inputs: int) -> Tensor:
    """A row for each of the first `units` filters of N x C x k x k, a column for each of its first `inputs` planes."""
    kept = weights.detach()[:units, :inputs]
    scale = kept.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    return mosaic((0.5 + kept / scale / 2).reshape(-1, 1, *kept.shape[2:]), kept.shape[1])


def place(axes: Axes, picture: Tensor, title: str = "", side: str = "") -> None:
    """A 3 x H x W picture in [0, 1] without ticks."""
    axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=7, pad=2)
    axes.set_ylabel(side, fontsize=7)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def pictures(
    rows: Sequence[Sequence[Tensor]],
    titles: Sequence[Sequence[str]] = (),
    sides: Sequence[str] = (),
    width: float = PAGE,
) -> Figure:
    """Rows of equally many pictures at a width in inches, with a title over each and a name beside each row."""
    cell = width / len(rows[0])
    shapes = [max(p.shape[1] / p.shape[2] for p in row) for row in rows]
    titled = [i < len(titles) and any(titles[i]) for i in range(len(rows))]
    height = cell * sum(shapes) + 0.2 * sum(titled) + 0.1
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=(width, height), squeeze=False,
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02),
        height_ratios=[s + 0.2 / cell * t for s, t in zip(shapes, titled, strict=True)],
    )  # fmt: skip
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            place(axes[i, j], picture, titles[i][j] if titled[i] else "", sides[i] if sides and not j else "")
    return figure


def framed(axes: Axes, field: Field, corner: tuple[int, int], text: str, size: Sequence[int]) -> None:
    """Draws a receptive field, as far as it lies in a picture of that size, as a white frame, and in it the value."""
    top, left = (max(c, 0) for c in corner)
    bottom, right = (min(c + field.size, n) for c, n in zip(corner, size, strict=True))
    for colour, width in (("black", 1.8), ("white", 1.0)):
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=colour, lw=width))
    box = {"facecolor": "black", "alpha": 0.55, "pad": 0.8, "linewidth": 0}
    axes.text(left + 4, top + 4, text, color="white", fontsize=6, va="top", bbox=box)


def ladder(
    network: nn.Module,
    images: Tensor,
    found: Mapping[str, Strongest],
    chosen: Mapping[str, Sequence[int]],
    count: int = 6,
) -> Figure:
    """A row for each layer: for each chosen unit the patches that excite it most, and their guided maps beside them."""
    rows, titles, sides = [], [], []
    for at, units in chosen.items():
        part, cells = Upto(network, at), []
        field = receptive_field(part.layers())
        for unit in units:
            best = found[at].values[:, unit].topk(count).indices
            places = found[at].places[best, unit]
            maps = visible(patches(guided(part, unit, images[best], places), field, places, 0.0))
            enlarged = (magnified(each) for each in (patches(images[best], field, places), maps))
            cells += [mosaic(each, 2, each.shape[-1] // 16) for each in enlarged]
        rows.append(cells)
        titles.append([f"unit {unit}" if not i else "guided" for unit in units for i in (0, 1)])
        sides.append(f"{at}\n{field.size} × {field.size}")
    return pictures(rows, titles, sides)


def top_regions(
    network: nn.Module, at: str, images: Tensor, found: Strongest, units: Sequence[int], count: int = 3
) -> Figure:
    """Figure 4 of R-CNN: for each unit the pictures that excite it most, its field and value, the guided map beside."""
    part = Upto(network, at)
    field, rows, drawn = receptive_field(part.layers()), [], []
    for unit in units:
        best = found.values[:, unit].topk(count).indices
        places = found.places[best, unit]
        maps = guided(part, unit, images[best], places)
        rows.append([each for i, m in zip(best, maps, strict=True) for each in (images[i], visible(m)[0])])
        drawn.append(list(zip(frames(field, places), found.values[best, unit].tolist(), strict=True)))
    figure = pictures(rows, sides=[f"unit {unit}" for unit in units])
    axes = np.array(figure.axes).reshape(len(rows), -1)
    for row, marks in zip(axes, drawn, strict=True):
        for i, (corner, value) in enumerate(marks):
            framed(row[2 * i], field, corner, f"{value:.1f}", images.shape[-2:])
    return figure


def inked(digits: Tensor, classes: Tensor, size: int) -> Tensor:
    """N x 1 x H x W digits as N x 4 x size x size: each in its class's colour, and how much ink there is."""
    ink = interpolate(digits, size=(size, size), mode="area")
    colours = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in DIGITS])
    return torch.cat([colours[classes][:, :, None, None].expand(-1, -1, size, size), ink], 1)


def scattered(points: Tensor, digits: Tensor, classes: Tensor, side: int = 900, size: int = 22) -> Tensor:
    """N digits at their N x 2 places on a white picture, 3 x side x side."""
    low, high = points.amin(0), points.amax(0)
    corners = (size / 2 + (points - low) / (high - low) * (side - 2 * size)).round().long()
    picture = torch.ones(3, side, side)
    for (x, y), digit in zip(corners.tolist(), inked(digits, classes, size), strict=True):
        under = picture[:, y : y + size, x : x + size]
        under.mul_(1 - digit[3]).add_(digit[3] * digit[:3])
    return picture


def gridded(cells: Tensor, columns: int, tiles: Tensor, gap: int = 0) -> Tensor:
    """N x 3 x h x w tiles in their cells of a grid."""
    return mosaic(tiles[cells.argsort()], columns, gap)


def on_white(inks: Tensor) -> Tensor:
    """N x 4 x h x w coloured inks on white: N x 3 x h x w."""
    return 1 - inks[:, 3:] * (1 - inks[:, :3])


def remains(rows: pd.DataFrame, x: str, y: str, marked: Sequence[int], named: Sequence[int]) -> Figure:
    """A point for each unit: what remains of its activation, in per cent, under one change and under another."""
    figure, axes = plt.subplots(figsize=(PAGE * 0.55, 2.9), layout="constrained")
    axes.plot(rows[x], rows[y], ".", markersize=4, alpha=0.6, label="the other units")
    picked = rows[rows["unit"].isin(marked)]
    axes.plot(picked[x], picked[y], "o", color=OKABE_ITO[1], markersize=5, label="those with the reddest patches")
    for unit, *where in picked[picked["unit"].isin(named)][["unit", x, y]].itertuples(index=False):
        axes.annotate(f"{unit}", tuple(where), (5, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel=f"what remains, {x} (%)", ylabel=f"what remains, {y} (%)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, columnspacing=1)
    return figure


def browse(
    network: nn.Module, images: Mapping[str, Tensor], found: Mapping[str, Strongest], start: tuple[str, str, int]
) -> Explorer:
    """A browser of layers and units on named photographs: one of them with the field that excites the unit most, the
    activation map, the guided map, and the six best patches of all.  A unit's number is taken modulo the layer's units.
    """
    stack, names = torch.stack([*images.values()]), list(images)

    def draw(photograph: str, layer: str, unit: int) -> Figure:
        part, which, unit = Upto(network, layer), names.index(photograph), unit % found[layer].values.shape[1]
        field, spot = receptive_field(part.layers()), found[layer].places[which, unit]
        with torch.no_grad():
            h = part(stack[which : which + 1])[0, unit]
        warm = plt.get_cmap("viridis")((h / h.max().clamp(min=1e-6)).numpy())[..., :3]
        maps = guided(part, unit, stack[which : which + 1], spot[None])
        six = magnified(best_patches(stack, field, found[layer], unit, 6))
        best = mosaic(six, 2, six.shape[-1] // 16)
        shown = [stack[which], torch.from_numpy(warm).permute(2, 0, 1), visible(maps)[0], best]
        titles = [photograph, f"{layer}, unit {unit}: 0 to {h.max():.1f}", "guided map", "best patches of all"]
        figure = pictures([shown], [titles], width=0.75 * PAGE)
        framed(figure.axes[0], field, frames(field, spot[None])[0], f"{h.max():.1f}", stack.shape[-2:])
        return credited(figure, [photograph])

    most = max(each.values.shape[1] for each in found.values())
    photograph, layer, unit = start
    return Explorer(draw, photograph=(names, photograph), layer=(list(found), layer), unit=(range(most), unit))
