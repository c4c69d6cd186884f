"""Notebook 46: objects matched with the true ones and scored as COCO does, by hand and against pycocotools."""

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from gpcore import metrics
from gpcore.companion import studies, weights
from gpcore.companion.experiments import instances
from gpcore.companion.experiments.instances import METHODS, NEIGHBOURS
from gpcore.networks.maskrcnn import objects, tight_boxes

DIGITS = studies.get("digits")


def squares(*corners, labels, scores=None, size=10):
    """Objects of 10 x 10 pixels with those upper left corners on 40 x 40."""
    masks = torch.zeros(len(corners), 40, 40, dtype=torch.bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + size, x : x + size] = True
    found = {"boxes": tight_boxes(masks), "labels": torch.tensor(labels), "masks": masks}
    return found if scores is None else found | {"scores": torch.tensor(scores)}


TRUTH = [squares((0, 0), (0, 10), labels=[1, 1]), squares((20, 20), labels=[2]), squares((5, 5), labels=[1])]
# one as it is, one shifted by two of its ten pixels (IoU 2/3), one found twice, one called by a wrong name
FOUND = [
    squares((0, 0), (0, 12), labels=[1, 1], scores=[0.9, 0.6]),
    squares((20, 20), (21, 20), labels=[2, 2], scores=[0.8, 0.7]),
    squares((5, 5), labels=[2], scores=[0.95]),
]


@pytest.fixture
def rows():
    return instances.found_rows(FOUND, TRUTH), instances.true_rows(TRUTH)


def draws(count=3):
    return torch.ones(count, dtype=torch.double)


def test_overlaps_by_hand():
    shifted = squares((0, 0), (0, 2), (30, 30), labels=[1, 1, 1])["masks"]
    assert_close(instances.overlaps(shifted[:1], shifted), torch.tensor([[1, 80 / 120, 0]], dtype=torch.double))


def test_the_surest_takes_the_best_and_what_is_taken_is_gone():
    found = squares((0, 1), (0, 0), (0, 0), labels=[1, 1, 2], scores=[0.5, 0.9, 0.99])
    truth = squares((0, 0), labels=[1])
    assert instances.hits(found, truth).tolist() == [-1, 0, -1]
    assert instances.hits(squares((0, 4), labels=[1], scores=[0.9]), truth).tolist() == [-1]  # IoU 60 / 140
    assert instances.hits(squares((0, 4), labels=[1], scores=[0.9]), truth, least=0.4).tolist() == [0]


def test_rows_by_hand(rows):
    found, truth = rows
    assert found[["image", "label"]].values.tolist() == [[0, 1], [0, 1], [1, 2], [1, 2], [2, 2]]
    assert found["score"].tolist() == pytest.approx([0.9, 0.6, 0.8, 0.7, 0.95])
    assert found["hits"].tolist() == [0, 1, 0, -1, -1]
    assert truth["neighbour"].tolist() == [NEIGHBOURS[2], NEIGHBOURS[2], NEIGHBOURS[0], NEIGHBOURS[0]]
    assert truth["height"].tolist() == [10] * 4


def test_touching_another_class_at_a_corner():
    (first, _) = instances.true_rows([squares((0, 0), (10, 10), labels=[1, 2])])["neighbour"]
    assert first == NEIGHBOURS[1]
    assert set(instances.true_rows([squares((0, 0), (11, 11), labels=[1, 1])])["neighbour"]) == {NEIGHBOURS[0]}


def test_average_precision_by_hand(rows):
    """Class 1: two of three found, none false: recalls to .66, 67 of 101. Class 2: image 2's false one is first."""
    assert_close(instances.class_ap(*rows, 1, draws()).item(), 100 * 67 / 101)
    assert_close(instances.class_ap(*rows, 2, draws()).item(), 50.0)
    assert_close(instances.class_ap(*rows, 2, torch.tensor([1.0, 1, 0]).double()).item(), 100.0)
    assert instances.class_ap(*rows, 2, torch.tensor([1.0, 0, 1]).double()).isnan()  # none to be found
    assert_close(instances.mean_ap(*rows, torch.tensor([1.0, 0, 1]).double()).item(), 100 * 67 / 101)


def test_nothing_found_scores_nothing(rows):
    assert instances.class_ap(rows[0].iloc[:0], rows[1], 1, draws()) == 0


def test_it_is_cocos(rows):
    ours = instances.summary(FOUND, TRUTH)
    assert_close(instances.mean_ap(*rows, draws()).item(), ours["mask AP50"], atol=1e-4, rtol=0)
    # at 10 thresholds: of class 1 the shifted one counts up to .65, of class 2 nothing changes
    by_hand = (4 * 67 / 101 + 6 * 34 / 101) / 10
    assert_close(ours["mask AP"], 100 * (by_hand + 0.5) / 2, atol=1e-3, rtol=0)
    assert_close(ours["box AP"], ours["mask AP"], atol=1e-3, rtol=0)  # squares fill their boxes
    assert_close(ours["mask AP75"], 100 * (34 / 101 + 0.5) / 2, atol=1e-3, rtol=0)


def test_perfect_predictions_score_100():
    perfect = [each | {"scores": torch.ones(len(each["labels"]))} for each in TRUTH]
    assert instances.summary(perfect, TRUTH) == pytest.approx(dict.fromkeys(instances.summary(perfect, TRUTH), 100))


def test_a_drawn_image_counts_as_often_as_it_is_drawn(rows):
    several = torch.tensor([[1.0, 1, 1], [0, 2, 1]]).double()
    assert_close(instances.mean_ap(*rows, several)[0], instances.mean_ap(*rows, draws()))
    twice = [FOUND[1], FOUND[1], FOUND[2]], [TRUTH[1], TRUTH[1], TRUTH[2]]
    again = instances.found_rows(*twice), instances.true_rows(twice[1])
    # class 2: precision 0/1, 2/3; of class 1 nothing is found
    assert_close(instances.class_ap(*rows, 2, several)[1], instances.class_ap(*again, 2, draws()))
    assert_close(instances.class_ap(*again, 2, draws()).item(), 100 * 2 / 3)


def test_the_interval_resamples_images(rows):
    found = metrics.bootstrap(lambda times: instances.mean_ap(*rows, times), torch.eye(3))
    assert found.value == pytest.approx(instances.mean_ap(*rows, draws()).item()) and found.low < found.value
    table = instances.class_rows({"ours": rows[0]}, rows[1], DIGITS, 3)
    assert table[["class", "objects"]].values.tolist() == [["0", 3], ["1", 1]]
    assert table["ap"].tolist() == pytest.approx([100 * 67 / 101, 50])


def test_components_by_hand():
    scores = torch.zeros(3, 6, 8)
    scores[0] = 1
    scores[1, 0:2, 0:3] = 3  # six pixels
    scores[1, 0:2, 5:7] = 9  # four of the same class, apart, and surer
    scores[2, 4, 4] = 4  # a speck
    found = instances.components(scores, 1)
    assert found["labels"].tolist() == [1, 1, 2]
    assert found["boxes"].tolist() == [[0, 0, 3, 2], [5, 0, 7, 2], [4, 4, 5, 5]]
    assert found["masks"].sum((1, 2)).tolist() == [6, 4, 1]
    assert_close(found["scores"], torch.tensor([[1.0, 3, 0], [1, 9, 0], [1, 0, 4]]).softmax(1)[[0, 1, 2], [1, 1, 2]])
    assert instances.components(scores, 4)["labels"].tolist() == [1, 1]
    none = instances.components(scores, 99)
    assert [len(none[name]) for name in ("boxes", "labels", "scores", "masks")] == [0, 0, 0, 0]
    assert len(instances.found_rows([none], [objects(16 * scores.argmax(0))])) == 0


def test_two_that_touch_are_one_component():
    scores = torch.zeros(2, 40, 40)
    scores[1] = TRUTH[0]["masks"].any(0) * 9.0 - 1
    found = instances.components(scores, 1)
    assert instances.hits(found, TRUTH[0]).tolist() == [0]  # 100 of 200 pixels: half, and one of the two is lost


def test_best_score_by_hand(rows):
    """By falling score: wrong, right, right, wrong, right. F1 of the first three: 4 / 7; of all: 6 / 9."""
    assert instances.best_score(*rows) == pytest.approx((0.6, 600 / 9))
    sure = rows[0][rows[0]["hits"] >= 0]
    assert instances.best_score(sure, rows[1]) == pytest.approx((0.6, 600 / 7))


def test_recall_by_hand(rows):
    shares = instances.recall_rows({"ours": rows[0]}, rows[1], "neighbour", 3).set_index("neighbour")
    assert shares["share"].to_dict() == {NEIGHBOURS[2]: 100, NEIGHBOURS[0]: 50}
    assert shares["objects"].to_dict() == {NEIGHBOURS[2]: 2, NEIGHBOURS[0]: 2}
    assert shares.loc[NEIGHBOURS[0], ["low", "high"]].tolist() == [0, 100]


def test_what_is_believed():
    sure = instances.believed(FOUND[0], 0.7)
    assert sure["labels"].tolist() == [1] and torch.equal(sure["masks"], TRUTH[0]["masks"][:1])
    assert {*sure} == {*FOUND[0]}


def test_errors_by_hand(rows):
    """Image 0 has none, image 1 a false one below .75, image 2 one missed and one false."""
    assert instances.errors(*rows, 0.0, 4).tolist() == [0, 1, 2, 0]
    assert instances.errors(*rows, 0.75, 3).tolist() == [1, 0, 2]
    assert instances.errors(*rows, 0.99, 3).tolist() == [2, 1, 1]  # nothing is believed


def test_telling_scenes_by_hand():
    truth = pd.DataFrame({"image": [0, 0, 1, 1, 2, 3, 3, 3], "neighbour": [NEIGHBOURS[2]] * 4 + [NEIGHBOURS[0]] * 4})
    found = {METHODS[0]: pd.Series([1, 0, 3, 0]), METHODS[1]: pd.Series([0, 2, 1, 0])}
    told = instances.telling_scenes(found, truth)
    assert [*told.values()] == [1, 0, 3, 2] and "most errors" in [*told][-1]


@pytest.fixture(scope="module")
def validation():
    data = instances.dataset("val")
    return [data[i] for i in range(0, 150, 10)]


def test_the_committed_weights_find_what_they_are_said_to_find(validation):
    """On fifteen of the validation scenes, within what so few may differ by; untrained heads find nothing."""
    truth = [objects(coded) for _, coded in validation]
    said = weights.info(instances.stored_as(DIGITS))["tuned"][METHODS[0]]["ap50"]
    for network, low, high in (
        (instances.detector(DIGITS), said - 20, 100),
        (instances.untrained(DIGITS).eval(), 0, 5),
    ):
        found = instances.found_rows([instances.detected(network, image) for image, _ in validation], truth)
        ap = instances.mean_ap(found, instances.true_rows(truth), draws(len(truth))).item()
        assert low <= ap <= high


def test_the_detector_shares_the_trunk_and_is_small():
    entry, fcn = weights.info(instances.stored_as(DIGITS)), DIGITS.network("fcn8s").state_dict()
    assert entry["base"] == "digits/fcn-seed0" and len(entry["shared"]) == len(fcn)
    assert 2 * entry["parameters"] < 2e6
    state = instances.detector(DIGITS).state_dict()
    assert all(torch.equal(state[f"backbone.fcn.{name}"], value) for name, value in fcn.items())
    assert pd.DataFrame(entry["losses"]).shape == (entry["recipe"]["epochs"], 5)
