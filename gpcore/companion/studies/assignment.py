"""The lectures' assignment: three categories, a U-Net, and every feature that it asks for switched on alone."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import ConcatDataset, random_split

from gpcore import paths
from gpcore.companion.studies.parts import by_store
from gpcore.companion.studies.plans import Data, Network, Recipe
from gpcore.companion.studies.study import Study
from gpcore.datasets import camvid, scenes
from gpcore.datasets.grouped import Grouped
from gpcore.datasets.kept import Kept
from gpcore.networks import assignment

SPLIT = 0.8  # of the labelled pictures are learned from
VOID = scenes.VOID


def parts_of(labelled: Data, seed: int = 0) -> dict[str, Data]:
    """Labelled pictures divided at random into "train" and "val", a function of the seed."""
    total: int = len(labelled)  # type: ignore[arg-type]  # torch's Dataset declares no length
    learned = round(SPLIT * total)
    shares = random_split(labelled, [learned, total - learned], torch.Generator().manual_seed(seed))
    return dict(zip(("train", "val"), shares, strict=True))


def _parity(split: str) -> Data:
    """Object scenes: ground, even digits, odd digits."""
    made = scenes.Scenes("test", 1000) if split == "test" else scenes.Scenes("train", 750)
    small = Grouped(made, [0, *(1 + digit % 2 for digit in range(10))], shrink=4)
    return small if split == "test" else parts_of(Kept(small, paths.DATA / "checkpoints" / "parity.bin"))[split]


def _streets(split: str) -> Data:
    """CamVid: road, things (one can count them: poles, signs, cars, pedestrians, bicyclists), and the rest."""
    kinds = ("rest", "rest", "things", "road", "rest", "rest", "things", "rest", "things", "things", "things")
    groups = [*(("road", "things", "rest").index(kind) for kind in kinds), VOID]
    small = partial(Grouped, groups=groups, shrink=6)
    if split == "test":
        return small(camvid.CamVid("test"))
    labelled: Data = ConcatDataset([camvid.CamVid("train"), camvid.CamVid("val")])
    return parts_of(Kept(small(labelled), paths.DATA / "checkpoints" / "streets.bin"))[split]


def _networks(recipe: Recipe, augmentations: dict[str, dict[str, Any]]) -> dict[str, Network]:
    """The plain U-Net, and what differs from it in one way each."""
    every = {key: value for each in augmentations.values() for key, value in each.items()}
    plain = partial(Network, assignment.unet)
    return by_store(
        plain("plain", recipe, label="plain U-Net"),
        *(plain(name, replace(recipe, **change), label=name) for name, change in augmentations.items()),
        plain("all", replace(recipe, **every), label="all of these"),
        Network(assignment.Contextual, "context", recipe, label="context module"),
        Network(partial(assignment.unet, skips=False), "no-skips", recipe, label="no skips"),
        Network(partial(assignment.unet, skips=False, switches=True), "switches", recipe, label="switches, no skips"),
        Network(assignment.strided, "strided", recipe, label="strided convolutions"),
        Network(assignment.Recurrent, "recurrent", recipe, label="three passes"),
        Network(assignment.MultiScale, "multi-scale", recipe, label="three scales"),
    )


def _augmentations(crop: int) -> dict[str, dict[str, Any]]:
    """Turns and scales are as far as those of the views at test time."""
    return {"rotation": {"turn": 10.0}, "crop": {"crop": crop}, "scale": {"scale": (0.8, 1.25)}}


_COLOURS = ((221, 221, 221), (51, 34, 136), (221, 204, 119))  # Tol's "muted": grey, indigo, sand
_RECIPE = Recipe(epochs=96, samples=600, batch=16, rate=3e-3, bfloat16=True)


def _study(name: str, classes: Sequence[str], **options: Any) -> Study:
    return Study(name=name, classes=tuple(classes), colours=_COLOURS, void=VOID, epsilons=(), batch=25, **options)


PARITY = _study(
    "parity",
    ("ground", "even", "odd"),
    dataset=_parity,
    images={"train": 600, "val": 150, "test": 1000},
    networks=_networks(_RECIPE, _augmentations(28)),
    photographs=True,
)
STREETS = _study(
    "streets",
    ("road", "things", "rest"),
    dataset=_streets,
    images={"train": 374, "val": 94, "test": 233},
    networks=_networks(
        replace(_RECIPE, epochs=54, samples=374, batch=8), _augmentations(52) | {"flip": {"mirror": True}}
    ),
    photographs=False,
    sequences={"test": camvid.SEQUENCES["test"]},  # the other splits are of both its videos at random
    size=(60, 80),
)
