"""From counts and rows to tables, plots, panels of pictures, the ledger and the README."""

from gpcore.companion.report.panels import Panel, grid, photograph, pipeline
from gpcore.companion.report.record import Record, paper

__all__ = ["Panel", "Record", "grid", "paper", "photograph", "pipeline"]
