"""One notebook executed by papermill in a process of its own: what went wrong, and its outputs taken back; folders that
belong to one run at a time."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

IMAGES = "images"  # the tag of cells that look at a study's images, and not only at what was measured on them
KERNEL_TROUBLE = re.compile(r"Kernel died before replying|Kernel didn't respond|Address already in use")


@contextmanager
def owned(folder: Path) -> Iterator[int]:
    """Keep other runs off a folder until the block is left or, however that happens, the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(f"{folder}: in use by {lock.read()}; wait for its end or name another folder") from None
        lock.truncate(0)
        print(f"process {os.getpid()} since {time.strftime('%F %T')}", end="", file=lock, flush=True)
        yield lock.fileno()


def execute(
    notebook: Path, executed: Path, values: Mapping[str, object], timeout: float, *, bare: bool = False, **process: Any
) -> str:
    """Run a notebook in a process that Popen starts with these options; the error in words, empty if every cell ran.

    `bare` leaves out the cells tagged "images".
    """
    # A file by its path, for -m would import torch; -P, for what lies beside it is not papermill's to import.
    child = str(Path(__file__).with_name("child.py"))
    source = without_images(notebook, executed.with_suffix(".bare.ipynb")) if bare else notebook
    command = [sys.executable, "-P", child, str(timeout), str(source), str(executed), "--no-progress-bar"]
    command += ["--log-output", "-k", "python3", "--cwd", str(notebook.parent)]
    command += ["-y", yaml.safe_dump(dict(values))] if values else []
    log = executed.with_suffix(".log")
    for _ in range(2):  # now and then a kernel finds its port taken: that alone deserves a second try
        executed.unlink(missing_ok=True)
        with log.open("w") as stream:  # in a session of its own: a terminal's Ctrl-C is for the runner alone
            code = subprocess.run(command, stdout=stream, stderr=stream, start_new_session=True, **process).returncode
        cells = read_code(executed)
        if code == 0 or started(cells) or not KERNEL_TROUBLE.search(log.read_text()):
            break
    said = [line for line in log.read_text().splitlines() if line.strip()] or ["nothing"]
    return fault(notebook.name, cells, code, said[-1])


def looks_at_images(notebook: Path) -> bool:
    """Whether any of its cells is tagged "images"."""
    return any(IMAGES in cell.metadata.get("tags", []) for cell in nbformat.read(notebook, as_version=4).cells)


def without_images(notebook: Path, bare: Path) -> Path:
    """Writes the notebook without its cells tagged "images" there."""
    source = nbformat.read(notebook, as_version=4)
    source.cells = [cell for cell in source.cells if IMAGES not in cell.metadata.get("tags", [])]
    nbformat.write(source, bare)
    return bare


def fault(name: str, cells: Sequence[NotebookNode], code: int, said: str) -> str:
    """What went wrong in executed code cells, and in which; empty if every cell ran and papermill ended with 0."""
    places = [f"{name}, code cell {n} `{cell.source.strip().splitlines()[0]}`" for n, cell in enumerate(cells, 1)]
    for place, cell in zip(places, cells, strict=True):
        for output in cell.outputs:
            if output.output_type == "error" and output.ename != "KeyboardInterrupt":  # that is how a kernel is ended
                return f"{place}: {output.ename}: {output.evalue}"
    if code or not cells or any(cell.execution_count is None for cell in cells):
        return f"{[name, *places][started(cells)]}: did not run to its end; papermill said: {said}"
    return ""


def started(cells: Sequence[NotebookNode]) -> int:
    """How many cells began. Not by execution_count: a kernel that dies may or may not have sent that cell's."""
    return sum(bool(cell.metadata.get("papermill", {}).get("start_time")) for cell in cells)


def read_code(executed: Path) -> list[NotebookNode]:
    """The code cells that hold code, without the one in which papermill sets parameters."""
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except (FileNotFoundError, ValueError):  # papermill did not begin it, or ended while writing
        return []
    cells = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def copy_outputs(executed: Path, notebook: Path) -> None:
    """Write outputs and execution counts of an executed copy into the notebook, and nothing else (atomically)."""
    source = nbformat.read(notebook, as_version=4)
    for cell, done in zip(source.cells, nbformat.read(executed, as_version=4).cells, strict=True):
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = done.execution_count, joined(done.outputs)
    replace_file(notebook, (nbformat.writes(source) + "\n").encode())


def keep_executed(executed: Path, kept: Path) -> None:
    """Write an executed copy there without what papermill notes in it, which is other in every run."""
    source = nbformat.read(executed, as_version=4)
    for part in (source, *source.cells):
        part.metadata.pop("papermill", None)
    for number, cell in enumerate(source.cells):
        cell.id = f"cell-{number}"  # papermill's own has another in every run
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = joined(cell.outputs)
    replace_file(kept, (nbformat.writes(source) + "\n").encode())


def joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """A cell's outputs, printed text in one piece: it arrives in pieces cut by time, and two runs are to be equal."""
    found = list(outputs[:1])
    for output in outputs[1:]:
        if output.output_type == "stream" and output.get("name") == found[-1].get("name"):
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def replace_file(path: Path, content: bytes) -> None:
    """Old content or new, whole, whatever happens."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put a copy of `new` in the place of `target` by renames, so that old and new files never mix."""
    fresh, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    try:
        shutil.copytree(new, fresh)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    finally:
        recover(target)


def recover(target: Path) -> None:
    """Undo what `replace_folder` left when it failed or its run was killed."""
    fresh, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
