"""What a study says of each network and refiner: how it is built, what it learns from and how it is trained."""

import dataclasses
from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.data import Dataset

from gpcore import denoise

POOLS = ("pool1", "pool2", "pool3", "pool4", "pool5")
Data = Dataset[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Attack:
    """What adversarial training does to a share `ratio` of every batch: `attacks.pgd` with the other fields.

    Source: arXiv 2204.01099, section 5.1.
    """

    epsilon: float = 0.03
    steps: int = 3
    step_size: float = 0.01
    norm: str = "linf"
    ratio: float = 1.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one-cycle learning rate, exponential moving average of the weights.

    `samples` items make an epoch. Items are turned by up to `turn` degrees either way and rescaled by a factor within
    `scale`; with `crop` they are random square crops of that size; with `mirror` half of them are flipped; brightness,
    contrast and saturation change by up to a share `jitter`. `rate` applies to layers trained from scratch,
    `start_rate` to those that start from given weights; layers whose names begin as in
    `frozen` stay as they are. Class weights are 1 / frequency^balance. `attack` makes a network's training adversarial.
    With `bfloat16` convolutions are computed in it and lie channels last, which halves the time; weights do not.
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
    turn: float = 0.0
    mirror: bool = False
    jitter: float = 0.0
    attack: Attack | None = None
    bfloat16: bool = False


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of a study: how to build it for K classes, where its weights are kept and how they are trained.

    Networks with one `store` share their weights; the last of them is the one that is trained. `start` names the
    store, of another study as "study/store", or "imagenet", whose weights the training starts from. At each of `layers`
    an epsilon of its own is chosen. A classifier's neighbours may be sought among the activations of any of `features`.
    `dataset` is what a network learns from that is not made for the study's own task. Tables and plots call it by its
    `label`, in all studies the same, and set it beside what published tables call `published` (default: the label).
    """

    build: Callable[[int], nn.Module]
    store: str
    recipe: Recipe
    start: str = ""
    layers: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    dataset: Callable[[str], Data] | None = None
    label: str = ""
    published: str = ""


@dataclasses.dataclass(frozen=True)
class Refiner:
    """What is trained on a finished network's predictions y: a DAE, or a context module.

    `build` makes it for K classes; it maps y and h, what the network's module `at` returned (None: the image), to
    logits. It learns from `images` training images, given y, or the true labels with `truth`, plus Gaussian noise of
    standard deviation `sigma`. Of `epsilons` and of up to `steps` steps the best on `val` evenly spaced validation
    images become its own.
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
    val: int = 50
