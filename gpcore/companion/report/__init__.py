"""From counts and rows to tables, plots, panels of pictures, the ledger and the README."""

from gpcore.companion.report.panels import Panel, grid, photograph, picture_rows, pipeline
from gpcore.companion.report.record import Record, paper

__all__ = ["Panel", "Record", "grid", "paper", "photograph", "picture_rows", "pipeline"]
