import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics import JaccardIndex

from gpcore import metrics
from gpcore.companion.report import tables

VOID = 7


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(3)
    predicted = torch.randint(5, (4, 20, 30), generator=generator)
    labels = torch.randint(5, (4, 20, 30), generator=generator)
    return predicted, labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.2, VOID)


def test_confusion_is_sklearns(maps):
    predicted, labels = maps
    known = labels != VOID
    assert np.array_equal(
        metrics.confusion(predicted, labels, 5, VOID),
        confusion_matrix(labels[known], predicted[known], labels=range(5)),
    )


@pytest.mark.parametrize("average", ["macro", "none"])
def test_iou_is_torchmetrics(maps, average):
    theirs = JaccardIndex(task="multiclass", num_classes=5, ignore_index=VOID, average=average)(*maps)
    matrix = metrics.confusion(*maps, 5, VOID)
    ours = metrics.miou(matrix) if average == "macro" else metrics.class_iou(matrix)
    assert torch.allclose(ours, theirs.double(), atol=1e-6)


def test_hand_counted():
    matrix = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])  # the third class never occurs
    assert torch.allclose(metrics.class_iou(matrix)[:2], torch.tensor([3 / 6, 4 / 7]).double())
    both = torch.stack([matrix, torch.eye(3).long()])
    assert metrics.miou(both).tolist() == pytest.approx([(3 / 6 + 4 / 7) / 2, 1])
    assert metrics.accuracy(both).tolist() == pytest.approx([7 / 10, 1])


def test_confusion_counts_maps_of_bytes():
    predicted, labels = torch.tensor([16, 0, 16, 5]).byte(), torch.tensor([20, 20, 255, 0]).byte()
    matrix = metrics.confusion(predicted, labels, 21, 255)
    assert matrix.nonzero().tolist() == [[0, 5], [20, 0], [20, 16]]
    assert matrix.sum() == 3
    assert metrics.confusion(labels, labels.long(), 300, 256).diagonal().nonzero().tolist() == [[0], [20], [255]]
    assert metrics.confusion(predicted[:2], labels[2:].char(), 21, -1).nonzero().tolist() == [[0, 0]]  # 255 is -1
    assert metrics.confusion(predicted[:0], labels[:0], 2, 255).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([[0, 1]], [[0], [1]], r"predicted: got shape \[1, 2\], .* of labels, \[2, 1\]"),
        ([0, 2], [1, 1], "predicted: got class 2, expected 0 to 1"),
        ([0, -1], [1, 1], "predicted: got class -1"),
        ([0, 2], [1, VOID], "predicted: got class 2"),
        ([VOID, 0], [1, 1], f"predicted: got class {VOID}"),
        ([0, 1], [2, 1], f"labels: got class 2, expected 0 to 1, or {VOID}"),
        ([0, 1], [1, -1], "labels: got class -1"),
        ([0.0, 1.0], [1, 1], "predicted: got torch.float32, expected whole numbers"),
        ([0, 1], [0.5, 1.0], "labels: got torch.float32"),
    ],
)
def test_maps_that_cannot_be_counted(predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion(torch.tensor(predicted), torch.tensor(labels), 2, VOID)


def test_bootstrap_of_a_mean_has_the_normal_interval():
    sample = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    value, low, high = metrics.bootstrap(lambda total: total / 400, sample, resamples=4000)
    half = 1.96 * sample.std().item() / 20
    assert value == pytest.approx(sample.mean().item())
    assert (high - value, value - low) == (pytest.approx(half, rel=0.08), pytest.approx(half, rel=0.08))
    default = metrics.mean(sample[:9])
    assert default == metrics.bootstrap(lambda total: total / 9, sample[:9], resamples=1000, seed=0)
    assert default.low != metrics.bootstrap(lambda total: total / 9, sample[:9], seed=1).low


def test_bootstrap_is_resample_by_resample_that_of_the_drawn_images():
    before, after = torch.randint(1, 90, (2, 30, 4, 4), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(30, (30,), generator=generator) for _ in range(1000)]
    gains = [100 * (metrics.miou(after[pick].sum(0)) - metrics.miou(before[pick].sum(0))) for pick in drawn]
    expected = np.quantile(gains, [0.025, 0.975])
    assert metrics.gain(before, after)[1:] == pytest.approx(expected, abs=1e-12)


def test_resamples_without_the_statistic_do_not_count():
    sums, counts = torch.tensor([[3, 3, 0], [1, 1, 0]])  # undefined in one resample of 27
    assert metrics.bootstrap(lambda s, c: s / c, sums, counts) == (3, 3, 3)


def test_images_are_counted_together():
    before = torch.tensor([[[2, 2], [0, 0]], [[0, 0], [0, 4]]])  # one class each: together 2 2 / 0 4
    after = torch.tensor([[[4, 0], [0, 0]], [[0, 0], [0, 4]]])
    assert metrics.score(before).value == pytest.approx(50 * (2 / 4 + 4 / 6))
    assert metrics.gain(before, after).value == pytest.approx(100 - 50 * (2 / 4 + 4 / 6))


def test_gain_is_paired():
    # every image gains two pixels: the difference of unpaired samples would spread, the paired gain hardly does
    generator = torch.Generator().manual_seed(0)
    hits = torch.randint(20, 60, (50,), generator=generator)
    before = torch.stack([torch.tensor([[h, 80 - h], [0, 80]]) for h in hits])
    after = before + torch.tensor([[2, -2], [0, 0]])
    value, low, high = metrics.gain(before, after)
    assert low < value < high
    assert value > 0
    assert high - low < 0.1 < metrics.score(before).high - metrics.score(before).low


def test_gains_are_zero_at_their_base():
    counts = torch.tensor([[[2, 2], [2, 2]], [[4, 0], [0, 4]], [[4, 0], [4, 0]]])[:, None].expand(3, 6, 2, 2)
    rows = tables.gains(dict(enumerate(counts)), "epsilon", base=1)  # mIoU 1/3, 1, 1/4
    for values in (rows["gain"], rows["low"], rows["high"]):
        assert values.tolist() == pytest.approx([-200 / 3, 0, -75])
    assert rows["miou"].tolist() == pytest.approx([100 / 3, 100, 25])


def test_distance_medians_and_shares_by_hand():
    rows = pd.DataFrame(
        [(0, "corrected", 0, 1), (0, "corrected", 2, 4), (1, "corrected", 5, 1), (1, "newly wrong", 1, 2)],
        columns=["image", "kind", "distance", "pixels"],
    )
    median = tables.distance_medians(rows).set_index("kind")
    assert median["pixels"].to_dict() == {"corrected": 6, "newly wrong": 2}
    assert median["median"].to_dict() == {"corrected": 2.5, "newly wrong": 1.5}
    shares = tables.distance_shares(rows, edges=(0, 2, 4)).set_index(["kind", "distance"])["share"]
    assert [shares["corrected", d] for d in (0, 2, 4)] == [
        pytest.approx(100 / 6),
        pytest.approx(400 / 6),
        pytest.approx(100 / 6),
    ]
    assert shares["newly wrong", 0] == 100


def test_per_class_table_by_hand():
    counts = torch.tensor([[[3, 0], [1, 2]], [[0, 1], [1, 2]]])  # together 3 1 / 2 4
    table = tables.by_class({"ours": counts}, ("a", "b")).set_index("method")
    assert table.loc["ours"].tolist() == pytest.approx([50, 400 / 7, (50 + 400 / 7) / 2, 70])
    assert list(table) == ["a", "b", "mean IoU", "global accuracy"]


def test_mcnemar_is_the_exact_binomial_test():
    truth = torch.zeros(12, dtype=torch.long)
    before, after = truth.clone(), truth.clone()
    before[:9], after[9] = 1, 1  # nine corrected, one newly wrong
    found = metrics.mcnemar(before, after, truth)
    assert found[:2] == (9, 1)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert metrics.mcnemar(after, before, truth)[:2] == (1, 9)
    assert metrics.mcnemar(truth, truth, truth) == (0, 0, 1.0)


def test_difference_resamples_both_by_themselves():
    """Means of a sample that varies and of one that does not; of another length."""
    ours, theirs = torch.tensor([0.0, 0, 0, 4]), torch.tensor([3.0] * 7)
    found = metrics.difference(lambda s: s / 4, [ours], lambda s: s / 7, [theirs])
    alone = metrics.mean(ours)
    assert found == pytest.approx([alone.value - 3, alone.low - 3, alone.high - 3])
    same = metrics.difference(lambda s: s / 4, [ours], lambda s: s / 4, [ours])
    assert same.value == 0 and same.low < 0 < same.high  # not paired


def test_units_are_resampled_whole():
    """Frames of one unit are alike: as many units, each of one frame, give the same interval of the mean."""
    values, units = torch.tensor([1.0, 1, 2, 2, 2, 2, 6, 6]), torch.tensor([7, 7, 3, 3, 3, 3, 0, 0])
    assert metrics.per_unit(values, units).tolist() == [12, 8, 2]
    assert metrics.per_unit(values, None) is values
    found, singly = metrics.mean(values, units), metrics.mean(values)
    drawn = torch.randint(3, (1000, 3), generator=torch.Generator().manual_seed(0))
    means = torch.tensor([12.0, 8, 2])[drawn].sum(1) / torch.tensor([2.0, 4, 2])[drawn].sum(1)
    ends = means.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    assert [*found] == pytest.approx([22 / 8, *ends])
    assert found.low < singly.low < singly.high < found.high
    with pytest.raises(ValueError, match="units: got 3 of them, expected one for each of 8 images"):
        metrics.per_unit(values, units[:3])
