"""The studies, by name: which data, which networks and refiners, how they are trained and what is tried on them.

A network is one entry in its study. A study is a file here and its name in STUDIES: the notebooks whose needs it has,
see `Study.has`, run on it.
"""

from collections.abc import Iterable

from gpcore.companion.studies.assignment import PARITY, STREETS
from gpcore.companion.studies.camvid import CAMVID
from gpcore.companion.studies.classification import CIFAR10, HANDWRITING, MNIST
from gpcore.companion.studies.digits import DIGITS, SCENES, STAGES
from gpcore.companion.studies.lectures import PHOTOGRAPHS
from gpcore.companion.studies.plans import POOLS, Attack, Data, Network, Recipe, Refiner
from gpcore.companion.studies.study import Study

__all__ = [
    "LABELS",
    "POOLS",
    "PUBLISHED",
    "STUDIES",
    "Attack",
    "Data",
    "Network",
    "Recipe",
    "Refiner",
    "Study",
    "get",
    "suited",
]

_EVERY = (DIGITS, SCENES, STAGES, PARITY, CAMVID, STREETS, HANDWRITING, MNIST, CIFAR10, PHOTOGRAPHS)
STUDIES = {each.name: each for each in _EVERY}
_LABELLED = {
    name: network
    for each in STUDIES.values()
    for name, network in {**each.networks, **each.robust}.items()
    if network.label
}
LABELS = {name: network.label for name, network in _LABELLED.items()}
PUBLISHED = {name: network.published or network.label for name, network in _LABELLED.items()}


def get(name: str) -> Study:
    """The study of that name.  Raises ValueError naming the known ones."""
    if name not in STUDIES:
        raise ValueError(f"study: got {name!r}, expected one of {', '.join(STUDIES)}")
    return STUDIES[name]


def suited(needs: Iterable[str] = ()) -> list[str]:
    """The names of the studies on which notebooks of these `needs`, see `Study.has`, run."""
    wanted = [*needs]
    return [each.name for each in STUDIES.values() if each.tasks and all(map(each.has, wanted))]
