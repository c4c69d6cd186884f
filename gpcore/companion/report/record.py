"""What a notebook leaves behind: figures with their rows, provenance, and entries for the claims ledger."""

import importlib.metadata
import json
from collections.abc import Collection
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gpcore import paths
from gpcore.companion.report import claims, panels
from gpcore.companion.studies import Study
from gpcore.companion.weights import info
from gpcore.metrics import Interval

PACKAGES = ("torch", "torchvision", "numpy", "mlxtend", "matplotlib", "seaborn")


class Record:
    """Collects one notebook's output under figures/STUDY/NOTEBOOK.

    Opening a record sets the style of figures and tables. `parameters` are the notebook's own, kept in
    `provenance.json` beside package versions and the hashes of the `weights` that it uses, named by networks and
    refiners of the study, or as (name, seed) where it is another training's; nothing there changes from run to run.
    """

    def __init__(
        self, notebook: str, study: Study, *, weights: Collection[str | tuple[str, int]] = (), **parameters: Any
    ) -> None:
        panels.use_style()
        pd.set_option("display.max_colwidth", None)
        self.study, self.claims = study, dict[str, dict[str, str]]()
        self.folder = paths.FIGURES / study.name / notebook
        self.folder.mkdir(parents=True, exist_ok=True)
        pairs = [(each, 0) if isinstance(each, str) else each for each in weights]
        used = {name + f", seed {seed}" * (seed > 0): (name, seed) for name, seed in pairs}
        provenance = {
            "notebook": notebook,
            "study": study.name,
            "parameters": parameters,
            "images": dict(study.images),
            "weights": {label: info(study.stored_as(*each))["files"] for label, each in used.items()},
            "epsilon": {name: study.epsilon(name) for name in used if name in {**study.networks, **study.robust}},
            "device": "cpu",
            "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        }
        (self.folder / "provenance.json").write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n")

    def save(self, figure: Figure, name: str, rows: pd.DataFrame) -> None:
        """Writes the figure as PNG (200 dpi) and PDF, without timestamps, and the rows behind it as CSV."""
        figure.savefig(self.folder / f"{name}.png", dpi=200, metadata={"Software": None})
        figure.savefig(self.folder / f"{name}.pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
        self.rows(name, rows)

    def rows(self, name: str, rows: pd.DataFrame) -> pd.DataFrame:
        """Writes rows as CSV to five digits and returns them."""
        rows.to_csv(self.folder / f"{name}.csv", index=False, float_format="%.5g", lineterminator="\n")
        return rows

    def read(self, name: str) -> pd.DataFrame:
        """Rows that this run has written under that name, or, where it leaves out what looks at the images, the last
        whole one."""
        own = self.folder / f"{name}.csv"
        return pd.read_csv(own if own.is_file() else paths.FINISHED / self.study.name / self.folder.name / own.name)

    def claim(self, identity: str, **numbers: float | Interval) -> pd.DataFrame:
        """Enters a claim with its measured numbers; the verdict follows from them by `criteria.CRITERIA`.

        It follows from the numbers as printed, to three digits, so that a reader comes to the same one. Any claim may
        name how many `images` they are over, a plain number.
        Returns the ledger's rows of this notebook so far, for display.
        """
        rounded = claims.rounded(numbers)
        images, units = numbers.get("images"), None
        if isinstance(images, int) and "test" in self.study.sequences:  # what is resampled are blocks of frames
            units = self.study.number("test", images)
        known, judged = claims.statement(identity), claims.judged(identity, rounded, units)
        self.claims[identity] = {
            "id": identity,
            "claim": known["statement"],
            "holds when": known["criterion"],
            "verdict": judged.verdict,
            "numbers": claims.printed(rounded, judged.why),
        }
        return self.rows("claims", pd.DataFrame(self.claims.values()))

    def ledger(self) -> pd.DataFrame:
        """Writes the verdicts of all notebooks on this study to figures/STUDY/claims.csv and returns them."""
        return self.rows("../claims", claims.ledger(self.study.name))


def paper(table: str) -> pd.DataFrame:
    """A published table from data/paper."""
    return pd.read_csv(paths.PAPER / f"{table}.csv")
