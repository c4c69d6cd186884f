"""The runner: once with real kernels, else with a papermill that runs the cells in its own process."""

import contextlib
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from gpcore.companion.execution import copy_outputs, fault
from gpcore.companion.reproduce import Outcome, assignment, find, main, owned, record_seconds, reproduce
from gpcore.companion.studies import Study

PARAMETERS = 'study = "digits"\nimages = 2'
DRAW = """import os, pathlib, time
folder = pathlib.Path(os.environ["GPCORE_FIGURES"], study, "{name}")
folder.mkdir(parents=True, exist_ok=True)
(folder / "new.png").write_bytes(b"new")"""
LONG = "\nfor _ in range(600): time.sleep(.1)"  # in one sleep, a signal just before would wait for its end
PAPERMILL = """import json, os, pathlib, sys, yaml
def papermill():
    source, executed, *options = sys.argv[1:]
    assert options[options.index("-k") + 1] == "python3"
    os.chdir(options[options.index("--cwd") + 1])
    notebook, names = json.loads(pathlib.Path(source).read_text()), {}
    for n, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), 1):
        cell["metadata"]["papermill"] = {"start_time": "09:00"}
        pathlib.Path(executed).write_text(json.dumps(notebook))
        names["executed"] = executed
        exec("".join(cell["source"]), names)
        cell["execution_count"] = n
        names |= yaml.safe_load(options[options.index("-y") + 1]) if n == 1 and "-y" in options else {}
    pathlib.Path(executed).write_text(json.dumps(notebook))
"""


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


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rows(printed: str) -> list[tuple[str, str, str]]:
    """Notebook, figures and status of the table, which must be the last thing printed."""
    lines = [line.split() for line in printed.splitlines()]
    start = lines.index(["notebook", "seconds", "figures", "status"])
    return [(name, figures, status) for name, _, figures, status in lines[start + 1 :]]


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs without kernels."""
    put(tmp_path / "modules" / "papermill" / "__init__.py", b"")
    put(tmp_path / "modules" / "papermill" / "cli.py", PAPERMILL.encode())
    put(tmp_path / "modules" / "nbclient.py", b"class NotebookClient:\n    class shutdown_kernel: pass")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=os.pathsep)
    return tmp_path


@dataclass
class Run:
    root: Path
    status: int
    printed: str
    starts: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Real kernels, two at a time, over figures from an earlier run; the first kernel of all does not start."""
    root = tmp_path_factory.mktemp("run")
    write(root / "notebooks", "00_good", DRAW, '(folder / "values.txt").write_text(f"{study} {images!r}")', "")
    write(root / "notebooks", "01_fails", DRAW, "gain = 1\ngain / 0", "print(gain)")
    write(root / "notebooks", "02_exits", DRAW, "import sys; sys.exit(0)", "print(2)")
    write(root / "notebooks", "03_dies", DRAW, "import os; os._exit(0)", "print(3)")
    for name in ("00_good", "01_fails"):
        put(root / "figures" / "photographs" / name / "old.png", b"old")
    starts = root / "starts"
    start = f"""import runpy, sys
with open({str(starts)!r}, "a") as file: file.write("x")
try: open({str(root / "first")!r}, "x").close()
except FileExistsError: runpy.run_module("ipykernel_launcher", run_name="__main__")
else: sys.exit(1)"""
    spec = {"argv": [sys.executable, "-c", start, "-f", "{connection_file}"], "display_name": "x", "language": "python"}
    put(root / "jupyter" / "kernels" / "python3" / "kernel.json", json.dumps(spec).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, sep=" ", **_: lines.append(sep.join(map(str, words))))
        status = main(["--study", "photographs", "--jobs", "2", "-p", "images=7e-05", *options(root)])
    return Run(root, status, "\n".join(lines), starts.read_text())


@pytest.mark.parametrize(
    "said",
    [
        "01_fails.ipynb, code cell 3 `gain = 1`: ZeroDivisionError: division by zero",
        "02_exits.ipynb, code cell 3 `import sys; sys.exit(0)`: SystemExit: 0",
        "03_dies.ipynb, code cell 3 `import os; os._exit(0)`: did not run to its end; papermill said: "
        "nbclient.exceptions.DeadKernelError",
    ],
)
def test_an_error_an_early_exit_and_a_killed_kernel_are_no_success(run: Run, said: str) -> None:
    assert run.status == 1 and said in run.printed


def test_a_kernel_that_does_not_start_gets_one_more_try(run: Run) -> None:
    assert run.starts == "xxxxx"  # four notebooks


def test_table_closes_the_run(run: Run) -> None:
    assert rows(run.printed) == [
        ("00_good", "1", "ok"),
        ("01_fails", "0", "failed"),
        ("02_exits", "0", "failed"),
        ("03_dies", "0", "failed"),
    ]
    assert all(0.1 < float(line.split()[1]) < 300 for line in run.printed.splitlines()[-4:])


def test_new_figures_replace_old_ones_only_after_success(run: Run) -> None:
    assert contents(run.root / "figures") == {
        "photographs/00_good/new.png": b"new",
        "photographs/00_good/values.txt": b"photographs 7e-05",
        "photographs/01_fails/old.png": b"old",
    }


def test_executed_notebooks_stay_in_build_and_sources_as_they_were(run: Run) -> None:
    executed = nbformat.read(run.root / "build" / "photographs" / "01_fails.ipynb", as_version=4)
    errors = [output.ename for cell in executed.cells for output in cell.get("outputs", []) if "ename" in output]
    assert errors == ["ZeroDivisionError"]
    source = nbformat.read(run.root / "notebooks" / "00_good.ipynb", as_version=4)
    assert [cell.execution_count for cell in source.cells[1:]] == [None, None, None, None]


def runs_on(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state) and not state.startswith("Z")


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return met


def test_a_killed_runner_takes_papermill_and_a_deaf_kernel_along(tmp_path: Path) -> None:
    tell = 'pathlib.Path("pids").write_text(f"{os.getpid()} {os.getppid()} .")'
    write(tmp_path / "notebooks", "00_hangs", DRAW, tell, "sum(iter(int, 1))  # holds the GIL for ever")
    pids = tmp_path / "notebooks" / "pids"
    runner = multiprocessing.get_context("fork").Process(target=main, args=[options(tmp_path)])  # imports nothing again
    runner.start()
    assert wait(lambda: pids.exists() and pids.read_text().endswith("."), 120)
    kernel, papermill = map(int, pids.read_text().split()[:2])
    time.sleep(0.5)
    runner.kill()
    runner.join()
    folder = tmp_path / "build" / "digits"
    with pytest.raises(ValueError, match=f"in use by process {runner.pid} since 20"), owned(folder):
        pass  # for papermill is still busy with its kernel

    def free() -> bool:
        with contextlib.suppress(ValueError), owned(folder):
            return True
        return False

    assert wait(free, 30)
    assert not runs_on(kernel)
    assert wait(lambda: not runs_on(papermill), 1)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signals as in a terminal, while a shell's `&` has the interrupt ignored; afterwards as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_ends_what_runs_and_prints_the_table(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(quick / "notebooks", "00_good", DRAW)
    write(quick / "notebooks", "01_long", DRAW, "os.kill(os.getppid(), 2)" + LONG)
    write(quick / "notebooks", "02_later", DRAW)
    start = time.monotonic()
    assert main(options(quick)) == 130
    assert time.monotonic() - start < 30
    printed = capsys.readouterr().out
    assert rows(printed) == [("00_good", "1", "ok"), ("01_long", "0", "failed")]
    place = "01_long.ipynb, code cell 3 `os.kill(os.getppid(), 2)`"
    assert f"{place}: did not run to its end; papermill said: interrupted" in printed
    assert "02_later" not in printed
    with owned(quick / "build" / "digits"), owned(quick / "figures" / "digits"):
        pass  # nobody is at work there any more


@pytest.mark.usefixtures("handlers")
def test_a_terminated_run_ends_as_an_interrupted_one(
    quick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(quick / "notebooks", "00_long", DRAW, "os.kill(os.getppid(), 15)" + LONG)
    monkeypatch.setattr(sys, "argv", ["reproduce", *options(quick)])
    monkeypatch.delitem(sys.modules, "gpcore.companion.reproduce")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gpcore.companion.reproduce", run_name="__main__")
    assert ended.value.code == 143
    assert rows(capsys.readouterr().out) == [("00_long", "0", "failed")]


def test_a_notebook_that_hangs_is_stopped_and_the_others_run(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(quick / "notebooks", "00_hangs", DRAW, "0" + LONG)
    write(quick / "notebooks", "01_good", DRAW)
    assert main(["--timeout", "2", *options(quick)]) == 1
    printed = capsys.readouterr().out
    assert rows(printed) == [("00_hangs", "0", "failed"), ("01_good", "1", "ok")]
    place = "00_hangs.ipynb, code cell 3 `0`"
    assert f"{place}: did not run to its end; papermill said: stopped after 2 s" in printed


@pytest.mark.parametrize(
    ("said", "starts"), [("Kernel died before replying to x", "xx"), ("Address already in use", "xx"), ("no x", "x")]
)
def test_trouble_with_a_kernel_gets_one_more_try_and_nothing_else(quick: Path, said: str, starts: str) -> None:
    earlier = json.loads(write(quick / "notebooks", "00_good", DRAW).read_text())
    earlier["cells"][1]["outputs"] = [{"output_type": "error", "ename": "Earlier", "evalue": "", "traceback": []}]
    put(quick / "build" / "digits" / "00_good.ipynb", json.dumps(earlier).encode())
    cli = f"def papermill(): open('starts', 'a').write('x'); print('first', {said!r}, '', sep='\\n'); exit(1)"
    put(quick / "modules" / "papermill" / "cli.py", cli.replace("starts", str(quick / "starts")).encode())
    (outcome,) = reproduce(**places(quick))
    assert outcome.error == f"00_good.ipynb: did not run to its end; papermill said: {said}"
    assert (quick / "starts").read_text() == starts


def test_what_has_begun_is_not_tried_again(quick: Path) -> None:
    write(quick / "notebooks", "00_fails", 'open("starts", "a").write("x"); raise OSError("Address already in use")')
    (outcome,) = reproduce(**places(quick))
    assert outcome.error.endswith("did not run to its end; papermill said: OSError: Address already in use")
    assert (quick / "notebooks" / "starts").read_text() == "x"


@pytest.mark.parametrize("folder", ["build/digits", "figures/digits"])
def test_a_folder_belongs_to_one_run(quick: Path, capsys: pytest.CaptureFixture[str], folder: str) -> None:
    write(quick / "notebooks", "00_good", DRAW)
    with owned(quick / folder):
        assert main(options(quick)) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        who = rf"process {os.getpid()} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
        assert re.match(rf"error: {quick / folder}: in use by {who}; wait for its end", captured.err)
        assert main(["--study", "photographs", *options(quick)]) == 0
    assert main(options(quick)) == 0
    assert (quick / folder / ".lock").read_text().count("process") == 1


def failing(wanted: tuple[str, ...], real: Callable[..., object], half: bool = False) -> Callable[..., object]:
    """`real`, for which the disk is full (`half` way) where its first argument ends in one of these."""

    def wrapped(first: Path, *rest: object, **named: object) -> object:
        if not str(first).endswith(wanted):
            return real(first, *rest, **named)
        if half:
            real(first, *rest, **named)
        raise OSError(28, "No space left on device", str(first))

    return wrapped


def test_what_cannot_be_written_fails_its_notebook_alone(
    quick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["00_copy", "01_move", "02_write", "03_log", "04_cut", "05_good", "99_claims"]
    for name in names:
        write(quick / "notebooks", name, DRAW, *["open(executed, 'w').close(); os._exit(0)"] * (name == "04_cut"))
        put(quick / "figures" / "digits" / name / "old.png", b"old")
    write(quick / "notebooks", "99_claims", DRAW, '(folder.parent / "claims.csv").write_text("new")')
    put(quick / "figures" / "digits" / "claims.csv", b"old")
    (quick / "build" / "digits" / "03_log.log").mkdir(parents=True)
    source = (quick / "notebooks" / "02_write.ipynb").read_bytes()
    monkeypatch.setattr(shutil, "copytree", failing(("00_copy",), shutil.copytree, half=True))
    monkeypatch.setattr(Path, "rename", failing((".01_move.new",), Path.rename))
    monkeypatch.setattr(Path, "write_bytes", failing((".02_write.ipynb.new", "claims.csv.new"), Path.write_bytes, True))
    assert main(["--record", "--jobs", "2", *options(quick)]) == 1
    printed = capsys.readouterr().out
    assert rows(printed) == [(name, "1", "ok") if "good" in name else (name, "0", "failed") for name in names]
    assert "00_copy.ipynb: OSError: [Errno 28] No space left on device" in printed
    assert "03_log.ipynb: IsADirectoryError" in printed
    assert "04_cut.ipynb: did not run to its end; papermill said: nothing" in printed
    found = contents(quick / "figures" / "digits")
    assert re.fullmatch(rb"notebook,seconds\n05_good,\d+\n", found.pop("runs.csv"))
    assert found == {
        "00_copy/old.png": b"old",
        "01_move/old.png": b"old",
        "02_write/new.png": b"new",
        "03_log/old.png": b"old",
        "04_cut/old.png": b"old",
        "05_good/new.png": b"new",
        "99_claims/new.png": b"new",
        "claims.csv": b"old",
    }
    assert (quick / "notebooks" / "02_write.ipynb").read_bytes() == source
    assert sorted(path.stem for path in (quick / "notebooks").iterdir()) == names


def test_a_folder_that_cannot_be_made_is_named(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(quick / "notebooks", "00_good", DRAW)
    put(quick / "figures", b"")
    assert main(options(quick)) == 1
    assert re.match(rf"error: \[Errno \d+\] .*{quick / 'figures'}", capsys.readouterr().err)


def test_a_second_run_keeps_nothing_of_the_first_nor_of_a_killed_one(quick: Path) -> None:
    write(quick / "notebooks", "00_good", DRAW.replace("new.png", "{images}.png").replace('"{im', 'f"{im'))
    write(quick / "notebooks", "01_blank", "pass")
    digits = quick / "figures" / "digits"
    put(digits / ".01_blank.old" / "aside.png", b"put aside when a run was killed")
    put(digits / ".01_blank.new" / "half.png", b"")
    first = reproduce(parameters={"images": 1}, **places(quick))
    put(digits / ".00_good.new" / "half.png", b"half a copy")
    put(digits / ".00_good.old" / "older.png", b"")
    second = reproduce(parameters={"images": 2}, **places(quick))
    assert [(o.notebook, o.figures) for o in first + second] == [("00_good", 1), ("01_blank", 0)] * 2
    assert second[0].error == ""
    assert second[1].error == "01_blank.ipynb: drew no figure into $GPCORE_FIGURES/digits/01_blank"
    assert contents(digits) == {
        "00_good/2.png": b"new",
        "01_blank/aside.png": b"put aside when a run was killed",
    }


def test_parameters_and_study_reach_the_chosen_notebook_only(quick: Path) -> None:
    write(quick / "notebooks", "03_first", DRAW)
    write(quick / "notebooks", "04_second", DRAW, '(folder / "values.txt").write_text(f"{study} {images!r}")')
    assert main(["--study", "photographs", "--only", "4", "-p", "images=[1, 2]", *options(quick)]) == 0
    assert contents(quick / "figures") == {
        "photographs/04_second/new.png": b"new",
        "photographs/04_second/values.txt": b"photographs [1, 2]",
    }


def test_the_environment_of_a_notebook(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["OMP_NUM_THREADS", "TQDM_DISABLE", "GPCORE_FIGURES", "GPCORE_FINISHED", "KEPT", "MALLOC_MMAP_THRESHOLD_",
             "MALLOC_TRIM_THRESHOLD_"]  # fmt: skip
    show = f"""import sys
values = [os.environ[name] for name in {names}] + [os.getcwd(), os.getsid(0) == os.getpid(), sys.flags.safe_path]
(folder / "env").write_text(" ".join(map(str, values)))"""
    write(quick / "notebooks", "00_good", DRAW, show)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("KEPT", "kept")
    assert reproduce(jobs=3, **places(quick))[0].error == ""
    assert (quick / "figures" / "digits" / "00_good" / "env").read_text().split() == [
        "2", "1", str(quick / "build" / "digits" / "figures"), str(quick / "figures"), "kept", "33554432", "2147483647",
        str(quick / "notebooks"), "True", "True",
    ]  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2])
def test_so_many_at_a_time(quick: Path, jobs: int) -> None:
    """Each waits for the other to begin, in vain if that must wait for its end."""
    meet = f"""pathlib.Path("{{name}}.begun").touch()
end = time.monotonic() + {1 if jobs == 1 else 30}
while (begun := len(list(pathlib.Path().glob("*.begun")))) < 2 and time.monotonic() < end: time.sleep(.01)
(folder / "begun").write_text(str(begun))"""
    write(quick / "notebooks", "00_one", DRAW, meet)
    write(quick / "notebooks", "01_two", DRAW, meet)
    assert not reproduce(**places(quick))[0].error if jobs == 1 else main(["--jobs", "2", *options(quick)]) == 0
    begun = [(quick / "figures" / "digits" / name / "begun").read_text() for name in ("00_one", "01_two")]
    assert begun == (["1", "2"] if jobs == 1 else ["2", "2"])


def test_the_ledger_comes_last_and_sees_what_this_run_has_taken_over(quick: Path) -> None:
    look = 'seen = pathlib.Path(os.environ["GPCORE_FINISHED"], study, "98_slow", "new.png").exists()'
    write(quick / "notebooks", "98_slow", "import time; time.sleep(.5)", DRAW)
    write(quick / "notebooks", "99_claims", DRAW, look, '(folder.parent / "claims.csv").write_text(f"{seen}")')
    outcomes = reproduce(jobs=2, **places(quick))
    assert [(outcome.notebook, outcome.error) for outcome in outcomes] == [("98_slow", ""), ("99_claims", "")]
    assert contents(quick / "figures") == {
        "digits/98_slow/new.png": b"new",
        "digits/99_claims/new.png": b"new",
        "digits/claims.csv": b"True",
    }


def test_a_recorded_run_leaves_its_outputs_in_the_notebooks_and_its_seconds_in_the_table(quick: Path) -> None:
    notebook = write(quick / "notebooks", "00_good", DRAW, "time.sleep(1)")
    write(quick / "notebooks", "01_blank", "pass")
    runs = quick / "figures" / "digits" / "runs.csv"
    put(runs, b"notebook,seconds\n01_blank,7\n")
    for record, counts in ((False, [None] * 4), (True, [None, 1, 2, 3])):
        good, _ = reproduce(record=record, **places(quick))
        assert (good.notebook, good.figures, good.error) == ("00_good", 1, "")
        assert [cell.get("execution_count") for cell in json.loads(notebook.read_text())["cells"]] == counts
        expected = r"00_good,[1-9]\d?\n" if record else ""
        assert re.fullmatch(rf"notebook,seconds\n{expected}01_blank,7\n", runs.read_text())


def absent(self: Study) -> bool:
    return self.name != "camvid"


def test_another_studys_record_is_a_notebook_beside_its_figures(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the study set, without what papermill notes; two runs give the same bytes. The notebook itself stays."""
    monkeypatch.setattr(Study, "present", True)
    notebook = write(quick / "notebooks", "00_good", DRAW, 'print(os.environ["GPCORE_RECORD"])')
    source, kept = notebook.read_bytes(), quick / "figures" / "camvid" / "00_good" / "00_good.ipynb"
    assert all(not outcome.error for outcome in reproduce("camvid", record=True, **places(quick)))
    assert notebook.read_bytes() == source
    first = kept.read_bytes()
    assert b"papermill" not in first and b"start_time" not in first
    assert [cell.execution_count for cell in nbformat.reads(first, 4).cells if cell.cell_type == "code"] == [1, 2, 3]
    reproduce("camvid", record=True, **places(quick))
    assert kept.read_bytes() == first
    assert (quick / "figures" / "camvid" / "runs.csv").read_text().startswith("notebook,seconds\n00_good,")


def test_without_a_studys_images_their_cells_are_left_out_and_their_figures_stay(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Study, "present", property(absent))
    folder = 'import os, pathlib; folder = pathlib.Path(os.environ["GPCORE_FIGURES"], study, "00_good")'
    path = write(quick / "notebooks", "00_good", folder, DRAW, '(folder / "rows.csv").write_text(f"{images}")')
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].metadata["tags"] = ["images"]
    notebook.cells[2].source += "\nfolder.mkdir(parents=True, exist_ok=True)"
    nbformat.write(notebook, path)
    put(quick / "figures" / "camvid" / "00_good" / "new.png", b"old")
    put(quick / "figures" / "camvid" / "00_good" / "rows.csv", b"old")
    (outcome,) = reproduce("camvid", **places(quick))
    assert outcome.error == "" and contents(quick / "figures" / "camvid") == {
        "00_good/new.png": b"old",
        "00_good/rows.csv": b"2",
    }
    with pytest.raises(ValueError, match="studies' images"):
        reproduce("camvid", record=True, **places(quick))
    reproduce("digits", **places(quick))
    assert contents(quick / "figures" / "digits")["00_good/new.png"] == b"new"


def test_the_longest_comes_first_and_the_ledger_last(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("00_short", "01_new", "02_long", "99_claims")
    for name in names:
        write(quick / "notebooks", name, "pass")
    put(quick / "figures" / "digits" / "runs.csv", b"notebook,seconds\n00_short,9\n02_long,10\n99_claims,11\n")
    main(options(quick))
    running = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line.endswith(": running")]
    assert running == ["01_new", "02_long", "00_short", "99_claims"]


def test_seconds_are_those_of_the_latest_success_in_order(tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    record_seconds(
        [
            Outcome("02_c", "digits", 2.6, 1),
            Outcome("01_b", "digits", 1.4, 1),
            Outcome("00_a", "digits", 3, 0, "failed"),
        ],
        runs,
    )
    assert runs.read_text() == "notebook,seconds\n01_b,1\n02_c,3\n"
    record_seconds(
        [Outcome("01_b", "digits", 9, 0, "failed"), Outcome("02_c", "digits", 4, 1), Outcome("00_a", "digits", 120, 2)],
        runs,
    )
    assert runs.read_text() == "notebook,seconds\n00_a,120\n01_b,1\n02_c,4\n"


@pytest.mark.parametrize(
    "text", [b"", b"seconds\n", b"notebook,seconds\n00_good\n", b"notebook,seconds\n00_good,1x\n", b"\xff\xfe"]
)
def test_a_garbled_record_is_refused_and_left(tmp_path: Path, text: bytes) -> None:
    runs = tmp_path / "runs.csv"
    runs.write_bytes(text)
    with pytest.raises(ValueError, match=r"runs\.csv: got .*, expected rows of notebook,seconds; mend or delete it"):
        record_seconds([Outcome("00_good", "digits", 1, 1)], runs)
    assert runs.read_bytes() == text


@pytest.mark.parametrize("text", [b"garbled", None])
def test_a_broken_record_does_not_cost_the_table(
    quick: Path, capsys: pytest.CaptureFixture[str], text: bytes | None
) -> None:
    write(quick / "notebooks", "00_good", DRAW)
    runs = quick / "figures" / "digits" / "runs.csv"
    put(runs, text) if text else runs.mkdir(parents=True)
    assert main(["--record", *options(quick)]) == 1
    printed, error = capsys.readouterr()
    assert rows(printed) == [("00_good", "1", "ok")]
    assert str(runs) in error and ("got 'garbled', expected rows of" if text else "Is a directory") in error


def test_outputs_are_copied_and_nothing_else(tmp_path: Path) -> None:
    notebook = write(tmp_path, "00_good", "print(1)", "2")
    before = json.loads(notebook.read_text())
    done = nbformat.read(notebook, as_version=4)
    stream, value = nbformat.v4.new_output, nbformat.v4.new_output("execute_result", {"text/plain": "2"})
    pieces = [
        stream("stream", name=name, text=text) for name, text in (("stdout", "a\n"), ("stdout", "b"), ("stderr", "c"))
    ]
    done.metadata["papermill"] = done.cells[0].metadata["papermill"] = {"duration": 1.0}
    done.cells[2] |= {
        "execution_count": 7,
        "outputs": [*pieces, value, value, stream("stream", name="stderr", text="d")],
    }
    done.cells[2].source = "changed"
    nbformat.write(done, tmp_path / "done.ipynb")
    copy_outputs(tmp_path / "done.ipynb", notebook)
    after = json.loads(notebook.read_text())
    assert notebook.read_text() == json.dumps(after, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    texts = [(output.get("name"), output.get("text")) for output in after["cells"][2]["outputs"]]
    assert texts == [("stdout", ["a\n", "b"]), ("stderr", ["c"]), (None, None), (None, None), ("stderr", ["d"])]
    assert [cell.get("execution_count") for cell in after["cells"]] == [None, None, 7, None]
    after["cells"][2] |= {"outputs": [], "execution_count": None}
    assert after == before


def test_a_broken_notebook_is_named_and_stops_no_other(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(quick / "notebooks", "00_good", DRAW)
    for text in ("{", "[]", "{}"):
        (quick / "notebooks" / "01_broken.ipynb").write_text(text)
        for only in ([], ["--only", "1"]):
            assert main([*only, *options(quick)]) == 1
            assert f"{quick}/notebooks/01_broken.ipynb: not a notebook" in capsys.readouterr().err
    assert main(["--only", "0", *options(quick)]) == 0


@pytest.mark.parametrize("counts", [(1, None, None), (1, 2, None)])
@pytest.mark.parametrize("last", [False, True])
def test_the_cell_that_killed_the_kernel_is_named_whether_or_not_its_count_arrived(
    counts: tuple[int | None, ...], last: bool
) -> None:
    cells = [nbformat.v4.new_code_cell(source, execution_count=n) for source, n in zip("abc", counts, strict=True)]
    for cell, start in zip(cells, ("09:00", "09:01", None), strict=True):
        cell.metadata["papermill"] = {"start_time": start, "status": "completed"}
    if counts[1]:  # as papermill's own end leaves it
        cells[1].outputs = [nbformat.v4.new_output("error", ename="KeyboardInterrupt", evalue="")]
    message = "x.ipynb, code cell 2 `b`: did not run to its end; papermill said: DeadKernelError"
    assert fault("x.ipynb", cells[: 2 if last else 3], 1, "DeadKernelError") == message


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["--study", "camvit"],
            r"study: got 'camvit', expected one of digits, camvid, mnist, cifar10, photographs, or none",
        ),
        (
            ["--study", "scenes"],
            r"study: got 'scenes', expected one of digits, camvid, mnist, cifar10, photographs, or none",
        ),
        (["--only", "00", "07"], r"only: got '07', expected a number or name of 00_good, 01_other"),
        (["-p", "image=3"], r"parameter: got 'image', expected one of study, images, scene in 00_good.ipynb"),
        (["-p", "scene=3"], r"parameter: got 'scene', expected one of study in 01_other.ipynb"),
        (["--jobs", "0"], r"jobs: got 0, expected at least 1"),
        (["--timeout", "0"], r"timeout: got 0, expected at least 1"),
        (
            ["--record", "-p", "images=3"],
            r"record: got ('', {'images': 3}), expected the notebooks' own parameters, and studies' images",
        ),
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
    with pytest.raises(ValueError, match=r"parameter: got 'study', expected one of images in 00_good\.ipynb"):
        reproduce(**places(tmp_path))


def test_find_by_number_or_name_in_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"notebooks: no NN_name\.ipynb in"):
        find(tmp_path)
    for name in ("02_two", "00_zero", "01_one", "scratch"):
        write(tmp_path, name)
    assert [path.stem for path in find(tmp_path)] == ["00_zero", "01_one", "02_two"]
    assert [path.stem for path in find(tmp_path, ["2", "zero"])] == ["00_zero", "02_two"]
    assert [path.stem for path in find(tmp_path, ["01", "01_one"])] == ["01_one"]


def test_each_notebook_runs_on_its_own_study(quick: Path) -> None:
    write(quick / "notebooks", "00_good", DRAW)
    lecture = nbformat.read(write(quick / "notebooks", "40_lecture", DRAW), as_version=4)
    lecture.metadata["needs"] = ["lectures"]
    nbformat.write(lecture, quick / "notebooks" / "40_lecture.ipynb")
    for study in ("digits", "photographs"):
        with owned(quick / "figures" / study), pytest.raises(ValueError, match=f"figures/{study}: in use"):
            reproduce(**places(quick))
    assert [outcome.study for outcome in reproduce(record=False, **places(quick))] == ["digits", "photographs"]
    assert {*contents(quick / "figures")} == {"digits/00_good/new.png", "photographs/40_lecture/new.png"}
    assert {path.name for path in (quick / "build" / "photographs").glob("*.ipynb")} == {"40_lecture.ipynb"}
    assert [outcome.notebook for outcome in reproduce("photographs", **places(quick))] == ["00_good", "40_lecture"]


def test_find_keeps_to_the_notebooks_of_a_study(tmp_path: Path) -> None:
    notebook = nbformat.read(write(tmp_path, "01_knn"), as_version=4)
    notebook.metadata["needs"] = ["classification", "photographs"]
    nbformat.write(notebook, tmp_path / "01_knn.ipynb")
    write(tmp_path, "00_any")
    assert [path.stem for path in find(tmp_path, (), "mnist")] == ["00_any", "01_knn"]
    assert [path.stem for path in find(tmp_path, (), "camvid")] == ["00_any"]
    assert [*find(tmp_path).values()] == ["digits", "digits"]
    with pytest.raises(ValueError, match="study: 01_knn runs on digits, mnist, got 'camvid'"):
        find(tmp_path, ["knn"], "camvid")


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
