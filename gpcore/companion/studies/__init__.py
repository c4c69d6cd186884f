"""The studies, by name: which data, which networks and refiners, how they are trained and what is tried on them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from torch import nn

from gpcore import denoise, networks
from gpcore.companion.studies.study import POOLS, Attack, Network, Recipe, Refiner, Study
from gpcore.datasets import camvid, classification, digits

Build = Callable[[int], nn.Module]


def _fcns(build: Callable[..., nn.Module], recipe: Recipe, start: str = "") -> dict[str, Network]:
    """FCN-32s, 16s and 8s: three heads on one trunk, trained together."""
    names = {f"fcn{stride}s": partial(build, stride=stride) for stride in (32, 16, 8)}
    fcns = {name: Network(variant, "fcn", recipe, start) for name, variant in names.items()}
    return fcns | {"fcn8s": replace(fcns["fcn8s"], layers=POOLS[:4])}


def _by_store(*plans: Network) -> dict[str, Network]:
    """Networks that are named as their weights are."""
    return {plan.store: plan for plan in plans}


def _crf_rnn(build: Build, classes: int, **options: float) -> networks.CRFRNN:
    return networks.CRFRNN(build(classes), classes, **options)  # type: ignore[arg-type]


def _crfs(positions: tuple[float, ...], colours: tuple[float, ...]) -> tuple[dict[str, Any], ...]:
    """A grid of DenseCRFs: the bilateral kernel's widths and both kernels' weights."""
    weights = ((0.3, 0.3), (1, 1), (3, 3), (1, 4), (3, 10))
    return tuple(
        {"gaussian": (3, smoothness), "bilateral": (position, colour, compat)}
        for position, colour, (smoothness, compat) in product(positions, colours, weights)
    )


def _context(network: str, **learning: Any) -> dict[str, Refiner]:
    """The context module, which is put on once; a quarter of the epochs will do, since it starts as the identity."""
    recipe = replace(learning["recipe"], epochs=learning["recipe"].epochs // 4)
    once: dict[str, Any] = {**learning, "recipe": recipe, "epsilons": (1.0,), "steps": 1}
    return {f"{network}-context": Refiner(network, None, networks.ContextModule, **once)}


def _daes(
    network: str, at: str, build: Build, noises: Iterable[tuple[str, float]], suffix: str = "", **learning: Any
) -> dict[str, Refiner]:
    """DAEs on one network: DAE(y) and DAE(ytrue), each with the noises that it is paired with."""
    dae = partial(Refiner, network, at, build, **learning)
    return {f"{network}-dae-{y}-{sigma}{suffix}": dae(sigma=sigma, truth=y == "truth") for y, sigma in noises}


def _digits(split: str, *, scenes: bool = False) -> digits.Digits:
    return digits.Digits(split, {"train": 100_000, "val": 100, "test": 150}[split], scenes=scenes)


_CROPS = Attack(epsilon=0.5, steps=3, step_size=0.25, norm="l2")
_DIGITS = Recipe(epochs=10, samples=2000, batch=16, rate=3e-3)
_BOTH = ("y", "truth")
_DAE = partial(denoise.DAE, widths=(16, 32, 48, 64, 96, 96), skips=True)
_DENSE_DAE = partial(_DAE, features=136)
_DENOISING: dict[str, Any] = {"recipe": replace(_DIGITS, epochs=20, crop=64), "images": 2000}
_FEWER = _DENOISING | {"epsilons": (0.1, 0.5, 1.0), "steps": 10}
DIGITS = Study(
    name="digits",
    classes=digits.CLASSES,
    colours=digits.COLOURS,
    void=digits.VOID,
    dataset=_digits,
    images={"train": 100, "val": 100, "test": 150},
    batch=10,
    networks=_fcns(networks.fcn_small, _DIGITS)
    | _by_store(
        Network(networks.deeplab_small, "deeplab", _DIGITS),
        Network(networks.unet_small, "unet", replace(_DIGITS, epochs=6)),  # twice the cost of the others
        Network(
            partial(_crf_rnn, networks.fcn_small, stride=4, alpha=24, beta=40, gamma=6),
            "crfrnn",
            replace(_DIGITS, epochs=2, rate=1e-2, start_rate=3e-4),
            start="fcn",
        ),
        Network(networks.fc_densenet_small, "densenet", replace(_DIGITS, epochs=5)),
    ),
    epsilons=(0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008),
    photographs=True,
    crfs=_crfs((10, 30), (15, 45)),
    seeds={"fcn32s": 3, "fcn16s": 3, "fcn8s": 3},
    few=12,
    refiners={
        **_context("fcn8s", **_DENOISING),
        **_daes("fcn8s", "pool4", partial(_DAE, features=128), product(_BOTH, (0.1,)), **_DENOISING),
        **_context("densenet", **_DENOISING),
        **_daes("densenet", "down4", _DENSE_DAE, product(_BOTH, (0.1, 0.5)), **_DENOISING),
        **_daes("densenet", "down4", partial(_DENSE_DAE, skips=False), [("y", 0.1)], "-skipless", **_FEWER),
        **_daes("densenet", "down4", partial(_DENSE_DAE, switches=False), [("y", 0.1)], "-upsampled", **_FEWER),
    },
    robust=_by_store(
        Network(
            networks.crop_classifier,
            "backbone",
            replace(_DIGITS, samples=16_000, batch=64, attack=_CROPS),
            dataset=lambda split: digits.Crops(split, 32_000),  # of 500 mosaics, as many as are kept
        ),
        Network(networks.fcn_small, "rb", replace(_DIGITS, epochs=4, frozen=("conv",)), start="backbone"),
        Network(networks.fcn_small, "at-small", replace(_DIGITS, attack=Attack())),
        Network(networks.fcn_deep, "at-large", replace(_DIGITS, epochs=5, attack=Attack())),
        Network(networks.fcn_small, "at-tuned", replace(_DIGITS, epochs=6, rate=2e-3, attack=Attack()), start="fcn"),
    ),
)
_PLAIN = replace(DIGITS, crfs=(), seeds={}, refiners={}, robust={})
SCENES = replace(
    _PLAIN,
    name="scenes",
    classes=digits.SCENE_CLASSES,
    colours=digits.SCENE_COLOURS,
    dataset=partial(_digits, scenes=True),
    networks={"fcn8s": Network(networks.fcn_small, "fcn", replace(_DIGITS, epochs=8))},
)
STAGES = replace(
    _PLAIN,
    name="stages",
    networks={f"{n} epochs": Network(networks.fcn_small, f"fcn{n}", replace(_DIGITS, epochs=n)) for n in (2, 3)},
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
# many small steps from the identity: with longer ones the DAE never comes to look at h
_CAMVID_DENOISING: dict[str, Any] = {
    "recipe": replace(
        _CAMVID, epochs=16, samples=734, rate=2e-3, start_rate=None, frozen=(), crop=128, scale=(1.0, 1.0), mirror=True
    ),
    "images": 367,
    "epsilons": (0.5, 1.0),
    "steps": 5,
    "val": 101,
}
# as many steps, without a pass of the slower network through mirrored images
_CAMVID_DENSE = _CAMVID_DENOISING | {
    "recipe": replace(_CAMVID_DENOISING["recipe"], epochs=32, samples=367, mirror=False)
}
_CAMVID_DAE = partial(denoise.DAE, widths=(16, 32, 64, 96, 128, 128), skips=True, identity=8)
# h four pixels apart instead of sixteen: it can place an edge
_FINE_DAE = partial(_CAMVID_DAE, join=2, switches=False)
# other heads on FCN-8s' trunk, which stays as it is: minutes of training, and a few MB of weights of their own
_HEADS = replace(_CAMVID, epochs=4, frozen=("conv",))
_CAMVID_DENSENET = replace(_CAMVID, epochs=28, rate=3e-3, start_rate=None, frozen=(), crop=160)
CAMVID = Study(
    name="camvid",
    classes=camvid.CLASSES,
    colours=camvid.COLOURS,
    void=camvid.VOID,
    dataset=camvid.CamVid,
    images={"train": 24, "val": 20, "test": 24},
    batch=1,
    networks=_fcns(networks.fcn_vgg16, _CAMVID, start="imagenet")
    | _by_store(
        Network(networks.deeplab_vgg16, "deeplab", _HEADS, start="fcn"),
        Network(networks.unet_vgg16, "unet", _HEADS, start="fcn"),
        Network(
            partial(_crf_rnn, networks.fcn_vgg16, stride=8, alpha=80, beta=13, gamma=12),
            "crfrnn",
            replace(_HEADS, epochs=2, rate=1e-2, frozen=("network.conv", "network.fc6")),
            start="fcn",
        ),
        Network(networks.fc_densenet_small, "densenet", _CAMVID_DENSENET),
    ),
    epsilons=(0.0000625, 0.000125, 0.00025, 0.0005, 0.001),
    photographs=False,
    crfs=_crfs((40, 80), (5, 13)),
    few=6,
    refiners={
        **_context("fcn8s", **_CAMVID_DENOISING),
        **_daes(
            "fcn8s",
            "pool2",
            partial(_FINE_DAE, features=128, scale=3.3),
            (("y", 0.1), ("truth", 0.1), ("truth", 0.5)),
            "-pool2-upsampled",
            **_CAMVID_DENOISING,
        ),
        **_context("densenet", **_CAMVID_DENSE),
        **_daes(
            "densenet",
            "down2",
            partial(_FINE_DAE, features=52, scale=1.3),
            (("y", 0.1), ("truth", 0.5)),
            "-down2-upsampled",
            **_CAMVID_DENSE,
        ),
    },
    robust=_by_store(
        Network(
            networks.fc_densenet_small,
            "at-small",
            replace(_CAMVID_DENSENET, epochs=4, rate=1e-3, crop=128, attack=Attack()),
            start="densenet",
        )
    ),
    standard="densenet",
)


def _handwritten(name: str, recipe: Recipe) -> Study:
    """Classification of single digits."""
    return Study(
        name=name,
        classes=classification.DIGITS,
        colours=(),
        void=255,
        dataset=partial(classification.Pictures, name),
        images=dict.fromkeys(("train", "val", "test"), 100_000),  # these many, or all that there are
        batch=500,
        networks=_by_store(
            Network(networks.lenet, "classifier", recipe, features=("pool1", "pool2", "relu3", "score"))
        ),
        epsilons=(0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        photographs=True,
    )


HANDWRITING = _handwritten("handwriting", Recipe(40, samples=3000, batch=50, rate=1e-3))
MNIST = _handwritten("mnist", Recipe(8, samples=55_000, batch=100, rate=1e-3))
CIFAR10 = replace(
    MNIST,
    name="cifar10",
    classes=classification.OBJECTS,
    dataset=partial(classification.Pictures, "cifar10"),
    images={**MNIST.images, "val": 1000},  # a guided step for every layer and k takes one CPU core half an hour then
    networks=_by_store(
        Network(
            networks.cifar_net,
            "classifier",
            Recipe(8, samples=45_000, batch=100, rate=3e-3, weight_decay=1e-2, mirror=True),
            features=("pool1", "pool2", "pool5", "relu6", "score"),
        )
    ),
    epsilons=(0.0001, 0.0003, 0.001, 0.003, 0.01),
    photographs=False,
)
STUDIES = {each.name: each for each in (DIGITS, SCENES, STAGES, CAMVID, HANDWRITING, MNIST, CIFAR10)}


def study(name: str) -> Study:
    """The study of that name.  Raises ValueError naming the known ones."""
    if name not in STUDIES:
        raise ValueError(f"study: got {name!r}, expected one of {', '.join(STUDIES)}")
    return STUDIES[name]
