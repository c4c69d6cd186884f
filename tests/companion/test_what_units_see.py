"""Receptive fields by hand and by gradient, patches, guided maps against whole images, codes; notebook 42's changes."""

import pandas as pd
import pytest
import torch
from conftest import close, defined_in
from sklearn.metrics import silhouette_score
from torch import nn

from gpcore.companion.experiments import codes, unit_pictures
from gpcore.companion.experiments import what_units_see as see
from gpcore.companion.experiments.what_units_see import Field, Strongest
from gpcore.companion.report import light
from gpcore.networks.classifiers import lenet
from gpcore.saliency import attribute, unit


@pytest.fixture
def layered(seeded):
    """Convolution, pool, dilated convolution: fields of 3, 4 and 12 pixels, strides 1, 2 and 2."""
    layers = {
        "conv1": nn.Conv2d(1, 3, 3, padding=1),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        "relu2": nn.ReLU(),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer.double())
    return network.eval()


@pytest.mark.parametrize(
    ("at", "field"), [("relu1", Field(3, 1, -1)), ("pool1", Field(4, 2, -1)), ("relu2", Field(12, 2, -5))]
)
def test_receptive_fields_by_hand(layered, at, field):
    assert see.receptive_field(see.Upto(layered, at).layers()) == field


def test_vgg_and_lenet_have_their_known_fields():
    small = lenet(10)
    sizes = [see.receptive_field(see.Upto(small, at).layers()) for at in ("relu1", "pool1", "relu2", "pool2", "relu3")]
    assert [(f.size, f.stride) for f in sizes] == [(5, 1), (6, 2), (14, 2), (16, 4), (28, 4)]
    with pytest.raises(ValueError, match=r"layers: got one of 3 x 5, expected a square kernel"):
        see.receptive_field([nn.Conv2d(1, 1, (3, 5))])


def test_the_gradient_reaches_exactly_the_field(layered):
    for layer in layered:
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1.0)
    layered.pool1 = nn.AvgPool2d(2)  # so that no pixel is left out
    x = torch.rand(1, 1, 32, 32, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(layered(x)[0, 0, 8, 7], x)
    rows, columns = (gradient[0, 0].abs().sum(d).nonzero() for d in (1, 0))
    assert (rows.min(), rows.max()) == (2 * 8 - 5, 2 * 8 - 5 + 11)
    assert (columns.min(), columns.max()) == (2 * 7 - 5, 2 * 7 - 5 + 11)
    measured = see.field_rows(layered, ["relu1", "relu2"], torch.rand(1, 40, 40, dtype=torch.double))
    assert measured["computed"].tolist() == measured["measured"].tolist() == [3, 12]


def test_strongest_finds_a_planted_spot_and_inner_places_only():
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(1, 1, 3, padding=1, bias=False))
    nn.init.constant_(network.conv1.weight, 1.0)
    images = torch.zeros(2, 1, 9, 9)
    images[0, 0, 0, 4], images[0, 0, 5, 6], images[1, 0, 4, 2] = 9, 5, 2
    anywhere = see.strongest(network, images, ["conv1"], [])["conv1"]
    assert anywhere.values.tolist() == [[9], [2]]
    assert anywhere.places[0, 0, 0] <= 1
    inner = see.strongest(network, images[:, :, 1:], ["conv1"], ["conv1"])["conv1"]
    assert inner.values.tolist() == [[5], [2]]
    cut = see.patches(images[:, :, 1:], Field(3, 1, -1), inner.places[:, 0])
    assert cut.sum((1, 2, 3)).tolist() == [5, 2]


def test_patches_are_grey_beyond_the_image():
    cut = see.patches(torch.ones(1, 1, 4, 4), Field(3, 1, -1), torch.tensor([[0, 3]]))
    assert cut[0, 0].tolist() == [[0.5, 0.5, 0.5], [1, 1, 0.5], [1, 1, 0.5]]


@pytest.mark.parametrize("place", [(0, 0), (7, 4), (15, 15), (3, 14)])
def test_guided_maps_of_the_field_are_those_of_the_whole_image(layered, place):
    x = torch.rand(1, 1, 32, 32, dtype=torch.double)
    for layer in (layered.conv1, layered.conv2):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.constant_(layer.bias, 0.5)  # every unit is active
    part = see.Upto(layered, "relu2")
    whole = attribute(part, x, unit(2, place), rule="guided")
    assert whole.abs().max() > 1e-3
    close(see.guided(part, 2, x, torch.tensor([place])), whole)


def test_selective_units_differ_in_their_first_picture():
    values = torch.tensor([[9.0, 8, 1, 5], [0, 0, 1, 5], [0, 0, 1, 6], [0, 0, 1, 5]])
    found = Strongest(values, torch.zeros(4, 4, 2, dtype=torch.long))
    assert see.selective(found, 3, top=1) == [0]  # 1 has the same first picture, 2 and 3 are weak
    assert see.silent_rows({"n": {"a": Strongest(values - 5, found.places)}})["never active"].tolist() == [1]


def test_what_remains_of_a_unit_that_sees_red():
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 2, 1, bias=False))
    network.conv1.weight.data = torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3]])[:, :, None, None]
    images = torch.zeros(2, 3, 4, 4)
    images[:, 0], images[1, 1] = 0.9, 0.3
    part, found = see.Upto(network, "conv1"), see.strongest(network, images, ["conv1"], [])["conv1"]
    changes = {"grey": lambda x: x.mean(1, keepdim=True).expand_as(x), "hue turned": lambda x: x[:, [2, 0, 1]]}
    rows = see.remaining(part, images, found, changes, 2)
    close(torch.tensor(rows["grey"]), torch.tensor([(100 / 3 + 400 / 9) / 2, 100.0], dtype=torch.double), 1e-4)
    close(torch.tensor(rows["hue turned"]), torch.tensor([0.0, 100], dtype=torch.double), 1e-4)
    close(see.redness(images, Field(1, 1, 0), found, 1), torch.tensor([0.9, 0.75]), 1e-6)


def test_the_notebook_s_changes():
    given = defined_in("42_what_units_see", "shuffled", "changes")
    x = torch.rand(1, 3, 32, 32)
    mixed = given["shuffled"](x)
    assert not torch.equal(mixed, x)
    for tile in (slice(0, 16), slice(16, 32)):  # the same pixels, with their colours, in another order
        before, after = (sorted(each[0, :, tile, :16].flatten(1).T.tolist()) for each in (x, mixed))
        assert before == after
    turned = given["changes"]["hue turned"](torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1))
    assert turned.flatten().tolist() == [0, 1, 0]  # red becomes green


def test_probes_read_what_is_linear_and_steps_pair_pictures():
    draw = torch.Generator().manual_seed(0)
    points, classes = torch.randn(300, 5, generator=draw), torch.randint(2, (300,), generator=draw)
    points[:, 0] += 6 * classes
    splits = [(points[i : i + 100], classes[i : i + 100]) for i in (0, 100, 200)]
    right, penalty = codes.probe(*splits)
    assert right.mean() > 0.97
    assert penalty in codes.PENALTIES
    gains = codes.steps({"a": torch.zeros(20), "b": torch.ones(20)})
    assert gains["b_over_a"] == (100, 100, 100)


def test_silhouettes_and_their_rows():
    points, classes = torch.tensor([[0.0], [1], [10], [12]]), torch.tensor([0, 0, 1, 1])
    found = codes.silhouettes(points, classes)
    assert found[0] == pytest.approx((11 - 1) / 11)  # a = 1, b = (10 + 12) / 2
    assert found.mean() == pytest.approx(silhouette_score(points, classes))
    assert list(codes.silhouette_rows({("plane", "x"): found})["pictures"]) == [4]


def test_points_keep_their_order_on_a_grid():
    points = torch.tensor([[0.0, 0], [5, 0.1], [0.2, 3], [9, 4]])
    assert codes.on_grid(points, 2, 2).tolist() == [0, 1, 2, 3]
    tiles = torch.arange(4.0).view(4, 1, 1, 1).expand(-1, 3, 1, 1)
    assert unit_pictures.gridded(torch.tensor([3, 2, 1, 0]), 2, tiles)[0].tolist() == [[3, 2], [1, 0]]


def test_mosaics_and_dead_filters():
    shown = unit_pictures.mosaic(torch.zeros(3, 1, 2, 2), 2, gap=1)
    assert shown.shape == (3, 5, 5)
    assert shown[0].tolist() == [[0, 0, 1, 0, 0]] * 2 + [[1] * 5] + [[0, 0, 1, 1, 1]] * 2
    weights = torch.tensor([1.0, -2, 1e-7]).view(3, 1, 1, 1)
    drawn = unit_pictures.filters(weights, 3)
    assert [drawn[0, 0, i].item() for i in (0, 28, 56)] == [1, 0, 0]


def test_a_figure_becomes_lighter():
    figure = unit_pictures.remains(pd.DataFrame({"unit": [0, 1], "a": [1, 2], "b": [3, 4]}), "a", "b", [1], [1])
    assert light(figure, 16).data.startswith(b"\x89PNG")
