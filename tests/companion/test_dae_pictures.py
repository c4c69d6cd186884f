import dataclasses

import pandas as pd
import pytest
import torch
from matplotlib.patches import FancyArrowPatch
from torch.nn.functional import one_hot
from torch.testing import assert_close

from gpcore import metrics
from gpcore.companion.experiments import dae_pictures
from gpcore.companion.report import Panel, tables
from gpcore.companion.studies import DIGITS

# of 100 pixels, how many are right before and after, and what the region then counts as
SQUARES = {
    (9, 50): ("absent", "recovered"),
    (9, 49): ("absent",),
    (10, 100): (),
    (50, 9): ("lost",),
    (50, 10): (),
    (49, 0): (),
    (0, 49): ("absent",),
}


def scene():
    """Squares that touch at their corners at the most, in a frame of void: true labels, before and after."""
    truth, before, after = (torch.full((72, 20), value) for value in (255, 0, 0))
    for i, right in enumerate(SQUARES):
        place = slice(10 * i, 10 * i + 10), slice(10 * (i % 2), 10 * (i % 2) + 10)
        truth[place] = 1
        for labels, count in zip((before, after), right, strict=True):
            labels[place] = (torch.arange(100) < count).view(10, 10).long()
    return truth, before, after


def test_regions_by_hand():
    truth, before, after = scene()
    expected = {kind: sum(kind in kinds for kinds in SQUARES.values()) for kind in ("absent", "recovered", "lost")}
    assert (
        dae_pictures.region_changes(before, after, truth, 255) == expected == {"absent": 3, "recovered": 1, "lost": 1}
    )


@pytest.mark.parametrize(("pixels", "absent"), [(50, 1), (49, 0)])
def test_small_regions_do_not_count(pixels, absent):
    truth = torch.cat([torch.ones(pixels), torch.full((30,), 255)]).long()[None]
    nothing = torch.zeros_like(truth)
    assert dae_pictures.region_changes(nothing, nothing, truth, 255) == {"absent": absent, "recovered": 0, "lost": 0}


def test_rows_count_every_image_under_every_method_but_the_first():
    """Three images in batches of two; their channels are what the methods answer."""
    truth, before, after = scene()
    maps = [(before, after, truth % 255), (after, before, after), (truth % 255, before, after)]
    data = [(torch.stack(each).float(), truth) for each in maps]
    study = dataclasses.replace(DIGITS, dataset=lambda split: data, images={"test": 3}, batch=2)
    methods = {name: lambda x, i=i: one_hot(x[:, i].long(), 3).movedim(-1, 1) for i, name in enumerate("abc")}
    found, counts = dae_pictures.region_rows(study, methods, "test")
    for i, each in enumerate(maps):
        for name, predicted in zip("abc", each, strict=True):
            assert torch.equal(counts[name][i], metrics.confusion(predicted, truth, len(DIGITS.classes), 255))
    assert found.to_dict("records") == [
        {"image": i, "method": method, **dae_pictures.region_changes(each[0], each[k], truth, 255)}
        for i, each in enumerate(maps)
        for k, method in ((1, "b"), (2, "c"))
    ]


def test_more_recovered_is_counted_per_hundred_images():
    rows = pd.DataFrame({"image": [0, 0, 1, 1], "method": ["a", "b"] * 2, "recovered": [2, 0, 1, 2]})
    found = tables.margin(rows, "recovered", "a", "b", scale=100)
    assert found.value == pytest.approx(50)  # two more in the first image, one fewer in the second
    assert (found.low, found.high) == (-100, 200)


def test_a_blend_mixes_the_colours_of_the_classes():
    y = torch.zeros(11, 1, 2)
    y[:, 0, 0], y[3, 0, 1], y[4, 0, 1] = 0.0, 0.25, 0.75
    shown = dae_pictures.blend(DIGITS, y, "y")
    third, fourth = (torch.tensor(DIGITS.colours[k]) / 255 for k in (3, 4))
    assert_close(shown.data[:, 0, 0], torch.zeros(3))
    assert_close(shown.data[:, 0, 1], 0.25 * third + 0.75 * fourth)


def test_pipelines_are_chains_of_panels_with_what_happens_in_between():
    truth, steps = torch.zeros(4, 5, dtype=torch.long), torch.rand(5, 11, 4, 5).softmax(1)
    learnt = {source: torch.rand(3, 11, 4, 5) for source in ("y", "ytrue")}
    image = Panel("image", torch.rand(3, 4, 5), "image x")
    rows = dae_pictures.stages(DIGITS, image, truth, torch.rand(6, 2, 3), steps, learnt)
    titles = [[panel.title for panel, _ in row] for row in rows.values()]
    assert titles[0] == ["image x", "y", "ỹ", "r(ỹ, h)", "truth"]
    assert titles[1] == ["h", "ytrue", "ỹ", "r(ỹ, h)", "truth"]
    assert titles[2][:4] == ["image x", "y after 0", "y after 2", "y after 4"]
    assert_close(rows["Figure 2: inference"][2][0].data, dae_pictures.blend(DIGITS, steps[2], "").data)
    figure = dae_pictures.pipelines(DIGITS, rows)
    arrows = [each for each in figure.get_children() if isinstance(each, FancyArrowPatch)]
    assert len(figure.axes) == 15
    assert len(arrows) == 4 + 3 + 4  # h leads into r, not into the map beside it
