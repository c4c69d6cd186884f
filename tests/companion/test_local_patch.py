import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gpcore import guide
from gpcore.companion.experiments import explorer, local_patch
from gpcore.companion.experiments.local_patch import Place
from gpcore.companion.report import panels, plots
from gpcore.companion.studies import DIGITS, Study
from gpcore.networks.fcn import fcn_small

EPSILON = 0.05


class Linear(nn.Module):
    """Scores 2 x the mean colour of each 32 x 32 cell; every pixel has those of its cell."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(32)
        self.score_fr = nn.Conv2d(3, 3, 1, bias=False)
        self.score_fr.weight.data = 2 * torch.eye(3)[..., None, None]
        self.up = nn.Upsample(scale_factor=32)

    def forward(self, images):
        return self.up(self.score_fr(self.pool(images)))


def small(monkeypatch, network, data, classes):
    """A study of given data whose every network is the given one."""
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: network)
    monkeypatch.setattr(Study, "epsilon", lambda self, name, seed=0: EPSILON)
    return dataclasses.replace(
        DIGITS,
        dataset=lambda split: data,
        images={"test": len(data)},
        batch=2,
        classes=DIGITS.classes[:classes],
        colours=DIGITS.colours[:classes],
    )


@pytest.fixture
def study(monkeypatch, seeded):
    """Three images of noise, with some void, under an untrained FCN-8s of six classes."""
    labels = torch.randint(6, (3, 100, 128))
    labels[:, :4] = DIGITS.void
    data = list(zip(torch.rand(3, 3, 100, 128), labels, strict=True))
    return small(monkeypatch, fcn_small(6).eval(), data, 6)


def test_watch_sees_the_scores_of_every_pass(seeded):
    network, images = fcn_small(5).eval(), torch.rand(2, 3, 64, 96)
    with local_patch.watch(network) as seen:
        network(images)
        network(images / 2)
    network(images)
    with torch.no_grad():
        expected = [network.scores(x)[0] for x in (images, images / 2)]
    assert seen[0].shape == (2, 5, 2, 3)
    assert [torch.equal(a, b) for a, b in zip(seen, expected, strict=True)] == [True, True]
    assert not seen[0].requires_grad


def test_watch_needs_the_layer():
    with (
        pytest.raises(ValueError, match="network: got a Sequential, expected one with a layer score_fr"),
        local_patch.watch(nn.Sequential(nn.Conv2d(3, 2, 1))),
    ):
        pass


def test_neighbourhood_is_three_by_three_around_the_cell():
    cells = torch.arange(20).view(4, 5)
    assert cells[local_patch.neighbourhood(cells.shape, 2, 3)].tolist() == [[7, 8, 9], [12, 13, 14], [17, 18, 19]]
    assert cells[local_patch.neighbourhood(cells.shape, 1, 1)].tolist() == [[0, 1, 2], [5, 6, 7], [10, 11, 12]]


@pytest.mark.parametrize(("row", "column"), [(0, 1), (3, 1), (1, 0), (1, 4), (-2, 1), (1, 7)])
def test_neighbourhood_refuses_the_border(row, column):
    with pytest.raises(ValueError, match=f"row, column: got {row}, {column}, expected 1 to 2, 1 to 3"):
        local_patch.neighbourhood((4, 5), row, column)


def test_neighbours_go_row_by_row_without_the_centre():
    cells = torch.arange(12).view(3, 4)
    found = local_patch.neighbours(cells)
    assert found[:, 0, 0].tolist() == [0, 1, 2, 4, 6, 8, 9, 10]
    assert found[:, 0, 1].tolist() == [1, 2, 3, 5, 7, 9, 10, 11]
    with pytest.raises(ValueError, match="the map of 2 x 4"):
        local_patch.neighbours(cells[:2])


def test_cells_are_32_pixels_and_the_last_may_be_cut():
    ones = torch.ones(2, 40, 64)
    assert local_patch.cell_sums(ones).tolist() == [[[1024, 1024], [256, 256]]] * 2
    pixel = torch.zeros(40, 64)
    pixel[31, 32] = 1
    assert local_patch.cell_sums(pixel).tolist() == [[0, 1], [0, 0]]


def test_a_cell_has_its_most_frequent_label():
    labels = torch.full((32, 96), 255)
    labels[:20, :32] = 2  # void is more frequent in the second cell and does not count
    labels[20:, :32] = 1
    labels[:3, 32:64] = 1
    assert local_patch.cell_labels(labels, 3, 255).tolist() == [[2, 1, 255]]


def test_the_rule_takes_the_inner_cell_with_the_most_corrected_pixels():
    corrected = torch.zeros(3, 4, 5, dtype=torch.long)
    corrected[1, 2, 3] = corrected[2, 1, 1] = 7
    corrected[0, 1, 2] = 6
    corrected[0, 0, 2] = corrected[2, 3, 3] = corrected[1, 2, 0] = 99  # at the border: no nine cells around
    nothing = torch.empty(0)
    measured = local_patch.Measured([10, 20, 30], corrected, nothing, nothing, pd.DataFrame())
    assert local_patch.most_corrected(measured) == Place(20, 2, 3)
    corrected[2, 1, 1] = 8
    assert local_patch.most_corrected(measured) == Place(30, 1, 1)


def test_rank_sums_leave_out_the_true_class():
    before = torch.tensor([[5.0, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0]])
    after = before + torch.tensor([[-1.0, 2, 0, 0.5, 0, 9], [1, 0, 3, 0, -2, 9]])
    expected = [[5, 5, 2], [0, 2, 2], [0, 0, 1], [0, 0, 1], [0.5, 0.5, 2], [-2, 2, 2]]
    assert local_patch.rank_sums(before, after, torch.tensor([1, 2])).tolist() == expected
    assert local_patch.rank_sums(before[:0], after[:0], torch.tensor([], dtype=torch.long)).tolist() == [[0, 0, 0]] * 6


def test_correlation_of_equal_opposite_and_unrelated_changes(seeded):
    vector = torch.randn(2, 7, 1, 1)
    same = vector * torch.rand(2, 1, 4, 5) + torch.randn(2, 1, 4, 5)  # scale and shift do not matter
    assert local_patch.neighbour_correlations(same).shape == (2, 8, 2, 3)
    assert torch.allclose(local_patch.neighbour_correlations(same), torch.ones(2, 8, 2, 3).double(), atol=1e-4)
    assert torch.allclose(local_patch.neighbour_correlations(same, -same), -torch.ones(2, 8, 2, 3).double(), atol=1e-4)
    assert local_patch.neighbour_correlations(torch.ones(2, 7, 4, 5)).abs().max() < 1e-6
    noise = local_patch.neighbour_correlations(torch.randn(40, 30, 6, 6))
    assert abs(noise.mean().item()) < 0.02
    assert noise.std().item() == pytest.approx(29**-0.5, rel=0.1)


def test_changes_of_a_linear_network_by_hand(monkeypatch):
    """sign(g) is + in the predicted class's colour and - in the others, so scores change by 2 epsilon (1, -1, -1)."""
    predicted = torch.tensor([[0, 0, 1], [2, 0, 0], [0, 1, 2]])
    colours = torch.eye(3).double()[predicted].movedim(-1, 0) / 4
    image = colours.repeat_interleave(32, 1).repeat_interleave(32, 2)
    data = [(image, torch.zeros(96, 96, dtype=torch.long))]
    study = small(monkeypatch, Linear().double(), data, 3)
    measured = local_patch.measure(study, "any", "test")
    expected = 2 * EPSILON * (8 * colours - 1)
    assert torch.allclose(measured.moved[0], expected)
    assert measured.predicted[0].tolist() == predicted.tolist()
    # four neighbours share the centre's class: correlation 1; four do not: -1/2 for three classes
    table = local_patch.correlation_table(measured).set_index("cells")
    assert table["correlation"].tolist() == pytest.approx([0.25, 1, -0.5, 0.25])
    assert table["pairs"].tolist() == [8, 4, 4, 8]
    other = measured._replace(
        moved=torch.cat([measured.moved, -measured.moved]), predicted=measured.predicted.expand(2, -1, -1)
    )
    ends = local_patch.correlation_table(other).set_index("cells").loc["the same eight places in another image"]
    assert ends.tolist() == pytest.approx([-0.25, -0.25, -0.25, 16])
    swept = local_patch.sweep_scene(study, "any", 0)
    for factor, scores in zip(swept.factors, swept.scores, strict=True):
        assert torch.allclose(scores - 2 * colours, factor * expected)


def test_measure_against_the_same_by_hand(study):
    measured = local_patch.measure(study, "fcn8s", "test")
    network, totals = study.network("fcn8s"), torch.zeros(6, 3).double()
    for i, (x, y) in enumerate(study.dataset("test")):
        guided = guide(network, x[None], EPSILON)
        before, after = guided.before[0], guided.after[0]
        fixed = (y != study.void) & (before.argmax(0) != y) & (after.argmax(0) == y)
        assert measured.corrected[i].tolist() == [
            [int(fixed[r : r + 32, c : c + 32].sum()) for c in range(0, 128, 32)] for r in range(0, 100, 32)
        ]
        with torch.no_grad():
            first, second = (network.scores(z)[0][0] for z in (x[None], guided.images))
        assert torch.allclose(measured.moved[i], second - first, atol=1e-5)
        assert torch.equal(measured.predicted[i], first.argmax(0))
        for r, c in fixed.nonzero().tolist():
            change, true = (after - before)[:, r, c].double(), int(y[r, c])
            totals[0] += torch.tensor([change[true], change[true].abs(), 1])
            for rank, k in enumerate(before[:, r, c].argsort(descending=True)[:5].tolist(), 1):
                if k != true:
                    totals[rank] += torch.tensor([change[k], change[k].abs(), 1])
    assert totals[0, 2] > 100
    output = measured.ranks[measured.ranks["scores"] == "output"]
    found = output.groupby("rank")[["change", "size", "pixels"]].sum()
    assert torch.allclose(torch.tensor(found.to_numpy()), totals, rtol=1e-4)
    table = local_patch.rank_table(measured).set_index(["scores", "class"])
    assert table.loc[("output", "true class"), "change"] == pytest.approx(
        (totals[0, 0] / totals[0, 2]).item(), rel=1e-4
    )
    assert table.loc[("output", "rival, rank 3"), "size"] == pytest.approx(
        (totals[3, 1] / totals[3, 2]).item(), rel=1e-4
    )
    assert measured.ranks.groupby("image").size().tolist() == [12, 12, 12]


def test_interpolated_score_fr_is_the_output_of_fcn32s(monkeypatch, study):
    coarse = fcn_small(6, 32).eval()
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: coarse)
    ranks = local_patch.measure(study, "fcn32s", "test").ranks
    output, interpolated = (
        ranks[ranks["scores"] == s].drop(columns="scores").to_numpy() for s in ("output", "score_fr")
    )
    assert output.sum() > 0
    assert abs(output - interpolated).max() < 1e-4


def test_sweep_and_rows_of_a_scene(study):
    swept = local_patch.sweep_scene(study, "fcn8s", 1, (-1, 0, 1))
    network, (image, labels) = study.network("fcn8s"), study.dataset("test")[1]
    guided = guide(network, image[None], EPSILON)
    backward = guide(network, image[None], -EPSILON)
    with torch.no_grad():
        expected = [network.scores(x)[0][0] for x in (backward.images, image[None], guided.images)]
    assert torch.allclose(swept.scores, torch.stack(expected), atol=1e-5)
    assert torch.equal(swept.gradient, guided.signal[0]) and torch.equal(swept.image, image)
    predicted = [z[0].argmax(0) for z in guided.trajectory]
    assert torch.equal(swept.change, panels.change_map(*predicted, labels, study.void))

    rows = local_patch.score_rows(study, swept, Place(1, 2, 1))
    assert len(rows) == 9 * 3 * 5
    assert sorted(rows["class"].unique(), key=study.classes.index) == list(rows["class"].unique())
    row = rows[(rows["row"] == 3) & (rows["column"] == 0) & (rows["factor"] == -1)].iloc[1]
    scores = swept.scores[0, :, 3, 0]
    assert row["score"] == pytest.approx(scores[study.classes.index(row["class"])].item())
    assert row["predicted"] == study.classes[scores.argmax()]
    assert row["true"] == study.classes[labels[96:, :32].flatten().mode().values]
    assert row["epsilon"] == -EPSILON and row["scene"] == 1
    top = swept.scores[1, :, 1:4, 0:3].amax((1, 2)).topk(5).indices.sort().values
    assert list(rows["class"].unique()) == [study.classes[k] for k in top]
    void = local_patch.score_rows(study, swept._replace(truth=torch.full_like(swept.truth, study.void)), Place(1, 2, 1))
    assert set(void["true"]) == {"void"}
    with pytest.raises(ValueError, match="row, column: got 3, 1"):
        local_patch.score_rows(study, swept, Place(1, 3, 1))


def test_figures_mark_the_true_class_and_the_cells(study):
    swept, place = local_patch.sweep_scene(study, "fcn8s", 0), Place(0, 1, 2)
    rows = local_patch.score_rows(study, swept, place)
    figure = plots.neighbourhood(rows, 1)
    for axes, (_, cell) in zip(figure.axes, rows.groupby(["row", "column"]), strict=True):
        thick = [line for line in axes.lines if line.get_linewidth() > 2]
        part = cell[cell["class"] == cell["true"]]
        assert [line.get_ydata().tolist() for line in thick] == ([part["score"].tolist()] if len(part) else [])
    plt.close(figure)
    figure = explorer.patch_figure(study, swept, place)
    for axes, cell in ((figure.axes[0], 32), (figure.axes[1], 32), *((axes, 1) for axes in figure.axes[5:])):
        frames = {(*frame.get_xy(), frame.get_width(), frame.get_height()) for frame in axes.patches}
        assert frames == {(cell - 0.5, -0.5, 3 * cell, 3 * cell), (2 * cell - 0.5, cell - 0.5, cell, cell)}
    assert not any(axes.patches for axes in figure.axes[2:5])
    patch, step, moved = (axes.images[0].get_array() for axes in figure.axes[2:5])
    image, sign = swept.image[:, :96, 32:128], swept.gradient[:, :96, 32:128].sign()
    np.testing.assert_array_equal(patch, image.permute(1, 2, 0))
    np.testing.assert_allclose(step, EPSILON * sign.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moved, (image + EPSILON * sign).permute(1, 2, 0).clamp(0, 1), rtol=1e-6)
    titles = [axes.get_title() for axes in figure.axes[5:]]
    assert titles == ["ε = −0.2", "ε = −0.05", "ε = 0", "ε = 0.05 (tuned)", "ε = 0.2"]
    for axes, factor in zip(figure.axes[5:], (-4, -1, 0, 1, 4), strict=True):
        colours = np.array(study.colours)[swept.scores[swept.factors.index(factor)].argmax(0)]
        np.testing.assert_array_equal(axes.images[0].get_array(), colours)
    plt.close(figure)
    hidden = explorer.patch_figure(dataclasses.replace(study, photographs=False), swept, place)
    assert [bool(axes.texts) for axes in hidden.axes] == [True, False, True, False, True, *[False] * 5]
    plt.close(hidden)


def test_explorer_redraws_for_a_moved_slider(study, monkeypatch):
    def quick(rows, factor):  # what the picture is of, not the picture
        figure, axes = plt.subplots(figsize=(2, 1))
        axes.set_axis_off()
        axes.plot([*rows["score"], factor])
        return figure

    monkeypatch.setattr(plots, "neighbourhood", quick)
    sliders = explorer.explore(study, "fcn8s", Place(0, 1, 1))
    start = bytes(sliders.picture.value)
    assert start.startswith(b"\x89PNG")
    seen = {start}
    for slider, value in (("column", 2), ("row", 2), ("scene", 1), ("factor", -2.0)):
        sliders.sliders[slider].value = value
        seen.add(bytes(sliders.picture.value))
    assert len(seen) == 5
    assert sliders.picture.value == explorer.explore(study, "fcn8s", Place(1, 2, 2), -2.0).picture.value
    assert plt.get_fignums() == []
    assert [(s.min, s.max) for s in list(sliders.sliders.values())[:3]] == [(0, 2), (1, 2), (1, 2)]

    monkeypatch.setenv("TQDM_DISABLE", "1")
    shown = sliders._repr_mimebundle_()
    assert set(shown) == {"image/png", "text/plain"}
    assert shown["text/plain"] == "Explorer(scene=1, row=2, column=2, factor=-2)"
    monkeypatch.delenv("TQDM_DISABLE")
    assert "application/vnd.jupyter.widget-view+json" in sliders._repr_mimebundle_()


def test_explorer_refuses_a_border_cell(study):
    with pytest.raises(ValueError, match="row, column: got 0, 1"):
        explorer.explore(study, "fcn8s", Place(0, 0, 1))
