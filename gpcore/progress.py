"""Progress bars for notebooks: they leave nothing behind, and a batch run ($TQDM_DISABLE) has none."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm's bar over `items`, or over `total` updates.  Its notebook variant does not heed $TQDM_DISABLE by itself."""
    return tqdm(items, leave=False, disable="TQDM_DISABLE" in os.environ, **options)
