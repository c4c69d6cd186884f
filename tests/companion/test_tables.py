import numpy as np
import pandas as pd
import pytest
import torch
from conftest import iou, pairs

from gpcore import metrics
from gpcore.companion.report import record, tables


def test_differences_have_their_sign():
    rows = pd.DataFrame({"gain": [1.234, -1], "low": [-0.8, -2], "high": [1.61, 0]})
    assert tables.signed(rows) == ["+1.23 [-0.80, +1.61]", "-1.00 [-2.00, +0.00]"]
    assert tables.ranged(rows) == ["1.2 [-0.8, 1.6]", "-1.0 [-2.0, 0.0]"]


def test_intervals_are_those_of_their_rows():
    rows = pd.DataFrame({"high": [3.0, 6.0], "name": ["b", "a"], "low": [1.0, 4.0], "mean": [2.0, 5.0]})
    assert tables.intervals(rows, "name", "mean") == {"b": (2, 1, 3), "a": (5, 4, 6)}
    assert tables.intervals(rows.rename(columns={"mean": "gain"}), "name")["a"].high == 6


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
        "0.01", "51.25", "73.46", "1", "+22.21 [+22.21, +22.21]", "3.00", "66.90", "69.10", "20.01",
    ]  # fmt: skip
    assert table.loc["AT-small", ["ε", "paper base", "paper +GP", "gain − paper's"]].tolist() == ["0.0005", *"–––"]
    seeds = pd.DataFrame({"network": ["deeplab", "at-small", "deeplab"], "gain": [0.25, 1, -0.5]})
    table = tables.beside(rows, record.paper("segmentation"), seeds)
    assert table["over trainings"].to_dict() == {"AT-small": "–", "DeepLab-v2": "-0.50 to +0.25 (2)"}


def test_gains_are_over_the_base_setting():
    """Of two images the mean hits are 4, 6 and 9; the second setting is the base."""
    counts = {10: pairs([3, 5]), 20: pairs([4, 8]), 30: pairs([8, 10])}
    rows = tables.gains(counts, "iteration", base=20)
    assert list(rows) == ["iteration", "miou", "gain", "low", "high"] and rows["iteration"].tolist() == [10, 20, 30]
    assert rows["miou"].tolist() == pytest.approx([iou(4), iou(6), iou(9)])
    assert rows["gain"].tolist() == pytest.approx([iou(4) - iou(6), 0, iou(9) - iou(6)])
    assert rows["low"].tolist() == pytest.approx([iou(5) - iou(8), 0, iou(10) - iou(8)])
    assert rows["high"].tolist() == pytest.approx([iou(3) - iou(4), 0, iou(8) - iou(4)])


def test_gains_compare_with_the_first_of_each_part():
    clean, fog = ({"alone": pairs(a), "step": pairs(b)} for a, b in (([7, 9], [10, 10]), ([3, 7], [0, 2])))
    rows = tables.gains_by("condition", {"clean": clean, "fog 4": fog})
    assert rows[["condition", "method"]].to_numpy().tolist() == [
        ["clean", "alone"], ["clean", "step"], ["fog 4", "alone"], ["fog 4", "step"],
    ]  # fmt: skip
    assert list(rows.index) == [0, 1, 2, 3]
    assert rows["miou"].tolist() == pytest.approx([iou(8), 100, iou(5), iou(1)])
    assert rows["gain"].tolist() == pytest.approx([0, 100 - iou(8), 0, iou(1) - iou(5)])
    over = tables.gains_by("condition", {"clean": clean, "fog 4": fog}, "setting", base="step")
    assert over["gain"].tolist() == pytest.approx([iou(8) - 100, 0, iou(5) - iou(1), 0]) and "setting" in over


def test_the_miou_is_of_the_whole_set():
    """Image by image a has the higher mean (62.5 against 62.02), together b (58.33 against 61.98)."""
    rows = tables.gains({"a": pairs([10, 0]), "b": pairs([5, 6])})
    assert rows["miou"].tolist() == pytest.approx([iou(5), iou(5.5)]) and rows["miou"][1] > rows["miou"][0]


def test_differences_are_of_the_second_less_the_first():
    counts = {"a": pairs([4, 6]), "b": pairs([5, 9])}
    (row,) = tables.differences(counts, {"b − a": ("a", "b")}).to_dict("records")
    expected = [iou(7) - iou(5), iou(5) - iou(4), iou(9) - iou(6)]
    assert [*row] == ["difference", "points", "low", "high"] and row.pop("difference") == "b − a"
    assert [*row.values()] == pytest.approx(expected)


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


def test_paired_rows_by_hand():
    truth = torch.zeros(10, dtype=torch.long)
    alone, better = truth.clone(), truth.clone()
    alone[:4], better[4] = 1, 1  # four wrong; those corrected, one newly wrong
    rows = tables.paired({"alone": alone, "better": better, "same": alone}, truth)
    assert rows["accuracy"].tolist() == pytest.approx([60, 90, 60])
    assert rows["gain"].tolist() == pytest.approx([0, 30, 0])
    assert rows.loc[1, ["corrected", "newly_wrong"]].tolist() == [4, 1]
    assert rows["p"].tolist() == pytest.approx([1, 2 * 6 / 32, 1])  # of 5 changes at most one, either way


def test_gain_difference_is_the_first_pairs_gain_less_the_seconds():
    found = tables.gain_difference((pairs([4, 8]), pairs([10, 10])), (pairs([6, 10]), pairs([10, 10])))
    assert list(found) == pytest.approx([iou(8) - iou(6), iou(6) - iou(4), 100 - iou(8)])
    assert tables.gain_difference((pairs([5]), pairs([5])), (pairs([4]), pairs([7]))).value == pytest.approx(
        iou(4) - iou(7)
    )
    thrice = tables.gain_difference((pairs([4]), pairs([10])), (pairs([4]), pairs([6])), times=3)
    assert thrice.value == pytest.approx(100 - iou(4) - 3 * (iou(6) - iou(4)))


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
    by_hand = metrics.mean(torch.tensor([40.0, 0.0, 70.0, -40.0], dtype=torch.double))
    assert found == pytest.approx(by_hand) and found.low < 0 < found.high


def test_distances_of_two_kinds_are_compared_on_the_same_images():
    """Images differ by far more than kinds do: every one's corrected pixels lie two pixels deeper than its errors."""
    rows = [(i, kind, 10 * i + deeper, 4) for i in range(5) for kind, deeper in (("corrected", 3), ("base error", 1))]
    found = tables.distance_difference(
        pd.DataFrame(rows, columns=["image", "kind", "distance", "pixels"]), "corrected", "base error"
    )
    assert found == pytest.approx((2, 2, 2))


def test_rows_of_a_video_are_resampled_by_its_units():
    """Every function over rows with an image gives for units of equal frames what it gives for one frame of each."""
    rows = pd.DataFrame({"image": range(6), "v": [1.0, 1, 2, 2, 6, 6], "w": 0.0})
    marked = tables.with_units(rows, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert tables.with_units(rows, None) is rows and marked["unit"].tolist() == [0, 0, 1, 1, 2, 2]
    single = rows[::2].reset_index(drop=True).assign(image=range(3))
    assert tables.mean(marked, "v") == tables.mean(single, "v") != tables.mean(rows, "v")
    each = [tables.by_group(part.assign(g="a"), "g", "v").iloc[0].tolist() for part in (marked, single)]
    assert each[0] == each[1]

    def margins(part):
        long = part.melt([c for c in ("image", "unit") if c in part], var_name="method", value_name="x")
        return tables.margin(long, "x", "v", "w", scale=2)

    assert margins(marked) == margins(single) == tables.mean(single, "v", scale=2)
    pixels = {"kind": "a", "pixels": 4}
    far = [part.assign(distance=part["v"].astype(int), **pixels) for part in (marked, single)]
    ends = [tables.distance_medians(part)[["median", "low", "high"]].iloc[0].tolist() for part in far]
    assert ends[0] == ends[1]
