"""Measurements of inpainting and generation, against other libraries and numbers worked out by hand."""

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import inpaint_biharmonic
from torch import nn
from torch.nn.functional import one_hot

from gpcore import synthesis
from gpcore.companion.experiments import inpainting
from gpcore.synthesis import fill

pytestmark = pytest.mark.usefixtures("one_core")


def pictures(batch=3, size=(24, 28)):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))


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


def test_squares_and_the_middle():
    masks = inpainting.squares((4, 5), [(0, 0), (2, 3)], 2)
    assert masks.nonzero().tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [0, 1, 1],
        [1, 2, 3],
        [1, 2, 4],
        [1, 3, 3],
        [1, 3, 4],
    ]
    middle = inpainting.middle(torch.zeros(2, 3, 6, 8), 2)
    assert middle.nonzero().tolist() == [[i, row, column] for i in range(2) for row in (2, 3) for column in (3, 4)]


def test_every_way_to_fill_a_hole_leaves_the_rest_or_is_penalised_for_it():
    images, labels = pictures(), torch.full((3, 24, 28), 8)
    mask = inpainting.middle(images, 6)
    settings = inpainting.scaled(3 * 6 * 6, 8)
    found = inpainting.inpaintings({"levels": Levels()}, images, labels, mask, **settings)
    assert [*found] == ["mean colour", "biharmonic", "levels"]
    assert torch.equal(found["mean colour"], fill(images, mask))
    for i in range(3):
        expected = inpaint_biharmonic(images[i].permute(1, 2, 0).numpy(), mask[i].numpy(), channel_axis=-1)
        torch.testing.assert_close(found["biharmonic"][i], torch.from_numpy(expected).permute(2, 0, 1).float())
    assert torch.equal(found["biharmonic"].masked_fill(mask.unsqueeze(1), 0), images.masked_fill(mask.unsqueeze(1), 0))
    assert torch.equal(found["levels"], synthesis.inpaint(Levels(), images, labels, mask, **settings).images)
    # what was asked for is a lighter grey, .8
    holes = [each.movedim(1, -1)[mask].mean() for each in (found["levels"], found["mean colour"])]
    assert holes[0] > holes[1] + 0.01


def test_quality_by_hand_and_by_scikit_image():
    images = pictures()
    mask = inpainting.middle(images, 6)
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
    rows = inpainting.quality_rows({"other": other}, images, inpainting.middle(images, 6))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    theirs = structural_similarity(images[0].numpy(), other[0].numpy(), channel_axis=0, **options)
    assert rows["ssim"].item() == pytest.approx(theirs, abs=2e-3)


def test_panels_are_image_hole_and_fillings():
    images = pictures()
    mask = inpainting.middle(images, 6)
    found = {"mean colour": fill(images, mask), "a": images + 0.1, "b": images}
    panels = inpainting.picture_panels(found, images, mask, 2)
    assert [[panel.title for panel in row] for row in panels] == [["image", "hole", "a", "b"], [""] * 4]
    assert torch.equal(panels[1][2].data, images[1] + 0.1)
    hole = panels[1][1].data
    assert (hole[:, 9:15, 11:17] == 1).all() and torch.equal(hole[:, :9], images[1][:, :9])


def test_holes_alone_one_method_to_a_row():
    images = pictures()
    mask = inpainting.middle(images, 6)
    rows = inpainting.hole_panels({"a": images + 0.1}, images, mask, 2)
    assert [len(row) for row in rows] == [2, 2]
    assert torch.equal(rows[0][1].data, images[1][:, 9:15, 11:17])
    assert torch.equal(rows[1][0].data, images[0][:, 9:15, 11:17] + 0.1)


def test_holes_at_every_position_of_a_grid():
    image = pictures(1, (7, 10))
    labels = torch.tensor([3] * 5 + [7] * 5).expand(1, 7, 10)
    rows, found = inpainting.location_rows(Levels(), image, labels, 4, 3, **inpainting.scaled(48, 5))
    corners = [(top, left) for top in (0, 3) for left in (0, 3, 6)]
    assert rows[["top", "left"]].apply(tuple, axis=1).tolist() == corners
    assert rows["label"].tolist() == [3, 7, 7] * 2 and rows["inside"].tolist() == [True, False, True] * 2
    for i, (top, left) in enumerate(corners):
        mask = inpainting.squares((7, 10), [(top, left)], 4)
        missing = (image - fill(image, mask))[0, :, top : top + 4, left : left + 4].flatten()
        drawn = (found[i] - fill(image, mask))[0, :, top : top + 4, left : left + 4].flatten()
        assert rows.loc[i, "cosine"] == pytest.approx(torch.cosine_similarity(missing, drawn, 0).item(), abs=1e-5)
        alone = synthesis.inpaint(Levels(), image, labels, mask, **inpainting.scaled(48, 5)).images
        torch.testing.assert_close(found[i], alone[0])
        squares = [(each - image)[0, :, top : top + 4, left : left + 4].square() for each in (alone, fill(image, mask))]
        expected = [255 * square.mean().sqrt().item() for square in squares]
        assert rows.loc[i, ["error", "mean_colour"]].tolist() == pytest.approx(expected, rel=1e-4)
    panels = inpainting.location_panels(rows, image, labels)
    assert [panel.kind for panel in panels] == ["image", "labels", "size", "size", "signed"]
    for panel, column in zip(panels[2:], ("error", "mean_colour", "cosine"), strict=True):
        assert panel.data.shape == (2, 3) and panel.data.flatten().tolist() == rows[column].tolist()
    *_, errors, colours, cosine = inpainting.location_panels(
        rows.assign(error=2.0, mean_colour=[3.0] * 5 + [4.0]), image, labels
    )
    assert (errors.limit, colours.limit, cosine.limit) == (4, 4, None)
    above, below = inpainting.position_panels(rows.iloc[[1, 5]], found[[1, 5]], image, 4)
    assert torch.equal(above[0].data, image[0][:, :4, 3:7]) and torch.equal(below[1].data, found[5][:, 3:7, 6:10])
    assert above[0].title == f"cosine {rows.loc[1, 'cosine']:.2f}"
    near = inpainting.position_panels(rows.iloc[[0]].assign(cosine=-0.001), found[:1], image, 4)
    assert near[0][0].title == "cosine 0.00"


def test_a_region_is_recognised_by_most_of_its_pixels():
    labels = torch.tensor([[[0, 0, 0], [1, 1, 2], [1, 2, 2]], [[0, 0, 0], [0, 0, 0], [0, 0, 255]]])
    predicted = torch.tensor([[[0, 0, 1], [1, 2, 2], [2, 2, 0]], [[1, 1, 1], [0, 0, 0], [0, 0, 1]]])
    regions, pixels = inpainting.recognised(one_hot(predicted, 3).movedim(-1, 1).float(), labels)
    # of 0, 1 and 2 the first image shows 0 and 2 by two pixels of three; the second 0 by five of eight that are known
    assert regions.tolist() == pytest.approx([100 * 2 / 3, 100])
    assert pixels.tolist() == pytest.approx([100 * 5 / 9, 100 * 5 / 9])


def test_generated_images_show_the_labels_to_another_network():
    images = pictures(2)
    labels = torch.full((2, 24, 28), 2)
    labels[0, :, 14:] = labels[1, :, :14] = 9
    settings = {"epsilon": 40.0, "step_size": 1.0, "steps": 30}
    found = inpainting.generations({"levels": Levels()}, images, labels, **settings)
    assert torch.equal(found["mean colour"], images.mean((2, 3), keepdim=True).expand_as(images))
    assert torch.equal(found["levels"], synthesis.generate(Levels(), images, labels, **settings).images)
    panels = inpainting.generated_panels(found, labels, 2)
    assert [[panel.title for panel in row] for row in panels] == [["labels", "levels"], ["", ""]]
    assert torch.equal(panels[1][0].data, labels[1]) and torch.equal(panels[1][1].data, found["levels"][1])
    rows = inpainting.judged_rows(Levels(), found, labels).set_index(["method", "image"])
    assert rows.loc["levels"].to_numpy().tolist() == [[100, 100]] * 2
    assert rows.loc["mean colour"].to_numpy().tolist() == [[0, 0]] * 2  # about .5
    found["levels"][0, :, :3] = 0.5  # three lines of 24
    rows = inpainting.judged_rows(Levels(), found, labels).set_index(["method", "image"])
    assert rows.loc[("levels", 0)].to_dict() == {"regions": 100, "pixels": 87.5}
