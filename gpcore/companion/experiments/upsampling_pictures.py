"""Drawings of notebook 40: tasks, convolutions as grids and as matrices, unpooling, overlaps."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from gpcore.companion.report.panels import OKABE_ITO, PAGE

PALE = ("#CFE3F1", "#F9DCC8", "#C9E9DF", "#F3DDE9", "#FAE7BF", "#DDF0FB", "#FBF7C5", "#E2E2E2", "#FFFFFF")

# Outlines drawn by hand, x,y in pixels of the whole photographs; a later one lies in front of an earlier one.
CAT = "20,0 20,299 301,299 299,277 311,242 315,222 332,204 343,185 343,164 357,140 357,73 373,54 377,28 389,15 389,0"
SEVERAL = {
    "FLAG": "0,0 31,0 40,24 47,27 62,89 49,102 62,135 84,180 92,205 88,226 61,250 39,290 24,342 20,386 25,440 30,478 "
    "39,511 0,511",
    "SHUTTLE": "405,0 399,30 397,60 387,80 383,110 381,190 368,208 353,222 358,232 374,229 375,242 367,260 371,270 "
    "386,255 412,253 425,252 427,281 450,282 453,267 458,262 464,235 456,215 454,55 446,36 438,50 435,70 434,20 427,0",
    "PERSON": "272,28 259,22 237,16 205,21 182,32 163,48 154,68 157,104 166,122 183,137 186,150 153,151 131,167 "
    "119,189 113,204 90,227 65,246 44,282 26,342 20,386 25,478 39,511 274,511 279,445 292,411 295,395 332,359 363,350 "
    "352,286 340,262 303,240 299,219 284,202 258,182 258,165 270,140 286,124 299,97 299,72 289,45",
    "HELMET": "277,511 277,460 287,422 297,403 314,382 347,355 383,345 416,344 440,352 462,367 482,395 492,425 498,450 "
    "509,458 511,511",
}


def _show(axes: Axes, picture: Tensor, title: str = "") -> None:
    axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
    bare(axes, title)


def bare(axes: Axes, title: str = "") -> None:
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _outline(axes: Axes, name: str, points: str, colour: str, *, boxed: bool) -> None:
    """A box around an outline or the outline filled, with its name on it."""
    xy = np.array([[float(part) for part in point.split(",")] for point in points.split()])
    low, high = xy.min(0), xy.max(0)
    if boxed:
        axes.add_patch(Rectangle((low[0], low[1]), *(high - low), fill=False, edgecolor=colour, linewidth=1.6))
        place = (low[0] + 6, low[1] + (90 if name == "FLAG" else 6))  # below the next one's
        place = (min(place[0], 330), place[1])  # within the picture
    else:
        axes.add_patch(Polygon(xy, facecolor=colour, alpha=0.62, edgecolor="white", linewidth=0.8))
        place = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2)
    where: dict[str, Any] = {"va": "top"} if boxed else {"ha": "center", "va": "center"}
    look = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
    axes.text(*place, name, color="white", fontsize=5, weight="bold", bbox=look, clip_on=True, **where)


def coin_instances(picture: Tensor) -> np.ndarray[Any, np.dtype[np.int32]]:
    """H x W: 0 for the ground, 1 ... n for the coins of a grey 3 x H x W picture, by watershed on its edges."""
    from skimage import filters, segmentation

    grey = picture.mean(0).numpy()
    seeds = np.where(grey < 30 / 255, 1, np.where(grey > 150 / 255, 2, 0))
    coins = segmentation.watershed(filters.sobel(grey), seeds) == 2  # type: ignore[no-untyped-call]
    coins = ndimage.binary_opening(ndimage.binary_fill_holes(coins), iterations=3)
    found: np.ndarray[Any, np.dtype[np.int32]] = ndimage.label(coins)[0].astype(np.int32)
    return found


def tasks_figure(cat: Tensor, several: Tensor, coins: Tensor) -> Figure:
    """The decks' four tasks on whole photographs of one object and of several; below, classes of pixels against
    instances on a picture of coins."""
    figure = plt.figure(figsize=(PAGE * 0.72, 2.8), layout="constrained")
    places = figure.add_gridspec(2, 4, height_ratios=(1.12, 1))
    names = ("classification", "… + localization", "object detection", "segmentation")
    colours = (OKABE_ITO[0], OKABE_ITO[4], OKABE_ITO[1], OKABE_ITO[2])
    for i, title in enumerate(names):
        ax = figure.add_subplot(places[0, i])
        _show(ax, cat if i < 2 else several, title)
        ax.set_anchor("N")
        ax.set_xlabel("one object" if i < 2 else "several objects", fontsize=7, labelpad=2)
        for (name, points), colour in zip(SEVERAL.items() if i > 1 else (), colours, strict=False):
            _outline(ax, name, points, colour, boxed=i == 2)
        if i == 0:
            look = {"facecolor": OKABE_ITO[1], "edgecolor": "none", "pad": 2}
            middle: dict[str, Any] = {"ha": "center", "va": "center"}
            ax.text(225, 265, "CAT", color="white", fontsize=8, weight="bold", bbox=look, **middle)
        elif i == 1:
            _outline(ax, "CAT", CAT, OKABE_ITO[1], boxed=True)
    found = coin_instances(coins)
    turns = np.random.default_rng(3).permutation(found.max()) / found.max()
    kinds: list[tuple[str, Any, Any]] = [
        ("semantic: one label, coin", found > 0, [OKABE_ITO[4]]),
        ("instances: every coin a label of its own", found, plt.get_cmap("gist_rainbow")(turns)),
    ]
    for i, (title, image, palette) in enumerate(kinds):
        ax = figure.add_subplot(places[1, 2 * i : 2 * i + 2])
        _show(ax, coins, title)
        ax.imshow(np.ma.masked_equal(image, 0), cmap=ListedColormap(palette), alpha=0.65)
        ax.set_ylim(155, 5)  # the two upper rows
    return figure


def cells(axes: Axes, matrix: Any, title: str = "", *, colours: Any = None, size: float = 7, zero: str = "0") -> None:
    """A small matrix as cells with their numbers in them; `colours` gives each cell its own."""
    values = np.asarray(matrix)
    fills = np.where(values != 0, PALE[0], "#FFFFFF") if colours is None else np.asarray(colours, dtype=object)
    for (y, x), value in np.ndenumerate(values):
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=fills[y, x], edgecolor="#888888", linewidth=0.5))
        text = value if isinstance(value, str) else f"{value:g}" if value else zero
        colour = "#AAAAAA" if text in ("0", "·") else "black"
        axes.text(x + 0.5, y + 0.52, text, ha="center", va="center", fontsize=size, color=colour)
    axes.set(xlim=(-0.05, values.shape[1] + 0.05), ylim=(values.shape[0] + 0.05, -0.05), aspect="equal")
    bare(axes, title)


def arithmetic_figure() -> Figure:
    """3x3 over a 4x4 map with padding 1, stride 1 and 2; its stamps on the way back, and what padding cuts."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.4), layout="constrained")
    for ax, stride in zip(axes, (1, 2), strict=False):
        for y in range(6):
            for x in range(6):
                inside = 0 < y < 5 and 0 < x < 5
                look: dict[str, Any] = {
                    "facecolor": PALE[0] if inside else "white",
                    "linestyle": "-" if inside else ":",
                }
                ax.add_patch(Rectangle((x, y), 1, 1, edgecolor="#888888", linewidth=0.6, **look))
        places = range(0, 4, stride)
        for i, (y, x) in enumerate((y, x) for y in places for x in places):
            colour = OKABE_ITO[i % 6] if stride == 2 else "#555555"
            ax.plot(x + 1.5, y + 1.5, "o", color=colour, markersize=4)
            if stride == 2 or i in (0, 1):
                shift = 0.06 * i
                frame = (x + shift, y + shift)
                ax.add_patch(Rectangle(frame, 3, 3, fill=False, edgecolor=OKABE_ITO[i], linewidth=1.6))
        bare(ax, f"3 × 3, stride {stride}, padding 1:  4 → {len(places)}")
        ax.set(xlim=(-0.2, 6.4), ylim=(6.4, -0.2), aspect="equal")
    ax = axes[2]
    for y in range(6):
        for x in range(6):
            kept = 0 < y < 5 and 0 < x < 5
            ax.add_patch(
                Rectangle(
                    (x, y), 1, 1, facecolor="white", edgecolor="#888888", linewidth=0.6, linestyle="-" if kept else ":"
                )
            )
    for i, (y, x) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2))):
        ax.add_patch(Rectangle((x, y), 3, 3, facecolor=OKABE_ITO[i], alpha=0.35, edgecolor=OKABE_ITO[i], linewidth=1.6))
    ax.add_patch(Rectangle((1, 1), 4, 4, fill=False, edgecolor="black", linewidth=2))
    ax.add_patch(Rectangle((1, 1), 3, 3, fill=False, edgecolor="black", linewidth=1.2, linestyle="--"))
    ax.set(xlim=(-0.2, 6.4), ylim=(6.4, -0.2), aspect="equal")
    bare(ax, "transposed, stride 2, padding 1:  2 → 4 (3)")
    return figure


def matrices_figure(matrix: Tensor, nails: Tensor) -> Figure:
    """A convolution's matrix and its transpose, in each cell the number of the kernel's weight that stands there; and
    the map, spread by zeros, over which the turned kernel runs."""
    figure = plt.figure(figsize=(PAGE, 4.1), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 1.15), height_ratios=(1, 1.25))
    tints = np.array([*PALE[:8], "#D8C9A8"])

    def paint(values: Any) -> Any:
        whole = np.asarray(values).astype(int)
        return np.where(whole > 0, tints[np.maximum(whole, 1) - 1], "#FFFFFF")

    kernel = np.arange(1, 10).reshape(3, 3)
    cells(
        figure.add_subplot(grid[0, :3]),
        matrix,
        "C: 4 × 4 → 2 × 2, a row for each output",
        colours=paint(matrix),
        zero="·",
    )
    cells(figure.add_subplot(grid[:, 3]), matrix.T, "Cᵀ: 2 × 2 → 4 × 4", colours=paint(matrix.T), size=6.5, zero="·")
    cells(figure.add_subplot(grid[1, 0]), kernel, "the kernel's weights", colours=paint(kernel))
    cells(figure.add_subplot(grid[1, 1]), kernel[::-1, ::-1], "turned by 180°", colours=paint(kernel[::-1, ::-1]))
    letters = np.where(nails.numpy() > 0, np.array(list("·abcd"))[nails.long().numpy()], "·")
    filled = np.where(nails.numpy() > 0, "#BBBBBB", "#FFFFFF")
    cells(figure.add_subplot(grid[1, 2]), letters, "runs over the spread-out map", colours=filled)
    return figure


def unpooling_figure(grids: Mapping[str, Tensor], winners: Tensor) -> Figure:
    """The decks' matrices, one beside the other; `winners` marks in the last six which cells the pool took."""
    figure, axes = plt.subplots(2, 3, figsize=(PAGE * 0.72, 3.5), layout="constrained")
    tint = np.array(["#FFFFFF", *PALE[:4]])
    quadrant = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((2, 2), int))
    for ax, (title, values) in zip(axes.flat, grids.items(), strict=True):
        if len(values) == 2:
            colours = tint[np.arange(1, 5).reshape(2, 2)]
        elif (values == 0).any():
            colours = np.where(values.numpy() > 0, tint[quadrant], "#FFFFFF")
        else:
            colours = tint[quadrant] if "neighbour" in title else np.where(winners.numpy(), tint[quadrant], "#FFFFFF")
        cells(ax, values, title, colours=colours, size=9)
    return figure


def counts(kernel: int, stride: int, padding: int, dilation: int, *, dims: int, side: int = 6) -> Tensor:
    """How many inputs reach each output of a transposed convolution over `side` inputs (squared in 2-D)."""
    layer = F.conv_transpose1d if dims == 1 else F.conv_transpose2d
    ones = torch.ones(1, 1, *[side] * dims)
    return layer(ones, torch.ones(1, 1, *[kernel] * dims), stride=stride, padding=padding, dilation=dilation)[0, 0]


def overlap_figure(kernel: int, stride: int, padding: int, dilation: int) -> Figure:
    """Overlaps of a transposed convolution: each of six inputs stamps its kernel onto a line; and the counts in 2-D."""
    side = 6
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.6), width_ratios=(1.9, 1), layout="constrained")
    reach = (side - 1) * stride + dilation * (kernel - 1) + 1
    height = np.zeros(reach, int)
    for i in range(side):
        for tap in range(kernel):
            x = i * stride + tap * dilation
            left.add_patch(Rectangle((x - padding - 0.46, height[x] + 0.04), 0.92, 0.92, color=OKABE_ITO[i]))
            height[x] += 1
    size = reach - 2 * padding
    if padding:
        for start in (-padding - 0.5, size - 0.5):
            left.axvspan(start, start + padding, color="white", alpha=0.75, zorder=3)
    left.set(xlim=(-padding - 0.7, size + padding - 0.3), ylim=(0, max(height) + 0.3), xlabel="output")
    left.set(ylabel="inputs that reach it", yticks=range(max(height) + 1))
    left.set_title(f"1-D: 6 → {max(size, 0)};  o = 5 · {stride} − 2 · {padding} + {dilation} · {kernel - 1} + 1")
    left.grid(False)
    if size > 0:
        found = counts(kernel, stride, padding, dilation, dims=2)
        image = right.imshow(found.numpy(), cmap="viridis", vmin=0)
        seen = sorted({int(each) for each in found.unique()})
        figure.colorbar(image, ax=right, ticks=seen if len(seen) < 8 else None, shrink=0.85)
    bare(right, "2-D: inputs that reach each output")
    return figure
