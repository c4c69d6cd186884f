"""Progress bars for terminals and notebooks: they leave nothing behind, and a batch run ($TQDM_DISABLE) has none."""

import html
import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm's bar over `items`, or over `total` updates."""
    bar = HTMLBar if _in_notebook() else tqdm
    return bar(items, leave=False, disable="TQDM_DISABLE" in os.environ, **options)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})


class HTMLBar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar of plain HTML, emptied at the end. tqdm's own is a widget, of which a saved notebook keeps no state: opened
    again, it reads "model not found"."""

    def __init__(self, *args: Any, **options: Any) -> None:
        from IPython.display import display

        form = "{desc}: {n_fmt} of {total_fmt} ({elapsed}, {remaining} left)"
        # gui tells tqdm that no terminal is to be written to
        super().__init__(*args, **{"bar_format": form, "gui": True, **options})
        self.shown = None if self.disable else display(self._html(), display_id=True)  # type: ignore[no-untyped-call]

    def _html(self, text: str | None = None) -> Any:
        from IPython.display import HTML

        state = f'value="{self.n}" max="{self.total}"' if self.total else ""
        drawn = f"<progress {state}></progress> {html.escape(str(self))}" if text is None else text
        return HTML(drawn)  # type: ignore[no-untyped-call]

    def display(self, *_: Any, **__: Any) -> None:
        if self.shown:
            self.shown.update(self._html())

    def close(self) -> None:
        super().close()
        if self.shown:
            self.shown.update(self._html(""))
