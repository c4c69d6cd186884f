"""What long measurements found, kept below data/counts, and when a run may take it as its own."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpcore import paths
from gpcore.companion.studies import Study

SAME = 0.002  # the share of a batch's pixels that another machine may answer otherwise; a guided step changes 2 %
# the same of how many are right after many steps of an attack: rounding by 1e-7 moves that by up to .07 of an image
CHAOTIC = 0.1


def file(study: Study, name: str) -> Path:
    """Where what is kept under that name lies."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return paths.COUNTS / study.name / f"{re.sub('[^A-Za-z0-9.+-]+', '_', name)[:80]}-{digest}.npz"


def part(whole: Path) -> Path:
    """Where the beginning of a measurement lies until it is whole."""
    return whole.with_suffix(".part.npz")


def keep(place: Path, found: Tensor) -> None:
    """Writes a tensor there, whole numbers in as few bits as the largest needs, if the runner's --record asks for it;
    what was kept of its beginning goes."""
    if os.environ.get("GPCORE_KEEP"):
        array = found.numpy()
        if not found.is_floating_point():
            array = array.astype(np.min_scalar_type(int(found.max())))
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(fresh, counts=array)
        fresh.replace(place)
        part(place).unlink(missing_ok=True)


def read(place: Path) -> Tensor:
    """What was kept there; whole numbers in 64 bits."""
    found = torch.from_numpy(np.load(place)["counts"])
    return found if found.is_floating_point() else found.long()


def known(whole: Path, first: Tensor, chaotic: bool = False) -> Tensor | None:
    """The counts kept in a file, A x N x K x K, or of their beginning, if those of their first images are `first` but
    for a few pixels: machines differ. `chaotic`: in how many are right."""
    for place in (whole, part(whole)):
        if place.is_file() and _agree(found := read(place), first, chaotic):
            return found
    return None


def _agree(found: Tensor, first: Tensor, chaotic: bool) -> bool:
    if found.shape[0] != len(first) or found.shape[1] < first.shape[1] or found.shape[2:] != first.shape[2:]:
        return False
    change, pixels = found[:, : first.shape[1]] - first, first.sum((1, 2, 3))
    right, any_class = change.diagonal(dim1=2, dim2=3).sum((1, 2)).abs(), change.abs().sum((1, 2, 3)) / 2
    return bool((right <= CHAOTIC * pixels if chaotic else any_class <= SAME * pixels).all())
