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
from torch import Tensor

from gpcore import metrics
from gpcore.companion.experiments.upsampling import METHODS, spectrum
from gpcore.companion.experiments.upsampling_pictures import bare, cells
from gpcore.companion.report.panels import OKABE_ITO, PAGE


def checkerboard_figure(kernels: pd.DataFrame, fits: pd.DataFrame, drawn: Mapping[str, Tensor], step: int) -> Figure:
    """Left: what kernels make of a flat map (rows of method, kernels, mean, low, high). Middle: decoders' share over
    their steps, with intervals over units. Right: their mean spectrum along rows at one step."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.75), layout="constrained")
    names, kinds = list(METHODS), list(kernels["kernels"].unique())
    for i, name in enumerate(names):
        part = kernels[kernels["method"] == name].set_index("kernels").reindex(kinds)
        x = np.arange(len(kinds)) + 0.17 * (i - 1.5)
        reach = np.abs(part[["low", "high"]].to_numpy().T - part["mean"].to_numpy())
        left.errorbar(x, part["mean"], yerr=reach, fmt="osD^"[i], markersize=4, capsize=2, color=OKABE_ITO[i])
    left.set(xticks=range(len(kinds)), xticklabels=[kind.replace(" ", "\n", 1) for kind in kinds])
    left.set(title="one layer, a flat map", ylabel="energy in the checkerboard (%)", ylim=(-4, 100))
    for i, (name, part) in enumerate(fits.groupby("method", sort=False)):
        found = [metrics.mean(torch.tensor(each["share"].to_numpy())) for _, each in part.groupby("step")]
        x = np.arange(len(found))
        middle.plot(x, [each.value for each in found], f"{'osD^'[i]}-", markersize=3.5, color=OKABE_ITO[i], label=name)
        middle.fill_between(
            x, [each.low for each in found], [each.high for each in found], alpha=0.2, color=OKABE_ITO[i]
        )
    middle.set_xticks(x, sorted(fits["step"].unique()))
    middle.set_yscale("symlog", linthresh=0.1, linscale=0.7)
    middle.set(yticks=[-0.1, 0, 0.1, 1, 10], yticklabels=["−0.1", "0", "0.1", "1", "10"])
    middle.axhline(0, color="black", linewidth=0.8)
    middle.set(title="decoders while they learn", xlabel="step", ylabel="variance at pixel period 2 (%)")
    place = sorted(fits["step"].unique()).index(step)
    for i, name in enumerate(names):
        power = torch.stack([spectrum(each[place]).sum(1) for each in drawn[name]]).mean(0)
        half = power[: len(power) // 2 + 1]
        right.plot(np.linspace(0, 0.5, len(half)), 10 * half.log10(), color=OKABE_ITO[i], linewidth=1.1)
    right.set(title=f"their spectra after {step} steps", xlabel="cycles per pixel", ylabel="power (dB)")
    right.set_xticks([0, 0.25, 0.5], ["0", "1/4", "1/2"])
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def fields_figure(maps: Sequence[Tensor], growth: pd.DataFrame) -> Figure:
    """Paths from each input to one output through dilated stacks, and how field and parameters grow with the layers
    (rows of stack, layer, field, parameters)."""
    figure = plt.figure(figsize=(PAGE, 3.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    side = 17
    for ax, paths, dilation in zip(above.subplots(1, 3), maps, (1, 2, 4), strict=True):
        middle = len(paths) // 2
        window = paths[middle - side // 2 : middle + side // 2 + 1, middle - side // 2 : middle + side // 2 + 1].numpy()
        norm = LogNorm(1, float(maps[-1].max()))
        ax.imshow(np.ma.masked_equal(window, 0), cmap="YlGnBu", norm=norm, extent=(0, side, side, 0))
        ax.set_xticks(range(side + 1), [])
        ax.set_yticks(range(side + 1), [])
        ax.tick_params(length=0)
        ax.grid(True, color="#BBBBBB", linewidth=0.4, alpha=1)
        ax.set_axisbelow(False)
        ax.plot(side / 2, side / 2, "o", color=OKABE_ITO[1], markersize=3)
        width = int((paths.sum(0) > 0).sum())
        ax.set_title(
            f"… then dilation {dilation}: {width} × {width}" if dilation > 1 else f"dilation 1: {width} × {width}"
        )
    fields, weights = below.subplots(1, 2)
    for i, (name, part) in enumerate(growth.groupby("stack", sort=False)):
        look = {"color": OKABE_ITO[i], "markersize": 4, "label": name}
        fields.plot(part["layer"], part["field"], f"{'osD^'[i]}-", **look)
        weights.plot(part["layer"], part["parameters"], f"{'osD^'[i]}-", **look)
    fields.set_yscale("log", base=2)
    ticks = [3, 7, 15, 31, 67]
    fields.set_yticks(ticks, [str(tick) for tick in ticks])
    fields.yaxis.set_minor_locator(plt.NullLocator())
    fields.set(xlabel="layer", ylabel="side of the field (pixels)", title="field, measured by gradient")
    weights.set(xlabel="layer", ylabel="weights so far", title="weights (one channel)", ylim=(0, None))
    fields.legend()
    return figure


def windows_figure(strip: Tensor, scores: Tensor, work: pd.DataFrame, times: pd.DataFrame) -> Figure:
    """A 1 x H x W strip of digits with the class of every window on top, and multiply-adds and milliseconds beside
    each other (rows of network, way, multiply_adds; of task "network: way", milliseconds)."""
    figure = plt.figure(figsize=(PAGE, 3.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    axes = above.subplots(2, 1)
    axes[0].imshow(strip[0], cmap="gray_r")
    axes[0].add_patch(Rectangle((-0.5, -0.5), 28, 28, fill=False, edgecolor=OKABE_ITO[1], linewidth=1.4))
    bare(axes[0], "the strip, and one window")
    sure, best = scores.softmax(0).max(0)
    rows, columns = best.shape
    palette = np.array(plt.get_cmap("tab10").colors)
    picture = 1 - (1 - palette[best.numpy()]) * sure.numpy()[..., None] ** 2
    left, top = 14 - 2, 14 - 2  # the middle of the first window, less half a step
    axes[1].imshow(picture, extent=(left, left + 4 * columns, top + 4 * rows, top))
    for y in range(rows):
        for x in range(columns):
            if sure[y, x] > 0.9:
                place = (left + 4 * x + 2, top + 4 * y + 2.2)
                axes[1].text(*place, str(int(best[y, x])), ha="center", va="center", fontsize=4.5, color="white")
    bare(axes[1], "class at the middle of every window (pale: unsure), all from one pass")
    axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
    for ax, (table, column, label) in zip(
        below.subplots(1, 2),
        ((work, "multiply_adds", "multiply-adds"), (times, "milliseconds", "milliseconds, one machine")),
        strict=True,
    ):
        values = table[column].to_numpy()
        names = table["task"].tolist()
        ax.barh(range(len(values)), values, color=[OKABE_ITO[0 if "window" in name else 2] for name in names])
        ax.set(xscale="log", yticks=range(len(values)), yticklabels=names, xlabel=label)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
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
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.5), width_ratios=(1, 1, 1.5), layout="constrained")
    for ax, shift, title in zip(axes, (0.25, 0.5), ("d = 0.25", "d = 0.5"), strict=False):
        cells(ax, features, f"{title}: box and bins", size=5, colours=np.full(features.shape, "#FFFFFF"))
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
    ax.set(xlabel="shift d of the box (pixels)", ylabel="first of 2 × 2 bins", ylim=(10, 47))
    ax.legend(loc="upper left")
    return figure
