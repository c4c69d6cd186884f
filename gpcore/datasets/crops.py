"""Small pictures of one class each, cut out of labelled pictures: for classifiers that share a segmenter's trunk."""

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from gpcore.datasets.scenes import VOID


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crops of labelled pictures, `each` of every one, as (3 x 64 x 64 image, int64 class of the pixel in its middle).

    A crop's class is one that the picture shows, all of them alike often; place and class are a pure function of the
    index.
    """

    size = 64

    def __init__(self, pictures: Dataset[tuple[Tensor, Tensor]], each: int = 4) -> None:
        self.pictures, self.each = pictures, each

    def __len__(self) -> int:
        return self.each * len(self.pictures)  # type: ignore[arg-type]  # torch's Dataset declares no length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.pictures[index // self.each]
        rng, half = np.random.default_rng(index), self.size // 2
        middles = labels[half : 1 - half, half : 1 - half]
        known = middles[middles != VOID].unique()
        places = (middles == known[int(rng.integers(len(known)))]).nonzero()
        top, left = places[int(rng.integers(len(places)))].tolist()
        return image[:, top : top + self.size, left : left + self.size], middles[top, left]
