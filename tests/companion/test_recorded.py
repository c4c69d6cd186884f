"""What was measured on photographs that are not ours is drawn again by whoever has none of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from gpcore import paths

RECORDED = {  # but for the ledger, which reads the other studies too
    study.name: sorted({path.parent.name for path in study.glob("*/[0-9][0-9]_*.ipynb")} - {"99_claims"})
    for study in (paths.ROOT / "figures").iterdir()
}


@pytest.mark.parametrize("study", [study for study, notebooks in RECORDED.items() if notebooks])
def test_every_number_follows_from_what_is_kept(study: str, tmp_path: Path) -> None:
    """In a copy without rows, but for the milliseconds of another machine, and with an empty data folder."""
    committed, figures = paths.ROOT / "figures" / study, tmp_path / "figures"
    shutil.copytree(committed, figures / study)
    for file in figures.rglob("*.csv"):
        if file.name not in ("timing.csv", "runs.csv"):
            file.unlink()
    command = [sys.executable, "-m", "gpcore.companion.reproduce", "--study", study, "--only", *RECORDED[study]]
    command += ["--figures", str(figures), "--build", str(tmp_path / "build"), "--jobs", "2"]
    run = subprocess.run(
        command, env=os.environ | {"GPCORE_DATA": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for notebook in RECORDED[study]:
        names = {file.name for file in (committed / notebook).glob("*.csv")}
        found = {file.name for file in (figures / study / notebook).glob("*.csv")}
        assert found <= names and names & {"claims.csv"} <= found
        for name in found:
            again, before = (pd.read_csv(folder / notebook / name) for folder in (figures / study, committed))
            pd.testing.assert_frame_equal(again, before, rtol=2e-4, obj=f"{notebook}/{name}")
