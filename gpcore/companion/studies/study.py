"""What a study is: data splits, the networks trained on them, what refines their predictions, and tuned settings."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from gpcore.companion import weights
from gpcore.companion.studies.plans import Data, Network, Refiner
from gpcore.progress import progress

BLOCK = 10  # consecutive frames of a video that a bootstrap takes or leaves together


@dataclasses.dataclass(frozen=True)
class Study:
    """Data, networks and settings that a notebook is run on.

    `images` says how many evenly spaced images of a split the notebooks use, `most` how many at most where many
    settings are tried on each; where a split "large" goes on after "test", whose beginning it has, the main tables
    are measured on it; `photographs` whether its images and label maps may be published. Of `epsilons` and of
    `crfs` (arguments of `crf.dense_crf`) the best on validation images become a network's own. The `robust`
    networks, trained against attacks, are none of those that the notebooks on guided perturbation compare; of
    these, `standard` is their counterpart. Where a split is video, `sequences` has the lengths of its sequences; images
    that may be missing have their height and width as `size`.
    Holes to be inpainted have the side `hole`[0], in a part of the image of the side `hole`[1], and lie on objects: of
    the class of `subjects` that comes first, default: of any but the first class.
    `tasks` names the study that does each task on these images, itself or one beside it; no notebook runs on a
    study that has no tasks.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    void: int
    dataset: Callable[[str], Data]
    images: Mapping[str, int]
    batch: int
    networks: Mapping[str, Network]
    epsilons: tuple[float, ...]
    photographs: bool
    crfs: tuple[dict[str, Any], ...] = ()
    most: int = 1_000_000
    refiners: Mapping[str, Refiner] = dataclasses.field(default_factory=dict)
    robust: Mapping[str, Network] = dataclasses.field(default_factory=dict)
    standard: str = "fcn8s"
    sequences: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    size: tuple[int, ...] = ()
    subjects: tuple[str, ...] = ()
    hole: tuple[int, int] = (32, 96)
    tasks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def shown(self) -> bool:
        """Whether figures show its images and label maps: to a reader who has them, always; in what the runner's
        --record leaves for the repository, those that may be published."""
        return self.photographs or not os.environ.get("GPCORE_RECORD")

    @property
    def present(self) -> bool:
        """Whether its images are on this machine, as photographs may not be that are not ours to publish."""
        try:
            self.dataset("test")
        except OSError:  # no such file, or no way to fetch it
            return False
        return True

    def has(self, need: str) -> bool:
        """Whether a notebook finds what it needs: a task, a field that is not empty, or the study of that name."""
        return need in (self.name, *self.tasks) or bool(getattr(self, need, None))

    @property
    def main(self) -> str:
        """The split of the main tables, whose intervals must be narrow."""
        return "large" if "large" in self.images else "test"

    def data(self, split: str, count: int | None = None) -> Data:
        """`count` (default: the study's number) evenly spaced (image, labels) pairs of a split."""
        return Subset(self.dataset(split), self.indices(split, count))

    def indices(self, split: str, count: int | None = None) -> list[int]:
        """Where those images stand in the whole split."""
        if split in self.sequences:
            total = sum(self.sequences[split])  # known without the video
        else:
            try:
                total = len(self.dataset(split))  # type: ignore[arg-type]  # torch's Dataset declares no length
            except FileNotFoundError:  # of images that may be missing all are used
                total = self.images[split]
        count = min(self.images[split] if count is None else count, total)
        return [i * total // count for i in range(count)]

    def up_to(self, images: int) -> int:
        """So many test images, or as many as there are, or as the study affords where many settings are tried."""
        return min(images, self.images["test"], self.most)

    def units(self, split: str, count: int | None = None) -> Tensor | None:
        """Of those images the unit that each belongs to for a bootstrap, N: in a video a block of BLOCK consecutive
        frames of one sequence, since neighbours resemble each other; None: each is its own."""
        if split not in self.sequences:
            return None
        ends, where = np.cumsum(self.sequences[split]), np.array(self.indices(split, count))
        sequence = np.searchsorted(ends, where, side="right")
        block = (where - (ends - self.sequences[split])[sequence]) // BLOCK
        _, units = np.unique(np.stack([sequence, block]), axis=1, return_inverse=True)
        return torch.from_numpy(units.reshape(-1))

    def number(self, split: str, count: int | None = None) -> int:
        """How many units those are."""
        units = self.units(split, count)
        return len(self.indices(split, count)) if units is None else int(units.max()) + 1

    def batches(self, split: str, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The same in batches (B x 3 x H x W, B x H x W), under a progress bar."""
        loader = DataLoader(self.data(split, count), self.batch)
        yield from progress(loader, desc=f"{self.name} {split}")

    def sample(self, count: int | None = None, split: str = "test") -> tuple[Tensor, Tensor]:
        """A batch (default: the study's) of a split's first images and labels, for what depends on their size alone:
        grey ones where the images are not to be had."""
        count = count or self.batch
        if not self.present:
            return torch.full((count, 3, *self.size), 0.5), torch.zeros(count, *self.size, dtype=torch.long)
        images, labels = zip(*(self.dataset(split)[i] for i in range(count)), strict=True)
        return torch.stack(images), torch.stack(labels)

    def scene(self, index: int, split: str = "test") -> tuple[Tensor, Tensor]:
        """One image (1 x 3 x H x W) and its labels (1 x H x W)."""
        image, labels = self.dataset(split)[index]
        return image[None], labels[None]

    def plan(self, name: str) -> Network | Refiner:
        """A network or refiner by its name.  Raises ValueError for an unknown one."""
        every: dict[str, Network | Refiner] = {**self.networks, **self.robust, **self.refiners}
        if name not in every:
            raise ValueError(f"network: got {name!r}, expected one of {', '.join(every)}")
        return every[name]

    def stored_as(self, name: str, seed: int = 0) -> str:
        """The name under which a network's or refiner's weights are kept in the store."""
        plan = self.plan(name)
        return f"{self.name}/{plan.store if isinstance(plan, Network) else name}-seed{seed}"

    def network(self, name: str, seed: int = 0) -> nn.Module:
        """A trained network or refiner in evaluation mode."""
        state = weights.load(self.stored_as(name, seed))
        network = self.plan(name).build(len(self.classes))
        network.load_state_dict(state)
        return network.eval()

    def tuned(self, name: str, seed: int = 0) -> dict[str, Any]:
        """What validation images chose for a network: its `epsilon`, `crf`, and the scores they were chosen by."""
        return dict(weights.info(self.stored_as(name, seed))["networks"][name])

    def epsilon(self, name: str, seed: int = 0) -> float:
        """The network's epsilon, in image units of [0, 1], chosen on validation images."""
        return float(self.tuned(name, seed)["epsilon"])
