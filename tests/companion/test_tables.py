import numpy as np
import pandas as pd
import pytest
import torch
from conftest import iou, pairs

from gpcore import metrics
from gpcore.companion.report import record, tables


def test_points_have_their_sign():
    assert tables.points(1.234, -0.8, 1.61) == "+1.23 [-0.80, +1.61]"


def test_gain_rows_by_hand():
    """Three images, the second as large as three; together 28 and then 43 of 50 pixels of the first class are right."""
    size = torch.tensor([1, 3, 1]).view(3, 1, 1)
    counts = torch.stack([pairs([4, 6, 6]) * size, pairs([7, 9, 9]) * size])
    pixels = pd.DataFrame({"corrected": [3, 9, 3], "newly_wrong": [0, 1, 0]})
    row = tables.gain_rows({"fcn8s": (counts, pixels)}, {"fcn8s": 0.01}).iloc[0]
    assert (row["network"], row["epsilon"], row["images"]) == ("fcn8s", 0.01, 3)
    base, guided = 100 * (28 / 50 + 50 / 72) / 2, 100 * (43 / 50 + 50 / 57) / 2
    assert (row["base"], row["guided"], row["gain"]) == pytest.approx((base, guided, guided - base))
    assert (row["low"], row["high"]) == pytest.approx((iou(7) - iou(4), iou(9) - iou(6)))
    assert (row["base_accuracy"], row["guided_accuracy"]) == pytest.approx((78, 93))
    assert (row["corrected"], row["newly_wrong"]) == (15, 1)


def test_beside_compares_with_the_right_network():
    counts, pixels = torch.stack([pairs([4]), pairs([7])]), pd.DataFrame({"corrected": [3], "newly_wrong": [1]})
    rows = tables.gain_rows(
        dict.fromkeys(("at-small", "deeplab"), (counts, pixels)), {"at-small": 0.0005, "deeplab": 0.01}
    )
    table = tables.beside(rows, record.paper("segmentation"))
    assert table.loc["DeepLab-v2"].tolist() == [
        "0.01", "51.25", "73.46", "+22.21 [+22.21, +22.21]", "3.00", "66.90", "69.10", "20.01",
    ]  # fmt: skip
    assert table.loc["AT-small", ["ε", "paper base", "paper +GP", "gain − paper's"]].tolist() == ["0.0005", *"–––"]


def test_gain_table_is_over_the_base_setting():
    """Of two images the mean hits are 4, 6 and 9; the second setting is the base."""
    counts = torch.stack([pairs([3, 5]), pairs([4, 8]), pairs([8, 10])])
    rows = tables.gain_table({"a": counts}, [10, 20, 30], base=1, name="iteration")
    assert list(rows) == ["label", "iteration", "miou", "gain", "low", "high"]
    assert rows["iteration"].tolist() == [10, 20, 30] and rows["label"].unique().tolist() == ["a"]
    assert rows["miou"].tolist() == pytest.approx([iou(4), iou(6), iou(9)])
    assert rows["gain"].tolist() == pytest.approx([iou(4) - iou(6), 0, iou(9) - iou(6)])
    assert rows["low"].tolist() == pytest.approx([iou(5) - iou(8), 0, iou(10) - iou(8)])
    assert rows["high"].tolist() == pytest.approx([iou(3) - iou(4), 0, iou(8) - iou(4)])


def test_differences_are_of_the_second_less_the_first():
    counts = torch.stack([pairs([4, 6]), pairs([5, 9])])
    for each, pair in ((counts, (0, 1)), ({"a": counts[0], "b": counts[1]}, ("a", "b"))):
        (row,) = tables.differences(each, {"b − a": pair}).to_dict("records")
        assert row["difference"] == "b − a"
        expected = [iou(7) - iou(5), iou(5) - iou(4), iou(9) - iou(6)]
        assert [row["points"], row["low"], row["high"]] == pytest.approx(expected)


def test_class_gains_by_hand():
    rows = tables.class_gains(torch.stack([pairs([2, 6]), pairs([5, 9])]), ["a", "b"]).set_index("class")
    assert rows.loc["a"].tolist() == pytest.approx([40, 70, 30, 30, 30])
    ends = [100 * (10 / (20 - after) - 10 / (20 - before)) for before, after in ((4, 7), (2, 5), (6, 9))]
    assert rows.loc["b"].tolist() == pytest.approx([100 * 10 / 16, 100 * 10 / 13, *ends])


def test_a_class_missing_from_some_resamples_still_has_an_interval():
    """Each of two images shows one class, right in 4, then 7, of the first's 10 pixels and all of the second's."""
    one, then, other = (
        torch.tensor(m)
        for m in ([[4, 0, 6], [0] * 3, [0] * 3], [[7, 0, 3], [0] * 3, [0] * 3], [[0] * 3, [0, 9, 1], [0] * 3])
    )
    rows = tables.class_gains([torch.stack([one, other]), torch.stack([then, other])], ["a", "b"])
    assert rows[["gain", "low", "high"]].to_numpy().tolist() == [pytest.approx([30] * 3), [0, 0, 0]]


@pytest.mark.parametrize(
    ("epsilons", "gains", "expected"),
    [
        ([-1, 0, 0.5, 1, 2, 4], [-1, 0, 1, 1, 1, -1], (0.5, 2)),
        ([-1, 0, 0.5, 1, 2, 4], [9, 9, -1, -1, 2, 3], (2, 4)),
        ([-1, 0, 0.5, 1, 2, 4], [9, 0, 1, 0, 1, 1], (2, 4)),
        ([4, 2, 1, 0.5, 0, -1], [1, -1, 1, 1, 9, 9], (0.5, 1)),
        ([-1, 0, 0.5, 1, 2, 4], [9, 0, -1, 0, -1, -1], (0, 0)),
        ([0.1, 0.4, 1, 2, 4], [1, 1, -1, 1, 1], (0.1, 0.4)),  # by ratio, not by difference
        ([1, 2, 3, 4, 8], [1, 1, -1, 1, 1], (1, 2)),  # of equals the first
    ],
)
def test_widest_range(epsilons, gains, expected):
    assert tables.widest_range(epsilons, gains) == expected


def test_ranges_tell_the_best_of_each_network():
    rows = pd.DataFrame({"label": ["b"] * 3 + ["a"] * 3, "epsilon": [0, 1, 4] * 2, "gain": [0, 2, 1, 0, -1, -2]})
    found = tables.ranges(rows)
    assert found.T.to_dict("list") == {"b": [1, 4, 4, 1, 2], "a": [0, 0, 0, 0, 0]} and list(found.index) == ["b", "a"]


def test_settings_have_a_column_per_number():
    rows = tables.settings({"unet": {"gaussian": (3, 4), "bilateral": (50, 5, 10)}})
    assert rows.to_numpy().tolist() == [["U-Net", 3, 4, 50, 5, 10]]
    assert list(rows)[1:3] == ["gaussian sxy", "gaussian weight"]


def toy_rows(printed):
    """Eq. (5), (l . y)(l - y), from the printed y and l; printed digits are truncated."""

    def total(values):
        return values.groupby([printed["case"], printed["label"]]).transform("sum")

    y = printed["y"] / total(printed["y"])
    rows = printed.assign(**{"eq. (5)": total(y * printed["l"]) * (printed["l"] - y)})
    return rows.assign(match=(rows["eq. (5)"] - rows["signal"]).abs() < 1e-3)


def test_toy_numbers_of_figure_9():
    toy = toy_rows(record.paper("toy"))
    assert len(toy) == 20
    assert toy["match"].all()
    assert toy["eq. (5)"].round(4).tolist()[:5] == [0, -0.08, 0.026, 0.02, 0.034]
    assert toy["eq. (5)"].round(4).tolist()[15:] == [-0.1575, -0.045, 0.2475, -0.027, -0.018]
    unimodal = tables.toy_numbers(toy, "unimodal")
    uniform, onehot = np.array([0, -0.08, 0.026, 0.02, 0.034]), np.array([-0.12, 0.24, -0.042, -0.06, -0.018])
    cosine = uniform @ onehot / np.sqrt((uniform @ uniform) * (onehot @ onehot))
    assert unimodal == pytest.approx(
        {"matches": 10, "expected": 10, "cosine": cosine, "onehot_top_raised": 1, "uniform_top_lowered": 1}
    )
    altered = record.paper("toy").assign(signal=lambda t: t["signal"] + 0.002)
    assert tables.toy_numbers(toy_rows(altered), "bimodal")["matches"] == 0
    flat = tables.toy_numbers(toy.assign(**{"eq. (5)": toy["eq. (5)"].where(toy["class"] != 2, 0)}), "unimodal")
    assert (flat["onehot_top_raised"], flat["uniform_top_lowered"]) == (0, 0)  # class 2 is on top


def test_paired_rows_by_hand():
    truth = torch.zeros(10, dtype=torch.long)
    alone, better = truth.clone(), truth.clone()
    alone[:4], better[4] = 1, 1  # four wrong; those corrected, one newly wrong
    rows = tables.paired({"alone": alone, "better": better, "same": alone}, truth)
    assert rows["accuracy"].tolist() == pytest.approx([60, 90, 60])
    assert rows["gain"].tolist() == pytest.approx([0, 30, 0])
    assert rows.loc[1, ["corrected", "newly_wrong"]].tolist() == [4, 1]
    assert rows["p"].tolist() == pytest.approx([1, 2 * 6 / 32, 1])  # of 5 changes at most one, either way
    shown = tables.paired_table(rows, {"base": 98.92, "guided": 99.15})
    assert shown["paper (%)"].tolist() == ["98.92", "99.15", "–"]
    assert shown.loc["better"].tolist()[:1] + shown.loc["better"].tolist()[2:4] == ["90.00", "4 : 1", "0.38"]
    assert shown.loc["better", "gain [95 %]"].startswith("+30.00 [")


def test_error_reduction_of_the_paper():
    assert tables.error_reduction(98.92, 0.23, 0.1, 0.3)["value"] == pytest.approx(21.3, abs=0.01)
    assert tables.error_reduction(60.0, 4.0, -2.0, 8.0) == pytest.approx({"value": 10, "low": -5, "high": 20})


def test_method_gains_compare_with_the_first_of_each_condition():
    clean, fog = ({"alone": pairs(a), "step": pairs(b)} for a, b in (([7, 9], [10, 10]), ([3, 7], [0, 2])))
    rows = tables.method_gains({("", 0): clean, ("fog", 4): fog})
    assert rows[["condition", "method"]].agg(" ".join, axis=1).tolist() == [
        "clean alone", "clean step", "fog 4 alone", "fog 4 step",
    ]  # fmt: skip
    assert rows["miou"].tolist() == pytest.approx([iou(8), 100, iou(5), iou(1)])
    assert rows["gain"].tolist() == pytest.approx([0, 100 - iou(8), 0, iou(1) - iou(5)])


def test_best_is_the_highest_miou_of_the_whole_set():
    """Image by image a has the higher mean (62.5 against 62.02), together b (58.33 against 61.98)."""
    assert tables.best({"a": pairs([10, 0]), "b": pairs([5, 6]), "c": pairs([6, 5])}) == "b"


def test_gain_difference_is_the_first_pairs_gain_less_the_seconds():
    found = tables.gain_difference((pairs([4, 8]), pairs([10, 10])), (pairs([6, 10]), pairs([10, 10])))
    assert list(found) == pytest.approx([iou(8) - iou(6), iou(6) - iou(4), 100 - iou(8)])
    assert found.named("d") == {"d": found.value, "d_low": found.low, "d_high": found.high}
    assert tables.gain_difference((pairs([5]), pairs([5])), (pairs([4]), pairs([7]))).value == pytest.approx(
        iou(4) - iou(7)
    )


def test_image_spread_is_of_the_change_in_each_image():
    rows = tables.image_spread({"kept": torch.stack([pairs([4, 5, 6]), pairs([5, 5, 9]), pairs([0, 5, 6])])})
    change = [[0, 0, 0], [iou(5) - iou(4), 0, iou(9) - iou(6)], [iou(0) - iou(4), 0, 0]]
    assert rows[["label", "iteration"]].to_numpy().tolist() == [["kept", 0], ["kept", 1], ["kept", 2]]
    assert rows["mean"].tolist() == pytest.approx([np.mean(c) for c in change])
    assert rows["std"].tolist() == pytest.approx([np.std(c, ddof=1) for c in change])


def test_by_group_is_the_scaled_mean_with_its_ends():
    rows = pd.DataFrame({"layer": ["b", "a", "b", "a"], "change": [0.1, 1.0, 0.3, 1.0]})
    found = tables.by_group(rows, "layer", "change", scale=100)
    assert found["layer"].tolist() == ["b", "a"]
    assert found[["mean", "low", "high"]].to_numpy().tolist() == [pytest.approx([20, 10, 30]), pytest.approx([100] * 3)]


def test_a_median_lies_within_its_pixel():
    rows = pd.DataFrame([(0, "a", 1, 3), (0, "a", 0, 1)], columns=["image", "kind", "distance", "pixels"])
    assert tables.distance_medians(rows)["median"].item() == pytest.approx(1 + 1 / 3)


def test_by_class_has_a_line_per_method():
    counts = {"alone": torch.tensor([[[3, 1], [2, 4]], [[1, 0], [0, 0]]])}
    (row,) = tables.by_class(counts, ["a", "b"]).to_dict("records")
    # together [[4, 1], [2, 4]]
    assert row["method"] == "alone"
    assert [row[c] for c in ("a", "b")] == pytest.approx([100 * 4 / 7, 100 * 4 / 7])
    assert row["mean IoU"] == pytest.approx(100 * 4 / 7)
    assert row["global accuracy"] == pytest.approx(100 * 8 / 11)


def test_margin_pairs_images():
    values = {"a": [5.0, 1.0, 9.0, 4.0], "b": [1.0, 1.0, 2.0, 8.0]}
    rows = pd.DataFrame(
        [(i, m, values[m][i]) for m in ("b", "a") for i in (2, 0, 3, 1)], columns=["image", "method", "v"]
    )
    found = tables.margin(rows, "v", "a", "b", scale=10)
    assert found.value == pytest.approx(10 * (4 + 0 + 7 - 4) / 4)
    by_hand = metrics.bootstrap(torch.mean, torch.tensor([40.0, 0.0, 70.0, -40.0], dtype=torch.double))
    assert found == pytest.approx(by_hand) and found.low < 0 < found.high
