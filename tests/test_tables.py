import numpy as np
import pandas as pd
import pytest
import torch

from gpcore import metrics, results, tables
from gpcore.experiments import toy_rows


def pairs(hits):
    """Counts of one image with 10 pixels of each of two classes; hits: right pixels of the first."""
    return torch.tensor([[[h, 10 - h], [0, 10]] for h in hits])


def iou(hits):
    return 100 * (hits / 10 + 10 / (20 - hits)) / 2


def test_gain_rows_by_hand():
    counts = torch.stack([pairs([4, 4]), pairs([7, 7])])
    pixels = pd.DataFrame({"corrected": [3, 4], "newly_wrong": [0, 1]})
    row = tables.gain_rows({"fcn8s": (counts, pixels)}, {"fcn8s": 0.01}).iloc[0]
    assert row["network"] == "fcn8s"
    assert row["base"] == pytest.approx(iou(4))
    assert row["guided"] == pytest.approx(iou(7))
    assert [row["gain"], row["low"], row["high"]] == pytest.approx([iou(7) - iou(4)] * 3)  # both images are alike
    assert (row["base_accuracy"], row["guided_accuracy"]) == pytest.approx((70, 85))
    assert (row["corrected"], row["newly_wrong"], row["images"]) == (7, 1, 2)


def test_beside_compares_with_the_right_network():
    rows = tables.gain_rows(
        {"deeplab": (torch.stack([pairs([4]), pairs([7])]), pd.DataFrame({"corrected": [3], "newly_wrong": [1]}))},
        {"deeplab": 0.01},
    )
    table = tables.beside(rows, results.paper("segmentation")).loc["DeepLab-v2"]
    assert (table["paper base"], table["paper +GP"]) == ("66.90", "69.10")
    assert (table["ε"], table["base"], table["corrected : newly wrong"]) == ("0.01", f"{iou(4):.2f}", "3.00")
    assert table["gain − paper's"] == f"{iou(7) - iou(4) - 2.2:.2f}"


def test_differences_are_of_the_second_less_the_first():
    counts = torch.stack([pairs([4, 6]), pairs([5, 9])])
    (row,) = tables.differences(counts, {"b − a": (0, 1)}).to_dict("records")
    assert row["difference"] == "b − a"
    together = lambda hits: 100 * (hits / 20 + 20 / (40 - hits)) / 2  # noqa: E731
    assert row["points"] == pytest.approx(together(14) - together(10))
    assert row["low"] == pytest.approx(iou(5) - iou(4))
    assert row["high"] == pytest.approx(iou(9) - iou(6))


def test_class_gains_by_hand():
    rows = tables.class_gains(torch.stack([pairs([4, 4]), pairs([7, 7])]), ["a", "b"]).set_index("class")
    assert rows.loc["a"].tolist() == pytest.approx([40, 70, 30, 30, 30])
    assert rows.loc["b", "base"] == pytest.approx(100 * 10 / 16)
    assert rows.loc["b", "gain"] == pytest.approx(100 * (10 / 13 - 10 / 16))


def test_a_class_missing_from_some_resamples_still_has_an_interval():
    one, other = torch.tensor([[4, 6], [0, 0]]), torch.tensor([[0, 0], [2, 8]])
    rows = tables.class_gains(torch.stack([torch.stack([one, other]), torch.stack([one, other])]), ["a", "b"])
    assert rows[["gain", "low", "high"]].to_numpy().tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([-1, 0, 1, 1, 1, -1], (0.5, 2)),
        ([9, 0, -1, -1, 2, 3], (2, 4)),
        ([9, 0, 1, -1, 1, 1], (2, 4)),
        ([9, 0, 1, 1, -1, 1], (0.5, 1)),
        ([9, 0, -1, 0, -1, -1], (0, 0)),
    ],
)
def test_widest_range(gains, expected):
    assert tables.widest_range([-1, 0, 0.5, 1, 2, 4], gains) == expected


def test_ranges_tell_the_best_of_each_network():
    rows = pd.DataFrame({"label": ["a"] * 3 + ["b"] * 3, "epsilon": [0, 1, 4] * 2, "gain": [0, 2, 1, 0, -1, -2]})
    found = tables.ranges(rows)
    assert found.loc["a"].tolist() == [1, 4, 4, 1, 2]
    assert found.loc["b"].tolist() == [0, 0, 0, 0, 0]


def test_toy_numbers_of_figure_9():
    toy = toy_rows(results.paper("toy"))
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
    altered = results.paper("toy").assign(signal=lambda t: t["signal"] + 0.002)
    assert tables.toy_numbers(toy_rows(altered), "bimodal")["matches"] == 0


def test_paired_rows_by_hand():
    truth = torch.zeros(10, dtype=torch.long)
    alone, better = truth.clone(), truth.clone()
    alone[:4], better[4] = 1, 1  # four wrong; those corrected, one newly wrong
    rows = tables.paired({"alone": alone, "better": better}, truth)
    assert rows["accuracy"].tolist() == pytest.approx([60, 90])
    assert rows["gain"].tolist() == pytest.approx([0, 30])
    assert rows.loc[1, ["corrected", "newly_wrong"]].tolist() == [4, 1]
    assert rows["p"].tolist() == pytest.approx([1, 2 * 6 / 32])  # of 5 changes at most one, either way
    shown = tables.paired_table(rows, {"base": 98.92, "guided": 99.15})
    assert shown["paper (%)"].tolist() == ["98.92", "99.15"]
    assert shown["corrected : newly wrong"].tolist() == ["0 : 0", "4 : 1"]


def test_error_reduction_of_the_paper():
    assert tables.error_reduction(98.92, 0.23, 0.1, 0.3)["value"] == pytest.approx(21.3, abs=0.01)
    assert tables.error_reduction(60.0, 4.0, -2.0, 8.0) == pytest.approx({"value": 10, "low": -5, "high": 20})


def test_method_gains_compare_with_the_first_of_each_condition():
    def counts(right):
        return torch.tensor([[[right, 10 - right], [0, 10]]] * 2)

    found = {("", 0): {"alone": counts(8), "step": counts(10)}, ("fog", 4): {"alone": counts(5), "step": counts(0)}}
    rows = tables.method_gains(found).set_index(["condition", "method"])
    assert rows.loc[("clean", "step"), "miou"] == pytest.approx(100)
    assert rows.loc[("clean", "step"), "gain"] == pytest.approx(100 - 100 * (0.8 + 10 / 12) / 2)
    assert rows.loc[("fog 4", "step"), "gain"] == pytest.approx(100 * (0.25 - (0.5 + 10 / 15) / 2))
    assert rows.loc[("fog 4", "alone"), "gain"] == 0


def test_best_is_the_highest_miou_of_the_whole_set():
    low, high = (torch.tensor([[[right, 10 - right], [0, 10]]] * 2) for right in (5, 8))
    assert tables.best({"a": low, "b": high, "c": high}) == "b"


def test_differences_of_named_methods():
    """Two images, two classes: 8 of 10 right in each becomes 10 of 10."""
    counts = {"alone": torch.tensor([[[8, 2], [2, 8]]] * 2), "refined": torch.tensor([[[10, 0], [0, 10]]] * 2)}
    rows = tables.differences(counts, {"refined − alone": ("alone", "refined")})
    expected = 100 * (1 - 8 / 12)
    assert rows["difference"].tolist() == ["refined − alone"]
    assert rows.loc[0, ["points", "low", "high"]].tolist() == pytest.approx([expected] * 3)


def test_gain_difference_is_the_first_pairs_gain_less_the_seconds():
    worse, better, best = (torch.tensor([[[h, 10 - h], [10 - h, h]]] * 3) for h in (6, 8, 10))
    iou = [100 * h / (20 - h) for h in (6, 8, 10)]
    found = tables.gain_difference((worse, best), (better, best))
    assert list(found) == pytest.approx([(iou[2] - iou[0]) - (iou[2] - iou[1])] * 3)
    assert found.named("d") == {"d": found.value, "d_low": found.low, "d_high": found.high}


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
