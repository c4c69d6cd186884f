"""Notebook 14: on which objects and scenes a guided step gains, and the figure that tells when to expect it."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gpcore import metrics
from gpcore.companion import measure
from gpcore.companion.experiments.when_does_it_help import heights, how_many, marked, outvoted
from gpcore.companion.report.panels import OKABE_ITO, PAGE
from gpcore.companion.report.plots import MARKERS
from gpcore.companion.report.tables import gain_difference
from gpcore.companion.studies import LABELS, Study
from gpcore.perturb import guide

STRIDE = 32  # pixels of the image between neighbours in the last pooling layer of every network here
ENDS = ["value", "low", "high"]  # columns


class Measured(NamedTuple):
    """One network's step on N images: counts before and after, 2 x N x K x K; pixels of predicted objects that are
    outvoted and of all of them, 2 x N; those of true objects by size, of each all, corrected and newly wrong,
    S x 3 x N; and the images' `Study.units`."""

    counts: Tensor
    few: Tensor
    sizes: Tensor
    units: Tensor | None = None


def measured(
    study: Study, name: str, edges: Sequence[float], split: str, images: int | None = None, ground: int | None = None
) -> Measured:
    """Sizes are heights over STRIDE between neighbouring `edges`."""
    network, epsilon, classes = study.network(name), study.epsilon(name), len(study.classes)

    def answers(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        was, now = (z.max(1).indices for z in guide(network, x, epsilon).trajectory)
        tall = heights(y, ground, study.void) / STRIDE
        masks = [outvoted(was, ground), torch.ones_like(was).bool() if ground is None else was != ground]
        for low, high in itertools.pairwise(edges):
            inside = (tall > low) & (tall <= high)
            masks += [inside, inside & (was != y) & (now == y), inside & (was == y) & (now != y)]
        return [was, now, *(marked(mask, y, classes) for mask in masks)]

    told = f"objects {name} {epsilon:g} {' '.join(f'{edge:g}' for edge in edges)}"
    counts = measure.count(study, answers, split, images, keep=told, frames=True)
    pixels = how_many(counts[2:])
    return Measured(counts[:2], pixels[:2], pixels[2:].unflatten(0, (-1, 3)), study.units(split, images))


def net(sums: Tensor) -> Tensor:
    """Pixels corrected minus newly wrong, in per cent of all: ... from sums ... x 3."""
    return 100 * (sums[..., 1] - sums[..., 2]) / sums[..., 0]


def _row(panel: str, series: str, place: str, value: metrics.Interval, n: int) -> dict[str, object]:
    return {"panel": panel, "series": series, "place": place, **dict(zip(ENDS, value, strict=True)), "images": n}


def by_training(counts: Mapping[str, Tensor]) -> list[dict[str, object]]:
    """The gain after each training, from counts 2 x N x K x K, and how far the last one's lies above the first's."""
    rows = [_row("training", "", place, metrics.gain(*each), each.shape[1]) for place, each in counts.items()]
    (before, after), *_, last = counts.values()
    change = gain_difference((last[0], last[1]), (before, after))
    return [*rows, _row("training", "", "last − first", change, len(before))]


def by_size(found: Mapping[str, Measured], edges: Sequence[float]) -> list[dict[str, object]]:
    """Per network and size of object: net corrected pixels (per cent of the objects'), and the largest's less the
    smallest's."""
    rows = []
    for name, each in found.items():
        sizes = metrics.per_unit(each.sizes.movedim(-1, 0), each.units)  # U x S x 3
        for s, (low, high) in enumerate(itertools.pairwise(edges)):
            place = f"> {low:g}" if s + 2 == len(edges) else f"≤ {high:g}" if not s else f"{low:g}–{high:g}"
            value = metrics.bootstrap(net, sizes[:, s])
            rows.append(_row("size", LABELS.get(name, name), place, value, each.sizes.shape[-1]))
        change = metrics.bootstrap(lambda sums: net(sums[..., -1, :]) - net(sums[..., 0, :]), sizes)
        rows.append(_row("size", LABELS.get(name, name), "last − first", change, each.sizes.shape[-1]))
    return rows


def by_scene(panel: str, found: Measured, shares: Tensor, groups: int = 3) -> list[dict[str, object]]:
    """The gain on images in groups of equal number by rising `shares` (per cent, N); and the last group's less the
    first's, resampled independently."""
    parts = [*shares.argsort(stable=True).tensor_split(groups)]
    rows = []

    def pair(part: Tensor) -> list[Tensor]:
        units = None if found.units is None else found.units[part]
        return [metrics.per_unit(each[part], units) for each in found.counts]

    for part in parts:
        ends = [f"{end:.0f}" for end in shares[part].aminmax()]
        place = "–".join(dict.fromkeys(ends))
        rows.append(_row(panel, "", place, metrics.gain(*pair(part)), len(part)))
    first, *_, last = parts
    change = metrics.difference(metrics.points, pair(last), metrics.points, pair(first))
    return [*rows, _row(panel, "", "last − first", change, len(first) + len(last))]


def ground_shares(counts: Tensor, ground: int) -> Tensor:
    """Of each image's known pixels those of the ground, in per cent: N from N x K x K counts."""
    return 100 * counts[:, ground].sum(1) / counts.sum((1, 2))


def trends(rows: pd.DataFrame) -> pd.DataFrame:
    """For display: what changes from the first place to the last of each panel and series, and what that says."""
    table = rows[rows["place"] == "last − first"].set_index(["panel", "series"])
    word = [
        "rises" if low > 0 else "falls" if high < 0 else "no clear trend" for low, high in table[ENDS[1:]].to_numpy()
    ]
    change = [f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for value, low, high in table[ENDS].to_numpy()]
    return pd.DataFrame({"last − first [95 %]": change, "it": word, "images": table["images"]}, table.index)


def figure(rows: pd.DataFrame, titles: Mapping[str, tuple[str, str, str]]) -> Figure:
    """A plot for each panel, two in a row, of values with their intervals over its places, the series side by side;
    `titles` gives each panel its title and what its places and its values are."""
    shown = rows[rows["place"] != "last − first"]
    height = -(-len(titles) // 2)
    drawn, axes = plt.subplots(height, 2, figsize=(PAGE, 2.2 * height), squeeze=False, layout="constrained")
    for ax, (panel, (title, places_are, values_are)) in zip(axes.flat, titles.items(), strict=False):
        part = shown[shown["panel"] == panel]
        places, series = list(part["place"].unique()), list(part["series"].unique())
        for i, (name, line) in enumerate(part.groupby("series", sort=False)):
            x = line["place"].map(places.index) + 0.2 * (i - (len(series) - 1) / 2)
            reach = np.abs(line[ENDS[1:]].to_numpy().T - line["value"].to_numpy())
            look = {"fmt": MARKERS[i] + "-", "color": OKABE_ITO[i], "label": name, "capsize": 2, "markersize": 4}
            ax.errorbar(x, line["value"], yerr=reach, **look)
        ax.axhline(0, color="black", linewidth=0.8, linestyle="--")
        ax.set_xticks(range(len(places)), places)
        ax.margins(x=0.15, y=0.05 if len(series) == 1 else 0.25)  # room for the legend
        ax.set(title=title, xlabel=places_are, ylabel=values_are)
        if len(series) > 1:
            ax.legend(ncols=len(series), fontsize=6, loc="upper center")
    for ax in axes.flat[len(titles) :]:
        ax.set_visible(False)
    return drawn
