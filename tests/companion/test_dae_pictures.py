import dataclasses

import pandas as pd
import pytest
import torch
from torch.nn.functional import one_hot

from gpcore.companion.experiments import dae_pictures
from gpcore.companion.report import tables
from gpcore.companion.studies import MOSAICS

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
    study = dataclasses.replace(MOSAICS, dataset=lambda split: data, images={"test": 3}, batch=2)
    methods = {name: lambda x, i=i: one_hot(x[:, i].long(), 3).movedim(-1, 1) for i, name in enumerate("abc")}
    found = dae_pictures.region_rows(study, methods, "test").to_dict("records")
    assert found == [
        {"image": i, "method": method, **dae_pictures.region_changes(each[0], each[k], truth, 255)}
        for i, each in enumerate(maps)
        for k, method in ((1, "b"), (2, "c"))
    ]


def test_more_recovered_is_counted_per_hundred_images():
    rows = pd.DataFrame({"image": [0, 0, 1, 1], "method": ["a", "b"] * 2, "recovered": [2, 0, 1, 2]})
    found = tables.margin(rows, "recovered", "a", "b", scale=100)
    assert found.value == pytest.approx(50)  # two more in the first image, one fewer in the second
    assert (found.low, found.high) == (-100, 200)
