"""Figures of notebook 41: the augmentations, the features beside what they cost, outlines, and predictions."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from gpcore.adapt import View
from gpcore.companion import epochs, studies
from gpcore.companion.experiments.unet_assignment import BANDS, beside_costs
from gpcore.companion.report import Panel, grid
from gpcore.companion.report.panels import OKABE_ITO, PAGE
from gpcore.companion.report.plots import MARKERS
from gpcore.companion.studies import LABELS, Study

COSTS = {"parameters": "parameters", "milliseconds": "time of a training step", "megabytes": "its memory"}


def augmentations_figure(study: Study, index: int = 24, draws: int = 2) -> Figure:
    """What each of a study's augmentations makes of one object scene and its labels, drawn several times."""
    shown, plain = studies.get("parity"), study.networks["plain"].recipe
    image, labels = shown.dataset("train")[index]
    varied = {name: plan.recipe for name, plan in study.networks.items() if plan.recipe != plain}
    rows = [[Panel(kind, part)] for kind, part in [("image", image), ("labels", labels)] * draws]
    rows[0] = [rows[0][0]._replace(title="as it is")]
    torch.manual_seed(0)
    for name, recipe in varied.items():
        for draw in range(draws):
            pair = epochs.augment(image, labels, recipe, shown.void)
            for row, kind, part in zip(rows[2 * draw :], ("image", "labels"), pair, strict=False):
                row.append(Panel(kind, part, "" if draw or kind == "labels" else LABELS[name]))
    return grid(rows, shown, legend=["labels"])


def views_figure(views: Mapping[str, View], index: int = 24) -> Figure:
    """One object scene in several views, and below each the plain network's answer to it, taken back; white is what the
    view did not see."""
    study = studies.get("parity")
    image, _ = study.dataset("train")[index]
    network, rows = study.network("plain"), [list[Panel](), list[Panel]()]
    for name, view in views.items():
        with torch.no_grad():
            seen = view.apply(image[None])
            back = view.undo(network(seen), image.shape[1:])[0]
        rows[0].append(Panel("image", seen[0], name))
        rows[1].append(Panel("labels", back.argmax(0).masked_fill(back[0].isinf(), study.void)))
    return grid(rows, study, sides=["view", "answer"], legend=["labels"])


def features_figure(rows: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Left `gain_rows`, with the least and greatest gain of a training; right what a network's training costs in
    multiples of the plain one's, from a table by network with the columns of COSTS."""
    beside = beside_costs(rows, costs)
    places = range(len(rows))
    size = (PAGE, 0.9 + 0.21 * len(rows))
    figure, (gains, multiples) = plt.subplots(
        1, 2, figsize=size, sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    reach = [rows["gain"] - rows["low"], rows["high"] - rows["gain"]]
    gains.hlines(places, rows["least"], rows["most"], color=OKABE_ITO[4], linewidth=4, alpha=0.6, label="trainings")
    gains.errorbar(rows["gain"], places, xerr=reach, fmt="o", markersize=4, capsize=2, label="mean, 95 %")
    gains.axvline(0, color="black", linewidth=0.8)
    gains.set(xlabel="gain (mIoU points)", yticks=places, yticklabels=rows["feature"], ylim=(len(rows) - 0.5, -0.5))
    for i, (column, label) in enumerate(COSTS.items()):
        times = beside[column] / costs[column]["plain"]
        shifted = [place + 0.22 * (i - 1) for place in places]
        multiples.plot(times, shifted, MARKERS[i], color=OKABE_ITO[i], markersize=4, label=label)
    multiples.axvline(1, color="black", linewidth=0.8)
    multiples.set_xlabel("multiples of the plain U-Net's")
    for axes in (gains, multiples):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, columnspacing=0.8, handletextpad=0.3)
    return figure


def outlines_figure(rows: pd.DataFrame) -> Figure:
    """`outline_rows`: pixels that are wrong, by their distance to the nearest outline."""
    figure, axes = plt.subplots(figsize=(PAGE * 0.6, 2.4), layout="constrained")
    for i, (network, part) in enumerate(rows.groupby("network", sort=False)):
        x = part["band"] + 0.08 * (i - 1)
        reach = [part["wrong"] - part["low"], part["high"] - part["wrong"]]
        axes.errorbar(x, part["wrong"], reach, fmt=f"{MARKERS[i]}-", markersize=4, capsize=2, label=network)
    ends = [f"{first} to {last}" for first, last in itertools.pairwise(BANDS)] + [f"{BANDS[-1]} and more"]
    axes.set(xticks=range(len(BANDS)), xticklabels=ends, xlabel="distance to the nearest outline (pixels)")
    axes.set(ylabel="wrong (% of pixels)", ylim=(0, None))
    axes.legend()
    return figure


def predictions_figure(study: Study, indices: Sequence[int], names: Sequence[str]) -> Figure:
    """Test images with their truth, where the study's may be shown, and what some networks (seed 0) say of them."""
    rows = []
    for index in indices:
        x, truth = study.scene(index)
        row = [Panel("image", x[0], "image"), Panel("labels", truth[0], "truth")] if study.shown else []
        for name in names:
            with torch.no_grad():
                scores = study.network(name)(x)
            row.append(Panel("labels", scores[0].argmax(0), textwrap.fill(LABELS[name], 10)))
        rows.append([panel if index == indices[0] else panel._replace(title="") for panel in row])
    return grid(rows, study, legend=["labels"])
