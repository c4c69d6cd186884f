"""Street scenes: CamVid as SegNet divides it, on networks that start from ImageNet's VGG16."""

from dataclasses import replace
from functools import partial
from typing import Any

from gpcore.companion.studies import parts
from gpcore.companion.studies.plans import Attack, Network, Recipe
from gpcore.companion.studies.study import Study
from gpcore.datasets import camvid
from gpcore.denoise import DAE
from gpcore.networks.context import ContextModule
from gpcore.networks.deeplab import deeplab_vgg16
from gpcore.networks.densenet import fc_densenet_small
from gpcore.networks.fcn import fcn_vgg16
from gpcore.networks.unet import unet_vgg16

_RECIPE = Recipe(
    epochs=18,
    samples=367,  # all
    batch=4,
    rate=1e-3,
    start_rate=1e-4,
    frozen=("conv1", "conv2", "conv3"),
    balance=1 / 3,
    # per cent of the training images' pixels
    frequencies=(17.54, 24.22, 1.02, 32.96, 4.67, 10.12, 1.22, 1.17, 6.11, 0.67, 0.30),
    crop=224,  # as the published FCN-8s and FC-DenseNet on CamVid
    scale=(0.6, 1.5),
    mirror=True,
    jitter=0.3,
)
# many small steps from the identity: with longer ones the DAE never comes to look at h
_DENOISING: dict[str, Any] = {
    "recipe": replace(
        _RECIPE, epochs=16, samples=734, rate=2e-3, start_rate=None, frozen=(), crop=128, scale=(1.0, 1.0), jitter=0.0
    ),
    "images": 367,
    "epsilons": (0.5, 1.0),
    "steps": 5,
    "val": 101,
}
# as many steps, without a pass of the slower network through mirrored images
_DENSE = _DENOISING | {"recipe": replace(_DENOISING["recipe"], epochs=32, samples=367, mirror=False)}


def _short(learning: dict[str, Any]) -> dict[str, Any]:
    """A quarter of the epochs: the context module starts as the identity."""
    return learning | {"recipe": replace(learning["recipe"], epochs=learning["recipe"].epochs // 4)}


# h four pixels apart instead of sixteen: it can place an edge
_DAE = partial(DAE, widths=(16, 32, 64, 96, 128, 128), skips=True, identity=8, join=2, switches=False)
# other heads on FCN-8s' trunk, which stays as it is: minutes of training, and a few MB of weights of their own
_HEADS = replace(_RECIPE, epochs=4, frozen=("conv",))
_DENSENET = replace(_RECIPE, epochs=28, rate=3e-3, start_rate=None, frozen=(), crop=160)  # from scratch
CAMVID = Study(
    name="camvid",
    classes=camvid.CLASSES,
    colours=camvid.COLOURS,
    void=camvid.VOID,
    dataset=camvid.CamVid,
    images={"train": 24, "val": 60, "test": 233},
    batch=1,
    networks=parts.fcns(fcn_vgg16, _RECIPE, start="imagenet")
    | parts.by_store(
        Network(deeplab_vgg16, "deeplab", _HEADS, start="fcn", label="DeepLab-v2", published="DeepLab-VGG16"),
        Network(unet_vgg16, "unet", _HEADS, start="fcn", label="U-Net"),
        Network(
            partial(parts.crf_rnn, fcn_vgg16, stride=8, alpha=80, beta=13, gamma=12),  # 80, 13: pydensecrf's example
            "crfrnn",
            replace(_HEADS, epochs=2, rate=1e-2, frozen=("network.conv", "network.fc6")),
            start="fcn",
            label="FCN-8s + CRF-RNN",
            published="CRFasRNN-coco",
        ),
        Network(fc_densenet_small, "densenet", _DENSENET, label="FC-DenseNet"),
    ),
    epsilons=tuple(0.004 / 2**i for i in range(7, -1, -1)),
    photographs=False,  # they are not ours to publish
    sequences=camvid.SEQUENCES,
    size=(360, 480),
    subjects=("pedestrian", "car", "tree"),  # the paper's
    hole=(60, 160),  # and its side
    crfs=parts.crfs((5, 10, 20), (2, 3, 5), ((1, 1), (3, 3), (1, 4), (3, 10), (1, 10), (3, 30))),
    most=60,
    refiners={
        **parts.once("fcn8s", "context", ContextModule, **_short(_DENOISING)),
        **parts.daes(
            "fcn8s",
            "pool2",
            partial(_DAE, features=128, scale=3.3),
            (("y", 0.1), ("truth", 0.1), ("truth", 0.5)),
            "-pool2-upsampled",
            **_DENOISING,
        ),
        **parts.once("densenet", "context", ContextModule, **_short(_DENSE)),
        **parts.daes(
            "densenet",
            "down2",
            partial(_DAE, features=52, scale=1.3),
            (("y", 0.1), ("truth", 0.5)),
            "-down2-upsampled",
            **_DENSE,
        ),
    },
    robust=parts.by_store(
        Network(
            fc_densenet_small,
            "at-small",
            replace(_DENSENET, epochs=4, rate=1e-3, crop=128, attack=Attack()),
            start="densenet",
            label="AT-small",
        )
    ),
    standard="densenet",
    # it has no finer labels
    tasks={"segmentation": "camvid", "scene_labelling": "camvid", "assignment": "streets"},
)
