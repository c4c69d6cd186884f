"""A made data set's items on disk, each made once: for trainings that come back to them."""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Data = Dataset[tuple[Tensor, Tensor]]


class Kept(Data):
    """The items of `data`, images of 8 bits a channel in [0, 1] and labels below 256, as `data` itself returns them.

    An item is made when it is first asked for and then read from `file`, which several processes may share.
    """

    def __init__(self, data: Data, file: Path) -> None:
        self.data, self.file = data, file
        self.rows: np.memmap | None = None

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # torch's Dataset declares no length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.rows is None:
            self.rows = self._open(*self.data[0])
        row = self.rows[index]
        if not row["known"]:
            image, labels = self.data[index]
            row["image"], row["labels"] = np.rint(255 * image.numpy()), labels.numpy()
            row["known"] = True  # last: who reads meanwhile makes the item for himself
        return torch.from_numpy(row["image"].astype(np.float32)) / 255, torch.from_numpy(row["labels"].astype(np.int64))

    def _open(self, image: Tensor, labels: Tensor) -> np.memmap:
        fields = [("known", bool), ("image", np.uint8, tuple(image.shape)), ("labels", np.uint8, tuple(labels.shape))]
        if not self.file.is_file():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle, empty = tempfile.mkstemp(dir=self.file.parent)
            os.truncate(handle, len(self) * np.dtype(fields).itemsize)
            os.close(handle)
            os.replace(empty, self.file)
        return np.memmap(self.file, fields, "r+")
