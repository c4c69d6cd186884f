"""Maps of shuffled networks and what cancels between places: by hand on small networks."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gpcore import saliency
from gpcore.companion.experiments import why_a_cat
from gpcore.companion.experiments import why_a_cat_pictures as drawn


@pytest.fixture
def network():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def test_parts_are_disjoint_and_make_up_the_map():
    parts = why_a_cat.tiles(7, 9)
    assert parts.shape == (16, 7, 9) and torch.equal(parts.sum(0), torch.ones(7, 9))
    assert parts[0].nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("at", ["1", "3"])
def test_contributions_of_all_places_add_up_to_the_gradient(network, at):
    images = torch.rand(2, 3, 8, 8)
    parts = why_a_cat.contributions(network, images, at, "gradient")
    read = why_a_cat.own_class(network, images)
    assert_close(parts.sum(0), saliency.attribute(network, images, read))
    assert parts.shape == (16, 2, 3, 8, 8) and (parts.abs().sum((1, 2, 3, 4)) > 0).all()
    corner = parts[0].abs().sum((0, 1))  # two pixels a side, and what the layers behind them see
    assert not corner[6:].any() and not corner[:, 6:].any()


def test_guided_contributions_add_up_to_guided_backprop_where_one_relu_lies_below(network):
    """Below the module the rule meets each part by itself, which makes no difference where no ReLU lies there."""
    images = torch.rand(2, 3, 8, 8)
    parts = why_a_cat.contributions(network, images, "0", "guided")
    read = why_a_cat.own_class(network, images)
    assert_close(parts.sum(0), saliency.attribute(network, images, read, rule="guided"))
    assert not any(module._backward_hooks for module in network.modules())


def test_what_is_left_over_by_hand():
    """Image 0: 3 - 1 of 3 + 1; image 1: all of it, since both parts agree."""
    parts = torch.tensor([[3.0, 2.0], [-1.0, 5.0]]).view(2, 2, 1, 1, 1)
    assert why_a_cat.left_over(parts).tolist() == [0.5, 1]
    assert {round(why_a_cat.left_over(parts, seed)[1].item(), 4) for seed in range(9)} == {1.0, 0.4286}  # 3 of 7


def test_ranks_are_of_magnitudes_image_by_image():
    first = torch.tensor([[[[1.0, -2], [3, -4]]], [[[1.0, 2], [3, 4]]]])
    assert why_a_cat.ranks(first, -2 * first).tolist() == [1, 1]
    assert_close(why_a_cat.ranks(first, first.flip(0, 2, 3)), torch.tensor([-1.0, -1]))


def test_a_cascade_keeps_what_was_shuffled_and_leaves_the_network_alone(network):
    def double(layer, draw):
        layer.weight.data *= 2

    before = [each.clone() for each in network.parameters()]
    weights = {
        stop: [state[i].weight.sum().item() / network[i].weight.sum().item() for i in (0, 2, 6)]
        for stop, state in why_a_cat.cascade(network, {"last": ["6"], "first": ["2", "0"]}, double)
    }
    assert weights == {"trained": [1, 1, 1], "last": [1, 1, 2], "first": [2, 2, 2]}
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_rows_of_a_cascade_begin_at_one_and_are_compared_image_by_image(network):
    def shuffle(layer, draw):
        layer.weight.data = torch.randn(layer.weight.shape, generator=draw)

    rows = why_a_cat.cascade_rows(network, torch.rand(3, 3, 8, 8), {"last": ["6"], "first": ["2", "0"]}, shuffle)
    wide = rows.pivot(index=["rule", "image"], columns="stop", values="rank")
    assert wide.shape == (9, 3) and (wide["trained"] == 1).all() and (wide["first"] < 0.9).all()
    last = wide["last"].unstack("image")
    found = why_a_cat.above_gradient(rows, "guided", "last")
    assert found.value == pytest.approx((last.loc["guided"] - last.loc["gradient"]).mean())
    means = why_a_cat.cascade_means(rows).set_index(["rule", "stop"])["mean"]
    assert means["deconvnet", "first"] == pytest.approx(wide["first"].loc["deconvnet"].mean())


def test_an_occluders_value_stands_at_the_middle_of_its_square():
    left = torch.ones(3, 3)
    left[1, 2] = 0  # squares of four pixels, two apart, in a picture of 8: this one hides rows 2 to 5, columns 4 to 7
    shown = drawn.heat(torch.zeros(3, 8, 8), left, 4, 2)
    dark = (shown - shown[:, :1, :1]).abs().sum(0) > 0.1
    assert dark.nonzero().tolist() == [[r, c] for r in (3, 4) for c in (5, 6, 7)]
    assert why_a_cat.lowest(left) == (1, 2)


def test_maps_are_drawn_around_grey():
    w = torch.zeros(3, 20, 20)
    w[0, 0, 0], w[0, 0, 1] = 1, -1
    w[0, 1:3] = 0.5
    picture = drawn.tinted(w).data
    assert picture[1, 5, 5] == pytest.approx(0.5, abs=0.02)
    assert picture[0, 0, 0] == 1 and picture[0, 0, 1] == 0 and picture[0, 1, 0] == 1
    grey = drawn.tinted(w, colours=False).data
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
