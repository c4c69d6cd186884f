import re

import pandas as pd

from gpcore import paths
from gpcore.companion.report import readme


def test_tables_are_those_of_the_rows():
    text = readme.README.read_text()
    assert readme.fill(text) == text


def test_every_row_of_the_headline_is_there(tmp_path, monkeypatch):
    folder = tmp_path / "figures" / "digits" / "00_guided_perturbation"
    folder.mkdir(parents=True)
    row = {
        "network": "fcn8s", "epsilon": 0.002, "base": 60.0, "guided": 61.5, "gain": 1.5, "low": 1.25, "high": 1.75,
        "base_accuracy": 80, "guided_accuracy": 81, "corrected": 30, "newly_wrong": 20, "images": 5,
    }  # fmt: skip
    pd.DataFrame([row]).to_csv(folder / "test.csv", index=False)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    start, end = ["digits", "FCN-8s", "60.00", "61.50", "5", "+1.50 [+1.25, +1.75]"], ["1.50", "63.97", "66.97"]

    def line():
        return re.split(r" *\| *", readme.headline().splitlines()[-1])[1:-1]

    assert line() == [*start, "–", *end]
    trained = pd.DataFrame({"network": "fcn8s", "seed": [0, 1, 2], "gain": [1.5, 1.25, 2.0]})
    trained.to_csv(folder / "trainings.csv", index=False)
    assert line() == [*start, "+1.25 to +2.00 (3)", *end]


def test_an_empty_block_is_filled_and_ends_at_its_own_end(monkeypatch):
    monkeypatch.setattr(readme, "ledger", lambda: "new")
    text = "<!-- ledger -->\n<!-- end -->\nwords\n<!-- end -->"
    assert readme.fill(text) == "<!-- ledger -->\nnew\n<!-- end -->\nwords\n<!-- end -->"


def test_every_study_that_was_run_has_its_verdicts(tmp_path, monkeypatch):
    folder = tmp_path / "camvid" / "04_iterations"
    folder.mkdir(parents=True)
    row = {"id": "GP-10", "verdict": "holds", "numbers": "first_gain 1; best_gain 1"}
    pd.DataFrame([row]).to_csv(folder / "claims.csv", index=False)
    monkeypatch.setattr(paths, "FINISHED", tmp_path)
    assert readme.ledger().splitlines()[2:] == ["| camvid | 1 | 1 | 0 | 0 | 73 |"]


def test_every_notebook_has_its_seconds():
    assert "–" not in [line.split(" | ")[-1].removesuffix(" |") for line in readme.notebooks().splitlines()]
