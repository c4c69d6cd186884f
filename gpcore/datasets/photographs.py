"""Twenty photographs that come with scikit-image, scikit-learn and matplotlib and may be shown, with credits."""

import functools
import importlib.resources
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gpcore.checks import expect

NONE = 1000  # the class of a picture for whose object ImageNet has none
CC0, PUBLIC, BY = "CC0", "public domain", "CC BY 2.0"
FREE = "no known copyright restrictions"


class Photograph(NamedTuple):
    """Where a picture lies (package, path), whose it is, its licence, and which of `categories()` its object may be.

    `box` is the left, the top and the side, in pixels, of the square that frames the object; default: the central one.
    """

    package: str
    path: str
    author: str
    licence: str
    classes: tuple[str, ...] = ()
    box: tuple[int, int, int] | None = None


def _skimage(path: str, *rest: object) -> Photograph:
    return Photograph("skimage", f"data/{path}", *rest)  # type: ignore[arg-type]


PHOTOGRAPHS = {
    "chelsea": _skimage(
        "chelsea.png", "Stéfan van der Walt", CC0, ("tabby", "tiger cat", "Egyptian cat"), (100, 0, 300)
    ),
    "coffee": _skimage("coffee.png", "Rachel Michetti", CC0, ("espresso",)),
    "camera": _skimage("camera.png", "Lav Varshney", CC0, ("tripod",)),
    "rocket": _skimage("rocket.jpg", "SpaceX", PUBLIC, ("missile", "projectile"), (120, 20, 380)),
    "hopper": Photograph(
        "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "James S. Davis, US Navy", PUBLIC, ("military uniform",)
    ),
    "astronaut": _skimage("astronaut.png", "NASA", PUBLIC),
    "china": Photograph("sklearn", "datasets/images/china.jpg", "danielbuechele", BY, ("palace",)),
    "flower": Photograph("sklearn", "datasets/images/flower.jpg", "vultilion", BY),
    "horse": _skimage("horse.png", "Andreas Preuss", CC0),
    "clock": _skimage("clock_motion.png", "Stéfan van der Walt", PUBLIC, ("wall clock",)),
    "coins": _skimage("coins.png", "Brooklyn Museum", FREE),
    "cell": _skimage("cell.png", "Paul Müller and others", CC0),
    "retina": _skimage("retina.jpg", "Mikael Häggström", CC0),
    "tissue": _skimage("ihc.png", "CMMI", FREE),
    "fundus": _skimage("microaneurysms.png", "Andreas Maier", CC0),
    "galaxies": _skimage("hubble_deep_field.jpg", "NASA", PUBLIC),
    "bricks": _skimage("brick.png", "CC0Textures", CC0),
    "gravel": _skimage("gravel.png", "CC0Textures", CC0),
    "grass": _skimage("grass.png", "linolafett", CC0),
    "text": _skimage("text.png", "Wikipedia", PUBLIC),
}


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """All of them as pairs of a 3 x 224 x 224 float image in [0, 1] and the first of its classes, an int64 scalar.

    There is one split, "test": nothing is learnt from them.  Raises ValueError: another split.
    """

    def __init__(self, split: str) -> None:
        expect("split", repr(split), split == "test", "'test', the only one")

    def __len__(self) -> int:
        return len(PHOTOGRAPHS)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        name = list(PHOTOGRAPHS)[index]
        return photograph(name), torch.tensor(classes(name)[0] if classes(name) else NONE)


def photograph(name: str, size: int = 224) -> Tensor:
    """The square that frames its object, a 3 x size x size float image in [0, 1].  Raises ValueError: unknown name."""
    image, box = _opened(name), PHOTOGRAPHS[name].box
    side = min(image.size)
    left, top, side = box or ((image.width - side) // 2, (image.height - side) // 2, side)
    frame = (left, top, left + side, top + side)
    return _tensor(image.resize((size, size), Image.Resampling.BICUBIC, box=frame))


def whole(name: str) -> Tensor:
    """All of it as a 3 x H x W float image in [0, 1].  Raises ValueError: unknown name."""
    return _tensor(_opened(name))


def classes(name: str) -> list[int]:
    """Those of ImageNet's thousand classes that its object may be, often none.  Raises ValueError: unknown name."""
    _opened(name)
    return [categories().index(each) for each in PHOTOGRAPHS[name].classes]


def credits(names: Iterable[str]) -> str:
    """Who made photographs and under which licence, in one line: "Photographs: chelsea, Stéfan van der Walt (CC0)"."""
    told = (f"{name}, {PHOTOGRAPHS[name].author} ({PHOTOGRAPHS[name].licence})" for name in names)
    return f"Photographs: {'; '.join(told)}"


@functools.cache
def categories() -> tuple[str, ...]:
    """The names of ImageNet's thousand classes, in order."""
    from torchvision.models import VGG16_Weights  # two seconds that few need to wait

    return tuple(VGG16_Weights.IMAGENET1K_V1.meta["categories"])


@functools.cache
def _opened(name: str) -> Image.Image:
    expect("photograph", repr(name), name in PHOTOGRAPHS, f"one of {', '.join(PHOTOGRAPHS)}")
    with importlib.resources.files(PHOTOGRAPHS[name].package).joinpath(PHOTOGRAPHS[name].path).open("rb") as file:
        return Image.open(file).convert("RGB")


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
