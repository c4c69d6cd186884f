"""A study: data splits, the networks trained on them and their tuned settings, by name."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from gpcore import denoise, networks, weights
from gpcore.crf import CRFRNN
from gpcore.datasets import camvid, classification, digits

POOLS = ("pool1", "pool2", "pool3", "pool4", "pool5")
Data = Dataset[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one-cycle learning rate, exponential moving average of the weights.

    `samples` items make an epoch. With `crop`, items are random square crops of that size after a random rescaling by
    `scale`, flipped and colour-jittered; with `mirror`, half of them are flipped and nothing else. `rate` applies to
    layers trained from scratch, `start_rate` to those that start from given weights; layers whose names begin as in
    `frozen` stay as they are. Class weights are 1 / frequency^balance.
    """

    epochs: int
    samples: int
    batch: int
    rate: float
    start_rate: float | None = None
    frozen: tuple[str, ...] = ()
    balance: float = 0.0
    frequencies: tuple[float, ...] = ()
    weight_decay: float = 1e-4
    average: float = 0.99
    crop: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    mirror: bool = False


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of a study: how to build it for K classes, where its weights are kept and how they are trained.

    Networks with one `store` share their weights; the last of them is the one that is trained. `start` names the
    store, or "imagenet", whose weights the training starts from. At each of `layers` an epsilon of its own is chosen.
    A classifier's neighbours may be sought among the activations of any of `features`.
    """

    build: Callable[[int], nn.Module]
    store: str
    recipe: Recipe
    start: str = ""
    layers: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Refiner:
    """What is trained on a finished network's predictions y: a DAE, or a context module.

    `build` makes it for K classes; it maps y and h, what the network's module `at` returned (None: the image), to
    logits. It learns from `images` training images, given y, or the true labels with `truth`, plus Gaussian noise of
    standard deviation `sigma`. Of `epsilons` and of up to `steps` steps the best on validation images become its own.
    """

    network: str
    at: str | None
    build: Callable[[int], nn.Module]
    recipe: Recipe
    images: int
    sigma: float = 0.0
    truth: bool = False
    epsilons: tuple[float, ...] = denoise.EPSILONS
    steps: int = denoise.STEPS


@dataclasses.dataclass(frozen=True)
class Study:
    """Data, networks and settings that a notebook is run on.

    `images` says how many evenly spaced images of a split the notebooks use, `few` how many test images where many
    settings are tried on each; `photographs` whether its images and label maps may be published. Of `epsilons` and of
    `crfs` (arguments of `crf.dense_crf`) the best on validation images become a network's own. Trainings with other
    `seeds` tell a network's spread.
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
    seeds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    few: int = 0
    refiners: Mapping[str, Refiner] = dataclasses.field(default_factory=dict)

    def data(self, split: str, count: int | None = None) -> Data:
        """`count` (default: the study's number) evenly spaced (image, labels) pairs of a split."""
        return Subset(self.dataset(split), self.indices(split, count))

    def indices(self, split: str, count: int | None = None) -> list[int]:
        """Where those images stand in the whole split."""
        total: int = len(self.dataset(split))  # type: ignore[arg-type]  # torch's Dataset declares no length
        count = min(self.images[split] if count is None else count, total)
        return [i * total // count for i in range(count)]

    def batches(self, split: str, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The same in batches (B x 3 x H x W, B x H x W), under a progress bar."""
        loader = DataLoader(self.data(split, count), self.batch)
        # tqdm's notebook bar does not heed TQDM_DISABLE by itself
        yield from tqdm(loader, desc=f"{self.name} {split}", leave=False, disable="TQDM_DISABLE" in os.environ)

    def scene(self, index: int, split: str = "test") -> tuple[Tensor, Tensor]:
        """One image (1 x 3 x H x W) and its labels (1 x H x W)."""
        image, labels = self.dataset(split)[index]
        return image[None], labels[None]

    def weights(self, name: str, seed: int = 0) -> str:
        """The name under which a network's or refiner's weights are stored.  Raises ValueError for an unknown name."""
        if name in self.refiners:
            return f"{self.name}/{name}-seed{seed}"
        if name not in self.networks:
            raise ValueError(f"network: got {name!r}, expected one of {', '.join(self.networks)}")
        return f"{self.name}/{self.networks[name].store}-seed{seed}"

    def network(self, name: str, seed: int = 0) -> nn.Module:
        """A trained network or refiner in evaluation mode."""
        state = weights.load(self.weights(name, seed))
        plan: Network | Refiner = self.refiners[name] if name in self.refiners else self.networks[name]
        network = plan.build(len(self.classes))
        network.load_state_dict(state)
        return network.eval()

    def tuned(self, name: str, seed: int = 0) -> dict[str, Any]:
        """What validation images chose for a network: its `epsilon`, `crf`, and the scores they were chosen by."""
        return dict(weights.info(self.weights(name, seed))["networks"][name])

    def epsilon(self, name: str, seed: int = 0) -> float:
        """The network's epsilon, in image units of [0, 1], chosen on validation images."""
        return float(self.tuned(name, seed)["epsilon"])


def _fcns(build: Callable[..., nn.Module], recipe: Recipe, start: str = "") -> dict[str, Network]:
    """FCN-32s, 16s and 8s: three heads on one trunk, trained together."""
    names = {f"fcn{stride}s": functools.partial(build, stride=stride) for stride in (32, 16, 8)}
    fcns = {name: Network(variant, "fcn", recipe, start) for name, variant in names.items()}
    return fcns | {"fcn8s": dataclasses.replace(fcns["fcn8s"], layers=POOLS[:4])}


def _crf_rnn(build: Callable[[int], nn.Module], classes: int, **options: float) -> CRFRNN:
    return CRFRNN(build(classes), classes, **options)  # type: ignore[arg-type]


def _crfs(positions: tuple[float, ...], colours: tuple[float, ...]) -> tuple[dict[str, Any], ...]:
    """A grid of DenseCRFs: the bilateral kernel's widths and both kernels' weights."""
    return tuple(
        {"gaussian": (3, smoothness), "bilateral": (position, colour, compat)}
        for position in positions
        for colour in colours
        for smoothness, compat in ((0.3, 0.3), (1, 1), (3, 3), (1, 4), (3, 10))
    )


_DIGITS = Recipe(epochs=10, samples=2000, batch=16, rate=3e-3)
DIGITS = Study(
    name="digits",
    classes=digits.CLASSES,
    colours=digits.COLOURS,
    void=digits.VOID,
    dataset=lambda split: digits.Digits(split, {"train": 100_000, "val": 100, "test": 150}[split]),
    images={"train": 100, "val": 100, "test": 150},
    batch=10,
    networks={
        **_fcns(networks.fcn_small, _DIGITS),
        "deeplab": Network(networks.deeplab_small, "deeplab", _DIGITS),
        "unet": Network(
            networks.unet_small, "unet", dataclasses.replace(_DIGITS, epochs=6)
        ),  # twice the cost of the others
        "crfrnn": Network(
            functools.partial(_crf_rnn, networks.fcn_small, stride=4, alpha=24, beta=40, gamma=6),
            "crfrnn",
            dataclasses.replace(_DIGITS, epochs=2, rate=1e-2, start_rate=3e-4),
            start="fcn",
        ),
    },
    epsilons=(0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008),
    photographs=True,
    crfs=_crfs((10, 30), (15, 45)),
    seeds={"fcn32s": 3, "fcn16s": 3, "fcn8s": 3},
    few=12,
)
SCENES = dataclasses.replace(
    DIGITS,
    name="scenes",
    classes=digits.SCENE_CLASSES,
    colours=digits.SCENE_COLOURS,
    dataset=lambda split: digits.Digits(split, {"train": 100_000, "val": 100, "test": 150}[split], scenes=True),
    networks={"fcn8s": Network(networks.fcn_small, "fcn", dataclasses.replace(_DIGITS, epochs=8))},
    crfs=(),
    seeds={},
)
STAGES = dataclasses.replace(
    SCENES,
    name="stages",
    classes=DIGITS.classes,
    colours=DIGITS.colours,
    dataset=DIGITS.dataset,
    networks={
        f"{epochs} epochs": Network(networks.fcn_small, f"fcn{epochs}", dataclasses.replace(_DIGITS, epochs=epochs))
        for epochs in (2, 3)
    },
)
_CAMVID = Recipe(
    epochs=18,
    samples=367,
    batch=4,
    rate=1e-3,
    start_rate=1e-4,
    frozen=("conv1", "conv2", "conv3"),
    balance=1 / 3,
    frequencies=(17.54, 24.22, 1.02, 32.96, 4.67, 10.12, 1.22, 1.17, 6.11, 0.67, 0.30),
    crop=224,
    scale=(0.6, 1.5),
)
# other heads on FCN-8s' trunk, which stays as it is: minutes of training, and a few MB of weights of their own
_HEADS = dataclasses.replace(_CAMVID, epochs=4, frozen=("conv",))
CAMVID = Study(
    name="camvid",
    classes=camvid.CLASSES,
    colours=camvid.COLOURS,
    void=camvid.VOID,
    dataset=camvid.CamVid,
    images={"train": 24, "val": 20, "test": 24},
    batch=1,
    networks={
        **_fcns(networks.fcn_vgg16, _CAMVID, start="imagenet"),
        "deeplab": Network(networks.deeplab_vgg16, "deeplab", _HEADS, start="fcn"),
        "unet": Network(networks.unet_vgg16, "unet", _HEADS, start="fcn"),
        "crfrnn": Network(
            functools.partial(_crf_rnn, networks.fcn_vgg16, stride=8, alpha=80, beta=13, gamma=12),
            "crfrnn",
            dataclasses.replace(_HEADS, epochs=2, rate=1e-2, frozen=("network.conv", "network.fc6")),
            start="fcn",
        ),
    },
    epsilons=(0.0000625, 0.000125, 0.00025, 0.0005, 0.001),
    photographs=False,
    crfs=_crfs((40, 80), (5, 13)),
    few=6,
)


def _classification(
    name: str,
    build: Callable[[int], nn.Module],
    recipe: Recipe,
    features: tuple[str, ...],
    epsilons: tuple[float, ...] = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    val: int = 100_000,
    **options: Any,
) -> Study:
    return Study(
        name=name,
        colours=(),
        void=255,
        dataset=functools.partial(classification.Pictures, name),
        images={"train": 100_000, "val": val, "test": 100_000},  # these many, or all that there are
        batch=500,
        networks={"classifier": Network(build, "classifier", recipe, features=features)},
        epsilons=epsilons,
        **options,
    )


_LENET = ("pool1", "pool2", "relu3", "score")
_DIGITS_CLASSES: dict[str, Any] = {"classes": classification.DIGITS, "photographs": True}
HANDWRITING = _classification(
    "handwriting", networks.lenet, Recipe(40, samples=3000, batch=50, rate=1e-3), _LENET, **_DIGITS_CLASSES
)
MNIST = _classification(
    "mnist", networks.lenet, Recipe(8, samples=55_000, batch=100, rate=1e-3), _LENET, **_DIGITS_CLASSES
)
CIFAR10 = _classification(
    "cifar10",
    networks.cifar_net,
    Recipe(8, samples=45_000, batch=100, rate=3e-3, weight_decay=1e-2, mirror=True),
    ("pool1", "pool2", "pool5", "relu6", "score"),
    epsilons=(0.0001, 0.0003, 0.001, 0.003, 0.01),
    val=1000,  # a guided step for every layer and k takes one CPU core half an hour then
    classes=classification.OBJECTS,
    photographs=False,
)
STUDIES: dict[str, Study] = {
    study.name: study for study in (DIGITS, SCENES, STAGES, CAMVID, HANDWRITING, MNIST, CIFAR10)
}


def study(name: str) -> Study:
    """The study of that name.  Raises ValueError naming the known ones."""
    if name not in STUDIES:
        raise ValueError(f"study: got {name!r}, expected one of {', '.join(STUDIES)}")
    return STUDIES[name]
