"""pyproject.toml, environment.yml and the lock name the same packages, the lock no place; CI starts from nothing."""

import os
import re
import shutil
import subprocess
import tomllib
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


def direct() -> dict[str, str]:
    extras = PROJECT["project"]["optional-dependencies"]
    assert list(extras) == ["test"]
    return dict(map(parse, PROJECT["project"]["dependencies"] + extras["test"]))


def test_environment_holds_the_packages_of_pyproject() -> None:
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    conda = dict(map(parse, environment["dependencies"]))
    expected = {CONDA.get(name, name): bound for name, bound in direct().items()}
    expected["pydensecrf"] = ""  # another fork than the index's, with versions of its own
    assert {name: bound for name, bound in conda.items() if name not in ONLY_CONDA} == expected
    assert conda["python"] == PROJECT["project"]["requires-python"]
    assert environment["channels"] == ["conda-forge"]


def test_the_eight_are_among_them() -> None:
    eight = {"jupyterlab", "torch", "torchvision", "papermill", "matplotlib", "seaborn", "pydensecrf2", "nbval"}
    assert eight <= set(direct())


def test_lock_pins_every_direct_package_and_hashes_all() -> None:
    entries = re.findall(r"^([a-z0-9-]+)==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", LOCK, flags=re.MULTILINE)
    assert set(direct()) <= set(entries)
    assert len(entries) == len(re.findall(r"^[^\s#]", LOCK, flags=re.MULTILINE))


def test_lock_names_no_place() -> None:
    for word in ("://", "--index", "--extra-index", "--find-links", "file:", " /", "@"):
        assert word not in LOCK, word


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
    run = subprocess.run([clone / ".ci/run"], env=environment, capture_output=True, text=True)
    kept = ["left"] * 5
    assert run.stdout.split() == ["setup"] * 4 + (kept + ["test"] * 4) * (status == 0)
    assert run.returncode == status
    assert not any(temporary.iterdir())
