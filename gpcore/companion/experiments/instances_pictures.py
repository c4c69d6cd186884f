"""Figures of notebook 46: losses, the volume of masks, objects as they are and as they were found, and scores."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gpcore.companion.experiments.instances import Objects, hits
from gpcore.companion.report.panels import COLUMN, OKABE_ITO, PAGE, Panel, show
from gpcore.companion.studies import Study

TERMS = ("RPN: object or not", "RPN: box", "class", "box", "mask")  # what maskrcnn.LOSSES are


def losses_figure(losses: pd.DataFrame) -> Figure:
    """The mean of each of the five losses in every epoch, a column each, on scales of their own that begin at 0."""
    figure, panels = plt.subplots(1, len(TERMS), figsize=(PAGE, 1.6), layout="constrained")
    for axes, title, name, colour in zip(panels, TERMS, losses, OKABE_ITO, strict=False):
        values = losses[name]
        axes.plot(range(1, len(values) + 1), values, color=colour)
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
    panels[0].set_ylabel("mean training loss")
    return figure


def volume_figure(study: Study, image: Tensor, box: Tensor, volume: Tensor, label: int, target: Tensor) -> Figure:
    """The image with the box; the target, m x m, in it; then all K masks of the volume K x m x m in [0, 1], the true
    class's framed."""
    figure, panels = plt.subplots(2, 7, figsize=(PAGE, 2.3), layout="constrained")
    first, second, *others = panels.flat
    show(first, Panel("image", image, "image and box"), study)
    _frame(first, box, OKABE_ITO[1])
    named = [("target", target), *zip(study.classes, volume, strict=True)]
    for axes, (name, mask) in zip((second, *others), named, strict=False):
        axes.imshow(mask.numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set(title=name if name in ("target", "ground") else f"class {name}", xticks=[], yticks=[])
        axes.grid(False)
        true = name == study.classes[label]
        axes.spines[:].set(visible=true, edgecolor=OKABE_ITO[1], linewidth=2.5)
    for axes in others[len(volume) :]:
        axes.set_axis_off()
    return figure


def _frame(axes: Axes, box: Tensor, colour: str, style: str = "-") -> None:
    x1, y1, x2, y2 = (box - 0.5).tolist()  # pixel (0, 0) is drawn around (0, 0)
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=style, linewidth=1.1))


def draw_objects(axes: Axes, image: Tensor, seen: Objects, hit: Tensor, study: Study) -> None:
    """Masks over the grey image, boxes, class names and, of those found, scores; in the colours of the true objects
    that they hit, black where that is -1, none."""
    grey = 0.5 + 0.5 * np.repeat(image.mean(0).numpy()[..., None], 3, 2)
    scores = seen.get("scores", torch.ones(len(hit)))
    for i in (scores + 2 * (hit >= 0)).argsort().tolist():  # on top the hits, of them the surest
        colour, mask = "#000000" if hit[i] < 0 else OKABE_ITO[int(hit[i]) % 6], seen["masks"][i].numpy()
        grey[mask] = 0.45 * grey[mask] + 0.55 * np.array(to_rgb(colour))
        _frame(axes, seen["boxes"][i], colour)
        score = f" {scores[i]:.2f}" if "scores" in seen else ""
        x, y = seen["boxes"][i, :2].clamp(min=1).tolist()
        look = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.9}
        name = study.classes[int(seen["labels"][i])] + score
        axes.text(x, y, name, fontsize=5.5, color="white", va="top", bbox=look, clip_on=True)
    axes.imshow(grey)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def scenes_figure(
    study: Study,
    images: Sequence[Tensor],
    truth: Sequence[Objects],
    columns: Mapping[str, Sequence[Objects]],
    sides: Sequence[str],
) -> Figure:
    """A row for each image: itself, its true objects, and those of each column."""
    size = (PAGE, 0.2 + 0.8 * len(images) * PAGE / (2 + len(columns)))
    figure, panels = plt.subplots(len(images), 2 + len(columns), figsize=size, squeeze=False, layout="constrained")
    for y, (row, image, true) in enumerate(zip(panels, images, truth, strict=True)):
        show(row[0], Panel("image", image, "" if y else "image"), study)
        row[0].set_ylabel(sides[y], fontsize=7)
        draw_objects(row[1], image, true, torch.arange(len(true["labels"])), study)
        for axes, found in zip(row[2:], columns.values(), strict=True):
            draw_objects(axes, image, found[y], hits(found[y], true), study)
    for axes, title in zip(panels[0, 1:], ("truth", *columns), strict=True):
        axes.set_title(title)
    return figure


def scores_figure(by_class: pd.DataFrame, by_neighbour: pd.DataFrame, by_height: pd.DataFrame) -> Figure:
    """Left, AP50 by class; middle and right, the share of objects found, by what they touch and by height: of every
    method, with intervals over images."""
    figure, panels = plt.subplots(1, 3, figsize=(PAGE, 2.5), width_ratios=(1.6, 1, 1.2), layout="constrained")
    parts = ((by_class, "class", "ap"), (by_neighbour, "neighbour", "share"), (by_height, "size", "share"))
    for axes, (rows, group, value) in zip(panels, parts, strict=True):
        names = list(rows[group].unique())
        for i, (method, part) in enumerate(rows.groupby("method", sort=False)):
            part = part.set_index(group).reindex(names)
            x = np.arange(len(names)) + 0.2 * (i - 0.5)
            reach = np.abs(part[["low", "high"]].to_numpy().T - part[value].to_numpy())
            look = {"markersize": 4, "capsize": 2, "color": OKABE_ITO[i], "label": str(method)}
            axes.errorbar(x, part[value], yerr=reach, fmt="os"[i], **look)
        told = [f"{textwrap.fill(name, 11)}\n({n})" for name, n in zip(names, part["objects"], strict=True)]
        axes.set(xticks=range(len(names)), xticklabels=told, ylim=(0, 102))
        axes.tick_params(axis="x", labelsize=6)
        axes.margins(x=0.12)
    for axes, ylabel in zip(panels, ("mask AP50 (%)", "found (%)", "found (%)"), strict=True):
        axes.set_ylabel(ylabel)
    for axes, title in zip(panels, ("by class", "by what it touches", "by height in pixels"), strict=True):
        axes.set_title(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def rounding_figure(rows: pd.DataFrame) -> Figure:
    """The mask averages of `rounding` rows (step, measure, ap) over the step to which boxes are rounded."""
    figure, axes = plt.subplots(figsize=(COLUMN, 2.3), layout="constrained")
    steps = list(rows["step"].unique())
    for i, (measure, part) in enumerate(rows.groupby("measure", sort=False)):
        axes.plot(range(len(steps)), part["ap"], f"{'osD'[i]}-", markersize=4, color=OKABE_ITO[i], label=str(measure))
    axes.set(xticks=range(len(steps)), xticklabels=["exact", *map(str, steps[1:])], ylim=(0, None))
    axes.set(xlabel="boxes rounded to multiples of (pixels)", ylabel="AP (%)")
    axes.legend()
    return figure
