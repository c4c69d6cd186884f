"""Plots of measured rows: points and lines with their intervals, and the ledger. Functions return the figure."""

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
from gpcore.companion.studies import LABELS, PUBLISHED

MARKERS = "osD^v"
PUBLISHED_LOOK: dict[str, Any] = {"color": OKABE_ITO[1], "mfc": "none", "label": "published (VOC 2012)"}


def _bars(axes: Axes, rows: pd.DataFrame, x: str, y: str, along: str, **look: Any) -> None:
    """Points at the columns x and y with bars from low to high along one of the two."""
    reach = np.abs(rows[["low", "high"]].to_numpy().T - rows[x if along == "x" else y].to_numpy())
    axes.errorbar(rows[x], rows[y], **{f"{along}err": reach, "fmt": "o", **look})


def network_gains(rows: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """mIoU gain of every network with its interval, beside the published gains."""
    figure, axes = plt.subplots(figsize=(COLUMN, 1.2 + 0.3 * len(rows)), layout="constrained")
    y = np.arange(len(rows))
    _bars(axes, rows.assign(place=y), "gain", "place", "x", capsize=3, label="ours, 95 % over images")
    given = published.set_index("network").reindex(rows["network"].map(PUBLISHED))
    axes.plot(given["guided"] - given["base"], y, "D", **PUBLISHED_LOOK)
    axes.axvline(0, color="black", linewidth=0.8)
    names = rows["network"].map(LABELS)
    axes.set(yticks=y, yticklabels=names, ylim=(len(rows) - 0.5, -0.5), xlabel="gain (mIoU points)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1))
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
    figure, axes = plt.subplots(figsize=(max(COLUMN, 0.5 * len(rows)), 2.2), layout="constrained")
    _bars(axes, rows, x, y, "y", capsize=3)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(label)
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


def trade(rows: pd.DataFrame, published: pd.DataFrame, *, x: str, y: str, label: str) -> Figure:
    """Ours with intervals (columns low, high) and the published points in the plane of x and y, each one named."""
    figure, axes = plt.subplots(figsize=(PAGE * 0.6, 2.6), layout="constrained")
    _bars(axes, rows, x, y, "y", capsize=3, label="ours, 95 % over images")
    axes.plot(published[x], published[y], "D", **PUBLISHED_LOOK)
    for part, offset in ((rows, (4, 3)), (published, (5, -8))):
        for name, *place in part[[label, x, y]].itertuples(index=False):
            axes.annotate(name, tuple(place), offset, textcoords="offset points", fontsize=7)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def strategies(rows: pd.DataFrame, *, base: float) -> Figure:
    """mIoU over the tried epsilons, evenly spaced, one line per label; on the right enlarged around `base`."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8), layout="constrained")
    levels = sorted(rows["epsilon"].unique())
    placed = rows.assign(place=rows["epsilon"].map(levels.index))
    for ax in axes:
        sns.lineplot(placed, x="place", y="miou", hue="label", style="label", markers=True, dashes=False, ax=ax)
        ax.axhline(base, color="black", linewidth=0.8, linestyle="--")
        ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels], rotation=90)
        ax.set(xlabel="ε (of 255)", ylabel="mIoU (%)")
    axes[1].set(ylim=(base - 3, base + 1.5), title="enlarged")
    axes[1].get_legend().remove()
    axes[0].legend(title=None)
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


def small_multiples(rows: pd.DataFrame, *, x: str, y: str, by: str) -> Figure:
    """One plot of y over x with its band (columns low, high) for each value of `by`, three in a row."""
    groups = list(rows.groupby(by, sort=False))
    height = -(-len(groups) // 3)
    figure, axes = plt.subplots(height, 3, figsize=(PAGE, 1.75 * height + 0.2), squeeze=False, layout="constrained")
    for ax, (name, part) in zip(axes.flat, groups, strict=False):
        ax.plot(part[x], part[y], "o-", markersize=3)
        ax.fill_between(part[x], part["low"], part["high"], alpha=0.2, linewidth=0)
        ax.axhline(0, color="black", linewidth=0.8, linestyle="--")
        ax.axvline(0, color="black", linewidth=0.5)
        ax.set_title(name)
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    figure.supxlabel("ε (of the image's range)", fontsize=8)
    figure.supylabel("gain (mIoU points)", fontsize=8)
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
    """Where each kind of pixel lies: share over distance to the true boundary, from `tables.distance_shares`."""
    figure, axes = plt.subplots(figsize=(PAGE * 0.6, 2.4), layout="constrained")
    colours = {"base error": CHANGES["still wrong"], **CHANGES}
    palette = {kind: colours[kind] for kind in shares["kind"].unique()}
    sns.barplot(shares, x="distance", y="share", hue="kind", palette=palette, ax=axes)
    axes.set(xlabel="distance to the nearest true boundary, from (pixels)", ylabel="share of the kind (%)")
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
    axes.set_yticks(np.arange(len(lines)) + 0.5, claims["claim"] + "   " + claims["id"], fontsize=6)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure
