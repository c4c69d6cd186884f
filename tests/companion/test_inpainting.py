"""Measurements of inpainting and generation, against other libraries and numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import inpaint_biharmonic
from torch import nn
from torch.nn.functional import one_hot
from torch.testing import assert_close

from gpcore import synthesis
from gpcore.companion.experiments import inpainting
from gpcore.companion.experiments.inpainting import high_frequency, hole_error
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


def test_quality_by_hand_and_by_scikit_image():
    images = pictures()
    mask = middle(images, 6)
    start = fill(images, mask)
    checks = (torch.arange(24).view(-1, 1) + torch.arange(28)) % 2 - 0.5  # the highest frequency that there is
    drawn = start + 0.2 * checks * mask.unsqueeze(1)
    rows = inpainting.quality_rows({"same": images, "start": start, "checks": drawn}, images, mask)
    assert rows["method"].tolist() == ["same"] * 3 + ["start"] * 3 + ["checks"] * 3
    by = rows.set_index(["method", "image"])
    assert by.loc["same", "error"].tolist() == [0, 0, 0] and by.loc["same", "ssim"].tolist() == pytest.approx([1] * 3)
    for i in range(3):
        hole = (start[i] - images[i])[:, 9:15, 11:17]
        assert by.loc[("start", i), "error"] == pytest.approx(255 * hole.square().mean().sqrt().item(), rel=1e-5)
        for method, filled in (("start", start), ("checks", drawn)):
            psnr = peak_signal_noise_ratio(images[i].numpy(), filled[i].numpy(), data_range=1.0)
            assert by.loc[(method, i), "psnr"] == pytest.approx(psnr, rel=1e-5)
        assert by.loc[("start", i), "high"] == 0 and by.loc[("checks", i), "high"] == pytest.approx(100, abs=1e-3)
        assert by.loc[("checks", i), "cosine"] == pytest.approx(
            torch.cosine_similarity((drawn - start)[i].flatten(), (images - start)[i].flatten(), 0).item(), abs=1e-5
        )
        assert by.loc[("same", i), "cosine"] == pytest.approx(1) and by.loc[("start", i), "cosine"] == 0
        assert by.loc[("checks", i), "ssim"] < 1 and by.loc[("start", i), "ssim"] < 1


def test_similarity_is_scikit_images():
    from skimage.metrics import structural_similarity

    images = pictures(1, (40, 48))
    other = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    rows = inpainting.quality_rows({"other": other}, images, middle(images, 6))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    theirs = structural_similarity(images[0].numpy(), other[0].numpy(), channel_axis=0, **options)
    assert rows["ssim"].item() == pytest.approx(theirs, abs=2e-3)


def test_holes_at_every_position_of_a_grid():
    image = pictures(1, (7, 10))
    labels = torch.tensor([3] * 5 + [7] * 5).expand(1, 7, 10)
    corners = [(top, left) for top in (0, 3) for left in (0, 3, 6)]
    images, mask = image.expand(6, -1, -1, -1), inpainting.squares((7, 10), corners, 4)
    found = (1 - pictures(6, (7, 10))).where(mask.unsqueeze(1), images)
    rows = inpainting.location_rows(found, images, labels.expand(6, -1, -1), mask)
    assert rows[["top", "left"]].apply(tuple, axis=1).tolist() == corners
    assert rows["label"].tolist() == [3, 7, 7] * 2 and rows["inside"].tolist() == [True, False, True] * 2
    for i, (top, left) in enumerate(corners):
        hole = (0, slice(None), slice(top, top + 4), slice(left, left + 4))
        plain, drawn = fill(image, mask[i : i + 1]), found[i : i + 1]
        cosine = torch.cosine_similarity((image - plain)[hole].flatten(), (drawn - plain)[hole].flatten(), 0).item()
        expected = [255 * (each - image)[hole].square().mean().sqrt().item() for each in (drawn, plain)]
        assert rows.loc[i, ["error", "mean_colour"]].tolist() == pytest.approx(expected, rel=1e-4)
        assert rows.loc[i, "cosine"] == pytest.approx(cosine, abs=1e-5)


def test_a_region_is_recognised_by_most_of_its_pixels(study):
    labels = torch.tensor([[[0, 0, 0], [1, 1, 2], [1, 2, 2]], [[0, 0, 0], [0, 0, 0], [0, 0, 255]]])
    predicted = torch.tensor([[[0, 0, 1], [1, 2, 2], [2, 2, 0]], [[1, 1, 1], [0, 0, 0], [0, 0, 1]]])
    pictures = one_hot(predicted, 11).movedim(-1, 1).float()  # of which the judge sees just that
    rows = inpainting.judged_rows(study, nn.Identity(), {"drawn": pictures}, labels)
    # of 0, 1 and 2 the first image shows 0 and 2 by two pixels of three; the second 0 by five of eight that are known
    assert rows["regions"].tolist() == pytest.approx([100 * 2 / 3, 100])
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
