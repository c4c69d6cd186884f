"""One drawing style, and panels of pictures: images, label maps, changes, signals. Functions return the figure."""

import functools
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from IPython import display
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch
from PIL import Image
from torch import Tensor

from gpcore.companion.measure import Answers
from gpcore.companion.studies import Study
from gpcore.datasets.photographs import credits
from gpcore.perturb import guide

COLUMN, PAGE = 3.25, 6.875  # inches
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
CHANGES = {
    "right": "#EEEEEE",
    "still wrong": "#9A9A9A",
    "corrected": "#0072B2",
    "newly wrong": "#D55E00",
    "void": "#FFFFFF",
}


def use_style() -> None:
    """Sets matplotlib's rcParams for every figure of the project."""
    plt.rc("figure", dpi=100)
    plt.rc("savefig", dpi=200)
    plt.rc("pdf", fonttype=42)
    plt.rc("font", size=8)
    plt.rc("axes", titlesize=8, labelsize=8, grid=True, prop_cycle=cycler(color=OKABE_ITO))
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("xtick", labelsize=7)
    plt.rc("ytick", labelsize=7)
    plt.rc("legend", fontsize=7, frameon=False)
    plt.rc("grid", alpha=0.3, linewidth=0.5)
    plt.rc("lines", linewidth=1.3)
    plt.rc("image", interpolation="nearest")


class Panel(NamedTuple):
    """One picture of a grid: `kind` is "image", "labels", "changes", "signed" or "size", or "name" for no picture but
    the title in its place; `limit` fixes its scale."""

    kind: str
    data: Tensor
    title: str = ""
    limit: float | None = None


def node(study: Study, panel: Panel) -> Panel:
    """A study's image or truth in a diagram: the panel, or its name where the study's are not shown."""
    return panel if study.shown else panel._replace(kind="name")


def picture_rows(columns: Mapping[str, Tensor], count: int) -> list[list[Panel]]:
    """The first images B x C x H x W or label maps B x H x W of every column, one to a row, each under its name."""
    shown = [("labels" if each.dim() == 3 else "image", each, title) for title, each in columns.items()]
    return [[Panel(kind, each[i], "" if i else title) for kind, each, title in shown] for i in range(count)]


def change_map(before: Tensor, after: Tensor, truth: Tensor, void: int) -> Tensor:
    """Indices into CHANGES for H x W predictions before and after."""
    was, now = before == truth, after == truth
    codes = (~was & ~now) * 1 + (~was & now) * 2 + (was & ~now) * 3
    return codes.masked_fill(truth == void, 4)


def net_panel(before: Tensor, after: Tensor, truth: Tensor, void: int) -> Panel:
    """That map, under the number of pixels corrected less those newly wrong."""
    changes = change_map(before, after, truth, void)
    net = int((changes == 2).sum() - (changes == 3).sum())
    return Panel("changes", changes, f"net {net:+d} px")


def prediction_panels(
    study: Study, scenes: Sequence[int], titles: Iterable[str], answers: Answers, *, image: bool = False
) -> list[list[Panel]]:
    """For each test scene the prediction of the first answer, then of every other its own and the map of changes; the
    truth in front where it is ours, and if wanted the image before it."""
    rows: list[list[Panel]] = []
    for scene in scenes:
        x, truth = study.scene(scene)
        with torch.no_grad():
            named = zip(answers(x, truth), titles, strict=True)
            before, *others = (Panel("labels", scores[0].argmax(0), title) for scores, title in named)
        ours = [Panel("image", x[0], "image")] * image + [Panel("labels", truth[0], "truth")]
        row = [*ours, before] if study.shown else [before]
        for after in others:
            row += [after, Panel("changes", change_map(before.data, after.data, truth[0], study.void), "changes")]
        rows.append([panel if not rows else panel._replace(title="") for panel in row])
    return rows


def change_panels(study: Study, name: str, scenes: Sequence[int], epsilon: float | None = None) -> list[list[Panel]]:
    """For each test scene: the prediction before and after and the map of changes, after image and truth where ours."""
    network, own = study.network(name), study.epsilon(name) if epsilon is None else epsilon
    titles = ("prediction", "after one step")
    return prediction_panels(study, scenes, titles, lambda x, y: guide(network, x, own).trajectory, image=True)


def show(axes: Axes, panel: Panel, study: Study) -> None:
    """Draws one panel; signed data on a zero-centred diverging map, its limit printed in the title."""
    data, title = panel.data.numpy(), panel.title
    if panel.kind == "image":
        axes.imshow(data.transpose(1, 2, 0).clip(0, 1))  # a perturbed image may leave [0, 1] by epsilon
    elif panel.kind == "name":
        axes.imshow(np.ones((*data.shape[-2:], 3)))
        axes.annotate(title, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center")
        title = ""
    elif panel.kind == "labels":
        palette = np.full((256, 3), 255, np.uint8)
        palette[: len(study.colours)] = study.colours
        palette[study.void] = 255
        axes.imshow(palette[data])
    elif panel.kind == "changes":
        axes.imshow(data, cmap=ListedColormap(list(CHANGES.values())), vmin=0, vmax=len(CHANGES) - 1)
    else:
        limit = panel.limit or float(np.abs(data).max()) or 1.0
        low, colours = (-limit, "RdBu_r") if panel.kind == "signed" else (0.0, "viridis")
        axes.imshow(data, cmap=colours, vmin=low, vmax=limit)
        title = f"{title} ({'±' if low else '0 to '}{limit:.2g})"
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def credited(figure: Figure, names: Iterable[str]) -> Figure:
    """The figure with the credits of the photographs that it shows in small letters below it, above a legend."""
    text = textwrap.fill(credits(names), int(27 * figure.get_figwidth()))
    look = {"fontsize": 4.5, "color": "#555555"}
    if figure.legends:  # which lies where the credits would
        figure.legends[-1].set_title(text)
        figure.legends[-1].get_title().set(**look)
    else:
        figure.supxlabel(text, x=0.01, ha="left", **look)
    return figure


def visible(maps: Tensor) -> Tensor:
    """Signed N x C x H x W maps as pictures in [0, 1], each on its own scale, 0.5 where nothing comes back."""
    scale = maps.abs().flatten(1).quantile(0.995, 1).clamp(min=1e-12)
    return (0.5 + maps / scale.view(-1, 1, 1, 1) / 2).clamp(0, 1)


def light(figure: Figure, colours: int = 0) -> display.Image:
    """The figure for a notebook at a fraction of its size: as JPEG, or as PNG of some `colours`, 256 at the most."""
    full, stream = io.BytesIO(), io.BytesIO()
    figure.savefig(full, dpi=100)
    plt.close(figure)
    with Image.open(full).convert("RGB") as picture:
        if colours:
            picture.quantize(colours, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
        else:
            picture.save(stream, "jpeg", quality=75, optimize=True)
    kind = "png" if colours else "jpeg"
    return display.Image(stream.getvalue(), format=kind)  # type: ignore[no-untyped-call]


def grid(
    rows: Sequence[Sequence[Panel]], study: Study, *, sides: Sequence[str] = (), legend: Sequence[str] = ()
) -> Figure:
    """Rows of panels at page width; `sides` names the rows; `legend` explains the colours of "labels", "changes"."""
    height, width = rows[0][0].data.shape[-2:]
    cell = PAGE / len(rows[0])
    titles = sum(0.22 if any(panel.title for panel in row) else 0.06 for row in rows)
    size = (PAGE, 0.95 * len(rows) * cell * height / width + titles + 0.45)
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=size, squeeze=False, layout="constrained")
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            show(axes[y, x], panel, study)
        if sides:
            axes[y, 0].set_ylabel(sides[y])
    if handles := colour_handles(study, legend):
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), columnspacing=0.8)
    return figure


def colour_handles(study: Study, kinds: Sequence[str]) -> list[Patch]:
    """Legend entries for panels of some kinds: the study's classes for "labels", CHANGES for "changes"."""
    found: list[Patch] = []
    if "labels" in kinds:
        pairs = zip(study.colours, study.classes, strict=True)
        found += [Patch(color=(red / 255, green / 255, blue / 255), label=name) for (red, green, blue), name in pairs]
    if "changes" in kinds:
        found += [Patch(facecolor=c, edgecolor="#555555", linewidth=0.4, label=name) for name, c in CHANGES.items()]
    return found


def pipeline(study: Study, panels: Mapping[str, Panel], *, epsilon: float) -> Figure:
    """The method as a drawn figure, from top to bottom: predict, send the gradient back, step and predict again,
    compare with the truth.

    `panels`: image, prediction, onehot, gradient, perturbed, guided, truth, changes.
    """
    figure = plt.figure(figsize=(PAGE, 7.0))
    arrow = functools.partial(
        FancyArrowPatch, transform=figure.transFigure, arrowstyle="-|>", mutation_scale=10, color="black"
    )
    fixed, wrong = (int((panels["changes"].data == [*CHANGES].index(k)).sum()) for k in ("corrected", "newly wrong"))
    # each step runs from one side to the other, past what happens, drawn as a box in between
    steps = [
        ("image", "prediction", "Step 1: predict", "network, forward", True),
        (
            "gradient",
            "onehot",
            "Step 2: take the prediction as the label",
            "network, backward:  g = ∂(z · (l − y)) / ∂x",
            False,
        ),
        ("perturbed", "guided", f"Step 3: predict again  (ε = {epsilon:g})", "network, forward", True),
        ("truth", "changes", "Compare with the truth", f"{fixed} pixels corrected, {wrong} newly wrong", True),
    ]
    for line, (left, right, title, text, forward) in enumerate(steps):
        y = 0.88 - 0.237 * line
        for name, x in ((left, 0.02), (right, 0.765)):
            show(figure.add_axes((x, y - 0.083, 0.215, 0.166)), panels[name], study)
        figure.add_artist(arrow(*((0.25, y), (0.75, y)) if forward else ((0.75, y), (0.25, y))))
        box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": OKABE_ITO[0 if forward else 1]}
        figure.text(0.5, y, text, ha="center", va="center", bbox=box)
        figure.text(0.5, y + 0.045, title, ha="center", weight="bold")
    for x, line, text in ((0.775, 0, "most likely class: label l"), (0.03, 1, "x + ε sign(g)"), (0.775, 2, "")):
        top = 0.88 - 0.237 * line - 0.088
        figure.add_artist(arrow((x, top), (x, top - 0.045)))
        figure.text(x + 0.02, top - 0.02, text, fontsize=7, va="center")
    for place, kind in ((0.024, "labels"), (0.0, "changes")):
        handles = colour_handles(study, [kind])
        look = {"ncols": len(handles), "columnspacing": 0.8, "handlelength": 1.2}
        figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, place), **look)
    return figure
