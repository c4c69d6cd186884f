"""Objects by size and scenes by share, against loops and by hand; the figure shows its rows."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from conftest import EPSILON, iou, pairs

from gpcore import metrics
from gpcore.companion.experiments import expectations, when_does_it_help
from gpcore.perturb import guide

GROUND = 0


def test_measured_pixels_against_a_plain_loop(study):
    edges, network = [0, 0.9, 9], study.network("fcn8s")
    found = expectations.measured(study, "fcn8s", edges, "test", ground=GROUND)
    assert found.counts.shape == (2, 4, 11, 11) and found.sizes.shape == (2, 3, 4)
    for i in range(4):
        x, y = study.data("test")[i]
        was, now = (z[0].argmax(0) for z in guide(network, x[None], EPSILON).trajectory)
        assert torch.equal(found.counts[1, i], metrics.confusion(now, y, 11, 255))
        tall = when_does_it_help.heights(y[None], GROUND, study.void)[0]
        expected = torch.zeros(2, 3)
        for r, c in (tall > 0).nonzero().tolist():
            size = int(tall[r, c] > 0.9 * 32)
            right = was[r, c] == y[r, c], now[r, c] == y[r, c]
            expected[size] += torch.tensor([1, not right[0] and right[1], right[0] and not right[1]])
        assert torch.equal(found.sizes[:, :, i], expected.long())
        known = y != study.void
        few = when_does_it_help.outvoted(was[None], GROUND)[0]
        assert found.few[:, i].tolist() == [int((few & known).sum()), int((known & (was != GROUND)).sum())]
    assert (found.sizes.sum(2) > 0).all()


def test_net_is_corrected_less_newly_wrong_of_all():
    assert expectations.net(torch.tensor([[200.0, 30, 10], [50, 0, 5]])).tolist() == [10, -10]


def test_by_size_names_the_edges_and_compares_the_ends():
    sizes = torch.tensor([[[100, 100], [5, 5], [1, 1]], [[50, 50], [0, 0], [0, 0]], [[10, 10], [3, 3], [1, 1]]])
    found = {"fcn8s": expectations.Measured(torch.empty(0), torch.empty(0), sizes)}
    rows = pd.DataFrame(expectations.by_size(found, [0, 1, 2, 9]))
    assert rows["place"].tolist() == ["≤ 1", "1–2", "> 2", "last − first"]
    assert rows["value"].tolist() == pytest.approx([4, 0, 20, 16])
    assert rows["low"].tolist() == pytest.approx([4, 0, 20, 16])  # two images alike
    assert set(rows["series"]) == {"FCN-8s"} and set(rows["images"]) == {2}


def test_by_scene_makes_groups_of_equal_number_by_rising_share():
    shares = torch.tensor([30.0, 10, 20, 40])
    counts = torch.stack([pairs([5, 5, 5, 5]), pairs([7, 6, 6, 8])])
    found = expectations.Measured(counts, torch.empty(0), torch.empty(0))
    rows = pd.DataFrame(expectations.by_scene("ground", found, shares, groups=2))
    assert rows["place"].tolist() == ["10–20", "30–40", "last − first"] and rows["images"].tolist() == [2, 2, 4]
    assert rows["value"].tolist() == pytest.approx([iou(6) - iou(5), iou(7.5) - iou(5), iou(7.5) - iou(6)])
    assert rows.loc[2, ["low", "high"]].tolist() == pytest.approx([iou(7) - iou(6), iou(8) - iou(6)])


def test_of_a_video_groups_and_sizes_are_resampled_by_its_blocks():
    """Two blocks in each group: intervals of four frames in two blocks reach from one block's gain to the other's."""
    counts = torch.stack([pairs([5] * 8), pairs([6, 6, 8, 8, 7, 7, 9, 9])])
    sizes = torch.tensor([[[10] * 8, [1, 1, 3, 3, 2, 2, 4, 4], [0] * 8]])
    units = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    found = expectations.Measured(counts, torch.empty(0), sizes, units)
    first, last, _ = expectations.by_scene("ground", found, torch.arange(8.0), groups=2)
    assert [first[end] for end in ("low", "high")] == pytest.approx([iou(6) - iou(5), iou(8) - iou(5)])
    assert [last[end] for end in ("low", "high")] == pytest.approx([iou(7) - iou(5), iou(9) - iou(5)])
    assert (first["images"], last["images"]) == (4, 4)
    row, _ = expectations.by_size({"fcn8s": found}, [0, 9])
    assert (row["value"], row["images"]) == (25, 8)
    spread = torch.randint(4, (1000, 4), generator=torch.Generator().manual_seed(0))
    means = torch.tensor([10.0, 30, 20, 40])[spread].mean(1)
    ends = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    assert [row["low"], row["high"]] == pytest.approx(ends)


def test_by_training_compares_the_last_gain_with_the_first():
    counts = {"3": torch.stack([pairs([4] * 3), pairs([5] * 3)]), "12": torch.stack([pairs([6] * 3), pairs([9] * 3)])}
    rows = pd.DataFrame(expectations.by_training(counts))
    assert rows["place"].tolist() == ["3", "12", "last − first"]
    first, last = iou(5) - iou(4), iou(9) - iou(6)
    assert rows["value"].tolist() == pytest.approx([first, last, last - first])


def test_ground_shares_are_of_known_pixels():
    counts = torch.tensor([[[6, 1], [1, 2]], [[0, 0], [3, 1]]])
    assert expectations.ground_shares(counts, 0).tolist() == [70, 0]


ROWS = pd.DataFrame(
    [
        ("size", "A", "≤ 1", 1.0, 0.5, 2.0, 9), ("size", "A", "> 1", 2.0, 1.5, 2.5, 9),
        ("size", "A", "last − first", 1.0, 0.2, 1.8, 9),
        ("size", "B", "≤ 1", 3.0, 2.5, 3.5, 9), ("size", "B", "> 1", 2.0, 1.5, 2.5, 9),
        ("size", "B", "last − first", -1.0, -1.8, -0.2, 9),
        ("ground", "", "0–50", 1.0, 0.5, 1.5, 4), ("ground", "", "50–90", 0.5, -0.5, 1.0, 4),
        ("ground", "", "last − first", -0.5, -1.5, 0.5, 8),
    ],
    columns=["panel", "series", "place", "value", "low", "high", "images"],
)  # fmt: skip


def test_trends_say_what_the_intervals_say():
    shown = expectations.trends(ROWS)
    assert shown["it"].tolist() == ["rises", "falls", "no clear trend"]
    assert shown.index.tolist() == [("size", "A"), ("size", "B"), ("ground", "")]
    assert shown.iloc[0].tolist() == ["+1.00 [+0.20, +1.80]", "rises", 9]


def test_the_figure_shows_every_row_but_the_differences():
    titles = {"ground": ("the ground", "share", "gain"), "size": ("objects", "height", "net")}
    drawn = expectations.figure(ROWS, titles)
    ground, size = (axes for axes in drawn.axes if axes.get_visible())
    assert [(a.get_title(), a.get_xlabel(), a.get_ylabel()) for a in (ground, size)] == [*titles.values()]
    assert [tick.get_text() for tick in size.get_xticklabels()] == ["≤ 1", "> 1"]
    lines = {c.get_label(): (c.lines[0], c.lines[2][0]) for c in size.containers}
    assert lines["A"][0].get_xdata().tolist() == pytest.approx([-0.1, 0.9])
    assert lines["B"][0].get_ydata().tolist() == [3, 2]
    assert [end[1] for end in lines["A"][1].get_segments()[0]] == [0.5, 2.0]
    assert ground.containers[0].lines[0].get_ydata().tolist() == [1, 0.5]
    assert size.get_legend() and not ground.get_legend()
    plt.close(drawn)
