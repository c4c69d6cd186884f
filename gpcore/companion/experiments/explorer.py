"""The patch under the loupe as pictures: drawn once, and with sliders (figure 6)."""

import functools
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from gpcore.companion.experiments.local_patch import (
    CELL,
    FACTORS,
    Place,
    cell_labels,
    neighbourhood,
    score_rows,
    sweep_scene,
)
from gpcore.companion.report.explorer import Explorer
from gpcore.companion.report.panels import OKABE_ITO, PAGE, Panel, change_map, grid
from gpcore.companion.studies import Study

SHOWN = (-4, -1, 0, 1, 4)  # the multiples of the tuned epsilon whose label maps are drawn
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))


def patch_figure(study: Study, name: str, place: Place) -> Figure:
    """Figure 6a: image, truth, changes by the tuned step, the nine cells' own 96 x 96 pixels, their perturbation (its
    mean over the colours), its sum with them; then the cells' true classes, and those that score_fr predicts for some
    epsilons. Image, truth and patches where the study's are shown.
    """
    guided, scores = sweep_scene(study, name, place.scene, SHOWN)
    (image,), (truth,) = study.scene(place.scene)
    epsilon = study.epsilon(name)
    step = epsilon * guided.signal[0].sign()
    was, now = (logits[0].argmax(0) for logits in guided.trajectory)
    y, x = (slice(s.start * CELL, s.stop * CELL) for s in neighbourhood(scores.shape[2:], place.row, place.column))
    whole = [Panel("image", image, "image"), Panel("labels", truth, "truth")] if study.shown else []
    whole.append(Panel("changes", change_map(was, now, truth, study.void), "changes"))
    nine = [Panel("signed", step[:, y, x].mean(0), "ε sign(g)", epsilon)]
    if study.shown:
        moved = Panel("image", (image + step)[:, y, x], "patch + ε sign(g)")
        nine = [Panel("image", image[:, y, x], "patch"), *nine, moved]
    cells = [Panel("labels", cell_labels(truth, len(study.classes), study.void), "truth by cells")]
    for factor, each in zip(SHOWN, scores, strict=True):
        title = f"ε = {factor * epsilon:.3g}{' (tuned)' * (factor == 1)}".replace("-", "−")
        cells.append(Panel("labels", each.argmax(0), title))
    every = [*whole, *nine, *cells]
    half = len(every) // 2
    sides = ["input", "score_fr"] if study.shown else []
    figure = grid([every[:half], every[half:]], study, sides=sides, legend=["labels", "changes"])
    for axes in figure.axes[: len(whole)]:
        _outline(axes, place, CELL)
    for axes in figure.axes[len(whole) + len(nine) :]:
        _outline(axes, place, 1)
    return figure


def _outline(axes: Axes, place: Place, cell: int) -> None:
    """Frames the nine cells of a map whose cells are `cell` pixels wide, and the one in their centre."""
    for reach, thin in ((1, 1.2), (0, 0.7)):
        corner = ((place.column - reach) * cell - 0.5, (place.row - reach) * cell - 0.5)
        size = (2 * reach + 1) * cell
        for colour, width in (("white", 2 * thin), ("black", thin)):  # to be seen on dark and on light
            frame = Rectangle(corner, size, size, fill=False, edgecolor=colour, linewidth=width)
            axes.add_patch(frame).set_clip_on(False)


def scores_figure(rows: pd.DataFrame, marked: float) -> Figure:
    """Figure 6b: scores over epsilon in each of nine cells, `marked` a multiple of the tuned one, from `score_rows`."""
    classes = list(rows["class"].unique())
    looks: dict[str, dict[str, Any]] = {
        name: {"color": colour, "linestyle": dashes, "marker": marker}
        for name, colour, dashes, marker in zip(classes, OKABE_ITO, DASHES, "os^Dv", strict=False)
    }
    chosen: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": (0, (2, 2))}
    figure, panels = plt.subplots(3, 3, figsize=(PAGE, 5.9), sharex=True, sharey=True, layout="constrained")
    for axes, ((row, column, true), cell) in zip(panels.flat, rows.groupby(["row", "column", "true"]), strict=True):
        for name, look in looks.items():
            part, wide = cell[cell["class"] == name], 2.6 if name == true else 1.0
            axes.plot(part["factor"], part["score"], linewidth=wide, markersize=2 + wide, markevery=2, **look)
        top = cell.drop_duplicates("factor").set_index("factor")["predicted"]
        whole: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "step": "mid", "linewidth": 0, "zorder": 0}
        axes.fill_between(top.index, 0, 1, where=top == true, color="#E6E6E6", **whole)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.axvline(marked, **chosen)
        truth = f"true {true}" if true in classes else f"true {true} (not drawn)"
        axes.set_title(f"cell ({row}, {column}): {truth}\npredicted {top[0.0]} → {top[marked]}", fontsize=7)
    tuned = (rows["epsilon"] / rows["factor"])[rows["factor"] != 0].iloc[0]
    panels[2, 1].set_xlabel(f"ε, in multiples of the tuned {tuned:.3g}")
    panels[1, 0].set_ylabel("score at score_fr")
    handles = [
        *(Line2D([], [], markersize=3.5, label=name, **look) for name, look in looks.items()),
        Line2D([], [], color="black", linewidth=2.6, label="thick: the cell's true class"),
        Patch(color="#E6E6E6", label="the true class is on top"),
        Line2D([], [], label="the ε after the arrow →", **chosen),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.5, handlelength=3)
    return figure


def explore(study: Study, name: str, place: Place, factor: float = 1.0) -> Explorer:
    """Figure 6b with sliders for scene, patch and the marked multiple of epsilon."""
    scores = functools.lru_cache(16)(lambda scene: sweep_scene(study, name, scene)[1])
    height, width = scores(place.scene).shape[2:]
    neighbourhood((height, width), place.row, place.column)
    ranges = (range(len(study.dataset("test"))), range(1, height - 1), range(1, width - 1))  # type: ignore[arg-type]
    choices: dict[str, Any] = dict(zip(Place._fields, zip(ranges, place, strict=True), strict=True))

    def draw(scene: int, row: int, column: int, factor: float) -> Figure:
        return scores_figure(score_rows(study, name, Place(scene, row, column), scores(scene)), factor)

    return Explorer(draw, **choices, factor=(FACTORS, factor))
