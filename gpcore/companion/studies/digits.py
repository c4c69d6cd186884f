"""Scenes of objects: the study that needs no download, its finer labels, and other trainings of its FCN."""

from dataclasses import replace
from functools import partial

from gpcore import paths
from gpcore.companion.studies import parts
from gpcore.companion.studies.study import POOLS, Data, Network, Recipe, Study
from gpcore.datasets import scenes
from gpcore.datasets.kept import Kept
from gpcore.networks.deeplab import deeplab_small
from gpcore.networks.densenet import FCDenseNet
from gpcore.networks.fcn import fcn_small
from gpcore.networks.unet import unet_small


def _scenes(split: str, *, finer: bool = False) -> Data:
    number = {"train": 16_000, "val": 150, "test": 300, "large": 6_000}[split]
    made = scenes.Scenes("test" if split == "large" else split, number, finer=finer)
    if split != "train":
        return made
    return Kept(made, paths.DATA / "checkpoints" / f"scenes{'-finer' if finer else ''}.bin")


_RECIPE = Recipe(
    epochs=12,
    samples=2400,  # drawn anew for every epoch, of 16,000 scenes
    batch=16,
    rate=3e-3,
    bfloat16=True,
)
_BEGUN = replace(_RECIPE, epochs=5, start_rate=1e-3)
_FCNS = parts.fcns(fcn_small, _RECIPE)
DIGITS = Study(
    name="digits",
    classes=scenes.CLASSES,
    colours=scenes.COLOURS,
    void=scenes.VOID,
    dataset=_scenes,
    images={"train": 100, "val": 150, "test": 300, "large": 6_000},
    batch=10,
    networks=_FCNS
    | {"fcn32s": replace(_FCNS["fcn32s"], layers=POOLS[:4])}  # of which the original reports
    | parts.by_store(
        # both start from FCN's trunk, as the originals from a trained VGG16: from scratch U-Net came to 25 mIoU only
        Network(deeplab_small, "deeplab", _BEGUN, start="fcn", label="DeepLab-v2", published="DeepLab-VGG16"),
        Network(unet_small, "unet", _BEGUN, start="fcn", label="U-Net"),
        Network(
            partial(parts.crf_rnn, fcn_small, stride=4, alpha=24, beta=40, gamma=6),
            "crfrnn",
            replace(_RECIPE, epochs=2, rate=1e-2, start_rate=3e-4, bfloat16=False),  # `rate` for three matrices alone
            start="fcn",
            label="FCN-8s + CRF-RNN",
            published="CRFasRNN-coco",
        ),
        Network(
            partial(FCDenseNet, depths=(1, 2, 4, 8, 12), growth=12, first=16, dropout=0.0),
            "densenet",
            _RECIPE,
            label="FC-DenseNet",
        ),
    ),
    epsilons=(0.0000625, 0.000125, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
    photographs=True,
    crfs=parts.crfs((10, 30, 90), (5, 15, 45), ((1, 1), (3, 10), (10, 30))),
    few=100,
    tasks={
        "segmentation": "digits",
        "scene_labelling": "scenes",
        "other_trainings": "stages",
        "classification": "handwriting",
    },
)
_BESIDE = replace(DIGITS, crfs=(), tasks={})
SCENES = replace(
    _BESIDE,
    name="scenes",
    images={split: number for split, number in DIGITS.images.items() if split != "large"},
    classes=scenes.SCENE_CLASSES,
    colours=scenes.SCENE_COLOURS,
    dataset=partial(_scenes, finer=True),
    networks={"fcn8s": Network(fcn_small, "fcn", _BEGUN, start="digits/fcn", label="FCN-8s")},
)
STAGES = replace(
    _BESIDE,
    name="stages",
    networks={f"{n} epochs": Network(fcn_small, f"fcn{n}", replace(_RECIPE, epochs=n)) for n in (3,)},
)
