"""Islands, weights and interventions by hand; the survey's columns against a plain loop; its settings by hand."""

import dataclasses
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import EPSILON, defined_in, iou, pairs

from gpcore import metrics
from gpcore.adapt import augmented
from gpcore.companion.experiments import when_does_it_help
from gpcore.companion.experiments.when_does_it_help import Setting
from gpcore.companion.measure import count_pixels
from gpcore.companion.studies import STAGES
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide


def notebook(*names, **given):
    return SimpleNamespace(**defined_in("14_when_does_it_help", *names, **given))


RULES = ("few", "on_ground", "balance", "mended", "where", "interventions")
GROUND = 0


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


def test_an_object_votes_for_its_most_frequent_class():
    """Class 4 is the ground. Two objects that touch across a corner only, and one of two classes in equal number."""
    labels = torch.tensor([[[1, 1, 4, 4, 3], [1, 2, 4, 4, 2], [4, 4, 2, 4, 4]]])
    expected = torch.tensor([[[1, 1, 4, 4, 2], [1, 1, 4, 4, 2], [4, 4, 2, 4, 4]]])  # of equals the first
    assert torch.equal(when_does_it_help.voted(labels, 4), expected)
    assert when_does_it_help.outvoted(labels, 4).nonzero().tolist() == [[0, 0, 4], [0, 1, 1]]
    assert labels[0, 1, 1] == 2  # the argument stays as it was
    only = torch.full((1, 3, 3), 4)
    assert torch.equal(when_does_it_help.voted(only, 4), only)


def test_without_a_ground_the_outvoted_are_islands():
    labels = torch.zeros(1, 40, 40, dtype=torch.long)
    labels[0, 30, 30] = labels[0, :20] = 2
    assert when_does_it_help.outvoted(labels).nonzero().tolist() == [[0, 30, 30]]
    assert torch.equal(when_does_it_help.voted(labels), when_does_it_help.surrounded(labels))


def test_heights_are_those_of_regions_of_one_class():
    """0 is the ground, 255 void: two regions of class 1 that void parts, and one of class 2 that touches the second."""
    labels = torch.tensor([[[1, 1, 0], [1, 255, 2], [255, 1, 2], [0, 1, 2]]])
    assert when_does_it_help.heights(labels, 0, 255).tolist() == [[[2, 2, 0], [2, 0, 3], [0, 2, 3], [0, 2, 3]]]
    grounded = when_does_it_help.heights(labels, None, 255)
    assert grounded[0, 0, 2] == 1 and grounded[0, 1, 1] == 0 and grounded[0, 3, 0] == 1


def test_a_mask_is_counted_through_confusion():
    labels, mask = torch.tensor([[[0, 1, 2], [2, 255, 1]]]), torch.tensor([[[True, False, True], [False, True, True]]])
    counts = metrics.confusion(when_does_it_help.marked(mask, labels, 3)[0], labels[0], 3, 255)
    assert when_does_it_help.how_many(counts) == 3 and counts.sum() == 5  # void is no pixel


def test_cover_counts_the_pixels_predicted_as_each_label():
    predicted = torch.tensor([[0, 0, 0, 1], [2, 2, 1, 2]]).view(2, 2, 2)
    logits = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).float()
    assert when_does_it_help.cover(logits, predicted).tolist() == [[[3, 3], [3, 1]], [[3, 3], [1, 3]]]
    labels = torch.tensor([[1, 0, 2, 3], [2, 1, 0, 3]]).view(2, 2, 2)
    assert when_does_it_help.cover(logits, labels).tolist() == [[[1, 3], [0, 0]], [[3, 1], [0, 0]]]


def test_balance_gives_every_predicted_class_the_same_sum():
    labels = torch.tensor([[0, 0, 0, 1], [2, 2, 1, 2]]).view(2, 2, 2)
    logits = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    factors = notebook("balance").balance(logits)
    assert factors.shape == (2, 1, 2, 2)
    torch.testing.assert_close(factors.mean((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(factors[0, 0], torch.tensor([[2 / 3, 2 / 3], [2 / 3, 2.0]]))
    torch.testing.assert_close(factors[1, 0], torch.tensor([[2 / 3, 2 / 3], [2.0, 2 / 3]]))


def test_mended_labels_put_that_share_of_errors_right():
    generator = torch.Generator().manual_seed(1)
    logits, truth = torch.randn(2, 5, 60, 60, generator=generator), torch.randint(5, (2, 60, 60), generator=generator)
    predicted = logits.argmax(1)
    mended, wrong = notebook("mended").mended, predicted != truth
    quarter = mended(None, logits, truth, 0.25)
    assert torch.equal(quarter[~wrong], truth[~wrong])
    assert (quarter == truth)[wrong].float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(mended(None, logits, truth, 0.0), predicted)
    assert torch.equal(mended(None, logits, truth, 1.0), truth)


def test_confidence_is_that_of_the_likeliest_class():
    logits = torch.tensor([[0.91, 0.05, 0.04], [0.04, 0.89, 0.07]]).log().view(1, 2, 1, 3).movedim(-1, 1)
    interventions = notebook(*RULES, ground=GROUND).interventions
    for name, expected in (("confident alone", [1, 0]), ("uncertain alone", [0, 1])):
        weight = interventions[name][1]["weight"](logits)
        assert weight.shape == (1, 1, 2, 1) and weight.flatten().tolist() == expected


def test_the_hypothesis_predicts_the_sign_of_every_change():
    signs = {name: predicted for name, (predicted, _) in notebook(*RULES, ground=GROUND).interventions.items()}
    higher = [f"{kind} {what}" for kind in ("outvoted", "islands") for what in ("silent", "relabelled")]
    higher += ["label of shifted views", *(f"{share}% of errors mended" for share in (10, 25, 50, 100))]
    lower = ["outvoted alone", "ground alone", "classes balanced"]
    same = ["every pixel", "ground silent", "confident alone", "uncertain alone"]
    assert signs == dict.fromkeys(higher, 1) | dict.fromkeys(lower, -1) | dict.fromkeys(same, 0)
    without = notebook(*RULES, ground=None).interventions  # as on camvid
    assert signs.keys() - without.keys() == {"ground alone", "ground silent"}


def test_interventions_are_guided_steps_with_those_labels_and_weights(study):
    network, total, gone = study.network("fcn8s"), 0, 0
    rules = notebook(*RULES, tested=network, ground=GROUND)
    counts, changed = when_does_it_help.intervene(study, "fcn8s", rules.interventions, "test", ground=GROUND)
    for i in range(4):
        x, y = (part[None] for part in study.data("test")[i])
        plain = guide(network, x, EPSILON)
        before = plain.before.argmax(1)
        few, island = when_does_it_help.outvoted(before, GROUND), when_does_it_help.islands(before)

        def stepped(voice, x=x):
            return guide(network, x, EPSILON, weight=lambda z: voice.float()[:, None])

        silent = stepped(~few)
        expected = {
            "network alone": plain.before,
            "every pixel": plain.after,
            "outvoted silent": silent.after,
            "outvoted alone": stepped(few).after,
            "islands silent": stepped(~island).after,
            "ground alone": stepped(before == GROUND).after,
            "ground silent": stepped(before != GROUND).after,
            "outvoted relabelled": guide(network, x, EPSILON, labels=when_does_it_help.voted(before, GROUND)).after,
            "islands relabelled": guide(network, x, EPSILON, labels=when_does_it_help.surrounded(before)).after,
            "100% of errors mended": guide(network, x, EPSILON, labels=y, void=study.void).after,
            "label of shifted views": guide(network, x, EPSILON, labels=augmented(network, x, "shift").argmax(1)).after,
            "classes balanced": guide(network, x, EPSILON, weight=rules.balance).after,
        }
        for kind, logits in expected.items():
            assert torch.equal(counts[kind][i], metrics.confusion(logits.argmax(1), y, 11, 255)), kind
        total += int((few & (y != study.void)).sum())
        gone += int((few & (y != study.void) & (silent.after.argmax(1) != before)).sum())
    assert total > gone > 0 and changed["outvoted silent"] == pytest.approx(100 * gone / total)
    assert list(counts) == ["network alone", *rules.interventions]
    assert list(changed) == [*rules.interventions]


def test_effects_tell_gain_change_and_erasure():
    """Three images; the second differs, so that gains have an interval."""
    tried = {"every pixel": (0, {}), "islands silent": (1, {}), "islands alone": (-1, {}), "relabelled": (1, {})}
    hits = dict.fromkeys(tried, (7, 9)) | {"network alone": (5, 5)}
    hits |= {"islands silent": (8, 10), "islands alone": (4, 4)}
    counts = {kind: pairs([one, other, one]) for kind, (one, other) in hits.items()}
    erased = dict(zip(tried, (10.0, 500 / 12, 20.0, 30.0), strict=True))
    rows = when_does_it_help.effects(counts, erased, tried).set_index("intervention")
    together = {pair: iou((2 * pair[0] + pair[1]) / 3) for pair in hits.values()}
    expected = {"every pixel": (7, 9), "islands silent": (8, 10), "islands alone": (4, 4)}
    for kind, (one, other) in expected.items():
        gain = [together[one, other] - iou(5), iou(one) - iou(5), iou(other) - iou(5)]
        change = [together[one, other] - together[7, 9], *sorted([iou(one) - iou(7), iou(other) - iou(9)])]
        assert rows.loc[kind].tolist()[:6] == pytest.approx(gain + change)
    assert rows["outvoted_changed"].to_dict() == erased
    assert rows["predicted"].tolist() == [0, 1, -1, 1]
    shown = when_does_it_help.effects_table(rows.reset_index())
    assert shown.loc[["islands silent", "islands alone"], "went"].tolist() == ["as predicted"] * 2
    assert shown.loc[["relabelled", "every pixel"], "went"].tolist() == ["undecided", "–"]
    assert shown.loc["islands silent"].tolist()[:4] == [
        "+29.12 [+23.33, +41.67]", "+8.58 [+8.21, +9.55]", 41.7, "higher",
    ]  # fmt: skip
    opposite = rows.reset_index().assign(predicted=-rows["predicted"].to_numpy())
    assert when_does_it_help.effects_table(opposite).loc["islands silent", "went"] == "the other way"


def test_adjusted_changes_the_logits():
    adjusted = when_does_it_help.Adjusted(torch.nn.Conv2d(3, 2, 1), lambda z: 2 * z - 1)
    images = torch.rand(1, 3, 4, 5)
    torch.testing.assert_close(adjusted(images), 2 * adjusted.model(images) - 1)


def test_survey_against_a_plain_loop(study):
    network = study.network("fcn8s")
    tried = {
        "as it is": Setting("network", network, EPSILON),
        "noisy": Setting("corruption", network, 0.01, ("noise", 2)),
    }
    rows = when_does_it_help.survey(study, tried, "test", 4, GROUND)
    row, noisy = (row for _, row in rows.iterrows())
    assert (row["setting"], row["kind"], noisy["setting"], noisy["kind"]) == (
        "as it is",
        "network",
        "noisy",
        "corruption",
    )
    draws, counts = torch.Generator().manual_seed(0), []
    for x, y in study.batches("test", 4):
        done = guide(network, corrupt(x, "noise", 2, seed=draws), 0.01)
        counts.append(torch.stack([count_pixels(study, logits, y) for logits in done.trajectory]))
    alone, stepped = torch.cat(counts, 1)
    assert noisy["base"] == pytest.approx(100 * metrics.miou(alone.sum(0)).item())
    assert noisy["gain"] == pytest.approx(metrics.gain(alone, stepped).value)
    before, after = [], []
    known = unsure = objects = few = changed = frequent = out = 0
    for x, y in study.data("test"):
        done = guide(study.network("fcn8s"), x[None], EPSILON)
        was, now = done.before[0].argmax(0), done.after[0].argmax(0)
        before.append(metrics.confusion(was, y, 11, 255))
        after.append(metrics.confusion(now, y, 11, 255))
        seen, small = y != study.void, when_does_it_help.outvoted(was[None], GROUND)[0]
        known += int(seen.sum())
        unsure += int((seen & (done.before[0].softmax(0).max(0).values < 0.9)).sum())
        objects += int((seen & (was != GROUND)).sum())
        few += int((seen & small).sum())
        for r, c in (seen & (was != now)).nonzero().tolist():
            changed += 1
            frequent += int((was == now[r, c]).sum() > (was == was[r, c]).sum())
            out += int(small[r, c])
    gain = metrics.gain(torch.stack(before), torch.stack(after))
    assert row[["gain", "low", "high"]].tolist() == pytest.approx(list(gain))
    assert row["base"] == pytest.approx(100 * metrics.miou(torch.stack(before).sum(0)).item())
    assert 0 < few < objects and 0 < out < changed
    assert row["unsure"] == pytest.approx(100 * unsure / known)
    assert row["outvoted"] == pytest.approx(100 * few / objects)
    assert row["changed"] == pytest.approx(100 * changed / known)
    assert row["to_frequent"] == pytest.approx(100 * frequent / changed)
    assert row["from_outvoted"] == pytest.approx(100 * out / changed)


def settings(study):
    given = {"study": study, "network": "fcn8s"}
    return notebook("each_of", "model", "other", "prior", "log_prior", "tried", **given).tried


def test_settings_vary_temperature_prior_corruption_and_training(study):
    study = dataclasses.replace(study, tasks={"other_trainings": "stages"})
    every = settings(study)
    kinds = dict.fromkeys(study.networks, "network")
    kinds |= {
        "temperature 0.25": "temperature",
        "temperature 4": "temperature",
        "prior + 0.5": "prior",
        "prior − 1": "prior",
    }
    kinds |= {"blur 1": "corruption", "contrast 1": "corruption"} | dict.fromkeys(STAGES.networks, "training")
    assert [(label, setting.kind) for label, setting in every.items()] == [*kinds.items()]
    assert [s.corruption for s in every.values() if all(s.corruption)] == [("blur", 1), ("contrast", 1)]
    assert {setting.epsilon for setting in every.values()} == {EPSILON}
    x = study.data("test")[0][0][None]
    alone = study.network("fcn8s")(x)
    torch.testing.assert_close(every["temperature 4"].network(x), alone / 4)
    torch.testing.assert_close(every["temperature 0.25"].network(x), alone * 4)
    drop = alone - every["prior − 1"].network(x)  # the log prior
    prior = drop[0, :, 0, 0].exp()
    assert prior.sum().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(every["prior + 0.5"].network(x), alone + drop / 2)
    labels = torch.stack([y for _, y in study.data("val", 20)])
    counts = labels[labels != study.void].bincount(minlength=11)
    torch.testing.assert_close(prior, counts / counts.sum(), atol=1e-4, rtol=1e-3)
    assert "3 epochs" not in settings(dataclasses.replace(study, tasks={}))


def test_correlations_are_of_ranks():
    rows = pd.DataFrame({"gain": [1.0, 2.0, 4.0, 3.0], "base": [1.0, 10.0, 1000.0, 100.0], "entropy": [4, 3, 1, 2]})
    found = when_does_it_help.rank_correlations(rows, ["base", "entropy"])
    assert found["rank correlation"].to_dict() == pytest.approx({"base": 1, "entropy": -1})
    partly = when_does_it_help.rank_correlations(rows.assign(base=[2.0, 1, 3, 4]), ["base"])
    assert partly.loc["base"].tolist() == pytest.approx([0.6, 0.4])
