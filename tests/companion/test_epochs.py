"""Items of an epoch: drawn once each, varied as far as a recipe says, labels with their images."""

import dataclasses
import math

import pytest
import torch

from gpcore.companion import epochs
from gpcore.companion.studies import Recipe

RECIPE = Recipe(epochs=3, samples=8, batch=4, rate=1e-3)
VARIED = {"mirror": True, "jitter": 0.3}


def test_crops_of_predictions_features_and_labels_lie_above_each_other():
    """A map that counts pixels, its features the same at every fourth one; sizes are not multiples of four."""
    labels = torch.arange(21 * 26).view(21, 26)
    whole = (labels[None].double(), labels[None, ::4, ::4].double(), labels.short())
    recipe = dataclasses.replace(RECIPE, samples=60, batch=7, crop=16)
    torch.manual_seed(0)
    corners = []
    for y, h, cut in epochs.batches([whole] * 64, recipe, epochs.cut):
        assert [*y.shape[1:], *h.shape[1:]] == [1, 16, 16, 1, 4, 4]
        assert (y.dtype, h.dtype, cut.dtype) == (torch.float32, torch.float32, torch.int64)
        assert torch.equal(y[:, 0], cut.float())
        assert torch.equal(h, y[..., ::4, ::4])
        corners += cut[:, 0, 0].tolist()
    assert len(corners) == 60
    assert {divmod(corner, 26) for corner in corners} == {(top, left) for top in (0, 4) for left in (0, 4, 8)}


@pytest.mark.parametrize("vary", [epochs.augment, epochs.cut])
def test_an_epoch_takes_so_many_items_at_random_each_once(vary):
    recipe = dataclasses.replace(RECIPE, samples=10, batch=4)
    items = [torch.full((3, 2, 2), float(i)) for i in range(12)]
    data = [(x, x[0]) if vary is epochs.augment else (x, x, x[0]) for x in items]
    first = next(epochs.batches(data, dataclasses.replace(recipe, crop=1), vary))
    assert first[0].shape[-2:] == first[-1].shape[1:] == (1, 1)
    orders = []
    for seed in range(8):
        torch.manual_seed(seed)
        found = [batch[-1][:, 0, 0].tolist() for batch in epochs.batches(data, recipe, vary)]
        assert [len(batch) for batch in found] == [4, 4, 2]
        orders.append([item for batch in found for item in batch])
        assert len({*orders[-1]}) == 10
    assert set().union(*orders) == {*range(12)}
    assert sorted(orders[0]) != orders[0] != orders[1]


def test_crops_reach_every_edge_and_labels_are_never_mixed():
    """An image and labels that count pixels, cut to four by four; then two classes, enlarged: no third appears."""
    labels, corners = torch.arange(30).view(5, 6), set()
    torch.manual_seed(0)
    for _ in range(60):
        image = (0.3 + labels / 100).expand(3, 5, 6)
        x, y = epochs.augment(image, labels, dataclasses.replace(RECIPE, **VARIED, crop=4))
        x, y = (x, y) if y[0, 0] < y[0, 1] else (x.flip(-1), y.flip(-1))
        assert torch.allclose((x - x[0, 0, 0]) / (x[0, 3, 3] - x[0, 0, 0]), (y - y[0, 0]) / 21, atol=1e-4)
        assert type(x) is type(y) is torch.Tensor
        top, left = divmod(int(y[0, 0]), 6)
        assert torch.equal(y, labels[top : top + 4, left : left + 4])
        corners.add((top, left))
    assert corners == {(top, left) for top in (0, 1) for left in (0, 1, 2)}
    for _ in range(10):
        recipe = dataclasses.replace(RECIPE, crop=8, scale=(0.5, 0.5))
        _, y = epochs.augment(torch.rand(3, 5, 6), 8 * (labels % 2), recipe)
        assert y.dtype == torch.int64
        assert {*y.flatten().tolist()} == {0, 8}


def test_scales_are_even_in_their_logarithm():
    """Of labels that count columns: from half the size to four times, as often above the geometric mean as below."""
    labels, recipe = torch.arange(64).expand(64, 64), dataclasses.replace(RECIPE, **VARIED, crop=8, scale=(0.5, 4))
    spans, flips = [], set()
    torch.manual_seed(0)
    for _ in range(200):
        x, y = epochs.augment((labels / 64).expand(3, 64, 64), labels, recipe)
        assert (x.shape, y.shape) == ((3, 8, 8), (8, 8))
        # colour jitter scales and shifts values but keeps their order: grey levels sort as labels do
        levels = [x[0][y == label].median().item() for label in y.unique()]
        assert levels == sorted(levels)
        flips.add(bool(y[0, 0] <= y[0, -1]))
        spans.append(int(y.max() - y.min()))
    assert flips == {True, False}
    assert min(spans) == 1 and max(spans) == 14  # two columns, and sixteen, of which every second
    # at most five columns: scales above 8 / 5.5, whose share is log(4 / 1.4545) / log 8 = .486
    assert 0.41 < sum(span < 5 for span in spans) / 200 < 0.56


def test_brightness_contrast_and_saturation_change_by_up_to_three_tenths():
    recipe, labels, found = dataclasses.replace(RECIPE, **VARIED, crop=2), torch.zeros(2, 2, dtype=torch.long), []
    grey, colour = torch.tensor([0.4, 0.6]).expand(3, 2, 2), torch.tensor([0.6, 0.4, 0.5]).view(3, 1, 1).expand(3, 2, 2)
    weights = torch.tensor([0.2989, 0.587, 0.114])  # of a grey level
    torch.manual_seed(0)
    for _ in range(200):
        low, high = sorted(epochs.augment(grey, labels, recipe)[0][0, 0].tolist())
        x = epochs.augment(colour, labels, recipe)[0][:, 0, 0]
        assert x[0] - x[1] == pytest.approx((2 * (x[2] - x[1])).item(), abs=1e-4)  # the hue stays
        brighter = (weights @ x) / (weights @ colour[:, 0, 0])
        found.append([low + high, (high - low) / (low + high) / 0.2, ((x[0] - x[1]) / 0.2 / brighter).item()])
    lowest, highest = torch.tensor(found).aminmax(dim=0)
    least, most = torch.tensor([0.7, 0.7, 0.49]), torch.tensor([1.3, 1.3, 1.69])  # at last contrast times saturation
    assert ((lowest > least - 1e-4) & (lowest < 1.1 * least)).all()
    assert ((highest < most + 1e-4) & (highest > 0.9 * most)).all()


def test_turns_and_scales_keep_the_size_and_void_comes_in():
    """Of columns that count themselves: a turn is even within its bounds, a scale in its logarithm; both about the
    middle, and where nothing was is grey and void."""
    rows, columns = torch.meshgrid(torch.arange(61), torch.arange(61), indexing="ij")
    image = torch.stack([rows / 61, columns / 61, torch.ones(61, 61)])
    for change in ({"turn": 30.0}, {"scale": (0.5, 2.0)}):
        found = []
        torch.manual_seed(0)
        for _ in range(100):
            x, y = epochs.augment(image, columns, dataclasses.replace(RECIPE, **change), void=200)
            assert x.shape == (3, 61, 61) and y.shape == (61, 61) and type(x) is type(y) is torch.Tensor
            inside = y != 200
            assert (x[2][~inside] < 1).all() and (61 * x[1] - y)[inside & (x[2] == 1)].abs().max() <= 0.51
            assert y[30, 30] == 30
            down, right = 61 * (x[:2, 30, 36] - x[:2, 30, 30]) / 6  # a step to the right, in the source
            found.append((math.degrees(math.atan2(down, right)), -math.log2(math.hypot(down, right))))
        angles, scales = torch.tensor(found).T
        for values, bound, still in ((angles, 30, "scale" in change), (scales, 1, "turn" in change)):
            if still:
                assert values.abs().max() < 1e-3
            else:
                assert -bound <= values.min() < -0.85 * bound and 0.85 * bound < values.max() <= bound
                assert 35 <= (values > 0).sum() <= 65


def test_what_is_off_changes_nothing():
    image, labels = torch.rand(3, 9, 12), torch.randint(0, 5, (9, 12))
    state = torch.get_rng_state()
    x, y = epochs.augment(image, labels, RECIPE)
    assert torch.equal(x, image) and torch.equal(y, labels) and torch.equal(torch.get_rng_state(), state)
    for _ in range(20):
        x, y = epochs.augment(image, labels, dataclasses.replace(RECIPE, crop=9))
        left = next(i for i in range(4) if torch.equal(image[..., i : i + 9], x))
        assert torch.equal(y, labels[:, left : left + 9])


def test_half_of_mirrored_items_are_flipped_and_nothing_else():
    pictures = torch.arange(64.0).view(64, 1, 1, 1) + torch.tensor([0.0, 0.5])  # left, right
    recipe = dataclasses.replace(RECIPE, samples=64, batch=16, mirror=True)
    data = [(x, torch.tensor(int(x[0, 0, 0]))) for x in pictures]
    torch.manual_seed(0)
    flipped = 0
    for images, labels in epochs.batches(data, recipe, epochs.augment):
        assert labels.shape == (16,)
        for image, label in zip(images, labels, strict=True):
            assert sorted(image.flatten().tolist()) == [label, label + 0.5]
            flipped += bool(image[0, 0, 0] > label)
    assert 20 <= flipped <= 44  # of 64
