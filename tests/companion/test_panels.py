"""What panels show, pixel by pixel, and where they stand."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import EPSILON

from gpcore.companion.report import panels
from gpcore.companion.report.panels import CHANGES, Panel
from gpcore.companion.studies import CAMVID, DIGITS
from gpcore.perturb import guide


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def drawn(panel, study=DIGITS):
    """The picture that a panel becomes, and its axes."""
    _, axes = plt.subplots()
    panels.show(axes, panel, study)
    return axes.images[0], axes


def test_change_map_codes():
    before, after = torch.tensor([[0, 1, 0, 1, 1]]), torch.tensor([[0, 0, 1, 1, 0]])
    truth = torch.tensor([[0, 0, 0, 0, 255]])
    names = [list(CHANGES)[code] for code in panels.change_map(before, after, truth, 255)[0]]
    assert names == ["right", "corrected", "newly wrong", "still wrong", "void"]


def test_pictures_that_are_not_ours_are_shown_to_their_owner_and_stay_out_of_the_record(monkeypatch):
    image = torch.rand(3, 8, 6, generator=torch.Generator().manual_seed(0)) * 2 - 0.5

    def seen(study):
        picture, axes = drawn(panels.node(study, Panel("image", image, "x")), study)
        return picture.get_array(), [text.get_text() for text in axes.texts], axes.get_title()

    whole = image.permute(1, 2, 0).clamp(0, 1)
    for study in (DIGITS, CAMVID):
        np.testing.assert_array_equal(seen(study)[0], whole)
    monkeypatch.setenv("GPCORE_RECORD", "1")
    np.testing.assert_array_equal(seen(DIGITS)[0], whole)
    assert seen(DIGITS)[1:] == ([], "x")
    blank, texts, title = seen(CAMVID)
    assert (blank == 1).all() and blank.shape == (8, 6, 3) and (texts, title) == (["x"], "")


def test_labels_have_the_classes_colours_and_void_is_white():
    picture, axes = drawn(
        Panel("labels", torch.tensor([[0, 4], [10, 200]]), "truth"), dataclasses.replace(DIGITS, void=10)
    )
    expected = [[DIGITS.colours[0], DIGITS.colours[4]], [(255, 255, 255)] * 2]
    assert picture.get_array().tolist() == [[[*colour] for colour in row] for row in expected]
    assert axes.get_title() == "truth" and len(axes.get_xticks()) == 0


def test_changes_have_their_colours():
    codes = torch.arange(5)[None]
    picture, _ = drawn(Panel("changes", codes))
    found = picture.to_rgba(codes.numpy(), bytes=True)[0, :, :3]
    assert ["#" + bytes(rgb).hex().upper() for rgb in found] == [*CHANGES.values()]
    assert [handle.get_label() for handle in panels.colour_handles(DIGITS, ["changes"])] == [*CHANGES]
    assert CHANGES["corrected"] == "#0072B2" and CHANGES["newly wrong"] == "#D55E00"  # blue is good


@pytest.mark.parametrize(
    ("kind", "values", "limit", "scale", "title"),
    [
        ("signed", [[0.5, -0.25]], None, (-0.5, 0.5), "t (±0.5)"),
        ("signed", [[0.25, -0.5]], None, (-0.5, 0.5), "t (±0.5)"),
        ("signed", [[0.5, -0.25]], 2.0, (-2, 2), "t (±2)"),
        ("size", [[0.5, 0.25]], None, (0, 0.5), "t (0 to 0.5)"),
        ("size", [[0.0, 0.0]], None, (0, 1), "t (0 to 1)"),
    ],
)
def test_numbers_are_shown_on_a_printed_scale(kind, values, limit, scale, title):
    picture, axes = drawn(Panel(kind, torch.tensor(values), "t", limit))
    assert picture.get_clim() == scale and axes.get_title() == title
    if kind == "signed":
        red, _, blue, _ = picture.to_rgba(scale[1])
        assert red > blue  # above zero
        np.testing.assert_allclose(picture.to_rgba(0.0)[:3], 0.97, atol=0.01)


def test_rows_of_pictures_stand_under_their_names():
    images, labels = torch.rand(3, 3, 4, 5), torch.arange(3).view(3, 1, 1).expand(3, 4, 5)
    rows = panels.picture_rows({"truth": labels, "drawn": images}, 2)
    assert [[panel.title for panel in row] for row in rows] == [["truth", "drawn"], ["", ""]]
    assert [panel.kind for panel in rows[1]] == ["labels", "image"]
    assert torch.equal(rows[1][0].data, labels[1]) and torch.equal(rows[1][1].data, images[1])


def test_a_grid_names_its_rows_and_explains_its_colours():
    rows = [[Panel("image", torch.full((3, 2, 4), (2 * y + x) / 4), f"{y}{x}") for x in range(2)] for y in range(2)]
    figure = panels.grid(rows, DIGITS, sides=["above", "below"], legend=["labels", "changes"])
    assert [axes.get_title() for axes in figure.axes] == ["00", "01", "10", "11"]
    assert [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes] == [0, 0.25, 0.5, 0.75]
    assert [axes.get_ylabel() for axes in figure.axes] == ["above", "", "below", ""]
    assert [text.get_text() for text in figure.legends[0].texts] == [*DIGITS.classes, *CHANGES]
    width, height = figure.get_size_inches()
    assert width == panels.PAGE == 6.875
    assert height == pytest.approx(0.95 * 2 * width / 2 / 2 + 2 * 0.22 + 0.45)
    without = dataclasses.replace(DIGITS, colours=())  # as the studies of classifiers
    assert not panels.grid(rows, without).legends


def test_credits_stand_below_the_pictures_and_within_the_page():
    names = ["chelsea", "flower", "coffee", "hopper", "astronaut", "retina"]
    figure = panels.credited(panels.grid([[Panel("image", torch.zeros(3, 4, 5))] * 3], DIGITS), names)
    figure.draw_without_rendering()
    (text,) = (each for each in figure.texts if each.get_text())
    assert text.get_text().replace("\n", " ").startswith("Photographs: chelsea, Stéfan van der Walt (CC0); flower,")
    places = text.get_window_extent(), *(axes.get_window_extent() for axes in figure.axes)
    assert places[0].x0 >= 0 and places[0].x1 <= figure.bbox.width
    assert all(places[0].y1 <= each.y0 for each in places[1:])
    plt.close(figure)


def test_credits_and_a_legend_below_do_not_overlap():
    figure = panels.grid([[Panel("labels", torch.zeros(4, 5, dtype=torch.long))] * 2], DIGITS, legend=["labels"])
    panels.credited(figure, ["china"]).draw_without_rendering()
    title, *entries = figure.legends[0].get_title(), *figure.legends[0].texts
    assert title.get_text() == "Photographs: china, danielbuechele (CC BY 2.0)"
    assert all(title.get_window_extent().y0 >= each.get_window_extent().y1 for each in entries)
    assert title.get_window_extent().y1 <= min(axes.get_window_extent().y0 for axes in figure.axes)
    plt.close(figure)


def test_classes_are_explained_in_their_colours():
    for handle, colour, name in zip(
        panels.colour_handles(DIGITS, ["labels"]), DIGITS.colours, DIGITS.classes, strict=True
    ):
        assert handle.get_facecolor()[:3] == pytest.approx([value / 255 for value in colour])
        assert handle.get_label() == name


def test_the_pipeline_runs_down_from_side_to_side():
    names = ("image", "prediction", "onehot", "gradient", "perturbed", "guided", "truth")
    drawn = {name: Panel("image", torch.full((3, 2, 2), i / 10), name) for i, name in enumerate(names)}
    changes = Panel("changes", torch.tensor([[0, 2, 2], [3, 1, 4]]), "changes")
    figure = panels.pipeline(DIGITS, {**drawn, "changes": changes}, epsilon=0.02)
    down = sorted(figure.axes, key=lambda axes: -axes.get_position().y0)
    sides = [[axes.get_title() for axes in down if (axes.get_position().x0 > 0.5) == right] for right in (False, True)]
    assert sides == [["image", "gradient", "perturbed", "truth"], ["prediction", "onehot", "guided", "changes"]]
    for axes in figure.axes:
        if axes.get_title() in names:
            assert axes.images[0].get_array()[0, 0, 0] == pytest.approx(names.index(axes.get_title()) / 10)
    texts = [text.get_text() for text in figure.texts]
    assert "Step 3: predict again  (ε = 0.02)" in texts and "2 pixels corrected, 1 newly wrong" in texts
    ends = [artist._posA_posB for artist in figure.artists if hasattr(artist, "_posA_posB")]
    assert [end[0] > start[0] for start, end in ends if start[1] == end[1]] == [True, False, True, True]
    explained = [[text.get_text() for text in legend.texts] for legend in figure.legends]
    assert explained == [[*DIGITS.classes], [*CHANGES]]


def test_panels_of_changes(study, withheld):
    rows = panels.change_panels(study, "fcn8s", [1, 2])
    titles = ["image", "truth", "prediction", "after one step", "changes"]
    assert [[panel.title for panel in row] for row in rows] == [titles, [""] * 5]
    for row, (x, y) in zip(rows, map(study.scene, (1, 2)), strict=True):
        guided = guide(study.network("fcn8s"), x, EPSILON)
        before, after = (z[0].argmax(0) for z in guided.trajectory)
        expected = [x[0], y[0], before, after, panels.change_map(before, after, y[0], 255)]
        assert all(torch.equal(panel.data, data) for panel, data in zip(row, expected, strict=True))
    assert [panel.kind for panel in rows[0]] == ["image", "labels", "labels", "labels", "changes"]
    (hidden,) = panels.change_panels(withheld, "fcn8s", [1], 10 * EPSILON)
    assert [panel.title for panel in hidden] == titles[2:]
    assert torch.equal(
        hidden[1].data, guide(study.network("fcn8s"), study.scene(1)[0], 10 * EPSILON).after[0].argmax(0)
    )


def test_predictions_show_the_truth_only_where_it_is_ours(study, withheld):
    network = study.network("fcn8s")
    answers = {"alone": network, "flipped": lambda x: network(x).flip(1), "third": lambda x: -network(x)}

    def shown(chosen, scenes):
        return panels.prediction_panels(
            chosen, scenes, answers, lambda x, y: (answer(x) for answer in answers.values())
        )

    first, second = shown(study, [0, 1])
    assert [panel.title for panel in first] == ["truth", "alone", "flipped", "changes", "third", "changes"]
    assert [panel.title for panel in second] == [""] * 6
    x, y = study.scene(1)
    maps = [answer(x)[0].argmax(0) for answer in answers.values()]
    after = [each for m in maps[1:] for each in (m, panels.change_map(maps[0], m, y[0], 255))]
    assert all(torch.equal(panel.data, data) for panel, data in zip(second, [y[0], maps[0], *after], strict=True))
    assert [panel.title for panel in shown(withheld, [0])[0]] == [panel.title for panel in first[1:]]
