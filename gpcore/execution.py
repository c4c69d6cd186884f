"""One notebook executed by papermill in a process of its own: what went wrong, and its outputs taken back."""

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

KERNEL_TROUBLE = re.compile(r"Kernel died before replying|Kernel didn't respond|Address already in use")


def execute(notebook: Path, executed: Path, values: Mapping[str, object], environment: Mapping[str, str]) -> str:
    """Run a notebook with papermill in its own process; the error in words, empty if every cell ran."""
    command = [sys.executable, "-m", "papermill", str(notebook), str(executed), "--no-progress-bar", "--log-output"]
    command += ["-k", "python3", "--cwd", str(notebook.parent)]
    command += ["-y", yaml.safe_dump(dict(values))] if values else []
    log = executed.with_suffix(".log")
    for _ in range(2):  # now and then a kernel finds its port taken: that alone deserves a second try
        executed.unlink(missing_ok=True)
        with log.open("w") as stream:
            code = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
        cells = read_code(executed)
        if code == 0 or started(cells) or not KERNEL_TROUBLE.search(log.read_text()):
            break
    return fault(notebook.name, cells, code, last_line(log))


def fault(name: str, cells: Sequence[NotebookNode], code: int, said: str) -> str:
    """What went wrong in executed code cells, and in which; empty if every cell ran and papermill ended with 0."""
    places = [f"{name}, code cell {n} `{cell.source.strip().splitlines()[0]}`" for n, cell in enumerate(cells, 1)]
    for place, cell in zip(places, cells, strict=True):
        for output in cell.outputs:
            if output.output_type == "error":
                return f"{place}: {output.ename}: {output.evalue}"
    if code or not cells or any(cell.execution_count is None for cell in cells):
        return f"{[name, *places][started(cells)]}: did not run to its end; papermill said: {said}"
    return ""


def started(cells: Sequence[NotebookNode]) -> int:
    """How many cells began. Not by execution_count: a kernel that dies may or may not have sent that cell's."""
    return sum(bool(cell.metadata.get("papermill", {}).get("start_time")) for cell in cells)


def read_code(executed: Path) -> list[NotebookNode]:
    """The code cells that hold code, without the one in which papermill sets parameters."""
    if not executed.exists():
        return []
    cells = nbformat.read(executed, as_version=4).cells
    cells = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def last_line(log: Path) -> str:
    return next((line for line in reversed(log.read_text().splitlines()) if line.strip()), "nothing")


def copy_outputs(executed: Path, notebook: Path) -> None:
    """Write outputs and execution counts of an executed copy into the notebook, and nothing else (atomically)."""
    source = nbformat.read(notebook, as_version=4)
    for cell, done in zip(source.cells, nbformat.read(executed, as_version=4).cells, strict=True):
        if cell.cell_type == "code":
            cell.execution_count = done.execution_count
            cell.outputs = merge_streams(done.outputs)
    fresh = notebook.with_suffix(".new")
    nbformat.write(source, fresh)
    fresh.replace(notebook)


def merge_streams(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Printed text arrives in pieces cut by time; joined, two runs give the same file."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" and output.get("name") == merged[-1].get("name"):
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged
