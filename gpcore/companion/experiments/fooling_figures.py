"""Pictures of fooled networks, for notebook 45: nudges to a linear classifier, ostriches, views, a quiz."""

import textwrap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gpcore.companion.experiments import fooling
from gpcore.companion.report.panels import OKABE_ITO, PAGE, Panel, credited, grid, show
from gpcore.companion.studies import Study

DIRECTIONS = ("sign(w)", "−sign(w)", "random signs", "one entry")
SHADE = "#BBBBBB"


def towards(w: Tensor, kind: str) -> Tensor:
    """Where a nudge goes, entry by entry of w; all of DIRECTIONS have a largest entry of one."""
    if kind == "random signs":
        return torch.randn(w.shape, generator=torch.Generator().manual_seed(0)).sign()
    return w.sign() * (torch.arange(len(w)) == 0 if kind == "one entry" else -1 if kind.startswith("−") else 1)


def nudge_figure(x: Tensor, w: Tensor, *, nudge: float, direction: str) -> Figure:
    """The input and its terms w_i x_i before and after a nudge, and where the score leads on the logistic curve."""
    moved = x + nudge * towards(w, direction)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.3), layout="constrained")
    for axes, before, after, title in ((left, x, moved, "input"), (middle, w * x, w * moved, "terms  $w_i x_i$")):
        places = np.arange(1, len(x) + 1)
        axes.bar(places - 0.2, before.numpy(), 0.4, color=SHADE, label="before")
        axes.bar(places + 0.2, after.numpy(), 0.4, color=OKABE_ITO[1], label="nudged")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=title, xticks=places, xlabel="entry i", ylim=(-6, 8))
        axes.grid(False, axis="x")
    left.legend(ncols=2, loc="upper center")
    curve = torch.linspace(-8, 8, 200)
    right.plot(curve, curve.sigmoid(), color="black", linewidth=0.9)
    for name, value, colour in (("before", x, "#777777"), ("nudged", moved, OKABE_ITO[1])):
        score = float(w @ value)
        p = torch.tensor(score, dtype=torch.double).sigmoid().item()
        right.plot([score], [p], "o", color=colour, label=f"{name}: {score:.3g} → {p:.4f}".replace("-", "−"))
    right.set(title="probability of class 1", xlabel="score  w · x", ylim=(-0.05, 1.4), yticks=[0, 0.25, 0.5, 0.75, 1])
    right.legend(loc="upper left")
    return figure


def dimension_figure(exact: pd.DataFrame, measured: Mapping[str, pd.DataFrame]) -> Figure:
    """The needed nudge over the number of dimensions: of linear classifiers (columns dims, value, low, high, kind) and,
    on the right, of the network (`fooling.typical` of some rows, by name)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.7), layout="constrained")
    parts = {**dict(list(exact.groupby("kind", sort=False)))}
    for axes, lines in ((left, parts), (right, measured)):
        for (name, rows), colour, marker in zip(lines.items(), OKABE_ITO, "osD^", strict=False):
            axes.plot(rows["dims"], rows["value"], marker=marker, markersize=4, color=colour, label=name)
            axes.fill_between(rows["dims"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="dimensions")
        axes.legend(loc="upper right" if axes is left else "best")
    left.set(title="linear classifiers, exact", ylabel="needed nudge (units of x)")
    right.set(title="EfficientNet-Lite0, one sign step", ylabel="needed nudge (of 255)")
    return figure


def ostrich_figure(
    study: Study, pictures: Mapping[str, tuple[Tensor, Tensor]], told: Mapping[str, tuple[str, str]], gain: float = 10
) -> Figure:
    """Two to a row: an image, its change times `gain` about grey, the attacked image, and the answers to both."""
    rows: list[list[Panel]] = []
    for i, (name, (image, attacked)) in enumerate(pictures.items()):
        enlarged = Panel("image", 0.5 + gain * (attacked - image), f"× {gain:g}")
        panels = [Panel("image", image, told[name][0]), enlarged, Panel("image", attacked, told[name][1])]
        rows = [*rows[:-1], rows[-1] + panels] if i % 2 else [*rows, panels]
    figure = grid(rows, study)
    figure.set_size_inches(0.76 * PAGE, 0.18 * PAGE * len(rows))
    for axes in figure.axes:
        axes.title.set_fontsize(6.5)
    _smooth(axes for i, axes in enumerate(figure.axes) if i % 3 != 1)
    return credited(figure, pictures)


def _smooth(panels: Iterable[Axes]) -> None:
    """Photographs drawn smaller than they are, without the saw-teeth of nearest neighbours."""
    for axes in panels:
        for image in axes.images:
            image.set_interpolation("antialiased")


def noise_panels(noise: Tensor, found: Tensor, before: Sequence[str], after: Sequence[str]) -> list[list[Panel]]:
    """Noise images and below them what they became, under the network's answers; as many as there are answers."""

    def broken(text: str) -> str:
        name, p = text.replace("> ", ">").rsplit(" ", 1)
        return "\n".join([*textwrap.wrap(name, 15), p.replace(">", "> ")])

    pairs = zip((noise, found), (before, after), strict=True)
    return [[Panel("image", x, broken(text)) for x, text in zip(each, texts, strict=False)] for each, texts in pairs]


def views_figure(
    study: Study,
    pictures: Mapping[str, Tensor],
    views: Mapping[float, fooling.View],
    shown: Sequence[float],
    rows: pd.DataFrame,
    *,
    trained: float,
) -> Figure:
    """Pictures of the cat, each under the shown views with the network's answer; on the right its probability of the
    target over the angle (rows of `fooling.view_rows`). Attacks knew of angles up to `trained`."""
    size = (0.7 * PAGE, 1.1 * len(pictures) + 0.5)
    layout: Any = [[*(f"{name}{angle}" for angle in shown), "plot"] for name in pictures]
    ratios = [1] * len(shown) + [2]
    figure = plt.figure(figsize=size, layout="constrained")
    axes = figure.subplot_mosaic(layout, width_ratios=ratios)
    for name, image in pictures.items():
        for angle in shown:
            answer = rows[(rows["method"] == name) & (rows["image"] == angle)]["answer"].item()
            if name == next(iter(pictures)):
                answer = f"turned by {angle:g}°\n{answer}".replace("-", "−")
            show(axes[f"{name}{angle}"], Panel("image", views[angle](image)[0], answer), study)
            axes[f"{name}{angle}"].title.set_fontsize(6.5)
        axes[f"{name}{shown[0]}"].set_ylabel(name)
    _over_angles(axes["plot"], rows, trained)
    _smooth(figure.axes)
    return credited(figure, ["chelsea"])


def _over_angles(axes: Axes, rows: pd.DataFrame, trained: float) -> None:
    for (name, part), marker, colour in zip(rows.groupby("method", sort=False), "osD", OKABE_ITO, strict=False):
        axes.plot(part["image"], part["target"], marker=marker, markersize=3, color=colour, label=name)
    axes.axvspan(-trained, trained, color=SHADE, alpha=0.3, linewidth=0, zorder=0)
    axes.set(xlabel="turned by (degrees)", title="probability of “ostrich”", ylim=(-0.04, 1.3), yticks=[0, 0.5, 1])
    axes.legend(loc="upper center", fontsize=6.5)


def hog_figure(study: Study, images: Mapping[str, Tensor]) -> tuple[Figure, pd.DataFrame]:
    """Grey H x W images above their histograms of oriented gradients; rows tell by how much each differs from the
    first's."""
    from skimage.feature import hog

    options = {"orientations": 9, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2), "visualize": True}
    found = {name: hog(image.double().numpy(), **options) for name, image in images.items()}
    figure, axes = plt.subplots(1, 2 * len(images), figsize=(0.76 * PAGE, 1.5), layout="constrained")
    first, rows = next(iter(found.values()))[0], []
    for i, (name, (vector, drawn)) in enumerate(found.items()):
        show(axes[2 * i], Panel("image", images[name].expand(3, -1, -1), name), study)
        show(axes[2 * i + 1], Panel("size", torch.from_numpy(drawn)), study)
        axes[2 * i + 1].images[0].set(cmap="gray", clim=(0, 0.6 * drawn.max()))
        axes[2 * i + 1].set_title(f"HOG of {name}")
        pixels = (images[name] - next(iter(images.values()))).abs().mean().item()
        rows.append((name, len(vector), pixels, float(np.abs(vector - first).max()), float(np.abs(vector).max())))
    return figure, pd.DataFrame(rows, columns=["image", "numbers", "pixels differ", "HOG differs", "largest number"])


def quiz_figure(
    study: Study,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    told: Mapping[str, tuple[str, str]],
    picture: str,
    reveal: str,
) -> Figure:
    """A photograph and its attacked twin, A and B in an order that only a hash knows; `reveal` "yes" tells which, and
    what the network answers."""
    turned = zlib.crc32(picture.encode()) % 2
    figure, axes = plt.subplots(1, 2, figsize=(4.2, 2.35), layout="constrained")
    for i, letter in enumerate("AB"):
        which = i ^ turned
        title = f"{letter}: {('untouched', 'attacked')[which]}, “{told[picture][which]}”" if reveal == "yes" else letter
        show(axes[i], Panel("image", pairs[picture][which], title), study)
    _smooth(axes)
    return credited(figure, [picture])
