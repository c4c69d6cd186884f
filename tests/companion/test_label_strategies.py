"""Sweeps by network and label against `sweep`; what validation chooses, by hand."""

import pytest
import torch
from conftest import iou, pairs, scenes

from gpcore import metrics
from gpcore.companion.experiments import label_strategies
from gpcore.perturb import sweep

COUNTS = {
    ("fcn8s", "onehot"): {-1: pairs([2, 2]), 0: pairs([5, 5]), 1: pairs([8, 6]), 2: pairs([7, 7])},
    ("fcn8s", "truth"): {-1: pairs([1, 1]), 0: pairs([9, 9]), 1: pairs([8, 8]), 2: pairs([3, 3])},
}


def test_levels_are_of_255(study):
    found = label_strategies.swept(study, ["fcn8s"], ["uniform", "truth"], [-1, 0, 2], "test")
    assert [*found] == [("fcn8s", "uniform"), ("fcn8s", "truth")]
    for i, (x, y) in enumerate(scenes(study)):
        for label, given in (("uniform", "uniform"), ("truth", y)):
            expected = sweep(study.network("fcn8s"), x, [-1 / 255, 0, 2 / 255], labels=given, void=study.void)
            for level, (_, logits) in zip((-1, 0, 2), expected, strict=True):
                want = metrics.confusion(logits[0].argmax(0), y[0], 11, study.void)
                assert torch.equal(found["fcn8s", label][level][i], want)


def test_the_best_level_is_chosen_and_never_none_at_all():
    assert label_strategies.chosen(COUNTS) == {("fcn8s", "onehot"): 1, ("fcn8s", "truth"): 1}


def test_curves_and_what_is_shown_of_them():
    rows = label_strategies.curves(COUNTS, {("fcn8s", "onehot"): 2})
    assert rows.columns.tolist() == ["network", "label", "level", "miou", "gain", "low", "high", "picked"]
    assert rows["picked"].tolist() == [False, False, False, True, *[False] * 4]
    assert rows["gain"].tolist()[:4] == pytest.approx([iou(2) - iou(5), 0, iou(7) - iou(5), iou(7) - iou(5)])
    assert rows.loc[2, ["low", "high"]].tolist() == pytest.approx([iou(6) - iou(5), iou(8) - iou(5)])
    shown = label_strategies.best(rows)
    gain = iou(7) - iou(5)
    assert shown.loc["fcn8s", "onehot"].tolist()[:2] == ["2", f"{gain:+.2f} [{gain:+.2f}, {gain:+.2f}]"]
    assert shown.loc["fcn8s", "truth"].tolist() == ["–", "–", f"{iou(8) - iou(9):+.2f} at 1"]


def test_each_label_beside_the_first_by_hand():
    counts = {
        "onehot": torch.stack([pairs([5, 5]), pairs([8, 8])]),
        "top2": torch.stack([pairs([5, 5]), pairs([6, 6])]),
    }
    picked = {("unet", "onehot"): 1, ("unet", "top2"): -2}
    first, second = label_strategies.judged(counts, picked, "unet", 2).to_numpy()
    above, below = iou(8) - iou(5), iou(6) - iou(5)
    assert first.tolist() == ["onehot", 1, *[pytest.approx(above)] * 3, 0, 0, 0, 2]
    assert second.tolist() == ["top2", -2, *[pytest.approx(below)] * 3, *[pytest.approx(above - below)] * 3, 2]
