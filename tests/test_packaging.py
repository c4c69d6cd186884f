"""pyproject.toml, environment.yml and the lock name the same packages, the lock no place; CI starts from nothing.

All that is imported is named there, and the method runs from its wheel without the companion's packages.
"""

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from gpcore import paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())
LOCK = (paths.ROOT / "requirements.lock").read_text()
CONDA = {"torch": "pytorch", "pydensecrf2": "pydensecrf"}  # where conda-forge calls a package otherwise
ONLY_CONDA = {"python", "pip"}


def parse(requirement: str) -> tuple[str, str]:
    """ "torch>=2.4" or "torch >=2.4" -> ("torch", ">=2.4")."""
    name, bound = re.fullmatch(r"([\w-]+)\s*(.*)", requirement).groups()
    return name, bound


BARE = dict(map(parse, PROJECT["project"]["dependencies"]))
EXTRAS = {name: dict(map(parse, extra)) for name, extra in PROJECT["project"]["optional-dependencies"].items()}
COMPANION = BARE | EXTRAS["companion"]
DIRECT = COMPANION | EXTRAS["test"]


def installed() -> dict[str, set[str]]:
    """What is installed, by the names that it is imported under, each with the listed packages that bring it."""
    ours = {there: here for here, there in CONDA.items()}
    listed = {
        name: {re.sub(r"[-_.]+", "-", d).lower() for d in found} for name, found in packages_distributions().items()
    }
    return {name: {ours.get(d, d) for d in found} & {*DIRECT} for name, found in listed.items()}


INSTALLED = installed()
BEYOND = {name for name, found in INSTALLED.items() if found & {*EXTRAS["companion"]}}


def test_the_method_needs_four_packages_and_no_package_stands_in_two_lists_with_two_bounds() -> None:
    assert list(BARE) == ["torch", "numpy", "scipy", "tqdm"]
    assert list(EXTRAS) == ["crf", "saliency", "companion", "test"]
    assert {**EXTRAS["crf"], **EXTRAS["saliency"]}.items() <= EXTRAS["companion"].items()
    assert len(DIRECT) == len(BARE) + len(EXTRAS["companion"]) + len(EXTRAS["test"])


@pytest.mark.parametrize(("folder", "listed"), [("gpcore", COMPANION), ("tests", DIRECT)])
def test_what_is_imported_is_listed(folder: str, listed: dict[str, str]) -> None:
    files, unlisted = [*(paths.ROOT / folder).rglob("*.py")], set()
    known = {*sys.stdlib_module_names, "gpcore", *(file.stem for file in files if folder == "tests")}
    known |= {name for name, found in INSTALLED.items() if found & {*listed}}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            unlisted |= {(file.name, name) for name in names if name.partition(".")[0] not in known}
    assert files and unlisted == set()


def test_environment_holds_the_packages_of_pyproject() -> None:
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    *packages, lacking = environment["dependencies"]
    conda = dict(map(parse, [*packages, *lacking["pip"]]))
    expected = {CONDA.get(name, name): bound for name, bound in DIRECT.items()}
    expected["pydensecrf"] = ""  # another fork than the index's, with versions of its own
    assert {name: bound for name, bound in conda.items() if name not in ONLY_CONDA} == expected
    assert conda["python"] == PROJECT["project"]["requires-python"]
    assert environment["channels"] == ["conda-forge"]


def test_the_eight_are_among_them() -> None:
    eight = {"jupyterlab", "torch", "torchvision", "papermill", "matplotlib", "seaborn", "pydensecrf2", "nbval"}
    assert eight <= set(DIRECT)


def test_lock_pins_every_direct_package_and_hashes_all() -> None:
    entries = re.findall(r"^([a-z0-9-]+)==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", LOCK, flags=re.MULTILINE)
    assert set(DIRECT) <= set(entries)
    assert len(entries) == len(re.findall(r"^[^\s#]", LOCK, flags=re.MULTILINE))


def test_lock_names_no_place() -> None:
    for word in ("://", "--index", "--extra-index", "--find-links", "file:", " /", "@"):
        assert word not in LOCK, word


def run(code: str, folder: Path) -> str:
    """What Python code prints in a fresh process that finds gpcore in `folder`, from which it runs."""
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def imported(file: Path, modules: set[str]) -> set[str]:
    """Those of our modules that a file imports: the innermost that each name stands for."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            found |= {n if (n := f"{node.module}.{each.name}") in modules else node.module for each in node.names}
        found |= {each.name for each in node.names if each.name in modules} if isinstance(node, ast.Import) else set()
    return found


def test_imports_run_one_way() -> None:
    """No circle; nobody imports from further up; what measures or trains does not import what tabulates or draws."""
    files = {
        ".".join(path.relative_to(paths.ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (paths.ROOT / "gpcore").rglob("*.py")
    }
    graph = {name: imported(path, {*files}) for name, path in files.items()}
    graphlib.TopologicalSorter(graph).prepare()
    below = ("weights", "studies", "keeping", "measure", "cost", "tuning", "epochs", "training", "spread")
    floors = (*below, "report", "experiments")
    floor = {
        name: i for name in files for i, each in enumerate(floors) if f"{name}.".startswith(f"gpcore.companion.{each}.")
    }
    upwards = {(name, other) for name in graph for other in graph[name] if floor.get(other, -1) > floor.get(name, -1)}
    assert {name for name, _ in upwards} == {"gpcore.companion.reproduce"}  # which runs it all
    assert {*floor.values()} == {*range(len(floors))}


def test_the_method_imports_nothing_of_the_companion() -> None:
    files = [path for folder in ("gpcore", "gpcore/networks") for path in (paths.ROOT / folder).glob("[a-z]*.py")]
    method = [".".join(file.relative_to(paths.ROOT).with_suffix("").parts) for file in files]
    loaded = {*run(f"import sys, {', '.join(method)}\nprint(*sys.modules)", paths.ROOT).split()}
    assert {"matplotlib", "pandas", "sklearn", "torchvision", "mlxtend", "pydensecrf"} <= BEYOND
    assert {"torch", "gpcore.metrics", "gpcore.networks.fcn"} <= loaded and not loaded & (BEYOND | {"gpcore.companion"})


SMOKE = """
import sys

sys.modules.update(dict.fromkeys(BEYOND))  # whose import then raises ModuleNotFoundError
import torch
from gpcore import GuidedPerturbation, guide, paths
from gpcore.attacks import pgd

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
model[1].weight.data = torch.eye(2)  # the logits are the two pixels
images = torch.tensor([[[[0.25, 0.5]]]])
print(guide(model, images, 0.125).after.tolist(), GuidedPerturbation(model, -0.125)(images).tolist())
print(pgd(model, images, torch.tensor([1]), 0.25).images.tolist(), paths.DATA)
try:
    import gpcore.companion
except ImportError as error:
    print(error)
"""


def test_the_wheel_alone_runs_the_method(tmp_path: Path) -> None:
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    shutil.copytree(paths.ROOT / "gpcore", source / "gpcore", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(paths.ROOT / file, source)
    run(f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})", source)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(unpacked)
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata.read_text(), flags=re.MULTILINE)
    assert required == ["torch", "numpy", "scipy", "tqdm"]
    attacked, companion = run(f"BEYOND = {BEYOND}{SMOKE}", unpacked).split("\n", 1)
    assert attacked == "[[0.125, 0.625]] [[0.375, 0.375]]"
    assert companion.startswith("[[[[0.5, 0.25]]]] data\ngpcore.companion works on a checkout's data")


@pytest.mark.parametrize("status", [0, 3])
def test_ci_sets_up_as_a_newcomer_does(tmp_path: Path, status: int) -> None:
    """With `make` replaced by one that notes what lies in .venv and the caches, and leaves something in each."""
    clone, old, temporary = (tmp_path / name for name in ("clone", "old", "temporary"))
    for folder in (clone / ".ci", clone / ".venv/left", old / "left", temporary):
        folder.mkdir(parents=True)
    shutil.copy(paths.ROOT / ".ci/run", clone / ".ci")
    caches = ("UV_CACHE_DIR", "PIP_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    places = " ".join(f'"${cache}"' for cache in caches)
    make = f"#!/bin/sh\nls -A .venv {places} 2>/dev/null | grep left\nmkdir -p .venv/left {places}\n"
    make += f'for place in {places}; do echo "$1"; mkdir -p "$place/left"; done\nexit {status}'
    (tmp_path / "make").write_text(make)
    (tmp_path / "make").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
    environment = os.environ | dict.fromkeys(caches, str(old)) | path
    ci = subprocess.run([clone / ".ci/run"], env=environment, capture_output=True, text=True)
    kept = ["left"] * 5
    assert ci.stdout.split() == ["setup"] * 4 + (kept + ["test"] * 4) * (status == 0)
    assert ci.returncode == status
    assert not any(temporary.iterdir())
