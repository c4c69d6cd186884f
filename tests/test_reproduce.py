"""The runner, on notebooks made here: a good one and the ways in which a notebook goes wrong."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from gpcore.execution import fault
from gpcore.reproduce import assignment, find, main, recover, reproduce

PARAMETERS = 'study = "digits"\nimages = 2'
DRAW = """import os, pathlib
folder = pathlib.Path(os.environ["GPCORE_FIGURES"], study, "{name}")
folder.mkdir(parents=True)
(folder / "new.png").write_bytes(b"new")"""
PLOT = """import os
import matplotlib.pyplot as plt
folder = os.path.join(os.environ["GPCORE_FIGURES"], study, "00_good")
os.makedirs(folder)
fig, ax = plt.subplots()
fig.savefig(os.path.join(folder, "plot.png"))"""


def write(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell(parameters)]
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.cells += [nbformat.v4.new_code_cell(cell.replace("{name}", name)) for cell in cells]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def places(tmp_path: Path) -> dict[str, Path]:
    return {name: tmp_path / name for name in ("notebooks", "figures", "build")}


def options(tmp_path: Path) -> list[str]:
    return [word for name, path in places(tmp_path).items() for word in (f"--{name}", str(path))]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Run:
    root: Path
    status: int
    printed: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All the notebooks in one go, two at a time, over figures from an earlier run."""
    root = tmp_path_factory.mktemp("run")
    write(root / "notebooks", "00_good", PLOT)
    write(root / "notebooks", "01_fails", DRAW, "gain = 1\ngain / 0", "print(gain)")
    write(root / "notebooks", "02_exits", DRAW, "import sys; sys.exit(0)", "print(2)")
    write(root / "notebooks", "03_dies", DRAW, "import os; os._exit(0)", "print(3)")
    write(root / "notebooks", "04_blank", "print(4)")
    for name in ("00_good", "01_fails"):
        folder = root / "figures" / "digits" / name
        folder.mkdir(parents=True)
        (folder / "old.png").write_bytes(b"old")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, sep=" ", **_: lines.append(sep.join(map(str, words))))
        status = main(["--jobs", "2", *options(root)])
    return Run(root, status, "\n".join(lines))


def test_a_failure_fails_the_run_and_names_cell_and_error(run: Run) -> None:
    assert run.status == 1
    assert "01_fails.ipynb, code cell 3 `gain = 1`: ZeroDivisionError: division by zero" in run.printed


def test_an_early_exit_is_no_success(run: Run) -> None:
    assert "02_exits.ipynb, code cell 3 `import sys; sys.exit(0)`: SystemExit: 0" in run.printed


def test_a_killed_kernel_is_no_success(run: Run) -> None:
    assert "03_dies.ipynb, code cell 3 `import os; os._exit(0)`: did not run to its end" in run.printed
    assert "DeadKernelError" in run.printed


@pytest.mark.parametrize("counts", [(1, None, None), (1, 2, None)])
@pytest.mark.parametrize("last", [False, True])
def test_the_cell_that_killed_the_kernel_is_named_whether_or_not_its_count_arrived(
    counts: tuple[int | None, ...], last: bool
) -> None:
    cells = [nbformat.v4.new_code_cell(source, execution_count=n) for source, n in zip("abc", counts, strict=True)]
    for cell, start in zip(cells, ("09:00", "09:01", None), strict=True):
        cell.metadata["papermill"] = {"start_time": start, "status": "completed"}
    message = "x.ipynb, code cell 2 `b`: did not run to its end; papermill said: DeadKernelError"
    assert fault("x.ipynb", cells[: 2 if last else 3], 1, "DeadKernelError") == message


def test_a_notebook_without_a_figure_is_no_success(run: Run) -> None:
    assert "04_blank.ipynb: drew no figure into $GPCORE_FIGURES/digits/04_blank" in run.printed


def test_table_closes_the_run(run: Run) -> None:
    rows = [line.split() for line in run.printed.splitlines()[-6:]]
    assert rows[0] == ["notebook", "seconds", "figures", "status"]
    assert [(row[0], row[2], row[3]) for row in rows[1:]] == [
        ("00_good", "1", "ok"),
        ("01_fails", "0", "failed"),
        ("02_exits", "0", "failed"),
        ("03_dies", "0", "failed"),
        ("04_blank", "0", "failed"),
    ]
    assert 0 < float(rows[1][1]) < 300


def test_new_figures_replace_old_ones_only_after_success(run: Run) -> None:
    figures = contents(run.root / "figures")
    assert sorted(figures) == ["digits/00_good/plot.png", "digits/01_fails/old.png"]
    assert figures["digits/00_good/plot.png"].startswith(b"\x89PNG")
    assert figures["digits/01_fails/old.png"] == b"old"


def test_executed_notebooks_stay_in_build_and_sources_as_they_were(run: Run) -> None:
    executed = nbformat.read(run.root / "build" / "digits" / "01_fails.ipynb", as_version=4)
    errors = [output.ename for cell in executed.cells for output in cell.get("outputs", []) if "ename" in output]
    assert errors == ["ZeroDivisionError"]
    source = nbformat.read(run.root / "notebooks" / "00_good.ipynb", as_version=4)
    assert [cell.execution_count for cell in source.cells[1:]] == [None, None]


def test_parameters_and_study_reach_the_chosen_notebook_only(tmp_path: Path) -> None:
    write(tmp_path / "notebooks", "03_first", DRAW)
    write(tmp_path / "notebooks", "04_second", DRAW, '(folder / "values.txt").write_text(f"{study} {images!r}")')
    command = ["--study", "camvid", "--only", "4", "-p", "images=7e-05", *options(tmp_path)]
    assert main(command) == 0
    assert contents(tmp_path / "figures") == {
        "camvid/04_second/new.png": b"new",
        "camvid/04_second/values.txt": b"camvid 7e-05",
    }


def test_the_ledger_comes_last_and_sees_what_this_run_has_taken_over(tmp_path: Path) -> None:
    look = 'seen = pathlib.Path(os.environ["GPCORE_FINISHED"], study, "98_slow", "new.png").exists()'
    write(tmp_path / "notebooks", "98_slow", "import time; time.sleep(2)", DRAW)
    write(tmp_path / "notebooks", "99_claims", DRAW, look, '(folder.parent / "claims.csv").write_text(f"{seen}")')
    outcomes = reproduce(jobs=2, **places(tmp_path))
    assert [(outcome.notebook, outcome.error) for outcome in outcomes] == [("98_slow", ""), ("99_claims", "")]
    assert contents(tmp_path / "figures") == {
        "digits/98_slow/new.png": b"new",
        "digits/99_claims/new.png": b"new",
        "digits/claims.csv": b"True",
    }


def test_in_place_changes_outputs_and_nothing_else(tmp_path: Path) -> None:
    notebook = write(tmp_path / "notebooks", "00_good", DRAW, 'print("a"); print("b", flush=True); print(images)')
    before = json.loads(notebook.read_text())
    (outcome,) = reproduce(in_place=True, **places(tmp_path))
    assert (outcome.notebook, outcome.figures, outcome.error) == ("00_good", 1, "")
    after = json.loads(notebook.read_text())
    assert [cell.get("execution_count") for cell in after["cells"]] == [None, 1, 2, 3]
    assert after["cells"][3]["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["a\n", "b\n", "2\n"]}]
    for cell in (*before["cells"], *after["cells"]):
        cell.pop("outputs", None), cell.pop("execution_count", None)
    assert after == before
    assert [path.name for path in notebook.parent.iterdir()] == ["00_good.ipynb"]


def test_a_kernel_that_does_not_start_gets_one_more_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "notebooks", "00_good", DRAW)
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    tries = tmp_path / "tries"
    start = f"""import runpy, sys
with open({str(tries)!r}, "a") as tries: tries.write("x")
if open({str(tries)!r}).read() == "x": sys.exit(1)
runpy.run_module("ipykernel_launcher", run_name="__main__")"""
    spec = {"argv": [sys.executable, "-c", start, "-f", "{connection_file}"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    (outcome,) = reproduce(**places(tmp_path))
    assert outcome.error == ""
    assert tries.read_text() == "xx"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--study", "camvit"], r"study: got 'camvit', expected one of digits, scenes, stages, camvid"),
        (["--only", "00", "07"], r"only: got '07', expected a number or name of 00_good, 01_other"),
        (["-p", "image=3"], r"parameter: 00_good.ipynb does not declare 'image'; did you mean images?"),
        (["-p", "scene=3"], r"parameter: 01_other.ipynb does not declare 'scene'; its parameters cell has study"),
        (["--jobs", "0"], r"jobs: got 0, expected at least 1"),
        (["--in-place", "--study", "camvid"], r"in_place: committed outputs are of study 'digits'"),
        (["--in-place", "-p", "images=3"], r"in_place: committed outputs are of study 'digits'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    write(tmp_path / "notebooks", "00_good", DRAW, parameters=PARAMETERS + "\nscene = 0")
    write(tmp_path / "notebooks", "01_other", DRAW, parameters='study = "digits"')
    assert main([*command, *options(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks"]


def test_every_notebook_must_declare_the_study(tmp_path: Path) -> None:
    write(tmp_path / "notebooks", "00_good", DRAW, parameters="images = 2")
    with pytest.raises(
        ValueError, match=r"parameter: 00_good\.ipynb does not declare 'study'; its parameters cell has images"
    ):
        reproduce(**places(tmp_path))


def test_find_by_number_or_name_in_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"notebooks: no NN_name\.ipynb in"):
        find(tmp_path)
    for name in ("02_two", "00_zero", "01_one", "scratch"):
        write(tmp_path, name)
    assert [path.stem for path in find(tmp_path)] == ["00_zero", "01_one", "02_two"]
    assert [path.stem for path in find(tmp_path, ["2", "zero"])] == ["00_zero", "02_two"]
    assert [path.stem for path in find(tmp_path, ["01", "01_one"])] == ["01_one"]


def test_find_keeps_to_the_notebooks_of_a_study(tmp_path: Path) -> None:
    notebook = nbformat.read(write(tmp_path, "01_knn"), as_version=4)
    notebook.metadata["studies"] = ["digits", "mnist"]
    nbformat.write(notebook, tmp_path / "01_knn.ipynb")
    write(tmp_path, "00_any")
    assert [path.stem for path in find(tmp_path, (), "mnist")] == ["00_any", "01_knn"]
    assert [path.stem for path in find(tmp_path, (), "camvid")] == ["00_any"]
    with pytest.raises(ValueError, match="study: 01_knn runs on digits, mnist, got 'camvid'"):
        find(tmp_path, ["knn"], "camvid")


def test_recover_brings_back_what_a_killed_run_had_put_aside(tmp_path: Path) -> None:
    aside = tmp_path / ".01_one.old"
    aside.mkdir()
    (aside / "old.png").write_bytes(b"old")
    recover(tmp_path / "01_one")
    assert contents(tmp_path) == {"01_one/old.png": b"old"}


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("epsilon=2e-3", ("epsilon", 0.002)),
        ("labels=top2", ("labels", "top2")),
        ("images=50", ("images", 50)),
        ("steps=[1, 2]", ("steps", [1, 2])),
        ("text=a=b", ("text", "a=b")),
    ],
)
def test_assignment(text: str, pair: tuple[str, object]) -> None:
    assert assignment(text) == pair


def test_a_parameter_needs_a_name_and_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["-p", "epsilon"])
    assert "got 'epsilon', expected name=value" in capsys.readouterr().err
