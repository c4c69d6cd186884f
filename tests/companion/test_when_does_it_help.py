"""Islands, weights and interventions by hand; the survey's columns against a plain loop."""

import pandas as pd
import pytest
import torch
from conftest import EPSILON, iou, pairs

from gpcore import metrics
from gpcore.adapt import augmented
from gpcore.companion.experiments import when_does_it_help
from gpcore.perturb import guide


def test_islands_are_small_4_connected_regions():
    labels = torch.zeros(2, 40, 40, dtype=torch.long)  # islands have fewer than 8 of 1600 pixels
    labels[0, :5] = 3  # a class that is large here ...
    labels[0, 10, 10:17] = 3  # ... and small there: 7
    labels[0, 20, 10:18] = 4  # 8 is no island
    labels[0, 30:32, 30:32] = torch.tensor([[5, 0], [0, 5]])  # neighbours across a corner are two regions
    expected = torch.zeros(2, 40, 40, dtype=torch.bool)
    expected[0, 10, 10:17] = True
    expected[0, 30, 30] = expected[0, 31, 31] = True
    assert torch.equal(when_does_it_help.islands(labels), expected)


def test_islands_take_the_class_of_the_nearest_mainland():
    labels = torch.zeros(1, 40, 40, dtype=torch.long)
    labels[..., 20:] = 1
    labels[0, 5, 17:20] = 2  # beside the border: its pixels lie 1 from class 1, or 1 from class 0 above and below
    labels[0, 30, 30] = 2
    changed = when_does_it_help.surrounded(labels)
    assert changed[0, 30, 30] == 1
    assert changed[0, 5, 17] == changed[0, 5, 18] == 0
    untouched = ~when_does_it_help.islands(labels)
    assert torch.equal(changed[untouched], labels[untouched])
    assert labels[0, 30, 30] == 2  # the argument stays as it was


def test_balance_gives_every_predicted_class_the_same_sum():
    labels = torch.tensor([[0, 0, 0, 1], [2, 2, 1, 2]]).view(2, 2, 2)
    logits = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    factors = when_does_it_help.balance(logits)
    assert factors.shape == (2, 1, 2, 2)
    torch.testing.assert_close(factors.mean((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(factors[0, 0], torch.tensor([[2 / 3, 2 / 3], [2 / 3, 2.0]]))
    torch.testing.assert_close(factors[1, 0], torch.tensor([[2 / 3, 2 / 3], [2.0, 2 / 3]]))


def test_mended_labels_put_that_share_of_errors_right():
    generator = torch.Generator().manual_seed(1)
    logits, truth = torch.randn(2, 5, 60, 60, generator=generator), torch.randint(5, (2, 60, 60), generator=generator)
    predicted = logits.argmax(1)
    case, wrong = when_does_it_help.Case(torch.nn.Identity(), logits, logits, truth), predicted != truth
    quarter = when_does_it_help.mended(0.25)(case)
    assert torch.equal(quarter[~wrong], truth[~wrong])
    assert (quarter == truth)[wrong].float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(when_does_it_help.mended(0.0)(case), predicted)
    assert torch.equal(when_does_it_help.mended(1.0)(case), truth)


def test_confidence_is_that_of_the_likeliest_class():
    logits = torch.tensor([[0.91, 0.05, 0.04], [0.04, 0.89, 0.07]]).log().view(1, 2, 1, 3).movedim(-1, 1)
    for name, expected in (("confident alone", [1, 0]), ("uncertain alone", [0, 1])):
        weight = when_does_it_help.INTERVENTIONS[name].weight(logits)
        assert weight.shape == (1, 1, 2, 1) and weight.flatten().tolist() == expected


def test_the_hypothesis_predicts_the_sign_of_every_change():
    signs = {name: intervention.predicted for name, intervention in when_does_it_help.INTERVENTIONS.items()}
    higher = ["islands silent", "islands relabelled", "label of shifted views"]
    higher += [f"{share}% of errors mended" for share in (10, 25, 50, 100)]
    lower, same = ["islands alone", "classes balanced"], ["every pixel", "confident alone", "uncertain alone"]
    assert signs == dict.fromkeys(higher, 1) | dict.fromkeys(lower, -1) | dict.fromkeys(same, 0)


def test_interventions_are_guided_steps_with_those_labels_and_weights(study):
    counts, erased = when_does_it_help.intervene(study, "fcn8s", "test")
    network = study.network("fcn8s")
    for i in range(4):
        x, y = (part[None] for part in study.data("test")[i])
        plain = guide(network, x, EPSILON)
        before = plain.before.argmax(1)
        island = when_does_it_help.islands(before)
        silent = guide(network, x, EPSILON, weight=lambda z, m=island: (~m).float()[:, None])
        others = guide(network, x, EPSILON, weight=lambda z, m=island: m.float()[:, None])
        balanced = guide(network, x, EPSILON, weight=when_does_it_help.balance)
        relabelled = guide(network, x, EPSILON, labels=when_does_it_help.surrounded(before))
        shifted = guide(network, x, EPSILON, labels=augmented(network, x, "shift").argmax(1))
        truth = guide(network, x, EPSILON, labels=y, void=study.void)
        expected = {
            "network alone": plain.before, "every pixel": plain.after, "islands silent": silent.after,
            "islands relabelled": relabelled.after, "100% of errors mended": truth.after,
            "label of shifted views": shifted.after, "islands alone": others.after, "classes balanced": balanced.after,
        }  # fmt: skip
        for kind, logits in expected.items():
            assert torch.equal(counts[kind][i], metrics.confusion(logits.argmax(1), y, 11, 255)), kind
        row = erased[erased["intervention"] == "islands silent"].iloc[i]
        assert row["islands"] == island.sum() > 0
        assert row["erased"] == (island & (silent.after.argmax(1) != before)).sum()
    assert set(counts) == {"network alone", *when_does_it_help.INTERVENTIONS}


def test_effects_tell_gain_change_and_erasure():
    """Three images; the second differs, so that gains have an interval."""
    hits = dict.fromkeys(when_does_it_help.INTERVENTIONS, (7, 9)) | {"network alone": (5, 5)}
    hits |= {"islands silent": (8, 10), "islands alone": (4, 4)}
    counts = {kind: pairs([one, other, one]) for kind, (one, other) in hits.items()}
    names = list(when_does_it_help.INTERVENTIONS)
    erased = pd.DataFrame({"intervention": names * 2, "islands": [4] * 12 + [8] * 12, "erased": [1] * 12 + [4] * 12})
    rows = when_does_it_help.effects(counts, erased).set_index("intervention")
    together = {pair: iou((2 * pair[0] + pair[1]) / 3) for pair in hits.values()}
    expected = {"every pixel": (7, 9), "islands silent": (8, 10), "islands alone": (4, 4)}
    for kind, (one, other) in expected.items():
        gain = [together[one, other] - iou(5), iou(one) - iou(5), iou(other) - iou(5)]
        change = [together[one, other] - together[7, 9], *sorted([iou(one) - iou(7), iou(other) - iou(9)])]
        assert rows.loc[kind].tolist()[:6] == pytest.approx(gain + change)
    assert rows["islands_erased"].tolist() == pytest.approx([100 * 5 / 12] * 12)
    shown = when_does_it_help.verdicts(rows.reset_index())
    assert shown.loc[["islands silent", "islands alone"], "went"].tolist() == ["as predicted"] * 2
    assert shown.loc[["islands relabelled", "every pixel"], "went"].tolist() == ["undecided", "–"]
    assert shown.loc["islands silent"].tolist()[:4] == [
        "+29.12 [+23.33, +41.67]", "+8.58 [+8.21, +9.55]", 41.7, "higher",
    ]  # fmt: skip
    opposite = rows.reset_index().assign(predicted=-rows["predicted"].to_numpy())
    assert when_does_it_help.verdicts(opposite).loc["islands silent", "went"] == "the other way"
