"""Labelled pictures at a fraction of their size, with fewer classes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from gpcore.datasets.kept import Data


class Grouped(Data):
    """The items of `data` at 1/`shrink` of their size: means of the pixels, in 8 bits, and the labels in their middle.

    Class k becomes `groups`[k]; labels beyond, such as void, stay.
    """

    def __init__(self, data: Data, groups: Sequence[int], shrink: int) -> None:
        self.data, self.shrink = data, shrink
        self.groups = torch.arange(256)
        self.groups[: len(groups)] = torch.tensor(groups)

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # torch's Dataset declares no length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.data[index]
        middle = slice(self.shrink // 2, None, self.shrink)
        return (255 * avg_pool2d(image, self.shrink)).round() / 255, self.groups[labels[middle, middle]]
