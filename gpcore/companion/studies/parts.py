"""What several studies share: families of networks and of refiners, and grids of DenseCRFs."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from torch import nn

from gpcore.companion.studies.plans import POOLS, Network, Recipe, Refiner
from gpcore.networks.crfrnn import CRFRNN

Build = Callable[[int], nn.Module]


def fcns(build: Callable[..., nn.Module], recipe: Recipe, start: str = "") -> dict[str, Network]:
    """FCN-32s, 16s and 8s: three heads on one trunk, trained together."""
    found = {
        f"fcn{stride}s": Network(partial(build, stride=stride), "fcn", recipe, start, label=f"FCN-{stride}s")
        for stride in (32, 16, 8)
    }
    return found | {"fcn8s": replace(found["fcn8s"], layers=POOLS[:4])}


def by_store(*plans: Network) -> dict[str, Network]:
    """Networks that are named as their weights are."""
    return {plan.store: plan for plan in plans}


def crf_rnn(build: Build, classes: int, **options: float) -> CRFRNN:
    """CRF-RNN on a network of that build."""
    return CRFRNN(build(classes), classes, **options)  # type: ignore[arg-type]


def crfs(
    positions: tuple[float, ...],
    colours: tuple[float, ...],
    # the last: pydensecrf's own example, and Romero et al.
    weights: tuple[tuple[float, float], ...] = ((0.3, 0.3), (1, 1), (3, 3), (1, 4), (3, 10)),
) -> tuple[dict[str, Any], ...]:
    """A grid of DenseCRFs: the bilateral kernel's widths and both kernels' weights."""
    return tuple(
        {"gaussian": (3, smoothness), "bilateral": (position, colour, compat)}
        for position, colour, (smoothness, compat) in product(positions, colours, weights)
    )


def once(network: str, name: str, build: Build, **learning: Any) -> dict[str, Refiner]:
    """A rival of the DAEs that sees the image, and is put on once."""
    return {f"{network}-{name}": Refiner(network, None, build, **learning | {"epsilons": (1.0,), "steps": 1})}


def daes(
    network: str, at: str, build: Build, noises: Iterable[tuple[str, float]], suffix: str = "", **learning: Any
) -> dict[str, Refiner]:
    """DAEs on one network: DAE(y) and DAE(ytrue), each with the noises that it is paired with."""
    dae = partial(Refiner, network, at, build, **learning)
    return {f"{network}-dae-{y}-{sigma}{suffix}": dae(sigma=sigma, truth=y == "truth") for y, sigma in noises}
