"""Plots of measured rows: points and lines with their intervals, and the ledger. Functions return the figure."""

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gpcore.companion.report.panels import CHANGES, COLUMN, OKABE_ITO, PAGE
from gpcore.companion.studies import LABELS

MARKERS = "osD^v"
PUBLISHED_LOOK: dict[str, Any] = {"color": OKABE_ITO[1], "mfc": "none", "label": "published (VOC 2012)"}


def _bars(axes: Axes, rows: pd.DataFrame, x: str, y: str, along: str, **look: Any) -> None:
    """Points at the columns x and y with bars from low to high along one of the two."""
    reach = np.abs(rows[["low", "high"]].to_numpy().T - rows[x if along == "x" else y].to_numpy())
    axes.errorbar(rows[x], rows[y], **{f"{along}err": reach, "fmt": "o", **look})


def network_gains(rows: pd.DataFrame, published: pd.DataFrame, seeds: pd.DataFrame | None = None) -> Figure:
    """mIoU gain of every network with its interval, and of each training (rows network, gain, images) where there are
    several; in a panel with axes of its own the published gains."""
    height = 1.2 + 0.26 * max(len(rows), len(published))
    figure, (ours, theirs) = plt.subplots(1, 2, figsize=(PAGE, height), layout="constrained")
    images = " or ".join(map(str, sorted(rows["images"].unique())))
    _bars(ours, rows.assign(place=range(len(rows))), "gain", "place", "x", capsize=3, label="95 % over images")
    several = None if seeds is None else seeds[seeds["network"].duplicated(keep=False)]
    if several is not None and len(several):
        places = several["network"].map(list(rows["network"]).index)
        label = f"each training, on {several['images'].iloc[0]} images"
        ours.plot(several["gain"], places + 0.25, "|", color=OKABE_ITO[1], ms=4, mew=0.9, label=label)
    theirs.plot(
        published["guided"] - published["base"], range(len(published)), **PUBLISHED_LOOK | {"marker": "D", "ls": ""}
    )
    for axes, names, title in (
        (ours, rows["network"].map(LABELS), f"ours, {images} test images"),
        (theirs, published["network"], "published, VOC 2012, 346 images"),
    ):
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5), title=title)
        axes.set_xlabel("gain (mIoU points)")
    figure.legend(*ours.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return figure


def lines(rows: pd.DataFrame, *, x: str, y: str, hue: str, zero: float | None = None) -> Figure:
    """Lines over x, a band between the columns low and high where there are such, a dashed reference at `zero`."""
    figure, axes = plt.subplots(figsize=(PAGE * 0.6, 2.6), layout="constrained")
    sns.lineplot(rows, x=x, y=y, hue=hue, style=hue, markers=True, dashes=False, ax=axes, errorbar=None)
    if "low" in rows:
        for colour, (_, part) in zip(OKABE_ITO, rows.groupby(hue, sort=False), strict=False):
            axes.fill_between(part[x], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
    if zero is not None:
        axes.axhline(zero, color="black", linewidth=0.8, linestyle="--")
    return figure


def means(rows: pd.DataFrame, *, x: str, label: str, y: str = "mean") -> Figure:
    """Means with their intervals (columns low, high) over a categorical x."""
    width = max(COLUMN, 0.5 * len(rows))
    figure, axes = plt.subplots(figsize=(width, 2.2), layout="constrained")
    _bars(axes, rows, x, y, "y", capsize=3)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(label)
    if 0.06 * rows[x].astype(str).str.len().max() > 0.8 * width / len(rows):  # inches: neighbours would collide
        axes.tick_params(axis="x", rotation=35)
        plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    return figure


def points(rows: pd.DataFrame, *, x: str, y: str, hue: str) -> Figure:
    """Values with their intervals (columns low, high) along x, a line for each y, one colour and marker per hue."""
    names, labels = list(rows[hue].unique()), list(rows[y].unique())
    figure, axes = plt.subplots(figsize=(PAGE * 0.6, 0.9 + 0.42 * len(labels)), layout="constrained")
    for i, (name, part) in enumerate(rows.groupby(hue, sort=False)):
        placed = part.assign(place=part[y].map(labels.index) + 0.24 * (i - (len(names) - 1) / 2))
        _bars(axes, placed, x, "place", "x", fmt=MARKERS[i], capsize=2, label=name, markersize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    axes.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.4, 1))
    return figure


def strategies(rows: pd.DataFrame) -> Figure:
    """The gain over the tried levels of epsilon, evenly spaced, a plot for each label and a line with its band (columns
    low, high) for each network; a star where the row is the one `picked`. Beyond +-1 point the scale is logarithmic."""
    labels, levels = list(rows["label"].unique()), sorted(rows["level"].unique())
    height = -(-len(labels) // 3)
    look: dict[str, Any] = {"figsize": (PAGE, 1.9 * height + 0.6), "sharex": True, "sharey": True, "squeeze": False}
    figure: Figure
    figure, axes = plt.subplots(height, 3, layout="constrained", **look)
    for ax, (label, part) in zip(axes.flat, rows.groupby("label", sort=False), strict=False):
        for i, (network, line) in enumerate(part.groupby("network", sort=False)):
            x = line["level"].map(levels.index) + 0.2 * i  # so that no curve hides another
            ax.plot(x, line["gain"], MARKERS[i] + "-", color=OKABE_ITO[i], markersize=3, label=LABELS[str(network)])
            ax.fill_between(x, line["low"], line["high"], color=OKABE_ITO[i], alpha=0.2, linewidth=0)
            ax.plot(
                x[line["picked"]],
                line["gain"][line["picked"]],
                "*",
                color=OKABE_ITO[i],
                mec="black",
                mew=0.7,
                markersize=8,
            )
        ax.axhline(0, color="black", linewidth=0.8, linestyle="--")
        ax.axvline(levels.index(0), color="black", linewidth=0.5)
        ax.set_title(label)
        ax.set_yscale("symlog", linthresh=1)
        ax.set_yticks([-30, -10, -3, -1, -0.5, 0, 0.5, 1, 3, 10, 30], [], minor=False)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels], rotation=90)
    for ax in axes.flat[len(labels) :]:
        ax.set_visible(False)
    axes.flat[0].set_ylim(1.3 * rows["low"].min(), 1.3 * rows["high"].max())
    figure.supxlabel("ε (of 255)", fontsize=8)
    figure.supylabel("gain (mIoU points)", fontsize=8)
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(rows["network"].unique())
    )
    return figure


def heatmap(rows: pd.DataFrame, *, x: str, y: str, value: str) -> Figure:
    """A grid of gains, blue above and red below zero, a star where the interval (columns low, high) excludes zero."""
    wide = rows.pivot(index=y, columns=x, values=value).reindex(rows[y].unique(), columns=rows[x].unique())
    clear = rows.assign(star=np.where(rows["low"] * rows["high"] > 0, "*", "")).pivot(index=y, columns=x, values="star")
    text = (wide.round(1) + 0.0).map("{:+.1f}".format) + clear.reindex_like(wide)  # no -0.0
    figure, axes = plt.subplots(figsize=(PAGE, 0.8 + 0.26 * len(wide)), layout="constrained")
    largest = wide.abs().to_numpy().max()
    limit = min(10.0, largest)
    bar = {"label": "gain (mIoU points)", "extend": "both" if largest > limit else "neither"}
    colours = {"cmap": "RdBu", "vmin": -limit, "vmax": limit, "cbar_kws": bar}
    sns.heatmap(wide, annot=text, fmt="", annot_kws={"fontsize": 7}, ax=axes, **colours)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0)
    axes.grid(False)
    return figure


def explained(rows: pd.DataFrame, *, columns: Mapping[str, str]) -> Figure:
    """The gain, with its interval (columns low, high), over each of some columns; a colour and marker for each kind."""
    figure, panels = plt.subplots(1, len(columns), figsize=(PAGE, 2.6), sharey=True, layout="constrained")
    for axes, (column, label) in zip(panels, columns.items(), strict=True):
        for i, (kind, part) in enumerate(rows.groupby("kind", sort=False)):
            _bars(axes, part, column, "gain", "y", fmt=MARKERS[i], elinewidth=0.6, markersize=4, label=kind)
        axes.axhline(0, color="black", linewidth=0.8, linestyle="--")
        axes.set_xlabel(label)
    panels[0].set_ylabel("gain (mIoU points)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def toy(rows: pd.DataFrame) -> Figure:
    """Figure 9: for each case the scores y and the signal of eq. (5) for each label."""
    cases, labels = list(rows["case"].unique()), list(rows["label"].unique())
    figure, axes = plt.subplots(len(cases), 3, figsize=(PAGE, 1.5 * len(cases)), sharex=True, layout="constrained")
    for (scores, *signals), case in zip(axes, cases, strict=True):
        parts = [rows[(rows["case"] == case) & (rows["label"] == label)] for label in labels]
        scores.bar(parts[0]["class"], parts[0]["y"], color="#9A9A9A")
        scores.set(title=f"{case} scores y", ylim=(0, 0.7))
        for ax, part, label, colour in zip(signals, parts, labels, OKABE_ITO, strict=False):
            bars = ax.bar(part["class"], part["eq. (5)"], color=colour)
            ax.bar_label(bars, fmt="{:.3f}", padding=1, fontsize=6)
            ax.axhline(0, color="black", linewidth=0.8)
            ax.set_title(f"signal for a {label} label")
            ax.margins(y=0.25)
    for ax in axes[-1]:
        ax.set(xlabel="class", xticks=range(1, 6))
    return figure


def distances(shares: pd.DataFrame) -> Figure:
    """Where each kind of pixel lies: share over distance to the true boundary, from `tables.distance_shares` of every
    network."""
    names = shares["network"].unique()
    figure, panels = plt.subplots(1, len(names), figsize=(PAGE, 2.5), sharey=True, squeeze=False, layout="constrained")
    colours = {"base error": CHANGES["still wrong"], **CHANGES}
    palette = {kind: colours[kind] for kind in shares["kind"].unique()}
    for axes, (name, part) in zip(panels[0], shares.groupby("network", sort=False), strict=True):
        sns.barplot(part, x="distance", y="share", hue="kind", palette=palette, ax=axes)
        axes.set(title=name, xlabel="distance to the true boundary, from (pixels)", ylabel="share of the kind (%)")
        axes.legend(title=None)
    return figure


def histograms(rows: pd.DataFrame) -> Figure:
    """Distribution over images of every column, side by side, with the mean drawn in."""
    figure, axes = plt.subplots(1, rows.shape[1], figsize=(PAGE * 0.7, 2.1), sharey=True, layout="constrained")
    for ax, (name, values) in zip(axes, rows.items(), strict=True):
        sns.histplot(values, bins=20, ax=ax, color=OKABE_ITO[0])
        ax.axvline(values.mean(), color=OKABE_ITO[1], label=f"mean {values.mean():.3f}")
        ax.set(xlabel=str(name).replace("_", " "), ylabel="images")
        ax.legend()
    return figure


def verdict_cells(rows: pd.DataFrame) -> Figure:
    """A line per claim, a cell per study, coloured and named by its verdict; rows of study, id, claim, verdict."""
    looks = {
        "holds": ("#0072B2", "white", "✓ "),
        "fails": ("#D55E00", "white", "✗ "),
        "undecided": ("#F0E442", "black", "? "),
    }
    names, lines = list(rows["study"].unique()), list(rows["id"].unique())
    figure, axes = plt.subplots(figsize=(PAGE, 0.18 * len(lines) + 0.3), layout="constrained")
    for study, identity, verdict in rows[["study", "id", "verdict"]].to_numpy():
        x, y = names.index(study), lines.index(identity)
        fill, ink, mark = looks.get(verdict, ("white", "#777777", ""))
        axes.add_patch(Rectangle((x + 0.02, y + 0.06), 0.96, 0.88, color=fill))
        axes.text(x + 0.5, y + 0.5, mark + verdict, color=ink, ha="center", va="center_baseline", fontsize=6)
    claims = rows.drop_duplicates("id")
    axes.set(xlim=(0, len(names)), ylim=(len(lines), 0), xticks=np.arange(len(names)) + 0.5, xticklabels=names)
    told = [textwrap.fill(claim, 62) for claim in claims["claim"] + "   " + claims["id"]]
    axes.set_yticks(np.arange(len(lines)) + 0.5, told, fontsize=5.5, linespacing=1)
    axes.tick_params("x", labelsize=7)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure
