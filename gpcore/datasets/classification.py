"""Pictures with one label each: the embedded handwriting, MNIST (LeCun et al. 1998), CIFAR-10 (Krizhevsky 2009)."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gpcore import paths
from gpcore.checks import expect
from gpcore.datasets.handwriting import EXAMPLES, handwriting

DIGITS = tuple("0123456789")
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VALIDATION = 5000  # the last pictures of the official training set


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of a C x H x W float picture in [0, 1] and its class, an int64 scalar.

    Args:
        source: "handwriting" (3,000 / 1,000 / 1,000 digits), "mnist" (55,000 / 5,000 / 10,000) or "cifar10"
            (45,000 / 5,000 / 10,000), from the data folder, else by torchvision's download.
        split: "train", "val" or "test".
    Raises ValueError: unknown source or split, no such pictures in a file.
    """

    def __init__(self, source: str, split: str) -> None:
        expect("source", repr(source), source in SOURCES, f"one of {', '.join(SOURCES)}")
        expect("split", repr(split), split in EXAMPLES, f"one of {', '.join(EXAMPLES)}")
        self.pictures, self.labels = SOURCES[source](split)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pictures[index].float() / 255, self.labels[index]


class Half(Pictures):
    """Every second one of a source's training pictures, beginning with `first`, 0 or 1; the other splits are whole.

    The two halves share no picture and have as many of each class.  Raises ValueError: what `Pictures` does.
    """

    def __init__(self, source: str, first: int, split: str) -> None:
        super().__init__(source, split)
        expect("first", first, first in (0, 1), "0 or 1")
        if split == "train":
            self.pictures, self.labels = self.pictures[first::2], self.labels[first::2]


class Answered(Dataset[tuple[Tensor, Tensor]]):
    """A data set's pictures with a network's answers to them: the most likely class of each; true labels are withheld.

    `network` is called once, in its mode, on all pictures (N x C x H x W to logits N x K).
    """

    def __init__(self, data: Pictures, network: Callable[[Tensor], Tensor]) -> None:
        self.pictures = torch.stack([data[i][0] for i in range(len(data))])
        with torch.no_grad():
            self.answers = network(self.pictures).argmax(1)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pictures[index], self.answers[index]


def _handwriting(split: str) -> tuple[Tensor, Tensor]:
    ink = (255 * handwriting()[:, list(EXAMPLES[split])]).round().byte()
    return ink.view(-1, 1, 28, 28), torch.arange(10).repeat_interleave(len(EXAMPLES[split]))


@functools.cache
def _mnist(train: bool, root: Path) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import MNIST  # two seconds that few need to wait

    data = MNIST(str(root), train=train, download=True)  # only what is not there
    return data.data[:, None], data.targets


@functools.cache
def _cifar10(train: bool, root: Path) -> tuple[Tensor, Tensor]:
    folder = root / "cifar-10-batches-bin"
    if not folder.is_dir():
        from torchvision.datasets import CIFAR10

        data = CIFAR10(str(root), train=train, download=True)
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
    batches = [np.fromfile(folder / file, np.uint8) for file in files]
    for file, batch in zip(files, batches, strict=True):
        most = batch[::3073].max(initial=0)
        right = len(batch) and len(batch) % 3073 == 0 and most <= 9
        found = f"{len(batch)} bytes, labels up to {most}"
        expect(f"{folder / file}", found, right, "rows of a label from 0 to 9 and 3072 values")
    rows = torch.from_numpy(np.concatenate(batches)).view(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long()


def _official(load: Callable[[bool, Path], tuple[Tensor, Tensor]], split: str) -> tuple[Tensor, Tensor]:
    pictures, labels = load(split != "test", paths.DATA)
    where = {"train": slice(-VALIDATION), "val": slice(-VALIDATION, None), "test": slice(None)}[split]
    return pictures[where], labels[where]


SOURCES: dict[str, Callable[[str], tuple[Tensor, Tensor]]] = {
    "handwriting": _handwriting,
    "mnist": functools.partial(_official, _mnist),
    "cifar10": functools.partial(_official, _cifar10),
}
