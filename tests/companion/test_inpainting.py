"""Measurements of inpainting and generation, against other libraries and numbers worked out by hand."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.restoration import inpaint_biharmonic
from torch import nn
from torch.nn.functional import one_hot
from torch.testing import assert_close

from gpcore import synthesis
from gpcore.companion.experiments import inpainting
from gpcore.companion.experiments.inpainting import high_frequency, hole_error
from gpcore.companion.studies import DIGITS
from gpcore.synthesis import fill

pytestmark = pytest.mark.usefixtures("one_core")


def pictures(batch=3, size=(24, 28)):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def middle(images, side):
    """A square hole in the middle of each image."""
    height, width = images.shape[-2:]
    return inpainting.squares((height, width), [((height - side) // 2, (width - side) // 2)] * len(images), side)


class Levels(nn.Module):
    """Class k where the mean channel is nearest to k / 10; its gradient therefore points to that grey."""

    def forward(self, x):
        grey = x.mean(1, keepdim=True)
        return -100 * (grey - torch.arange(11).view(1, -1, 1, 1) / 10) ** 2


def test_settings_keep_the_change_of_a_value_and_the_path():
    published = inpainting.scaled(3 * 60 * 60, 720)
    assert published == pytest.approx({"epsilon": 21.6, "steps": 720, "step_size": 0.1})
    half = inpainting.scaled(3 * 30 * 30, 36)
    assert half == pytest.approx({"epsilon": 10.8, "steps": 36, "step_size": 1.0})
    quarter = inpainting.scaled(3 * 30 * 30, 36, share=0.5)
    assert quarter == pytest.approx({"epsilon": 5.4, "steps": 36, "step_size": 0.5})


def test_squares_and_what_is_cut_out():
    masks = inpainting.squares((4, 5), [(0, 0), (2, 3)], 2)
    assert [mask.nonzero().tolist() for mask in masks] == [
        [[0, 0], [0, 1], [1, 0], [1, 1]],
        [[2, 3], [2, 4], [3, 3], [3, 4]],
    ]
    images = pictures(2, (4, 5))
    holes = inpainting.cut_out(images, masks)
    assert torch.equal(holes[0], images[0, :, :2, :2]) and torch.equal(holes[1], images[1, :, 2:, 3:])


def test_the_biharmonic_equation_fills_the_hole_alone():
    images = pictures()
    mask = middle(images, 6)
    found = inpainting.biharmonic(images, mask)
    for i in range(3):
        expected = inpaint_biharmonic(images[i].permute(1, 2, 0).numpy(), mask[i].numpy(), channel_axis=-1)
        torch.testing.assert_close(found[i], torch.from_numpy(expected).permute(2, 0, 1).float())
    assert torch.equal(found.masked_fill(mask.unsqueeze(1), 0), images.masked_fill(mask.unsqueeze(1), 0))


def test_quality_by_hand():
    images = pictures()
    mask = middle(images, 6)
    start = fill(images, mask)
    checks = (torch.arange(24).view(-1, 1) + torch.arange(28)) % 2 - 0.5  # the highest frequency that there is
    drawn = start + 0.2 * checks * mask.unsqueeze(1)
    beside = drawn + 0.1 * middle(images, 8).logical_xor(mask).unsqueeze(1)  # 28 pixels by .1 to 36 by .1: 28 / 64
    rows = inpainting.quality_rows({"same": images, "start": start, "checks": drawn, "beside": beside}, images, mask)
    assert rows["method"].tolist() == [each for each in ("same", "start", "checks", "beside") for _ in range(3)]
    by = rows.set_index(["method", "image"])
    assert by.loc["same", "error"].tolist() == [0, 0, 0]
    for i in range(3):
        hole = (start[i] - images[i])[:, 9:15, 11:17]
        assert by.loc[("start", i), "error"] == pytest.approx(255 * hole.square().mean().sqrt().item(), rel=1e-5)
        assert by.loc[("start", i), "high"] == 0 and by.loc[("checks", i), "high"] == pytest.approx(100, abs=1e-3)
        assert by.loc[("checks", i), "cosine"] == pytest.approx(
            torch.cosine_similarity((drawn - start)[i].flatten(), (images - start)[i].flatten(), 0).item(), abs=1e-5
        )
        assert by.loc[("same", i), "cosine"] == pytest.approx(1) and by.loc[("start", i), "cosine"] == 0
        assert math.isnan(by.loc[("start", i), "inside"])
        assert by.loc[("checks", i), "inside"] == pytest.approx(100)
        assert by.loc[("beside", i), "inside"] == pytest.approx(100 * 36 / 64, rel=1e-5)


VOID = 255
TOY = dataclasses.replace(DIGITS, void=VOID)
# Two objects: on the left a 5 of eight pixels round a void one, on the right a bar of six 2s, parted by void from a 3.
MAP = torch.tensor(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [5, 5, 5, 0, 0, 0, 2, 2],
        [5, VOID, 5, 0, 0, 0, 2, 2],
        [5, 5, 5, 0, 0, 0, 2, 2],
        [0, 0, 0, 0, 0, 0, VOID, VOID],
        [0, 0, 0, 0, 0, 0, 3, 3],
    ]
)


def test_the_largest_object_hangs_together_and_is_neither_ground_nor_void():
    assert torch.equal(inpainting.largest_object(MAP, VOID), MAP == 5)
    assert torch.equal(inpainting.largest_object(MAP.where(MAP != 5, 0), VOID), MAP == 2)
    assert torch.equal(inpainting.largest_object(MAP, 5), (MAP > 0) & (torch.arange(8) > 5))


def test_a_subject_that_comes_first_is_taken_if_it_is_large_enough():
    """Two parts of class 3, of four and of two pixels, and one of class 1, of nine."""
    labels = torch.zeros(8, 9, dtype=torch.long)
    labels[0:2, 0:2], labels[0:1, 5:7], labels[4:7, 4:7] = 3, 3, 1
    first = torch.zeros(8, 9, dtype=torch.bool)
    first[0:2, 0:2] = True
    assert torch.equal(inpainting.largest_object(labels, VOID, [3, 1], 4), first)
    assert torch.equal(inpainting.largest_object(labels, VOID, [3, 1], 5), labels == 1)
    assert torch.equal(inpainting.largest_object(labels, VOID, [1, 3], 100), first)  # none is: the last that is there
    assert torch.equal(inpainting.largest_object(labels, VOID, [3, 5], 100), first)
    named = dataclasses.replace(TOY, classes=("sky", "tree", "car", "pedestrian"), subjects=("pedestrian", "tree"))
    assert inpainting.over_part(named, labels, 2, 1.0) == (0, 0)  # a hole of four pixels asks for one
    assert inpainting.over_part(dataclasses.replace(named, subjects=("tree",)), labels, 3, 1.0) == (4, 4)


@pytest.mark.parametrize(
    ("side", "share", "expected"),
    [
        (2, 3 / 8, (1, 0)),  # three of the ring's pixels at each of its corners: the first in reading order
        (2, 1 / 8, (0, 2)),  # at (0, 0) there are two
        (3, 1.0, (1, 0)),
        (3, 0.7, (0, 0)),  # five of eight, to which eight are further
        (3, 0.0, (0, 3)),
    ],
)
def test_a_hole_over_part_of_the_largest_object(side, share, expected):
    assert inpainting.over_part(TOY, MAP, side, share) == expected


def test_holes_about_the_largest_object():
    labels = torch.zeros(20, 30, dtype=torch.long)
    labels[4:13, 20:27] = 1  # middles at rows 4, 8 and 12 and at columns 20, 23 and 26
    rows, columns = (2, 6, 10), (18, 21, 24)  # five pixels begin two before their middle
    assert inpainting.about_object(TOY, labels, 5) == [(row, column) for row in rows for column in columns]
    rows, columns = (0, 3, 7), (15, 18, 19)  # eleven begin five before it, at 0 at the least and at 19 at the most
    assert inpainting.about_object(TOY, labels, 11) == [(row, column) for row in rows for column in columns]


def test_windows_lie_about_their_holes_and_within_the_images():
    images = torch.arange(3.0 * 3 * 8 * 10).view(3, 3, 8, 10)
    labels = torch.arange(3 * 8 * 10).view(3, 8, 10)
    x, y, mask = inpainting.windows(images, labels, [(3, 4), (0, 1), (6, 8)], 2, 4)
    for i, (top, left, row, column) in enumerate([(2, 3, 1, 1), (0, 0, 0, 1), (4, 6, 2, 2)]):
        assert torch.equal(x[i], images[i, :, top : top + 4, left : left + 4])
        assert torch.equal(y[i], labels[i, top : top + 4, left : left + 4])
        assert mask[i].nonzero().tolist() == [[row + a, column + b] for a in (0, 1) for b in (0, 1)]


def test_rows_of_what_is_tried_are_those_of_its_descents():
    images = pictures(2)
    mask, labels = middle(images, 6), torch.full((2, 24, 28), 9)
    labels[:, 0] = 255
    tried = [{"outside": "fixed", "share": 0.5, "noise": 0.1}, {"outside": "mean", "share": 1.0, "noise": 0.0}]
    rows = inpainting.tried_rows({"levels": Levels()}, images, labels, mask, tried, 3, 255)
    assert rows[["outside", "share", "noise", "image"]].to_numpy().tolist() == [
        ["fixed", 0.5, 0.1, 0],
        ["fixed", 0.5, 0.1, 1],
        ["mean", 1.0, 0.0, 0],
        ["mean", 1.0, 0.0, 1],
    ]
    for setting, part in zip(tried, (rows[:2], rows[2:]), strict=True):
        options = inpainting.scaled(3 * 36, 3, setting["share"])
        options |= {"outside": setting["outside"], "noise": setting["noise"]}
        expected = synthesis.inpaint(Levels(), images, labels, mask, **options).images
        expected = inpainting.quality_rows({"levels": expected}, images, mask)
        assert part[expected.columns].to_numpy().tolist() == expected.to_numpy().tolist()
    assert rows["inside"][:2].tolist() == pytest.approx([100, 100]) and (rows["inside"][2:] < 50).all()


def test_the_pull_of_a_linear_network_by_hand():
    """Two classes apart by the first channel, which is 0: each pixel has a gradient of 1/2, of which four pixels of
    six have labels and three of these lie outside the hole."""
    model = nn.Conv2d(2, 2, 1)
    model.weight.data = torch.tensor([[0.0, 0], [1, 0]]).view(2, 2, 1, 1)
    model.bias.data.zero_()
    labels, mask = torch.tensor([[[1, 0, 1], [1, 255, 255]]]), torch.zeros(1, 2, 3, dtype=torch.bool)
    mask[0, 0, 0] = True
    assert_close(inpainting.pull(model, torch.zeros(1, 2, 2, 3), labels, mask), torch.tensor([math.sqrt(3) / 2 / 4]))


def test_variation_by_hand():
    rows = pd.DataFrame({"scene": [4, 4, 4, 7, 7, 7], "error": [10.0, 20, 30, 1, 1, 1]})
    found = inpainting.variation(rows, "error")
    assert found.value == pytest.approx(0.25) and (found.low, found.high) == (0, 0.5)  # 10 / 20 and 0


def test_a_region_is_recognised_by_most_of_its_pixels(study):
    labels = torch.tensor([[[0, 0, 0], [1, 1, 2], [1, 2, 2]], [[0, 0, 0], [0, 0, 0], [0, 0, 255]]])
    predicted = torch.tensor([[[0, 0, 1], [1, 2, 2], [2, 2, 0]], [[1, 1, 1], [0, 0, 0], [0, 0, 1]]])
    pictures = one_hot(predicted, 11).movedim(-1, 1).float()  # of which the judge sees just that
    rows = inpainting.judged_rows(study, nn.Identity(), {"drawn": pictures}, labels)
    # of 1 and 2 the first image shows 2 by two pixels of three; the second has nothing but ground
    assert rows["regions"].tolist() == pytest.approx([50, math.nan], nan_ok=True)
    assert rows["pixels"].tolist() == pytest.approx([100 * 5 / 9, 100 * 5 / 8])
    assert rows[["image", "method"]].to_numpy().tolist() == [[0, "drawn"], [1, "drawn"]]


def test_generated_images_show_the_labels_to_another_network(study):
    images = pictures(2)
    labels = torch.full((2, 24, 28), 2)
    labels[0, :, 14:] = labels[1, :, :14] = 9
    drawn = synthesis.generate(Levels(), images, labels, epsilon=40.0, step_size=1.0, steps=30).images
    found = {"mean colour": images.mean((2, 3), keepdim=True).expand_as(images), "levels": drawn}
    rows = inpainting.judged_rows(study, Levels(), found, labels).set_index(["method", "image"])
    assert rows.loc["levels"].to_numpy().tolist() == [[100, 100]] * 2
    assert rows.loc["mean colour"].to_numpy().tolist() == [[0, 0]] * 2  # about .5
    drawn[0, :, :3] = 0.5  # three lines of 24
    rows = inpainting.judged_rows(study, Levels(), found, labels).set_index(["method", "image"])
    assert rows.loc[("levels", 0)].to_dict() == {"regions": 100, "pixels": 87.5}


def test_hole_error_by_hand():
    images = torch.zeros(3, 2, 1, 3)
    found = torch.tensor([[3.0, 4, 9], [0, 1, 9]]).view(1, 2, 1, 3) * torch.tensor([1.0, 2, 1]).view(3, 1, 1, 1)
    mask = torch.tensor([[True, True, False], [True, True, False], [False, False, False]]).view(3, 1, 3)
    expected = math.sqrt((9 + 16 + 0 + 1) / 4)
    assert_close(hole_error(found, images, mask), torch.tensor([expected, 2 * expected, 0]))


def test_high_frequency_of_waves_and_noise():
    x = torch.arange(32).expand(32, 32)
    slow, fast, slanted = (torch.cos(2 * math.pi * w / 32) for w in (4 * x, 12 * x, 6 * x + 6 * x.T))
    pictures = torch.stack([slow, fast, slanted, 0.1 + 3 * slow + 4 * fast, torch.zeros(32, 32)])[:, None]
    for scale in (1, 1e-5):
        found = high_frequency(scale * pictures)
        assert_close(found, torch.tensor([0, 1, 1, 16 / 25, 0]), atol=1e-5, rtol=0)
    assert_close(high_frequency(pictures, radius=0.1)[:2], torch.ones(2), atol=1e-5, rtol=0)
    assert_close(high_frequency(pictures, radius=0.27)[1:3], torch.tensor([1.0, 0]), atol=1e-5, rtol=0)
    together = torch.cat([3 * pictures[:1], 4 * pictures[1:2]], 1)  # energies of channels add up
    assert_close(high_frequency(together), torch.tensor([16 / 25]), atol=1e-5, rtol=0)
    noise = torch.randn(8, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    assert_close(high_frequency(noise), torch.full((8,), 1 - math.pi / 16), atol=0.02, rtol=0)
    spectrum = np.abs(np.fft.fft2(noise.numpy())) ** 2
    far = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(48), indexing="ij"))
    share = (spectrum * (far > 0.3)).sum((1, 2, 3)) / (spectrum * (far > 0)).sum((1, 2, 3))
    assert_close(high_frequency(noise, radius=0.3).double(), torch.from_numpy(share).double(), atol=1e-5, rtol=0)


def test_no_pictures_have_no_errors_and_no_frequencies():
    nothing = torch.zeros(0, 3, 4, 5)
    assert hole_error(nothing, nothing, torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0,)
    assert high_frequency(nothing).shape == (0,)
