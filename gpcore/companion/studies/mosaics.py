"""Digit mosaics, on which the notebooks on denoising autoencoders and robust networks still run."""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from gpcore.companion.studies import parts
from gpcore.companion.studies.study import Attack, Network, Recipe, Study
from gpcore.datasets import digits
from gpcore.denoise import DAE
from gpcore.networks.deeplab import deeplab_small
from gpcore.networks.densenet import fc_densenet_small
from gpcore.networks.fcn import crop_classifier, fcn_deep, fcn_small
from gpcore.networks.unet import unet_small


def _mosaics(split: str) -> digits.Digits:
    return digits.Digits(split, {"train": 100_000, "val": 100, "test": 150}[split])


_RECIPE = Recipe(
    epochs=10,
    samples=2000,  # drawn anew for every epoch, of 100,000 mosaics
    batch=16,
    rate=3e-3,
)
_CROPS = Attack(epsilon=0.5, steps=3, step_size=0.25, norm="l2")  # in l2, as the paper's backbone was attacked
_BOTH = ("y", "truth")
_DAE = partial(DAE, widths=(16, 32, 48, 64, 96, 96), skips=True)  # the original's are 64 to 2048
_DENSE_DAE = partial(_DAE, features=136)
_DENOISING: dict[str, Any] = {"recipe": replace(_RECIPE, epochs=20, crop=64), "images": 2000}
_FEWER = _DENOISING | {"epsilons": (0.1, 0.5, 1.0), "steps": 10}
MOSAICS = Study(
    name="mosaics",
    classes=digits.CLASSES,
    colours=digits.COLOURS,
    void=digits.VOID,
    dataset=_mosaics,
    images={"train": 100, "val": 100, "test": 150},
    batch=10,
    networks=parts.fcns(fcn_small, _RECIPE)
    | parts.by_store(
        Network(deeplab_small, "deeplab", _RECIPE, label="DeepLab-v2", published="DeepLab-VGG16"),
        # fewer epochs, at twice the cost of the others
        Network(unet_small, "unet", replace(_RECIPE, epochs=6), label="U-Net"),
        Network(
            partial(parts.crf_rnn, fcn_small, stride=4, alpha=24, beta=40, gamma=6),
            "crfrnn",
            replace(_RECIPE, epochs=2, rate=1e-2, start_rate=3e-4),  # `rate` for three 11 x 11 matrices alone
            start="fcn",
            label="FCN-8s + CRF-RNN",
            published="CRFasRNN-coco",
        ),
        Network(fc_densenet_small, "densenet", replace(_RECIPE, epochs=5), label="FC-DenseNet"),
    ),
    epsilons=(0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008),
    photographs=True,
    crfs=parts.crfs((10, 30), (15, 45)),
    few=12,
    refiners={
        **parts.context("fcn8s", **_DENOISING),
        **parts.daes("fcn8s", "pool4", partial(_DAE, features=128), product(_BOTH, (0.1,)), **_DENOISING),
        **parts.context("densenet", **_DENOISING),
        # the two noises that the original names
        **parts.daes("densenet", "down4", _DENSE_DAE, product(_BOTH, (0.1, 0.5)), **_DENOISING),
        **parts.daes("densenet", "down4", partial(_DENSE_DAE, skips=False), [("y", 0.1)], "-skipless", **_FEWER),
        **parts.daes("densenet", "down4", partial(_DENSE_DAE, switches=False), [("y", 0.1)], "-upsampled", **_FEWER),
    },
    robust=parts.by_store(
        Network(
            crop_classifier,
            "backbone",
            replace(_RECIPE, samples=16_000, batch=64, attack=_CROPS),
            dataset=lambda split: digits.Crops(split, 32_000),  # of 500 mosaics, as many as are kept
        ),
        # frozen: its robustness is the backbone's
        Network(fcn_small, "rb", replace(_RECIPE, epochs=4, frozen=("conv",)), start="backbone", label="RB"),
        Network(fcn_small, "at-small", replace(_RECIPE, attack=Attack()), label="AT-small"),
        Network(fcn_deep, "at-large", replace(_RECIPE, epochs=5, attack=Attack()), label="AT-large"),
        Network(
            fcn_small,
            "at-tuned",
            replace(_RECIPE, epochs=6, rate=2e-3, attack=Attack()),
            start="fcn",
            label="AT-tuned",
        ),
    ),
    tasks={"refinement": "mosaics"},
)
