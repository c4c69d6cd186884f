"""Plots of notebook 40: checkerboards and their spectra, fields, windows, costs, boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from torch import Tensor

from gpcore import metrics
from gpcore.companion.experiments.upsampling import METHODS, STEPS, spectrum
from gpcore.companion.experiments.upsampling_pictures import bare, cells
from gpcore.companion.report.panels import OKABE_ITO, PAGE, Panel, grid
from gpcore.companion.studies import Study


def decoders_figure(study: Study, drawn: Mapping[str, Tensor], target: Tensor, steps: Sequence[int]) -> Figure:
    """What the first decoder of each method draws at some of STEPS, each picture stretched to its own range; the target
    at the end."""
    places = [STEPS.index(step) for step in steps]

    def stretched(picture: Tensor) -> Tensor:
        low, high = picture.quantile(torch.tensor([0.02, 0.98], dtype=picture.dtype))
        inside: Tensor = (picture - low) / (high - low)
        return inside

    rows = [[Panel("image", stretched(each)) for each in (*outputs[0, places], target)] for outputs in drawn.values()]
    titles = (*(f"step {step}" for step in steps), "photograph")
    rows[0] = [panel._replace(title=title) for panel, title in zip(rows[0], titles, strict=True)]
    sides = [name.replace(" + ", "\n+ ").replace(", ", ",\n") for name in drawn]
    figure = grid(rows, study, sides=sides)
    figure.set_size_inches(*(0.62 * figure.get_size_inches()))
    return figure


def checkerboard_figure(kernels: pd.DataFrame, fits: pd.DataFrame, drawn: Mapping[str, Tensor], step: int) -> Figure:
    """Left: what kernels make of a flat map (rows of method, kernels, mean, low, high). Middle: decoders' share over
    their steps, with intervals over units. Right: their mean spectrum over vertical frequency at one step."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.75), layout="constrained")
    names, kinds = list(METHODS), list(kernels["kernels"].unique())
    for i, name in enumerate(names):
        part = kernels[kernels["method"] == name].set_index("kernels").reindex(kinds)
        x = np.arange(len(kinds)) + 0.17 * (i - 1.5)
        reach = np.abs(part[["low", "high"]].to_numpy().T - part["mean"].to_numpy())
        left.errorbar(x, part["mean"], yerr=reach, fmt="osD^"[i], markersize=4, capsize=2, color=OKABE_ITO[i])
    left.set(xticks=range(len(kinds)), xticklabels=[kind.replace(" ", "\n", 1) for kind in kinds])
    left.set(title="one layer, a flat map", ylabel="energy in the checkerboard (%)", ylim=(-4, 100))
    for i, (method, part) in enumerate(fits.groupby("method", sort=False)):
        found = [metrics.mean(torch.tensor(each["share"].to_numpy())) for _, each in part.groupby("step")]
        steps = range(len(found))
        middle.plot(
            steps,
            [each.value for each in found],
            f"{'osD^'[i]}-",
            markersize=3.5,
            color=OKABE_ITO[i],
            label=str(method),
        )
        middle.fill_between(
            steps, [each.low for each in found], [each.high for each in found], alpha=0.2, color=OKABE_ITO[i]
        )
    middle.set_xticks(steps, sorted(fits["step"].unique()))
    middle.set_yscale("symlog", linthresh=0.1, linscale=0.7)
    middle.set_ylim(-0.4, 100)
    middle.set(yticks=[-0.1, 0, 0.1, 1, 10], yticklabels=["−0.1", "0", "0.1", "1", "10"])
    middle.axhline(0, color="black", linewidth=0.8)
    middle.set(title="decoders while they learn", xlabel="step", ylabel="share of the variance, in excess (%)")
    place = sorted(fits["step"].unique()).index(step)
    for i, name in enumerate(names):
        power = torch.stack([spectrum(each[place]).sum(1) for each in drawn[name]]).mean(0)
        half = power[: len(power) // 2 + 1]
        right.plot(np.linspace(0, 0.5, len(half)), 10 * half.log10(), color=OKABE_ITO[i], linewidth=1.1)
    right.set(title=f"their spectra after {step} steps", xlabel="vertical cycles per pixel", ylabel="power (dB)")
    right.set_xticks([0, 0.25, 0.5], ["0", "1/4", "1/2"])
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def fields_figure(maps: Sequence[Tensor], growth: pd.DataFrame) -> Figure:
    """Paths from each input to one output through dilated stacks, and how field and parameters grow with the layers
    (rows of stack, layer, field, parameters)."""
    figure = plt.figure(figsize=(PAGE, 4.1), layout="constrained")
    places, side = figure.add_gridspec(2, 6, height_ratios=(1, 1)), 17
    for i, (paths, dilation) in enumerate(zip(maps, (1, 2, 4), strict=True)):
        ax = figure.add_subplot(places[0, 2 * i : 2 * i + 2])
        middle = len(paths) // 2
        window = paths[middle - side // 2 : middle + side // 2 + 1, middle - side // 2 : middle + side // 2 + 1].numpy()
        norm = LogNorm(1, float(maps[-1].max()))
        ax.imshow(np.ma.masked_equal(window, 0), cmap="YlGnBu", norm=norm, extent=(0, side, side, 0))
        ax.set_xticks(range(side + 1), [])
        ax.set_yticks(range(side + 1), [])
        ax.tick_params(length=0)
        ax.grid(True, color="#BBBBBB", linewidth=0.4, alpha=1)
        ax.set_axisbelow(False)
        ax.spines[:].set_visible(False)
        ax.plot(side / 2, side / 2, "o", color=OKABE_ITO[1], markersize=3)
        width = int((paths.sum(0) > 0).sum())
        ax.set_title(
            f"… then dilation {dilation}: {width} × {width}" if dilation > 1 else f"dilation 1: {width} × {width}"
        )
    fields, weights = (figure.add_subplot(places[1, 3 * i : 3 * i + 3]) for i in range(2))
    for i, (name, part) in enumerate(growth.groupby("stack", sort=False)):
        look: dict[str, Any] = {"color": OKABE_ITO[i], "markersize": 7 - 2 * i, "label": name}
        fields.plot(part["layer"], part["field"], f"{'osD^'[i]}-", **look)
        weights.plot(part["layer"], part["parameters"], f"{'osD^'[i]}-", **look)
    fields.set_yscale("log", base=2)
    ticks = [3, 7, 15, 31, 67]
    fields.set_yticks(ticks, [str(tick) for tick in ticks])
    fields.yaxis.set_minor_locator(NullLocator())
    fields.set(xlabel="layer", ylabel="side of the field (pixels)", title="field, measured by gradient")
    weights.set(xlabel="layer", ylabel="weights so far", title="weights: one line for all three", ylim=(0, None))
    fields.legend()
    return figure


def windows_figure(page: Tensor, scores: Tensor, work: pd.DataFrame, times: pd.DataFrame) -> Figure:
    """A 1 x H x W page of digits, 28 pixels each behind a border of 4, beside the class of every window; below,
    multiply-adds and milliseconds (rows of task, multiply_adds and of task, milliseconds)."""
    figure = plt.figure(figsize=(PAGE, 3.75), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1))  # type: ignore[misc]
    left, right = above.subplots(1, 2)
    left.imshow(page[0].numpy(), cmap="gray_r")
    for x in (4, 16):
        left.add_patch(Rectangle((x - 0.5, 3.5), 28, 28, fill=False, edgecolor=OKABE_ITO[1], linewidth=1.2))
    bare(left, "a page, and two of its windows")
    left.set(xlim=(-0.5, page.shape[2] - 0.5), ylim=(page.shape[1] - 0.5, -0.5))
    sure, best = scores.softmax(0).max(0)
    palette = np.array([plt.get_cmap("tab10")(i)[:3] for i in range(10)])
    picture = 1 - (1 - palette[best.numpy()]) * (0.75 * sure.numpy()[..., None] ** 3)
    rows, columns = best.shape
    right.imshow(picture, extent=(12, 12 + 4 * columns, 12 + 4 * rows, 12))  # each window at its middle
    for y in range(1, rows, 7):
        for x in range(1, columns, 7):
            text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold"}
            right.text(14 + 4 * x, 14 + 4 * y, str(int(best[y, x])), **text)
    bare(right, "class of every window, in one pass (pale: unsure)")
    right.set(xlim=left.get_xlim(), ylim=left.get_ylim())
    both = ((work, "multiply_adds", "multiply-adds"), (times, "milliseconds", "milliseconds of one core, one machine"))
    for ax, (table, column, label) in zip(below.subplots(1, 2, sharey=True), both, strict=True):
        names = table["task"].tolist()
        ax.barh(names, table[column], color=[OKABE_ITO[0 if "window" in name else 2] for name in names], height=0.65)
        ax.set(xscale="log", xlabel=label)
        ax.xaxis.set_major_locator(LogLocator(10))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(10 ** np.floor(np.log10(table[column].min() * 0.9)), None)
        ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    return figure


def cost_figure(rows: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """Bars of some columns, each with a bar for every network."""
    figure, axes = plt.subplots(1, len(columns), figsize=(PAGE, 1.45), sharey=True, layout="constrained")
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        ax.barh(rows["network"], rows[column], color=[OKABE_ITO[i] for i in range(len(rows))], height=0.6)
        ax.set_xlabel(label)
        ax.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    return figure


def boxes_figure(features: Tensor, rows: pd.DataFrame, marked: Sequence[float]) -> Figure:
    """The map with the shifted box, what RoIPool rounds it to, and the first cell of both over the shift."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.6), width_ratios=(1, 1, 1.4), layout="constrained")
    for ax, shift, title in zip(axes, (0.25, 0.5), ("d = 0.25", "d = 0.5"), strict=False):
        cells(ax, features.numpy(), f"{title}: box and bins", size=5, colours=np.full(features.shape, "#FFFFFF"))
        low = int(np.floor(1 + shift + 0.5))
        size = int(np.floor(5 + shift + 0.5)) - low + 1
        look: dict[str, Any] = {"fill": False, "zorder": 3}
        ax.add_patch(Rectangle((low, low), size, size, edgecolor=OKABE_ITO[1], linewidth=1.5, linestyle="--", **look))
        first = int(np.ceil(size / 2))
        ax.add_patch(Rectangle((low, low), first, first, facecolor=OKABE_ITO[1], alpha=0.2))
        for i in range(2):
            for j in range(2):
                place = (1 + shift + 2 * i, 1 + shift + 2 * j)
                ax.add_patch(Rectangle(place, 2, 2, edgecolor=OKABE_ITO[0], linewidth=1.5, **look))
    ax = axes[2]
    ax.plot(
        rows["d"],
        rows["RoIPool"],
        color=OKABE_ITO[1],
        drawstyle="steps-post",
        label="RoIPool: rounds, takes the maximum",
    )
    ax.plot(rows["d"], rows["RoIAlign"], color=OKABE_ITO[0], label="RoIAlign: interpolates, takes the mean")
    shown = rows[rows["d"].isin(marked)]
    ax.plot(shown["d"], shown["RoIPool"], "o", color=OKABE_ITO[1], markersize=4)
    ax.plot(shown["d"], shown["RoIAlign"], "o", color=OKABE_ITO[0], markersize=4)
    ax.set_xticks(marked)
    ax.set(
        xlabel="shift d of the box (pixels)", ylabel="first of 2 × 2 bins", ylim=(10, 47), title="both over the shift"
    )
    ax.legend(loc="upper left")
    return figure
