import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import defined_in
from torch import nn

from gpcore import guide
from gpcore.companion.experiments import explorer, local_patch
from gpcore.companion.experiments.local_patch import Place
from gpcore.companion.report import panels
from gpcore.companion.studies import DIGITS, Study
from gpcore.networks.fcn import FCN, fcn_small

EPSILON = 0.05


class Linear(FCN):
    """Scores 2 x the mean colour of each 32 x 32 cell; every pixel has those of its cell."""

    def __init__(self):
        nn.Module.__init__(self)
        self.pool = nn.AvgPool2d(32)
        self.score_fr = nn.Conv2d(3, 3, 1, bias=False)
        self.score_fr.weight.data = 2 * torch.eye(3)[..., None, None]
        self.up = nn.Upsample(scale_factor=32)

    def scores(self, images):
        return [self.score_fr(self.pool(images))]

    def forward(self, images):
        return self.up(self.scores(images)[0])


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


def test_coarse_scores_are_what_a_hook_at_score_fr_sees(seeded):
    network, images, seen = fcn_small(5).eval(), torch.rand(2, 3, 64, 96), []
    network.score_fr.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = local_patch.coarse_scores(network, images)
    network(images)
    assert found.shape == (2, 5, 2, 3)
    assert torch.equal(found, seen[1])
    assert not found.requires_grad


def test_coarse_scores_need_the_layer():
    with pytest.raises(ValueError, match="network: got a Sequential, expected one with a layer score_fr"):
        local_patch.coarse_scores(nn.Sequential(nn.Conv2d(3, 2, 1)), torch.rand(1, 3, 64, 96))


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
    assert found.tolist() == [[[0, 1, 2, 4, 6, 8, 9, 10], [1, 2, 3, 5, 7, 9, 10, 11]]]
    assert torch.equal(local_patch.neighbours(cells.expand(2, 5, 3, 4)), found.expand(2, 5, 1, 2, 8))
    with pytest.raises(ValueError, match="the map of 2 x 4"):
        local_patch.neighbours(cells[:2])


def test_cells_are_32_pixels_and_the_last_may_be_cut():
    ones = torch.ones(2, 40, 64)
    assert local_patch.cell_sums(ones).tolist() == [[[1024, 1024], [256, 256]]] * 2
    pixel = torch.zeros(1, 40, 64, dtype=torch.bool)
    pixel[0, 31, 32] = True
    assert local_patch.cell_sums(pixel).tolist() == [[[0, 1], [0, 0]]]


def test_a_cell_has_its_most_frequent_label():
    labels = torch.full((32, 96), 255)
    labels[:20, :32] = 2  # void is more frequent in the second cell and does not count
    labels[20:, :32] = 1
    labels[:3, 32:64] = 1
    assert local_patch.cell_labels(labels, 3, 255).tolist() == [[2, 1, 255]]


def test_the_rule_takes_the_inner_cell_that_turns_right_with_the_most_corrected_pixels():
    corrected, wrong, right = torch.zeros(3, 4, 5), torch.full((3, 4, 5), 1), torch.full((3, 4, 5), 2)
    corrected[1, 2, 3] = corrected[2, 1, 1] = 7
    corrected[0, 1, 2] = 6
    corrected[0, 0, 2] = corrected[2, 3, 3] = corrected[1, 2, 0] = 99  # at the border: no nine cells around
    rule = defined_in("05_local_patch", "most_corrected")["most_corrected"]
    turning = local_patch.Stepped(corrected, right, wrong, right, corrected)
    assert rule(turning, [10, 20, 30]) == Place(20, 2, 3)
    corrected[2, 1, 1] = 8
    assert rule(turning, [10, 20, 30]) == Place(30, 1, 1)
    for other in (turning._replace(before=right), turning._replace(after=wrong), turning._replace(after=wrong + 2)):
        assert rule(other, [10, 20, 30]) == Place(30, 1, 1)  # none turns right
        after, before = other.after.clone(), other.before.clone()
        after[0, 1, 2], before[0, 1, 2] = 2, 1  # but this one
        assert rule(other._replace(after=after, before=before), [10, 20, 30]) == Place(10, 1, 2)


def test_rank_sums_leave_out_the_true_class():
    before = torch.tensor([[5.0, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0]])
    after = before + torch.tensor([[-1.0, 2, 0, 0.5, 0, 9], [1, 0, 3, 0, -2, 9]])
    expected = [[5, 5, 2], [0, 2, 2], [0, 0, 1], [0, 0, 1], [0.5, 0.5, 2], [-2, 2, 2]]
    assert local_patch.rank_sums(before, after, torch.tensor([1, 2])).tolist() == expected
    assert local_patch.rank_sums(before[:0], after[:0], torch.tensor([], dtype=torch.long)).tolist() == [[0, 0, 0]] * 6


def test_correlation_of_equal_opposite_and_unrelated_changes(seeded):
    vector = torch.randn(2, 7, 1, 1)
    same = vector * torch.rand(2, 1, 4, 5) + torch.randn(2, 1, 4, 5)  # scale and shift do not matter
    ones = torch.ones(2, 2, 3, 8).double()
    for around, expected in ((same, ones), (-same, -ones)):
        assert torch.allclose(local_patch.neighbour_correlations(same, around), expected, atol=1e-4)
    flat, noise = torch.ones(2, 7, 4, 5), torch.randn(40, 30, 6, 6)
    assert local_patch.neighbour_correlations(flat, flat).abs().max() < 1e-6
    found = local_patch.neighbour_correlations(noise, noise)
    assert abs(found.mean().item()) < 0.02
    assert found.std().item() == pytest.approx(29**-0.5, rel=0.1)


def test_changes_of_a_linear_network_by_hand(monkeypatch):
    """sign(g) is + in the predicted class's colour and - in the others, so scores change by 2 epsilon (1, -1, -1)."""
    predicted = torch.tensor([[0, 0, 1], [2, 0, 0], [0, 1, 2]])
    colours = torch.eye(3).double()[predicted].movedim(-1, 0) / 4
    image = colours.repeat_interleave(32, 1).repeat_interleave(32, 2)
    data = [(image, torch.zeros(96, 96, dtype=torch.long))]
    study = small(monkeypatch, Linear().double(), data, 3)
    (_, _, found, _, moved), _ = local_patch.step_split(study, "any", "test")
    expected = 2 * EPSILON * (8 * colours - 1)
    assert torch.allclose(moved[0], expected)
    assert found[0].tolist() == predicted.tolist()
    # four neighbours share the centre's class: correlation 1; four do not: -1/2 for three classes
    table = local_patch.correlation_table(moved, found).set_index("cells")
    assert table["correlation"].tolist() == pytest.approx([0.25, 1, -0.5, 0.25, 0])
    assert table["pairs"].tolist() == [8, 4, 4, 8, 8]
    both = torch.cat([moved, moved, -moved, -moved]), found.expand(4, -1, -1)
    ends = local_patch.correlation_table(*both).set_index("cells")
    assert ends.loc["the same eight places in another image"].tolist() == pytest.approx([-0.25, -0.25, -0.25, 32])
    assert ends.loc["all eight − those in another image"].tolist() == pytest.approx([0.5, 0.5, 0.5, 32])
    _, swept = local_patch.sweep_scene(study, "any", 0)
    for factor, scores in zip(local_patch.FACTORS, swept, strict=True):
        assert torch.allclose(scores - 2 * colours, factor * expected)


def test_step_against_the_same_by_hand(study):
    (corrected, truth, predicted, then, moved), ranks = local_patch.step_split(study, "fcn8s", "test")
    network, totals = study.network("fcn8s"), torch.zeros(6, 3).double()
    for i, (x, y) in enumerate(study.dataset("test")):
        guided = guide(network, x[None], EPSILON)
        before, after = guided.before[0], guided.after[0]
        fixed = (y != study.void) & (before.argmax(0) != y) & (after.argmax(0) == y)
        assert corrected[i].tolist() == [
            [int(fixed[r : r + 32, c : c + 32].sum()) for c in range(0, 128, 32)] for r in range(0, 100, 32)
        ]
        with torch.no_grad():
            first, second = (network.scores(z)[0][0] for z in (x[None], guided.images))
        assert torch.allclose(moved[i], second - first, atol=1e-5)
        assert torch.equal(predicted[i], first.argmax(0)) and torch.equal(then[i], second.argmax(0))
        assert torch.equal(truth[i], local_patch.cell_labels(y, 6, study.void))
        for r, c in fixed.nonzero().tolist():
            change, true = (after - before)[:, r, c].double(), int(y[r, c])
            totals[0] += torch.tensor([change[true], change[true].abs(), 1])
            for rank, k in enumerate(before[:, r, c].argsort(descending=True)[:5].tolist(), 1):
                if k != true:
                    totals[rank] += torch.tensor([change[k], change[k].abs(), 1])
    assert totals[0, 2] > 100
    output = ranks[ranks["scores"] == "output"]
    found = output.groupby("rank")[["change", "size", "pixels"]].sum()
    assert torch.allclose(torch.tensor(found.to_numpy()), totals, rtol=1e-4)
    table = local_patch.rank_table(ranks).set_index(["scores", "class"])
    assert table.loc[("output", "true class"), "change"] == pytest.approx(
        (totals[0, 0] / totals[0, 2]).item(), rel=1e-4
    )
    assert table.loc[("output", "rival, rank 3"), "size"] == pytest.approx(
        (totals[3, 1] / totals[3, 2]).item(), rel=1e-4
    )
    assert ranks.groupby("image").size().tolist() == [12, 12, 12]


def test_interpolated_score_fr_is_the_output_of_fcn32s(monkeypatch, study):
    coarse = fcn_small(6, 32).eval()
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: coarse)
    _, ranks = local_patch.step_split(study, "fcn32s", "test")
    output, interpolated = (
        ranks[ranks["scores"] == s].drop(columns="scores").to_numpy() for s in ("output", "score_fr")
    )
    assert output.sum() > 0
    assert abs(output - interpolated).max() < 1e-4


def test_sweep_and_rows_of_a_scene(study):
    swept, found = local_patch.sweep_scene(study, "fcn8s", 1)
    network, (image, labels) = study.network("fcn8s"), study.dataset("test")[1]
    guided = guide(network, image[None], EPSILON)
    backward = guide(network, image[None], -EPSILON)
    with torch.no_grad():
        expected = [network.scores(x)[0][0] for x in (backward.images, image[None], guided.images)]
    assert (len(local_patch.FACTORS), local_patch.FACTORS[0], local_patch.FACTORS[-1]) == (17, -4, 4)
    back, still, ahead = (local_patch.FACTORS.index(factor) for factor in (-1, 0, 1))
    assert torch.allclose(found[[back, still, ahead]], torch.stack(expected), atol=1e-5)
    assert torch.equal(swept.signal, guided.signal) and torch.equal(swept.after, guided.after)
    assert torch.equal(local_patch.sweep_scene(study, "fcn8s", 1, (0, -1))[1], found[[still, back]])

    rows = local_patch.score_rows(study, "fcn8s", Place(1, 2, 1), found)
    assert len(rows) == 9 * 17 * 5
    assert sorted(rows["class"].unique(), key=study.classes.index) == list(rows["class"].unique())
    row = rows[(rows["row"] == 3) & (rows["column"] == 0) & (rows["factor"] == -1)].iloc[1]
    scores = found[back, :, 3, 0]
    assert row["score"] == pytest.approx(scores[study.classes.index(row["class"])].item())
    assert row["predicted"] == study.classes[scores.argmax()]
    assert row["true"] == study.classes[labels[96:, :32].flatten().mode().values]
    assert row["epsilon"] == -EPSILON and row["scene"] == 1
    highest = found[still, :, 1:4, 0:3].amax((1, 2)).argsort(descending=True).tolist()
    centre = found[[still, ahead], :, 2, 1].argmax(1).unique().tolist()
    top = sorted([*centre, *(k for k in highest if k not in centre)][:5])
    assert list(rows["class"].unique()) == [study.classes[k] for k in top]
    unknown = dataclasses.replace(study, dataset=lambda split: [(image, torch.full_like(labels, study.void))] * 2)
    void = local_patch.score_rows(unknown, "fcn8s", Place(1, 2, 1), found)
    assert set(void["true"]) == {"void"}
    with pytest.raises(ValueError, match="row, column: got 3, 1"):
        local_patch.score_rows(study, "fcn8s", Place(1, 3, 1), found)


def test_the_centres_classes_are_drawn_however_low_they_score(study):
    scores = torch.arange(6.0).view(1, 6, 1, 1).repeat(len(local_patch.FACTORS), 1, 4, 4)
    scores[:, :, 1, 1] = torch.tensor([-1.0, -9, -9, -9, -9, -9])  # 0 is on top, and has the lowest best score
    scores[:, 0, [0, 2], :3] = scores[:, 0, 1, [0, 2]] = -5
    rows = local_patch.score_rows(study, "fcn8s", Place(0, 1, 1), scores)
    assert list(rows["class"].unique()) == [study.classes[k] for k in (0, 2, 3, 4, 5)]
    scores[local_patch.FACTORS.index(1), 1, 1, 1] = 0  # 1 is after the step
    rows = local_patch.score_rows(study, "fcn8s", Place(0, 1, 1), scores)
    assert list(rows["class"].unique()) == [study.classes[k] for k in (0, 1, 3, 4, 5)]


def test_reading_of_nine_cells_by_hand(study, monkeypatch):
    labels = torch.zeros(96, 96, dtype=torch.long)
    labels[32:64, 32:64], labels[:32, :32] = 2, study.void
    study = dataclasses.replace(study, dataset=lambda split: [(torch.zeros(3, 96, 96), labels)])
    scores = torch.zeros(len(local_patch.FACTORS), 3, 3, 3)
    back, still, ahead = (local_patch.FACTORS.index(factor) for factor in (-1, 0, 1))
    scores[:, 0] = 1.0  # ground everywhere
    scores[still, :, 1, 1] = torch.tensor([1.0, 3, 2])
    scores[ahead, :, 1, 1] = torch.tensor([1.5, 2, 2.25])
    scores[back, :, 1, 1] = torch.tensor([1.0, 3, 1.25])
    found = local_patch.reading(study, Place(0, 1, 1), scores)
    name = study.classes
    assert found[["row", "column"]].to_numpy().tolist() == [[i, j] for i in range(3) for j in range(3)]
    centre = (name[2], name[1], name[2], name[1], 0.25, -1.0, -0.75, -1.0, 0.25)
    assert tuple(found.iloc[4, 2:]) == centre
    assert tuple(found.iloc[8, 2:]) == (name[0], name[0], name[0], name[1], 0, 0, 0, 1, 1)
    assert found.iloc[0, 2:6].tolist() == ["void", name[0], name[0], ""] and found.iloc[0, 6:].isna().all()


def test_least_ratio_by_hand():
    """Two images alike: the true class changes by 2 a pixel, rivals by -1/2, by 1 (the least), and one never occurs."""
    sums = {0: (8, 8, 4), 1: (-2, 6, 4), 2: (3, 3, 3), 3: (0, 0, 0)}
    rows = pd.DataFrame(
        [(image, rank, *each) for image in range(2) for rank, each in sums.items()],
        columns=["image", "rank", "change", "size", "pixels"],
    )
    assert [*local_patch.least_ratio(rows)] == [2, 2, 2]
    assert local_patch.least_ratio(rows, "size").value == pytest.approx(2 / 1.5)
    rows.loc[(rows["image"] == 1) & (rows["rank"] == 0), "change"] = 16
    found = local_patch.least_ratio(rows)
    assert (found.value, found.low, found.high) == pytest.approx((3, 2, 4))


def test_figures_mark_the_true_class_and_the_cells(study, withheld):
    (guided, scores), place = local_patch.sweep_scene(study, "fcn8s", 0), Place(0, 1, 2)
    rows = local_patch.score_rows(study, "fcn8s", place, scores)
    figure = explorer.scores_figure(rows, 1)
    for axes, (_, cell) in zip(figure.axes, rows.groupby(["row", "column"]), strict=True):
        thick = [line for line in axes.lines if line.get_linewidth() > 2]
        part = cell[cell["class"] == cell["true"]]
        assert [line.get_ydata().tolist() for line in thick] == ([part["score"].tolist()] if len(part) else [])
    plt.close(figure)
    figure = explorer.patch_figure(study, "fcn8s", place)
    for axes, cell in (*((axes, 32) for axes in figure.axes[:3]), *((axes, 1) for axes in figure.axes[6:])):
        frames = {(*frame.get_xy(), frame.get_width(), frame.get_height()) for frame in axes.patches}
        assert frames == {(cell - 0.5, -0.5, 3 * cell, 3 * cell), (2 * cell - 0.5, cell - 0.5, cell, cell)}
    assert not any(axes.patches for axes in figure.axes[3:6])
    patch, step, moved = (axes.images[0].get_array() for axes in figure.axes[3:6])
    whole, labels = study.dataset("test")[0]
    image, moves = (each[:, :96, 32:128] for each in (whole, EPSILON * guided.signal[0].sign()))
    change = panels.change_map(*(z[0].argmax(0) for z in guided.trajectory), labels, study.void)
    palette = np.full((256, 3), 255)
    palette[: len(study.colours)] = study.colours
    cells = local_patch.cell_labels(labels, len(study.classes), study.void)
    for axes, truth in ((figure.axes[1], labels), (figure.axes[6], cells)):
        np.testing.assert_array_equal(axes.images[0].get_array(), palette[truth])
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), change)
    np.testing.assert_array_equal(patch, image.permute(1, 2, 0))
    np.testing.assert_allclose(step, moves.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moved, (image + moves).permute(1, 2, 0).clamp(0, 1), rtol=1e-6)
    shown = [axes.get_title() for axes in figure.axes]
    assert shown[6:] == ["truth by cells", "ε = −0.2", "ε = −0.05", "ε = 0", "ε = 0.05 (tuned)", "ε = 0.2"]
    for axes, factor in zip(figure.axes[7:], (-4, -1, 0, 1, 4), strict=True):
        colours = np.array(study.colours)[scores[local_patch.FACTORS.index(factor)].argmax(0)]
        np.testing.assert_array_equal(axes.images[0].get_array(), colours)
    plt.close(figure)
    hidden = explorer.patch_figure(withheld, "fcn8s", place)
    assert [axes.get_title() for axes in hidden.axes] == [shown[i] for i in (2, 4, *range(6, 12))]
    plt.close(hidden)


def test_scores_of_a_neighbourhood_are_shaded_where_the_true_class_is_on_top():
    rows = pd.DataFrame(
        [
            (
                0,
                row,
                column,
                "a" if column else "z",
                factor,
                factor / 50,
                "b" if factor < 0 else "a",
                name,
                factor * sign,
            )
            for row in range(3)
            for column in range(3)
            for factor in (-1.0, 0.0, 1.0)
            for name, sign in (("a", 2), ("b", -1))
        ],
        columns=["scene", "row", "column", "true", "factor", "epsilon", "predicted", "class", "score"],
    )
    figure = explorer.scores_figure(rows, 1.0)
    outside, inside = figure.axes[0], figure.axes[1]
    assert outside.get_title() == "cell (0, 0): true z (not drawn)\npredicted a → a"
    assert inside.get_title() == "cell (0, 1): true a\npredicted a → a"
    assert [line.get_ydata().tolist() for line in inside.lines[:2]] == [[-2, 0, 2], [1, 0, -1]]
    assert [line.get_linewidth() for line in inside.lines[:2]] == [2.6, 1]
    assert inside.lines[-1].get_xdata() == [1, 1]
    shaded = inside.collections[0].get_paths()[0].vertices[:, 0]
    assert (shaded.min(), shaded.max()) == (0, 1) and not outside.collections[0].get_paths()
    assert figure.axes[7].get_xlabel() == "ε, in multiples of the tuned 0.02"
    plt.close(figure)


def test_explorer_redraws_for_a_moved_slider(study, monkeypatch):
    def quick(rows, factor):  # what the picture is of, not the picture
        figure, axes = plt.subplots(figsize=(2, 1))
        axes.set_axis_off()
        axes.plot([*rows["score"], factor])
        return figure

    monkeypatch.setattr(explorer, "scores_figure", quick)
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
    assert [(s.options[0], s.options[-1]) for s in list(sliders.sliders.values())[:3]] == [(0, 2), (1, 2), (1, 2)]

    monkeypatch.setenv("TQDM_DISABLE", "1")
    shown = sliders._repr_mimebundle_()
    assert set(shown) == {"image/png", "text/plain"}
    assert shown["text/plain"] == "Explorer(scene=1, row=2, column=2, factor=-2)"
    monkeypatch.delenv("TQDM_DISABLE")
    assert "application/vnd.jupyter.widget-view+json" in sliders._repr_mimebundle_()


def test_explorer_refuses_a_border_cell(study):
    with pytest.raises(ValueError, match="row, column: got 0, 1"):
        explorer.explore(study, "fcn8s", Place(0, 0, 1))
