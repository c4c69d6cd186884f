"""Notebook 12: over which steps a network gains."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from gpcore import metrics
from gpcore.companion.report import tables
from gpcore.companion.report.panels import PAGE
from gpcore.companion.studies import LABELS


def ranges(rows: pd.DataFrame) -> pd.DataFrame:
    """For each label of rows label, epsilon, gain, low, high, images: the epsilon of the greatest gain, whether smaller
    and larger ones were tried, that gain with its interval, and the widest ratio of neighbouring positive epsilons at
    which every interval lies above zero (sure) and at which none lies below zero (possible)."""
    found = []
    for label, part in rows.groupby("label", sort=False):
        tried = part["epsilon"].to_numpy()
        best, *gain = part[["epsilon", *tables.GAIN]].to_numpy()[part["gain"].argmax()].tolist()
        factors = (_factor(tried, good.to_numpy()) for good in (part["low"] > 0, part["high"] >= 0))
        found.append((label, best, tried.min() < best < tried.max(), *gain, *factors, part["images"].iloc[0]))
    columns = ["network", "best ε", "lies inside", *tables.GAIN, "sure_factor", "possible_factor", "images"]
    return pd.DataFrame(found, columns=columns)


def _factor(epsilons: np.ndarray, good: np.ndarray) -> float:
    """The ratio of the ends of the widest run of positive epsilons that are all good, 0 where there is none."""
    lowest, highest = tables.widest_range(epsilons.tolist(), good.tolist())
    return highest / lowest if lowest else 0.0


def directions(counts: Mapping[str, Mapping[float, Tensor]], own: Mapping[str, float]) -> pd.DataFrame:
    """The gain at each network's own epsilon, the loss at minus that, and the loss less twice the gain with its
    interval, from counts by network and multiple; and the peak signal-to-noise ratio of either step."""
    rows = []
    for name, each in counts.items():
        gain, loss = metrics.gain(each[0], each[1]), metrics.gain(each[-1], each[0])
        excess = tables.gain_difference((each[-1], each[0]), (each[0], each[1]), 2)
        psnr = metrics.step_psnr(own[name])
        rows.append((LABELS[name], own[name], gain.value, loss.value, *excess, psnr, len(each[0])))
    columns = ["network", "epsilon", "gain", "loss", "loss − 2 gain", "low", "high", "PSNR (dB)", "images"]
    return pd.DataFrame(rows, columns=columns)


def multiples(rows: pd.DataFrame, *, by: str) -> Figure:
    """One plot for each value of `by`, three in a row: the gain with its interval (columns low, high) on so many
    `images` over tried steps, evenly spaced, named by the column `multiple`; gains beyond two points are drawn on a
    logarithmic scale."""
    groups = list(rows.groupby(by, sort=False))
    height = -(-len(groups) // 3)
    figure, axes = plt.subplots(
        height, 3, figsize=(PAGE, 1.8 * height + 0.3), squeeze=False, layout="constrained", sharey=True
    )
    for ax, (name, part) in zip(axes.flat, groups, strict=False):
        place = np.arange(len(part))
        ax.plot(place, part["gain"], "o-", markersize=3)
        ax.fill_between(place, part["low"], part["high"], alpha=0.25, linewidth=0)
        ax.axhline(0, color="black", linewidth=0.8, linestyle="--")
        ax.set_title(f"{name}\nn = {part['images'].iloc[0]}")
        ax.set_xticks(place, [f"{multiple:g}" for multiple in part["multiple"]], rotation=90, fontsize=6)
        ax.set_yscale("symlog", linthresh=2, linscale=2)
        ax.set_yticks([-30, -10, -2, -1, 0, 1, 2, 10], ["−30", "−10", "−2", "−1", "0", "1", "2", "10"])
        ax.minorticks_off()
    axes[0, 0].set_ylim(1.3 * min(rows["low"].min(), -1), 1.2 * max(rows["high"].max(), 1))
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    figure.supxlabel("ε (multiples of the network's own)", fontsize=8)
    figure.supylabel("gain (mIoU points)", fontsize=8)
    return figure
