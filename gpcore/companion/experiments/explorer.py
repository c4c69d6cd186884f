"""The patch under the loupe as pictures: drawn once, and with sliders (figure 6)."""

import base64
import functools
import io
import os
from collections.abc import Sequence
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gpcore.companion.experiments.local_patch import CELL, FACTORS, Place, Swept, neighbourhood, score_rows, sweep_scene
from gpcore.companion.report import panels, plots
from gpcore.companion.report.panels import Panel, photograph
from gpcore.companion.studies import Study


def patch_figure(study: Study, swept: Swept, place: Place, factors: Sequence[float] = (-4, -1, 0, 1, 4)) -> Figure:
    """Figure 6a. Above: image, changes by the tuned step, patch, perturbation, perturbed patch; below: the class that
    score_fr predicts in each cell for some `factors`.

    A frame marks the nine cells, a small one their centre. The patch is the nine cells' own 96 x 96 pixels; the
    perturbation is shown as its mean over the colours.
    """
    y, x = (slice(s.start * CELL, s.stop * CELL) for s in neighbourhood(swept.truth.shape, place.row, place.column))
    step = swept.epsilon * swept.gradient.sign()
    above = [
        photograph(study, swept.image, "image"),
        Panel("changes", swept.change, "changes"),
        photograph(study, swept.image[:, y, x], "patch"),
        Panel("signed", step[:, y, x].mean(0), "ε sign(g)", swept.epsilon),
        photograph(study, (swept.image + step)[:, y, x], "patch + ε sign(g)"),
    ]
    maps = [swept.scores[swept.factors.index(factor)].argmax(0) for factor in factors]
    titles = [f"ε = {factor * swept.epsilon:.3g}{' (tuned)' * (factor == 1)}".replace("-", "−") for factor in factors]
    below = [Panel("labels", m, title) for m, title in zip(maps, titles, strict=True)]
    figure = panels.grid([above, below], study, sides=["input", "score_fr"], legend=["labels", "changes"])
    for axes, cell in zip(figure.axes, (CELL, CELL, 0, 0, 0, 1, 1, 1, 1, 1), strict=True):
        if cell:
            _outline(axes, place, cell)
    return figure


def _outline(axes: Axes, place: Place, cell: int) -> None:
    """Frames the nine cells of a map whose cells are `cell` pixels wide, and the one in their centre."""
    for reach, thin in ((1, 1.2), (0, 0.7)):
        corner = ((place.column - reach) * cell - 0.5, (place.row - reach) * cell - 0.5)
        size = (2 * reach + 1) * cell
        for colour, width in (("white", 2 * thin), ("black", thin)):  # to be seen on dark and on light
            frame = Rectangle(corner, size, size, fill=False, edgecolor=colour, linewidth=width)
            axes.add_patch(frame).set_clip_on(False)


class Explorer(ipywidgets.VBox):  # type: ignore[misc]
    """Sliders for scene, patch and epsilon above the nine cells' scores, drawn anew at every move.

    As it holds its picture as PNG, a notebook run by itself shows that; in a batch run ($TQDM_DISABLE) that alone,
    since the widget's own entry names a model that is gone once the kernel is.
    """

    def __init__(self, study: Study, name: str, place: Place, factor: float) -> None:
        self.study, self.sweep = study, functools.lru_cache(16)(functools.partial(sweep_scene, study, name))
        height, width = self.sweep(place.scene).truth.shape
        neighbourhood((height, width), place.row, place.column)
        scenes: int = len(study.dataset("test"))  # type: ignore[arg-type]  # torch's Dataset declares no length
        ends = Place(scenes - 1, height - 2, width - 2)
        self.sliders: dict[str, Any] = {
            key: ipywidgets.IntSlider(value, min(1, i), end, description=key, continuous_update=False)
            for i, (key, value, end) in enumerate(zip(Place._fields, place, ends, strict=True))
        }
        self.sliders["factor"] = ipywidgets.SelectionSlider(
            options=FACTORS, value=factor, description="ε / tuned", continuous_update=False
        )
        self.picture = ipywidgets.Image(format="png")
        for slider in self.sliders.values():
            slider.observe(self.draw, "value")
        super().__init__([*self.sliders.values(), self.picture])
        self.draw()

    def draw(self, _: object = None) -> None:
        """Puts the sliders' selection into the picture."""
        scene, row, column, factor = (slider.value for slider in self.sliders.values())
        rows = score_rows(self.study, self.sweep(scene), Place(scene, row, column))
        figure, stream = plots.neighbourhood(rows, factor), io.BytesIO()
        figure.savefig(stream, dpi=100, metadata={"Software": None})
        plt.close(figure)
        self.picture.value = stream.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        live = {} if "TQDM_DISABLE" in os.environ else super()._repr_mimebundle_(**options)
        state = ", ".join(f"{key}={slider.value:g}" for key, slider in self.sliders.items())
        png = base64.b64encode(self.picture.value).decode()
        return {**live, "text/plain": f"Explorer({state})", "image/png": png}


def explore(study: Study, name: str, place: Place = Place(0, 1, 1), factor: float = 1.0) -> Explorer:  # noqa: B008
    """The interactive figure 6b of a network, starting at `place` with `factor` times the tuned epsilon marked."""
    return Explorer(study, name, place, factor)
