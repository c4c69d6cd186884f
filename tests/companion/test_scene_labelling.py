import matplotlib.pyplot as plt
import pytest
import torch

from gpcore.companion.experiments import scene_labelling
from gpcore.companion.report.panels import Panel
from gpcore.companion.studies import DIGITS, SCENES
from gpcore.datasets.scenes import GROUNDS, SCENE_COLOURS


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


ROWS = [[Panel("labels", torch.zeros(4, 5, dtype=torch.long), "truth")] * 3]


def test_every_class_has_its_place_in_a_column_of_its_digit():
    figure = scene_labelling.pictures(SCENES, ROWS, ["net +1 px"])
    changes, classes = figure.legends
    names = [text.get_text() for text in classes.texts]
    # a legend fills its columns one after the other
    columns = [names[start : start + 4] for start in range(0, 48, 4)]
    assert columns[0] == [*GROUNDS] and columns[1:11] == [[digit] * 4 for digit in "0123456789"]
    assert columns[11] == [*scene_labelling.SHADES]
    for column in range(10):
        for shade, name in enumerate(scene_labelling.SHADES):
            size, ink = name.removesuffix(" ink").split(", ")
            assert SCENES.classes[4 + 4 * column + shade] == f"{size} {ink} {column}"
    found = [patch.get_facecolor()[:3] for patch in classes.legend_handles[:44]]
    assert found == [pytest.approx([part / 255 for part in colour]) for colour in SCENE_COLOURS]
    assert len(changes.texts) == 5 and figure.axes[0].get_ylabel() == "net +1 px"
    figure.draw_without_rendering()
    places = [legend.get_window_extent() for legend in figure.legends]
    assert all(each.x0 >= 0 and each.x1 <= figure.bbox.width for each in places)
    assert places[1].y0 >= max(axes.title.get_window_extent().y1 for axes in figure.axes)


def test_other_tasks_have_one_legend():
    (legend,) = scene_labelling.pictures(DIGITS, ROWS, [""]).legends
    assert len(legend.texts) == 11 + 5
