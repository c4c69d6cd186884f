"""Notebook 40's measures against numbers worked out by hand, and what its cells define against the decks' numbers."""

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import defined_in
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from gpcore.companion.experiments import upsampling, upsampling_pictures, upsampling_plots
from gpcore.companion.experiments.upsampling import METHODS, STEPS
from gpcore.networks.classifiers import lenet

NOTEBOOK = "40_upsampling"


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def checks(side=48):
    """A board of +1 and -1."""
    return (-1.0) ** torch.arange(side)[:, None] * (-1.0) ** torch.arange(side)


def test_share_of_a_flat_maps_energy_by_hand():
    # counts 1, 2, 2, 4: squares 25 in four, of which 4 x (9 / 4)^2 are flat
    ones = torch.ones(1, 1, 16, 16)
    stamped = F.conv_transpose2d(ones, torch.ones(1, 1, 3, 3), stride=2)
    assert upsampling.flat_share(stamped) == pytest.approx(1 - 4 * (9 / 4) ** 2 / 25)
    assert upsampling.flat_share(F.conv_transpose2d(ones, torch.ones(1, 1, 4, 4), stride=2)) == 0


def test_spectrum_sums_to_one_and_puts_a_wave_at_its_frequency():
    x = torch.arange(48) / 48
    wave = torch.cos(2 * math.pi * 12 * x).expand(3, 48, 48)
    power = upsampling.spectrum(wave)
    assert power.sum() == pytest.approx(1)
    assert power[:2, 11:14].sum() + power[-1, 11:14].sum() == pytest.approx(0.5, abs=1e-6)  # the rest mirrors it


def test_comb_share_is_that_of_the_added_board():
    torch.manual_seed(0)
    assert upsampling.comb_share(checks().expand(3, 48, 48)) == pytest.approx(1, abs=1e-6)
    noise = torch.randn(3, 48, 48)
    assert abs(upsampling.comb_share(noise)) < 0.02
    # a board of amplitude 1 on noise of variance 1: half of the sum
    assert upsampling.comb_share(noise + checks()) == pytest.approx(0.5, abs=0.05)
    stripes = (-1.0) ** torch.arange(48).expand(3, 48, 48)
    assert upsampling.comb_share(stripes) == pytest.approx(1, abs=1e-6)
    assert upsampling.comb_share(noise.unfold(1, 2, 1).mean(-1)[:, :46, :46]) < 0.01  # rows averaged by twos: a hole


def test_kernels_on_a_flat_map():
    ways = {
        "three": (3, lambda x, w: F.conv_transpose2d(x, w, stride=2)),
        "four": (4, lambda x, w: F.conv_transpose2d(x, w, stride=2)),
        "resized": (3, lambda x, w: F.conv2d(F.interpolate(x, scale_factor=2), w)),
    }
    rows = upsampling.kernel_rows(ways, seeds=3)
    found = rows.pivot_table(index="method", columns="kernels", values="share")
    assert found["all weights equal"].to_dict() == pytest.approx({"three": 19, "four": 0, "resized": 0})
    assert (found.loc["resized"] == 0).all() and (found.loc["four"].drop("all weights equal") > 1).all()


def test_patches_come_from_every_picture_in_turn():
    pictures = [torch.full((3, 60, 50), value) for value in (0.25, 0.5)]
    found = upsampling.patches(pictures, 3)
    assert found.shape == (3, 3, 48, 48) and found.dtype == torch.double
    assert found[:, 0, 0, 0].tolist() == [0.25, 0.5, 0.25]


@pytest.fixture(scope="module")
def fits():
    doubled = defined_in(NOTEBOOK, "doubled")["doubled"]
    board = torch.stack([torch.linspace(0, 1, 48).expand(3, 48, 48), torch.full((3, 48, 48), 0.5) + 0.1 * checks()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "STEPS", (0, 4))
        patch.setattr(upsampling, "METHODS", METHODS[::2])
        return upsampling.fit_rows(doubled, board.double())


def test_decoders_learn_and_are_measured_against_their_target(fits):
    rows, drawn = fits
    assert list(drawn) == ["transposed, k = 3", "nearest + conv"]
    assert drawn["nearest + conv"].shape == (2, 2, 3, 48, 48)
    errors = rows.pivot_table(index=["method", "unit"], columns="step", values="error")
    assert (errors[4] < errors[0]).all()
    first = rows[(rows["method"] == "nearest + conv") & (rows["step"] == 4)].set_index("unit")["share"]
    ours = upsampling.comb_share(drawn["nearest + conv"][1, 1]) - 1  # the second target is nothing but a board
    assert first[1] == pytest.approx(100 * ours, abs=1e-3)


def test_the_decoders_in_the_notebook_double_and_resizing_keeps_flat_maps_flat():
    doubled = defined_in(NOTEBOOK, "doubled")["doubled"]
    for name in METHODS:
        layer = doubled(name, 2, 3)
        out = layer(torch.ones(1, 2, 12, 12))
        assert out.shape == (1, 3, 24, 24)
        flat = float(out.detach()[0, :, 6:-6, 6:-6].std((1, 2)).max())
        assert (flat < 1e-6) == ("conv" in name), name


def test_a_tenth_of_the_first_methods_share_less_another_paired():
    shares = {METHODS[0]: [10.0, 20.0], METHODS[2]: [0.5, 1.0]}
    rows = [(name, unit, STEPS[-1], x) for name, each in shares.items() for unit, x in enumerate(each)]
    rows += [(name, unit, 0, 99.0) for name in shares for unit in range(2)]
    found = upsampling.tenth(pd.DataFrame(rows, columns=["method", "unit", "step", "share"]), METHODS[2])
    assert found == pytest.approx((0.75, 0.5, 1.0))


def test_fields_and_paths_of_dilated_stacks():
    found = [upsampling.paths(upsampling.ones(upsampling.stack((1, 2, 4)[:n]))) for n in (1, 2, 3)]
    assert [int((each.sum(0) > 0).sum()) for each in found] == [3, 7, 15]
    assert [float(each.sum()) for each in found] == [9, 81, 729]  # as many paths as products of taps
    line = found[1].sum(0)[34:41] / 9
    assert line.tolist() == [1, 1, 2, 1, 2, 1, 1]  # a tap's three places, two apart, each three wide


def test_windows_are_those_of_the_picture():
    picture = torch.arange(2 * 5 * 6.0).view(2, 5, 6)
    found = upsampling.windows(picture, 3, 2)
    assert found.shape == (4, 2, 3, 3)
    assert_close(found[3], picture[:, 2:5, 2:5])


def test_fully_convolutional_lenet_answers_as_on_windows(seeded):
    network, page = lenet(10).eval(), torch.rand(1, 36, 32)
    with torch.no_grad():
        dense = upsampling.convolutional(network, 4)(page[None])[0]
        assert dense.shape == (10, 3, 2)
        assert_close(dense.flatten(1).T, network(upsampling.windows(page, 28, 4)))


def test_multiply_adds_by_hand():
    assert upsampling.multiply_adds(lambda: nn.Conv2d(2, 3, 3)(torch.ones(1, 2, 6, 5))) == 9 * 2 * 3 * 4 * 3
    wide = upsampling.stack((1, 2), width=4, inputs=3, classes=5)
    assert upsampling.multiply_adds(lambda: wide(torch.ones(1, 3, 9, 9))) == 9 * (3 * 4 * 49 + 4 * 5 * 9)


def test_training_cost_counts_both_passes():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 2, 1, bias=False))
    rows = upsampling.training_cost({"small": network}, torch.ones(1, 1, 5, 5))
    # forward; gradients of both weights; back through the second, not to the image
    assert rows["million_multiply_adds"].tolist() == pytest.approx([1e-6 * (81 + 18 + 81 + 18 + 18)])
    assert rows["parameters"].tolist() == [11] and rows["megabytes"][0] > 0


def test_first_cells_are_the_numbers_of_the_list():
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    rows = upsampling.first_cells(8 * y + x, [0, 0.25, 0.5, 0.75, 1])
    assert rows["RoIPool"].tolist() == [27, 27, 36, 36, 36]
    assert rows["RoIAlign"].tolist() == pytest.approx([13.5, 15.75, 18, 20.25, 22.5])


def test_overlap_counts_of_the_deck():
    counts = upsampling_pictures.counts
    assert counts(3, 2, 0, 1, dims=1).tolist() == [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]
    assert set(counts(3, 2, 0, 1, dims=2)[3:-3, 3:-3].flatten().tolist()) == {1, 2, 4}
    assert set(counts(4, 2, 0, 1, dims=2)[3:-3, 3:-3].flatten().tolist()) == {4}
    assert counts(2, 2, 0, 2, dims=1).tolist() == [1, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 1]  # holes


@pytest.mark.parametrize("choice", [(3, 2, 0, 1), (1, 4, 3, 1), (7, 1, 3, 3)])
def test_overlaps_are_drawn_for_every_choice(choice):
    figure = upsampling_pictures.overlap_figure(*choice)
    kernel, stride, padding, dilation = choice
    size = 5 * stride - 2 * padding + dilation * (kernel - 1) + 1
    assert f"6 → {size};" in figure.axes[0].get_title()
    assert len(figure.axes[0].patches) >= 6 * kernel


def test_sizes_in_the_notebook_are_torchs():
    found = defined_in(NOTEBOOK, "convolved", "transposed", "side")
    for k, s, p, d in ((3, 1, 1, 1), (3, 2, 1, 1), (2, 3, 0, 2), (5, 2, 2, 2)):
        down, up = nn.Conv2d(1, 1, k, s, p, dilation=d), nn.ConvTranspose2d(1, 1, k, s, p, dilation=d)
        assert found["convolved"](11, k, s, p, d) == found["side"](down, 11)
        assert found["transposed"](5, k, s, p, d) == found["side"](up, 5)
    assert (found["convolved"](4, 3, 1, 1), found["convolved"](4, 3, 2, 1)) == (4, 2)
    assert (found["transposed"](2, 3, 2, 1), found["transposed"](2, 3, 2, 1, more=1)) == (3, 4)


def test_the_matrix_in_the_notebook_by_hand():
    found = defined_in(NOTEBOOK, "matrix", "kernel", "down", "convolution", "up", "spread")
    assert found["convolution"].shape == (4, 16)
    first = [5, 6, 0, 0, 8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]  # the corner: four of nine weights
    last = [0, 0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9]
    assert found["convolution"][[0, 3]].tolist() == [first, last]
    assert torch.equal(found["up"], found["convolution"].T)
    fraction = found["matrix"](lambda x: F.conv2d(found["spread"](x), found["kernel"].flip(2, 3)), 2)
    assert torch.equal(fraction, found["up"])


def test_unpooling_in_the_notebook_gives_the_decks_matrices():
    found = defined_in(NOTEBOOK, "small", "large", "corner", "pooled", "switches", "restored", "nearest", "bed")
    assert found["pooled"][0, 0].tolist() == [[5, 6], [7, 8]]
    assert found["restored"].tolist() == [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    assert found["nearest"].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert found["bed"].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


def test_coins_are_counted():
    yy, xx = np.mgrid[:120, :160]
    grey = np.full((120, 160), 0.08)
    for y, x in ((30, 30), (30, 90), (85, 60)):
        grey[(yy - y) ** 2 + (xx - x) ** 2 < 15**2] = 0.8
    found = upsampling_pictures.coin_instances(torch.from_numpy(grey).expand(3, -1, -1))
    assert found.max() == 3
    assert len({found[30, 30], found[30, 90], found[85, 60]} - {0}) == 3 and found[5, 5] == 0


def test_the_box_that_roi_pool_draws_is_the_one_it_reads():
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    rows = upsampling.first_cells(8 * y + x, [0.25, 0.5])
    figure = upsampling_plots.boxes_figure(8 * y + x, rows, [0.25, 0.5])
    for axes, value in zip(figure.axes, rows["RoIPool"], strict=False):
        (shaded,) = (p for p in axes.patches if p.get_alpha() == 0.2)
        right, bottom = int(shaded.get_x() + shaded.get_width()) - 1, int(shaded.get_y() + shaded.get_height()) - 1
        assert 8 * bottom + right == value  # the largest of the shaded cells
