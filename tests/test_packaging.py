"""pyproject.toml, environment.yml and requirements.lock name the same packages, and the lock names no place."""

import re
import tomllib

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
