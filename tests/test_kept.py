import numpy as np
import pytest
import torch

from gpcore.datasets.kept import Kept
from gpcore.datasets.scenes import Scenes


class Made:
    """Three items that are counted when they are made."""

    def __init__(self):
        self.made = []

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.made.append(index)
        rng = np.random.default_rng(index)
        image = torch.from_numpy(rng.integers(0, 256, (3, 4, 5)).astype(np.float32)) / 255
        return image, torch.from_numpy(rng.integers(0, 256, (4, 5)))


@pytest.mark.parametrize("index", [0, 2])
def test_an_item_is_made_once_and_stays_what_it_was(tmp_path, index):
    made, file = Made(), tmp_path / "new" / "items.bin"
    first = Kept(made, file)
    assert len(first) == 3
    expected = Made()[index]
    for data in (first, first, Kept(made, file)):  # the last reads another's file
        for part, right in zip(data[index], expected, strict=True):
            assert part.dtype == right.dtype and torch.equal(part, right)
    assert made.made.count(index) == 1 + 2 * (index == 0)  # the first item also tells the sizes
    assert [*file.parent.iterdir()] == [file]


def test_an_item_that_was_not_made_is_no_other(tmp_path):
    made = Made()
    data = Kept(made, tmp_path / "items.bin")
    data[2]
    assert torch.equal(data[1][0], Made()[1][0]) and 1 in made.made


def test_scenes_lose_nothing(tmp_path):
    scenes = Scenes("train", 5)
    data = Kept(scenes, tmp_path / "scenes.bin")
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(data[4], scenes[4], strict=True))
