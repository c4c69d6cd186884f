"""Notebooks 03 and 04: one scene step by step, and how gains go with ε and with iterations (figure 5)."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gpcore import metrics
from gpcore.companion.measure import Answers, changes
from gpcore.companion.report.panels import OKABE_ITO, PAGE, Panel, change_map, grid
from gpcore.companion.studies import LABELS, Study


def scene_figure(
    study: Study, names: Sequence[str], scene: int, answers: Callable[[str], Answers], titles: Sequence[str]
) -> tuple[Figure, pd.DataFrame]:
    """Two lines of panels for each network: above its predictions for a test scene, first without a step, then the
    other answers' under their titles; below what is wrong at first, and what the others changed. The image and the
    truth stand in front where they may be shown. The rows tell how many pixels each panel counts, void apart.
    """
    x, truth = study.scene(scene)
    lines, sides, table = list[list[Panel]](), list[str](), list[tuple[str, str, int, int, int]]()
    for name in names:
        with torch.no_grad():
            first, *others = (scores[0].max(0).indices for scores in answers(name)(x, truth))
        above = [Panel("image", x[0], "image"), Panel("labels", first, "prediction")]
        below = [Panel("labels", truth[0], "truth")]
        for title, after in zip(("prediction", *titles), (first, *others), strict=True):
            pixels = {kind: int(mask.sum()) for kind, mask in changes(first, after, truth[0], study.void).items()}
            wrong, corrected, newly_wrong = pixels.values()
            above += [Panel("labels", after, title)] * (title in titles)
            told = f"+{corrected} −{newly_wrong} pixels" if title in titles else f"{wrong} pixels wrong"
            below.append(Panel("changes", change_map(first, after, truth[0], study.void), told))
            table.append((LABELS[name], title, wrong - corrected + newly_wrong, corrected, newly_wrong))
        lines += [line if study.shown else line[1:] for line in (above, below)]
        sides += [LABELS[name], "changes"]
    rows = pd.DataFrame(table, columns=["network", "answer", "wrong", "corrected", "newly_wrong"])
    return grid(lines, study, sides=sides, legend=["labels", "changes"]), rows.assign(scene=scene)


def curves(rows: pd.DataFrame, *, x: str, hue: str, by: str, label: str) -> Figure:
    """The gain over x with its band (columns low, high): a plot for each value of `by`, on its own scale, a line for
    each of `hue`."""
    groups = list(rows.groupby(by, sort=False))
    figure, panels = plt.subplots(1, len(groups), figsize=(PAGE, 2.6), squeeze=False, layout="constrained")
    for axes, (title, group) in zip(panels.flat, groups, strict=True):
        for (name, part), colour, look in zip(group.groupby(hue, sort=False), OKABE_ITO, ("o-", "s--"), strict=False):
            axes.plot(part[x], part["gain"], look, color=colour, markersize=3.5, label=name)
            axes.fill_between(part[x], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=title, xlabel=label)
    panels[0, 0].set_ylabel("gain (mIoU points)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def agreement_figure(rows: pd.DataFrame) -> Figure:
    """How the images spread: for each column after `network`, a histogram of every network, its mean drawn in."""
    figure, panels = plt.subplots(1, rows.shape[1] - 1, figsize=(PAGE, 2.2), sharey=True, layout="constrained")
    for axes, column in zip(panels, rows.columns[1:], strict=True):
        sns.histplot(rows, x=column, hue="network", bins=20, element="step", alpha=0.25, legend=False, ax=axes)
        for colour, (name, part) in zip(OKABE_ITO, rows.groupby("network", sort=False), strict=False):
            mean = part[column].mean()
            axes.axvline(mean, color=colour, linestyle="--", label=f"{name}, mean {mean:.3f}")
        axes.set(xlabel=column.replace("_", " "), ylabel="images")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def first_minus_share(trajectory: Tensor, share: float) -> metrics.Interval:
    """By how much the first step's gain exceeds `share` of the best step's, from counts (T + 1) x N x K x K, the first
    without a step; every resample has its own best."""

    def excess(before: Tensor, *after: Tensor) -> Tensor:
        gains = metrics.points(before, torch.stack(after))
        return gains[0] - share * gains.max(0).values

    return metrics.bootstrap(excess, *trajectory)


def wrong_shares(logits: Tensor, truth: Tensor, void: int) -> Tensor:
    """For each image the share of known pixels that are predicted wrong, and the share of the true labels' signal l − y
    (its absolute values summed) that comes from them: B x 2 from logits B x K x H x W and labels B x H x W."""
    known = truth != void
    wrong = known & (logits.argmax(1) != truth)
    of_truth = logits.softmax(1).gather(1, truth.where(known, 0)[:, None])[:, 0]
    signal = 2 * (1 - of_truth.double()) * known  # |l - y| summed over classes
    pixels, sent = (each.sum((1, 2)) for each in (known, signal))
    return torch.stack([wrong.sum((1, 2)) / pixels, (signal * wrong).sum((1, 2)) / sent], 1)
