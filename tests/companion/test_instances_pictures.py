"""Notebook 46's figures: what is right, wrong and true can be told apart."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from gpcore.companion import studies
from gpcore.companion.experiments import instances_pictures
from gpcore.companion.report.panels import OKABE_ITO
from gpcore.networks.maskrcnn import objects

DIGITS = studies.get("digits")
CODED = torch.zeros(20, 30, dtype=torch.long)
CODED[2:10, 3:12] = 16 + 4  # digit 3
CODED[8:18, 15:25] = 32 + 8  # digit 7
TRUTH = objects(CODED)
FOUND = {"labels": torch.tensor([8, 1]), "scores": torch.tensor([0.9, 0.95]), "boxes": TRUTH["boxes"][[1, 1]]}
FOUND |= {"masks": TRUTH["masks"][[1, 1]]}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def drawn(axes):
    return [(to_hex(box.get_edgecolor()).upper(), box.get_xy()) for box in axes.patches]


def test_what_hits_has_the_colour_of_what_it_hits_and_lies_on_top():
    image = torch.zeros(3, 20, 30)
    figure = instances_pictures.scenes_figure(DIGITS, [image], [TRUTH], {"ours": [FOUND]}, ["a scene"])
    _, true, ours = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["image", "truth", "ours"]
    assert drawn(true) == [(OKABE_ITO[0], (2.5, 1.5)), (OKABE_ITO[1], (14.5, 7.5))]
    assert drawn(ours) == [("#000000", (14.5, 7.5)), (OKABE_ITO[1], (14.5, 7.5))]  # the wrong one is surer, but below
    assert [text.get_text() for text in ours.texts] == ["0 0.95", "7 0.90"]
    shown = ours.images[0].get_array()
    assert shown[0, 0].tolist() == [0.5] * 3
    under = 0.45 * 0.5  # black over the grey
    assert shown[12, 20].tolist() == pytest.approx([0.45 * under + 0.55 * part for part in to_rgb(OKABE_ITO[1])])


def test_the_true_class_is_framed():
    volume, image = torch.rand(11, 4, 4), torch.zeros(3, 20, 30)
    figure = instances_pictures.volume_figure(DIGITS, image, TRUTH["boxes"][0], volume, 4, torch.ones(4, 4))
    framed = [axes.get_title() for axes in figure.axes[1:] if axes.axison and axes.spines["top"].get_visible()]
    assert framed == ["class 3"]
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image and box", "target", "ground", "class 0"]
    assert (figure.axes[6].images[0].get_array() == volume[4].numpy()).all()


def test_every_group_has_its_place_and_number():
    rows = pd.DataFrame({"method": ["a", "a", "b", "b"], "objects": [3, 5, 3, 5], "low": 0.0, "high": 90.0})
    parts = [rows.assign(**{name: ["x", "y"] * 2, value: [10.0, 20, 30, 40]}) for name, value in
             (("class", "ap"), ("neighbour", "share"), ("size", "share"))]  # fmt: skip
    figure = instances_pictures.scores_figure(*parts)
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["x\n(3)", "y\n(5)"]
        assert [line.get_ydata().tolist() for line, *_ in (each.lines for each in axes.containers)] == [
            [10, 20],
            [30, 40],
        ]
