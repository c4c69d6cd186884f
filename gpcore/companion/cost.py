"""What a computation costs: floating-point operations, bytes of tensors alive at one time, milliseconds."""

import functools
import weakref
from collections.abc import Callable, Mapping
from timeit import timeit
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gpcore.companion.studies import POOLS, Study
from gpcore.perturb import guide

ALONE = "network alone"


class PeakMemory(TorchDispatchMode):
    """Follows the tensors made inside its block: `peak` is the most bytes of them alive at one time.

    A count of storages, the same on every machine; the workspaces of single operators are not in it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known | given:  # views and in-place results own nothing new
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def places(study: Study, name: str) -> dict[str, float]:
    """Where a step of this network may be taken, each with the epsilon that validation images chose there: at the
    input, and at the pools that were tried."""
    tuned = study.tuned(name)
    return {"input": tuned["epsilon"], **{pool: tuned[pool]["epsilon"] for pool in POOLS if pool in tuned}}


def _tasks(study: Study, name: str) -> dict[str, Callable[[], object]]:
    network = study.network(name)
    images, _ = study.sample()

    def alone() -> None:
        with torch.no_grad():
            network(images)

    steps = {
        place: functools.partial(guide, network, images, epsilon, at=None if place == "input" else place)
        for place, epsilon in places(study, name).items()
    }
    return {ALONE: alone, **steps}


def operations_of(task: Callable[[Tensor], object], images: Tensor) -> int:
    """Floating-point operations of a task on a batch, without gradients."""
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        task(images.clone())  # which no earlier task has seen, in case one remembers
    return int(flops.get_total_flops())


def relative(tasks: Mapping[str, Callable[[Tensor], object]], images: Tensor) -> pd.Series:
    """Floating-point operations of each task on a batch, in multiples of the first one's."""
    spent = {name: operations_of(task, images) for name, task in tasks.items()}
    return pd.Series({name: count / next(iter(spent.values())) for name, count in spent.items()})


def operations(study: Study, name: str) -> pd.DataFrame:
    """Floating-point operations (1e9) and peak memory (1e6 bytes) of one pass and of one guided step at every place,
    for one batch of the study's."""
    rows = []
    for place, task in _tasks(study, name).items():
        with FlopCounterMode(display=False) as flops, PeakMemory() as memory:
            task()
        rows.append((place, flops.get_total_flops() / 1e9, memory.peak / 1e6))
    return pd.DataFrame(rows, columns=["place", "gflop", "megabytes"])


def timing(study: Study, name: str, *, repeats: int = 9) -> pd.DataFrame:
    """Milliseconds of the same, medians over rounds in which every place has its turn; torch's current threads."""
    tasks = _tasks(study, name)
    rounds = [{place: 1000 * timeit(task, number=1) for place, task in tasks.items()} for _ in range(repeats + 1)]
    median = pd.DataFrame(rounds[1:]).median()  # the first round warms up
    return median.rename_axis("place").rename("milliseconds").reset_index()
