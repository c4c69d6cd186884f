"""From counts and rows to tables, plots, panels of pictures, the ledger and the README."""

from gpcore.companion.report.explorer import Explorer
from gpcore.companion.report.panels import (
    Panel,
    change_panels,
    credited,
    grid,
    light,
    node,
    picture_rows,
    pipeline,
    prediction_panels,
)
from gpcore.companion.report.record import Record, paper

__all__ = [
    "Explorer",
    "Panel",
    "Record",
    "change_panels",
    "credited",
    "grid",
    "light",
    "node",
    "paper",
    "picture_rows",
    "pipeline",
    "prediction_panels",
]
