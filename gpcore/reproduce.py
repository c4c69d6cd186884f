"""Redraw figures: run the numbered notebooks on a study and take over their figures only when all went well.

    python -m gpcore.reproduce --study digits --only 03 04 --jobs 2 -p images=50

Each notebook runs in a process of its own and writes to `build/STUDY`, where executed notebooks and logs stay. What it
drew replaces `figures/STUDY/NN_name` after it has succeeded.
"""

import argparse
import ast
import csv
import dataclasses
import difflib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat

from gpcore import paths
from gpcore.execution import copy_outputs, execute

DEFAULT = "digits"  # the study whose outputs are committed
LAST = "99_claims"  # reads what the other notebooks left, and writes the study's ledger beside their folders


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one notebook; `error` is empty when it succeeded."""

    notebook: str
    seconds: float
    figures: int
    error: str = ""


def reproduce(
    study: str = DEFAULT,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    in_place: bool = False,
    record: bool = False,
    parameters: Mapping[str, object] | None = None,
    notebooks: Path = paths.ROOT / "notebooks",
    figures: Path = paths.FIGURES,
    build: Path = paths.ROOT / "build",
) -> list[Outcome]:
    """Run the notebooks `only` names (numbers or names; default all), `jobs` at a time, and take over their figures.

    `parameters` replace values of the cells tagged "parameters". `in_place` also writes fresh outputs back into the
    notebooks themselves; `record` notes the seconds of each in figures/STUDY/runs.csv. A failing notebook does not
    stop the others and leaves its earlier figures as they were.

    Raises:
        ValueError: before anything runs, for an unknown study, notebook or parameter, or what in-place cannot mean.
    """
    from gpcore import studies  # late: the command's --help need not wait for torch

    studies.study(study)
    if jobs < 1:
        raise ValueError(f"jobs: got {jobs}, expected at least 1")
    if in_place and (study != DEFAULT or parameters):
        raise ValueError(f"in_place: committed outputs are of study {DEFAULT!r} and the notebooks' own parameters")
    chosen = find(notebooks.resolve(), only, study)
    values = {} if in_place else {"study": study, **(parameters or {})}
    for notebook in chosen:
        check_parameters(notebook, {"study", *values})

    build = build.resolve() / study
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    # Bars in a batch run would only leave stray text in the outputs.
    extra = {"GPCORE_FIGURES": str(build / "figures"), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": threads}
    extra["GPCORE_FINISHED"] = str(figures.resolve())
    # glibc then keeps freed memory for the next tensors, which saves a tenth of the time.
    extra |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}

    def one(notebook: Path) -> Outcome:
        print(f"{notebook.stem}: running", flush=True)
        start = time.monotonic()
        executed, place = build / notebook.name, Path(study, notebook.stem)
        drawn, target = build / "figures" / place, figures / place
        recover(target)
        shutil.rmtree(drawn, ignore_errors=True)
        error = execute(notebook, executed, values, os.environ | extra)
        count = len(list(drawn.glob("*.png")))
        if not error and not count:
            error = f"{notebook.name}: drew no figure into $GPCORE_FIGURES/{place}"
        if not error:
            replace_folder(drawn, target)
            if notebook.stem == LAST:
                shutil.copy(drawn.parent / "claims.csv", target.parent)
            if in_place:
                copy_outputs(executed, notebook)
        outcome = Outcome(notebook.stem, time.monotonic() - start, 0 if error else count, error)
        print(f"{outcome.notebook}: {'failed' if error else 'done'} after {outcome.seconds:.0f} s", flush=True)
        return outcome

    build.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(one, [notebook for notebook in chosen if notebook.stem != LAST]))
        outcomes += pool.map(one, [notebook for notebook in chosen if notebook.stem == LAST])
    if record:
        record_seconds(outcomes, figures / study / "runs.csv")
    return outcomes


def find(folder: Path, only: Iterable[str] = (), study: str = DEFAULT) -> list[Path]:
    """The notebooks of a folder that run on `study`, in order: all whose metadata name no others.

    `only` keeps some, by number ("3", "03") or name ("03_title", "title").
    """
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise ValueError(f"notebooks: no NN_name.ipynb in {folder}")
    chosen = set()
    for key in only:
        found = {path for path in every if key.zfill(2) in (path.stem, path.stem[:2], path.stem[3:])}
        if not found:
            names = ", ".join(path.stem for path in every)
            raise ValueError(f"only: got {key!r}, expected a number or name of {names}")
        chosen |= found
    meant = {path: nbformat.read(path, as_version=4).metadata.get("studies", [study]) for path in every}
    for path in sorted(chosen):
        if study not in meant[path]:
            raise ValueError(f"study: {path.stem} runs on {', '.join(meant[path])}, got {study!r}")
    return [path for path in every if (path in chosen if only else study in meant[path])]


def check_parameters(notebook: Path, names: Iterable[str]) -> None:
    """Papermill would only warn of a name that the notebook's parameters cell does not declare."""
    import papermill

    known = list(papermill.inspect_notebook(str(notebook)))
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known)
            hint = f"did you mean {close[0]}?" if close else f"its parameters cell has {', '.join(known) or 'none'}"
            raise ValueError(f"parameter: {notebook.name} does not declare {name!r}; {hint}")


def replace_folder(new: Path, target: Path) -> None:
    """Put a copy of `new` in the place of `target` by renames, so that old and new files never mix."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(new, fresh)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Undo what a run left that was killed between the renames of `replace_folder`."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def record_seconds(outcomes: Iterable[Outcome], path: Path) -> None:
    """Keep the seconds of the latest successful run of every notebook, for the README."""
    seconds = dict(csv.reader(path.open())) if path.exists() else {"notebook": "seconds"}
    seconds |= {outcome.notebook: f"{outcome.seconds:.0f}" for outcome in outcomes if not outcome.error}
    header, *rows = seconds.items()
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *sorted(rows)])


def table(outcomes: Sequence[Outcome]) -> str:
    width = max(len(outcome.notebook) for outcome in outcomes)
    rows = [f"{'notebook':<{width}}  seconds  figures  status"]
    for o in outcomes:
        rows.append(f"{o.notebook:<{width}}  {o.seconds:7.1f}  {o.figures:7d}  {'failed' if o.error else 'ok'}")
    return "\n".join(rows)


def assignment(text: str) -> tuple[str, Any]:
    """ "epsilon=0.002" -> ("epsilon", 0.002); what is no Python literal is a string."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m gpcore.reproduce", description="Run the notebooks, redraw the figures.")
    parser.add_argument("--study", default=DEFAULT)
    parser.add_argument("--only", nargs="+", default=(), metavar="NN", help="numbers or names of notebooks")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    parser.add_argument("--in-place", action="store_true", help="also write the outputs back into the notebooks")
    parser.add_argument("--record", action="store_true", help="note the seconds in figures/STUDY/runs.csv")
    parser.add_argument("-p", dest="parameters", nargs="+", action="extend", type=assignment, metavar="NAME=VALUE")
    for place in ("notebooks", "figures", "build"):
        parser.add_argument(f"--{place}", type=Path, default=argparse.SUPPRESS)
    options = vars(parser.parse_args(arguments))
    options["parameters"] = dict(options["parameters"] or ())
    try:
        outcomes = reproduce(**options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("", *(f"{o.error}\n" for o in outcomes if o.error), table(outcomes), sep="\n")
    return int(any(outcome.error for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
