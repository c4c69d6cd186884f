"""Where things lie. Every other module asks here."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKOUT = (ROOT / "pyproject.toml").is_file()  # an installed library has no data and figures beside it
# Downloaded data sets and checkpoints, never committed; without a checkout in the folder that one works in.
DATA = Path(os.environ.get("GPCORE_DATA", ROOT / "data" if CHECKOUT else "data"))
PAPER = ROOT / "data" / "paper"  # published numbers, one CSV per table
WEIGHTS = ROOT / "data" / "weights"  # our trained networks
COUNTS = ROOT / "data" / "counts"  # what `measure.count` has counted, per image
FIGURES = Path(os.environ.get("GPCORE_FIGURES", ROOT / "figures"))  # what notebooks write
# Where the runner puts what notebooks wrote once they ran to their end; only its --figures moves it.
FINISHED = Path(os.environ.get("GPCORE_FINISHED", ROOT / "figures"))
