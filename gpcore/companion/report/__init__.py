"""From counts and rows to tables, plots, panels of pictures, the ledger and the README."""

from gpcore.companion.report.panels import (
    Panel,
    change_panels,
    grid,
    photograph,
    picture_rows,
    pipeline,
    prediction_panels,
)
from gpcore.companion.report.record import Record, paper

__all__ = [
    "Panel",
    "Record",
    "change_panels",
    "grid",
    "paper",
    "photograph",
    "picture_rows",
    "pipeline",
    "prediction_panels",
]
