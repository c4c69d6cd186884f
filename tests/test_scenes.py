"""Scenes of objects: what they show, their statistics, and that they are pure functions of (split, index, seed)."""

import numpy as np
import pytest
import torch

from gpcore.datasets import scenes
from gpcore.datasets.crops import Crops
from gpcore.datasets.handwriting import EXAMPLES, handwriting
from gpcore.datasets.scenes import (
    CLASSES,
    COLOURS,
    GROUNDS,
    SCENE_CLASSES,
    SCENE_COLOURS,
    VOID,
    Instances,
    Scenes,
    scene,
)


@pytest.fixture(scope="module")
def some():
    return [scene("train", i) for i in range(40)]


def test_shapes_and_types(some):
    for each in some:
        assert each.image.shape == (3, 128, 160) and each.image.dtype == torch.float32
        assert each.image.min() >= 0 and each.image.max() <= 1
        assert all(part.shape == (128, 160) and part.dtype == torch.int64 for part in each[1:])
    assert len(CLASSES) == len(COLOURS) == 11 and len(set(COLOURS)) == 11 and len(SCENE_CLASSES) == 44
    assert len(SCENE_COLOURS) == len(set(SCENE_COLOURS)) == 44
    apart = torch.cdist(torch.tensor(SCENE_COLOURS).float(), torch.tensor(SCENE_COLOURS).float(), p=1)
    assert (apart + 1000 * torch.eye(44)).min() >= 20 and {len(colour) for colour in SCENE_COLOURS} == {3}


def test_statistics_are_vocs(some):
    """Ground on some 70 to 80 % of the pixels that are not void, one to four objects, contours of a few per cent."""
    labels = torch.stack([each.labels for each in some])
    known = labels != VOID
    assert 0.66 < (labels[known] == 0).float().mean() < 0.84
    assert 0.02 < (~known).float().mean() < 0.06
    counts = [int(each.instances.max()) for each in some]
    assert {*counts} == {1, 2, 3, 4}


def test_the_three_maps_agree(some):
    for each in some:
        known = each.labels != VOID
        assert torch.equal(known, each.finer != VOID)
        assert torch.equal(each.labels[known] > 0, each.instances[known] > 0)
        finer, labels = each.finer[known], each.labels[known]
        assert torch.equal(finer < len(GROUNDS), labels == 0)
        things = labels > 0
        assert torch.equal((finer[things] - len(GROUNDS)) // 4 + 1, labels[things])
        for number in each.instances[known].unique().tolist():
            assert number == 0 or len(each.finer[known & (each.instances == number)].unique()) == 1
        assert len(finer[labels == 0].unique()) <= 2


def test_contours_are_void_two_pixels_wide():
    instances = np.zeros((6, 6), int)
    instances[2:, 3:] = 1
    found = scenes._contours(instances)
    assert found.astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
    ]


def test_a_body_holds_its_ink_reaches_beyond_it_and_has_no_holes():
    rng = np.random.default_rng(0)
    for digit in (0, 8):  # they have holes
        ink, body = scenes._digit(rng, handwriting()[digit, 3].numpy(), 80.0)
        assert body[ink > 0.5].all()
        reach = scenes.ndimage.distance_transform_edt(ink < 0.5)
        assert body[reach <= 5.5].all() and not body[0].any()
        assert np.array_equal(scenes.ndimage.binary_fill_holes(body), body)
        rows = np.flatnonzero((ink > 0.5).any(1))
        assert 55 < rows[-1] - rows[0] < 105


def test_a_speck_beside_the_writing_is_no_object():
    ink = np.zeros((28, 28))
    ink[6:22, 12:15] = 1
    clean, _ = scenes._digit(np.random.default_rng(1), ink, 60.0)
    ink[3, 3:6] = 1
    assert np.array_equal(scenes._digit(np.random.default_rng(1), ink, 60.0)[0], clean)


def test_later_objects_leave_most_of_earlier_ones_to_be_seen():
    taken = np.zeros((128, 160), np.int64)
    taken[40:80, 50:110] = 1
    for seed in range(20):
        window, part = scenes._placed(np.random.default_rng(seed), np.ones((50, 50), bool), taken)
        assert taken[window].sum() <= 0.4 * taken.sum()
        assert taken[window].shape == np.ones((50, 50))[part].shape


def test_pure_function_of_split_index_and_seed(some):
    scene.cache_clear()
    again = scene("train", 7)
    assert all(torch.equal(a, b) for a, b in zip(again, some[7], strict=True))
    for other in (scene("val", 7), scene("train", 8), scene("train", 7, 1)):
        assert not torch.equal(other.image, again.image)
    data = Scenes("train", 8)
    image, labels = data[7]
    image.zero_(), labels.zero_()
    assert torch.equal(data[7][0], again.image) and torch.equal(data[7][1], again.labels)
    assert torch.equal(Scenes("train", 8, finer=True)[7][1], again.finer)


def test_splits_share_no_writing(monkeypatch):
    asked = {}
    real = handwriting()

    class Noted:
        def __getitem__(self, key):
            asked.setdefault(split, set()).add(int(key[1]))
            return real[key]

    monkeypatch.setattr(scenes, "handwriting", Noted)
    scene.cache_clear()
    for split in EXAMPLES:
        for i in range(5):
            scene(split, i)
    assert all(asked[split] <= {*EXAMPLES[split]} and len(asked[split]) > 20 for split in EXAMPLES)
    scene.cache_clear()


@pytest.fixture
def planes():
    """Two pictures of 70 x 72 pixels that tell where they are: row, column and number. Their crops' middles lie in
    rows 32 to 38 and columns 32 to 40: there one pixel is 4, the last column 5 and void the first, the rest is 0; only
    beyond, where no middle lies, there is 7."""
    rows, columns = torch.meshgrid(torch.arange(70.0), torch.arange(72.0), indexing="ij")
    labels = torch.full((70, 72), 7)
    labels[32:39, 32:41] = 0
    labels[32:39, 32], labels[32:39, 40], labels[34, 36] = VOID, 5, 4
    return [(torch.stack([rows, columns, torch.full_like(rows, number)]), labels) for number in range(2)]


def test_crops_are_named_by_their_middle(planes):
    crops = Crops(planes, each=300)
    assert len(crops) == 600 and len(Crops(planes)) == 8
    tops, lefts, classes = set(), set(), []
    for i in range(600):
        crop, label = crops[i]
        number, top, left = i // 300, *crop[:2, 0, 0].int().tolist()
        assert crop.shape == (3, 64, 64) and label.dtype == torch.int64
        image, labels = planes[number]
        assert torch.equal(crop, image[:, top : top + 64, left : left + 64])
        assert label == labels[top + 32, left + 32]
        tops.add(top), lefts.add(left), classes.append(int(label))
    assert tops == {*range(7)} and lefts == {*range(1, 9)}  # the first column of middles is void
    # a third each, whatever their area
    assert np.bincount(classes).tolist() == pytest.approx([200, 0, 0, 0, 200, 200], abs=40)


def test_a_crop_is_a_pure_function_of_its_index(planes):
    crops, other = Crops(planes, each=300), Crops(planes, each=300)
    found = [crops[i] for i in range(290, 310)]
    for i in reversed(range(20)):
        assert all(torch.equal(a, b) for a, b in zip(other[290 + i], found[i], strict=True))
    assert len({tuple(crop[:2, 0, 0].tolist()) for crop, _ in found}) > 10


def test_errors():
    with pytest.raises(ValueError, match="split: got 'dev', expected one of train, val, test"):
        Scenes("dev", 3)
    with pytest.raises(IndexError, match="index: got 3, expected 0 <= index < 3"):
        Scenes("val", 3)[3]


def test_instances_hold_number_and_label(some):
    image, coded = Instances("train", 40)[7]
    found, known = some[7], some[7].labels != VOID
    assert torch.equal(image, found.image) and torch.equal(coded // 16, found.instances)
    assert torch.equal(coded[known] % 16, found.labels[known])
    assert coded.max() < 256  # as `Kept` asks


def test_an_object_of_contours_alone_is_ground(monkeypatch):
    labels = torch.tensor([[VOID, VOID, 4, VOID]])
    made = scenes.Scene(torch.rand(3, 1, 4), labels, labels, torch.tensor([[1, 1, 2, 2]]))
    monkeypatch.setattr(scenes, "scene", lambda *_: made)
    assert Instances("train", 1)[0][1].tolist() == [[0, 0, 36, 36]]
