"""A figure that is drawn anew as sliders move: live in JupyterLab, a picture where nobody can move them."""

import base64
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


class Explorer(ipywidgets.VBox):  # type: ignore[misc]
    """Sliders, one for each of the choices (options, start) that `draw` takes by name, over the figure it returns.

    As it holds its picture as PNG, a notebook run by itself shows that; in a batch run ($TQDM_DISABLE) that alone,
    since the widget's own entry names a model that is gone once the kernel is.
    """

    def __init__(self, draw: Callable[..., Figure], **choices: tuple[Sequence[Any], Any]) -> None:
        self.figure = draw
        self.sliders = {
            key: ipywidgets.SelectionSlider(options=options, value=start, description=key, continuous_update=False)
            for key, (options, start) in choices.items()
        }
        self.picture = ipywidgets.Image(format="png")
        for slider in self.sliders.values():
            slider.observe(self.draw, "value")
        super().__init__([*self.sliders.values(), self.picture])
        self.draw()

    def draw(self, _: object = None) -> None:
        """Puts the sliders' selection into the picture."""
        figure, stream = self.figure(**{key: slider.value for key, slider in self.sliders.items()}), io.BytesIO()
        figure.savefig(stream, dpi=100, metadata={"Software": None})
        plt.close(figure)
        self.picture.value = stream.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        live = {} if "TQDM_DISABLE" in os.environ else super()._repr_mimebundle_(**options)
        values = {key: slider.value for key, slider in self.sliders.items()}
        state = ", ".join(f"{key}={value if isinstance(value, str) else f'{value:g}'}" for key, value in values.items())
        png = base64.b64encode(self.picture.value).decode()
        return {**live, "text/plain": f"Explorer({state})", "image/png": png}
