"""A study: data splits, the networks trained on them and their tuned epsilon, by name."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from gpcore import weights
from gpcore.datasets import camvid, digits
from gpcore.networks import FCN, fcn_small, fcn_vgg16

Data = Dataset[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one-cycle learning rate, exponential moving average of the weights.

    `samples` items make an epoch. With `crop`, items are random square crops of that size after a random rescaling by
    `scale`, flipped and colour-jittered. `rate` applies to layers trained from scratch, `trunk_rate` to convolutions
    that start from ImageNet weights; stages in `frozen` stay as they are. Class weights are 1 / frequency^balance.
    """

    epochs: int
    samples: int
    batch: int
    rate: float
    trunk_rate: float | None = None
    frozen: tuple[str, ...] = ()
    balance: float = 0.0
    frequencies: tuple[float, ...] = ()
    weight_decay: float = 1e-4
    average: float = 0.99
    crop: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Study:
    """Data, networks and settings that a notebook is run on.

    `images` says how many evenly spaced images of a split the notebooks use; `photographs` whether its images and
    label maps may be published; of `epsilons` the best on validation images becomes a network's epsilon.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    void: int
    dataset: Callable[[str], Data]
    images: Mapping[str, int]
    batch: int
    build: Callable[..., FCN]
    recipe: Recipe
    epsilons: tuple[float, ...]
    photographs: bool
    pretrained: bool = False
    half: bool = False
    networks: tuple[str, ...] = ("fcn32s", "fcn16s", "fcn8s")

    def data(self, split: str, count: int | None = None) -> Data:
        """`count` (default: the study's number) evenly spaced (image, labels) pairs of a split."""
        data = self.dataset(split)
        total: int = len(data)  # type: ignore[arg-type]  # torch's Dataset declares no length
        count = min(self.images[split] if count is None else count, total)
        return Subset(data, [i * total // count for i in range(count)])

    def batches(self, split: str, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The same in batches (B x 3 x H x W, B x H x W), under a progress bar."""
        loader = DataLoader(self.data(split, count), self.batch)
        # tqdm's notebook bar does not heed TQDM_DISABLE by itself
        yield from tqdm(loader, desc=f"{self.name} {split}", leave=False, disable="TQDM_DISABLE" in os.environ)

    def scene(self, index: int, split: str = "test") -> tuple[Tensor, Tensor]:
        """One image (1 x 3 x H x W) and its labels (1 x H x W)."""
        image, labels = self.dataset(split)[index]
        return image[None], labels[None]

    def weights(self, seed: int = 0) -> str:
        """The name under which the trained weights are stored; one trunk serves the three strides."""
        return f"{self.name}/fcn-seed{seed}"

    def network(self, name: str, seed: int = 0) -> FCN:
        """A trained network in evaluation mode."""
        network = self.build(len(self.classes), self.stride(name))
        network.load_state_dict(weights.load(self.weights(seed)))
        return network.eval()

    def stride(self, name: str) -> int:
        if name not in self.networks:
            raise ValueError(f"network: got {name!r}, expected one of {', '.join(self.networks)}")
        return int(name.removeprefix("fcn").removesuffix("s"))

    def epsilon(self, name: str, seed: int = 0) -> float:
        """The network's epsilon, in image units of [0, 1], chosen on validation images."""
        self.stride(name)
        return float(weights.info(self.weights(seed))["networks"][name]["epsilon"])


DIGITS = Study(
    name="digits",
    classes=digits.CLASSES,
    colours=digits.COLOURS,
    void=digits.VOID,
    dataset=lambda split: digits.Digits(split, {"train": 100_000, "val": 100, "test": 150}[split]),
    images={"train": 100, "val": 100, "test": 150},
    batch=10,
    build=fcn_small,
    recipe=Recipe(epochs=10, samples=2000, batch=16, rate=3e-3),
    epsilons=(0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008),
    photographs=True,
)
CAMVID = Study(
    name="camvid",
    classes=camvid.CLASSES,
    colours=camvid.COLOURS,
    void=camvid.VOID,
    dataset=camvid.CamVid,
    images={"train": 24, "val": 12, "test": 24},
    batch=1,
    build=fcn_vgg16,
    recipe=Recipe(
        epochs=18,
        samples=367,
        batch=4,
        rate=1e-3,
        trunk_rate=1e-4,
        frozen=("conv1", "conv2", "conv3"),
        balance=1 / 3,
        frequencies=(17.54, 24.22, 1.02, 32.96, 4.67, 10.12, 1.22, 1.17, 6.11, 0.67, 0.30),
        crop=224,
        scale=(0.6, 1.5),
    ),
    epsilons=(0.00025, 0.0005, 0.001, 0.002),
    photographs=False,
    pretrained=True,
    half=True,
)
STUDIES: dict[str, Study] = {study.name: study for study in (DIGITS, CAMVID)}


def study(name: str) -> Study:
    """The study of that name.  Raises ValueError naming the known ones."""
    if name not in STUDIES:
        raise ValueError(f"study: got {name!r}, expected one of {', '.join(STUDIES)}")
    return STUDIES[name]
