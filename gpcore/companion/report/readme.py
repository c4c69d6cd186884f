"""Fill the README's tables from result rows: `python -m gpcore.companion.report.readme`. By hand are words only."""

import re
from pathlib import Path

import nbformat
import pandas as pd

from gpcore import paths
from gpcore.companion import studies
from gpcore.companion.report import claims, record, tables
from gpcore.datasets.photographs import PHOTOGRAPHS

README = paths.ROOT / "README.md"


def headline() -> str:
    """One row per study and network: base, guided, gain with interval and over trainings, beside the published gain."""
    published = record.paper("segmentation")
    parts = []
    for name in studies.suited(["segmentation"]):
        # notebook 00 has the FCNs alone
        found = (paths.ROOT / "figures" / name / n / "test.csv" for n in ("06_architectures", "00_guided_perturbation"))
        if file := next((path for path in found if path.is_file()), None):
            rows, trainings = pd.read_csv(file), file.with_name("trainings.csv")
            seeds = pd.read_csv(trainings) if trainings.is_file() else rows
            table = tables.beside(rows, published, seeds).drop(columns=["ε", "gain − paper's"]).reset_index()
            table.insert(0, "study", name)
            parts.append(table)
    return _markdown(pd.concat(parts))


def notebooks() -> str:
    """One row per notebook: the figures it redraws, its executed copies, its command and its seconds, from the last
    recorded run if any."""
    rows = []
    for path in sorted((paths.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        study = studies.suited(notebook.metadata.get("needs", ()))[0]
        runs = pd.read_csv(paths.ROOT / "figures" / study / "runs.csv").set_index("notebook")["seconds"]
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        link = f"[`{path.stem}`](notebooks/{path.name})"
        for name in studies.suited():
            kept = Path("figures", name, path.stem, path.name)
            link += f", [{name}]({kept})" if (paths.ROOT / kept).is_file() else ""
        seconds = round(runs[path.stem]) if path.stem in runs else "–"
        rows.append((title, notebook.metadata["paper"], link, f"`make figures ONLY={path.stem[:2]}`", seconds))
    return _markdown(pd.DataFrame(rows, columns=["what", "paper's figure", "notebook", "command", "seconds"]))


def ledger() -> str:
    """One row per study: how many claims were tried there, hold, fail, are undecided or not run."""
    return _markdown(claims.tally(claims.ledgers(studies.STUDIES), "study").reset_index())


def photographs() -> str:
    """Whose the photographs in figures are, and under which licence."""
    columns = {"photograph": [*PHOTOGRAPHS], "comes with": [], "by": [], "licence": []}
    for each in PHOTOGRAPHS.values():
        package = {"skimage": "scikit-image", "sklearn": "scikit-learn"}.get(each.package, each.package)
        for column, value in zip(("comes with", "by", "licence"), (package, each.author, each.licence), strict=True):
            columns[column].append(value)
    return _markdown(pd.DataFrame(columns))


def fill(text: str) -> str:
    """`text` with each block between <!-- NAME --> and <!-- end --> made anew by the function of that name."""
    blocks = {"headline": headline, "notebooks": notebooks, "ledger": ledger, "photographs": photographs}
    return re.sub(
        r"(<!-- (\w+) -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{blocks[m[2]]()}\n{m[3]}", text, flags=re.DOTALL
    )


def _markdown(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main(path: Path = README) -> None:
    path.write_text(fill(path.read_text()))


if __name__ == "__main__":
    main()
