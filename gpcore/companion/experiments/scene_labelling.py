"""Notebook 07: pictures of a task whose many classes are told by hue and shade."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from gpcore.companion.report.panels import Panel, colour_handles, grid
from gpcore.companion.studies import Study
from gpcore.datasets.scenes import SCENE_CLASSES

SHADES = ("small, dark ink", "large, dark ink", "small, light ink", "large, light ink")


def pictures(task: Study, rows: Sequence[Sequence[Panel]], sides: Sequence[str]) -> Figure:
    """The panels under a legend of all classes: for SCENE_CLASSES a column of grounds, one of four shades for each
    digit, and one that says what a shade means."""
    if task.classes != SCENE_CLASSES:
        return grid(rows, task, sides=sides, legend=["labels", "changes"])
    figure = grid(rows, task, sides=sides, legend=["changes"])
    figure.set_figheight(figure.get_figheight() + 0.75)
    classes = colour_handles(task, ["labels"])
    for patch, name in zip(classes, task.classes, strict=True):
        patch.set_label(name.split()[-1])
    meaning = [Patch(color="none", label=shade) for shade in SHADES]
    looks = {"ncols": 12, "columnspacing": 0.7, "handlelength": 1.3, "handletextpad": 0.3}
    figure.legend(handles=[*classes, *meaning], loc="outside upper center", **looks)
    return figure
