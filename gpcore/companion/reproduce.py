"""Redraw figures: run the numbered notebooks on a study and take over their figures only when all went well.

    python -m gpcore.companion.reproduce --study digits --only 03 04 --jobs 2 -p images=50

Without a study, each runs on the first that has what it needs. It does so in a process of its own and writes to
`build/STUDY`, where executed notebooks and logs stay. What it drew replaces `figures/STUDY/NN_name` after it has
succeeded. Both folders of a study belong to one run at a time.
"""

import argparse
import ast
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from gpcore import paths
from gpcore.checks import expect
from gpcore.companion import studies
from gpcore.companion.execution import (
    copy_outputs,
    execute,
    keep_executed,
    looks_at_images,
    owned,
    recover,
    replace_file,
    replace_folder,
)

LAST = "99_claims"  # reads what the other notebooks left, and writes the study's ledger beside their folders


class Outcome(NamedTuple):
    """What became of one notebook; `error` is empty when it succeeded."""

    notebook: str
    study: str
    seconds: float
    figures: int
    error: str = ""


def reproduce(
    study: str = "",
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    timeout: int = 3600,
    record: bool = False,
    parameters: Mapping[str, object] | None = None,
    notebooks: Path = paths.ROOT / "notebooks",
    figures: Path = paths.FIGURES,
    build: Path = paths.ROOT / "build",
) -> list[Outcome]:
    """Run the notebooks `only` names (numbers or names; default all), `jobs` at a time, and take over their figures.

    `parameters` replace values of the cells tagged "parameters". `record` makes what is committed: fresh outputs in the
    notebooks themselves, of a study that is not a notebook's own a copy beside its figures; the seconds of each in
    figures/STUDY/runs.csv; long measurements in data/counts; and no picture that is not ours to show. Where a study's
    images are not to be had, cells that look at them are left out, and figures that they drew stay as they were. A
    notebook that fails, or takes more than `timeout` seconds, stops no other and leaves its earlier figures as they
    were. An interrupt ends all.
    Raises ValueError, before anything runs: an unknown study, notebook or parameter; a record with other parameters
    than the notebooks' own, or without the images; a folder that another run owns.
    """
    import papermill  # late: the command's --help need not wait for it

    known = studies.suited()
    expect("study", repr(study), study in ("", *known), f"one of {', '.join(known)}, or none")
    expect("jobs", jobs, jobs >= 1, "at least 1")
    expect("timeout", timeout, timeout >= 1, "at least 1")
    chosen, build = find(notebooks.resolve(), only, study), build.resolve()
    bare = {each for each, name in chosen.items() if looks_at_images(each) and not studies.get(name).present}
    whole = not parameters and not bare
    expect("record", (study, parameters), whole or not record, "the notebooks' own parameters, and studies' images")
    own = find(notebooks.resolve(), [path.stem for path in chosen])
    for notebook in chosen:
        known = papermill.inspect_notebook(str(notebook))  # papermill itself would only warn of others
        for name in {"study": study, **(parameters or {})}:
            expect("parameter", repr(name), name in known, f"one of {', '.join(known) or 'none'} in {notebook.name}")

    # Bars in a batch run would only leave stray text in the outputs.
    extra = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    # glibc then keeps freed memory for the next tensors, which saves a tenth of the time.
    extra |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    extra["GPCORE_FINISHED"] = str(figures.resolve())
    extra |= {"GPCORE_RECORD": "1"} if record else {}
    outcomes, process = list[Outcome](), dict[str, Any]()

    def one(notebook: Path) -> None:
        print(f"{notebook.stem}: running", flush=True)
        start, count = time.monotonic(), 0
        home, place = build / chosen[notebook], Path(chosen[notebook], notebook.stem)
        executed, drawn, target = home / notebook.name, home / "figures" / place, figures / place
        first, without = own[notebook] == chosen[notebook], notebook in bare
        values = {} if record and first else {"study": chosen[notebook], **(parameters or {})}
        try:
            recover(target)
            shutil.rmtree(drawn, ignore_errors=not drawn.exists())
            env = os.environ | extra | {"GPCORE_FIGURES": str(home / "figures")}
            error = execute(notebook, executed, values, timeout, bare=without, env=env, **process)
            count = len(list(drawn.glob("*.png")))
            if not error and not count and not without:
                error = f"{notebook.name}: drew no figure into $GPCORE_FIGURES/{place}"
            if not error:
                if record and not first:
                    keep_executed(executed, drawn / notebook.name)
                for file in target.glob("*") if without else ():
                    if not (drawn / file.name).exists():
                        shutil.copy2(file, drawn)
                replace_folder(drawn, target)
                if notebook.stem == LAST:
                    replace_file(target.parent / "claims.csv", (drawn.parent / "claims.csv").read_bytes())
                if record and first:
                    copy_outputs(executed, notebook)
        except Exception as exception:  # a full disk, say: the others go on
            error = f"{notebook.name}: {type(exception).__name__}: {exception}"
        seconds = time.monotonic() - start
        outcome = Outcome(notebook.stem, chosen[notebook], seconds, 0 if error else count, error)
        print(f"{outcome.notebook}: {'failed' if error else 'done'} after {outcome.seconds:.0f} s", flush=True)
        outcomes.append(outcome)

    used = sorted({*chosen.values()})
    runs = {each: figures / each / "runs.csv" for each in used}
    queue = longest_first(chosen, runs.values())  # so that all jobs end at about the same time
    with ExitStack() as stack:
        locks = [stack.enter_context(owned(folder / each)) for folder in (build, figures) for each in used]
        reader, writer = os.pipe()
        process |= {
            "stdin": reader,
            "pass_fds": locks[: len(used)],
        }  # so that it owns the folder till its end after a killed run
        try:
            # An interrupt closes the writer first, which ends the notebooks that the pool then waits for.
            with open(reader), ThreadPoolExecutor(jobs) as pool, open(writer, "w"):
                for last in (False, True):
                    list(pool.map(one, [notebook for notebook in queue if (notebook.stem == LAST) == last]))
            outcomes.sort()
            if record:
                for each, path in runs.items():
                    record_seconds([o for o in outcomes if o.study == each], path)
        finally:
            print("", *(f"{o.error}\n" for o in outcomes if o.error), sep="\n")
            print(f"{'notebook':<32}seconds  figures  status")
            for name, _, seconds, count, error in outcomes:
                print(f"{name:<32}{seconds:7.1f}  {count:7d}  {'failed' if error else 'ok'}")
    return outcomes


def find(folder: Path, only: Iterable[str] = (), study: str = "") -> dict[Path, str]:
    """The notebooks of a folder in order, and the study on which each runs.

    Of a `study` those that run on it: all of whose `needs`, in their metadata, it has. Else all, each on the first
    study that has what it needs. `only` keeps some, by number ("3", "03") or name ("03_title", "title").
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
    meant = {}
    for path in sorted(chosen or every):
        try:
            needs = nbformat.read(path, as_version=4).metadata.get("needs", ())
        except Exception as error:  # nbformat has many, and none names the file
            raise ValueError(f"{path}: not a notebook ({type(error).__name__}: {error})") from error
        suited = studies.suited(needs)
        if path in chosen and study not in ("", *suited):
            raise ValueError(f"study: {path.stem} runs on {', '.join(suited)}, got {study!r}")
        if suited and study in ("", *suited):
            meant[path] = study or suited[0]
    return meant


def longest_first(notebooks: Iterable[Path], runs: Iterable[Path]) -> list[Path]:
    """Notebooks by the seconds that are noted of them, those of which none are in front."""
    text = "".join(path.read_text(errors="replace") for path in runs if path.is_file())
    seconds = dict(re.findall(r"^(\w+),(\d+)$", text, flags=re.MULTILINE))
    return sorted(notebooks, key=lambda notebook: -float(seconds.get(notebook.stem, "inf")))


def record_seconds(outcomes: Iterable[Outcome], path: Path) -> None:
    """Keep the seconds of the latest successful run of every notebook, for the README."""
    text = path.read_text(errors="replace") if path.exists() else "notebook,seconds\n"
    holds = re.fullmatch(r"notebook,seconds\n(\w+,\d+\n)*", text)
    expect(str(path), f"{text!r:.40}", holds, "rows of notebook,seconds; mend or delete it")
    header, *rows = text.splitlines()
    seconds = dict(row.split(",") for row in rows) | {o.notebook: f"{o.seconds:.0f}" for o in outcomes if not o.error}
    replace_file(path, "\n".join([header, *map(",".join, sorted(seconds.items())), ""]).encode())


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
    parser = argparse.ArgumentParser(
        "python -m gpcore.companion.reproduce",
        description="Run the notebooks, redraw the figures.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--study")
    parser.add_argument("--only", nargs="+", metavar="NN", help="numbers or names of notebooks")
    parser.add_argument("--jobs", type=int, help="notebooks at a time")
    parser.add_argument("--timeout", type=int, help="seconds that a notebook may take")
    parser.add_argument("--record", action="store_true", help="write outputs into the notebooks, seconds into runs.csv")
    parser.add_argument("-p", dest="parameters", nargs="+", action="extend", type=assignment, metavar="NAME=VALUE")
    for place in ("notebooks", "figures", "build"):
        parser.add_argument(f"--{place}", type=Path)
    options = vars(parser.parse_args(arguments))
    try:
        outcomes = reproduce(**options | {"parameters": dict(options.get("parameters", ()))})
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return int(any(outcome.error for outcome in outcomes))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends as an interrupt does
    sys.exit(main())
