"""What long measurements found, kept below data/counts, and when a run may take it as its own."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpcore import paths
from gpcore.companion.studies import Study

Agree = Callable[[Tensor, Tensor], bool]
CLOSE = 0.02  # of the size of a batch's values, by how much they may differ on another machine
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
    if os.environ.get("GPCORE_RECORD"):
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


def known(whole: Path, first: Tensor, agree: Agree) -> Tensor | None:
    """What is kept in a file, A x N x ..., or of its beginning, if what it says of the first images agrees with
    `first`: machines differ."""
    for place in (whole, part(whole)):
        if place.is_file():
            found = read(place)
            fits = found.shape[0] == len(first) and found.shape[1] >= first.shape[1]
            if fits and found.shape[2:] == first.shape[2:] and agree(found[:, : first.shape[1]], first):
                return found
    return None


def classes_agree(kept: Tensor, found: Tensor) -> bool:
    """Whether counts A x B x K x K are the same but for a few pixels of every image."""
    moved = (kept - found).abs().sum((1, 2, 3)) / 2
    return bool((moved <= SAME * found.sum((1, 2, 3))).all())


def right_agree(kept: Tensor, found: Tensor) -> bool:
    """Whether about as many pixels are right in counts A x B x K x K."""
    right = (kept - found).diagonal(dim1=2, dim2=3).sum((1, 2)).abs()
    return bool((right <= CHAOTIC * found.sum((1, 2, 3))).all())


def values_agree(kept: Tensor, found: Tensor) -> bool:
    """Whether each of A measurements of a batch, A x B x ..., differs by a small share of its size; NaN agrees with
    NaN alone."""
    apart, size = (each.double().nan_to_num(0).flatten(1).norm(dim=1) for each in (kept - found, found))
    return torch.equal(kept.isnan(), found.isnan()) and bool((apart <= CLOSE * size).all())
