import dataclasses
import json

import pytest
import torch
from conftest import iou, pairs

from gpcore.companion import measure, tuning
from gpcore.companion.studies import DIGITS, HANDWRITING


def test_epsilon_is_the_best_on_validation(monkeypatch):
    """Of two images together, not of their mean: 0.2 has nine hits, where the means would prefer 0.4."""
    hits = {0.0: [5, 5], 0.1: [7, 7], 0.2: [5, 6], 0.4: [10, 0]}

    def counts(study, name, split, epsilons, **options):
        assert (name, split) == ("fcn8s", "val")
        assert options == {"seed": 1}
        return torch.stack([pairs(hits[e]) for e in epsilons])

    monkeypatch.setattr(measure, "sweep_counts", counts)
    tuned = tuning.tune(dataclasses.replace(DIGITS, epsilons=(0.2, 0.4)), "fcn8s", seed=1)
    assert tuned == {
        "epsilon": 0.2, "val": round(iou(5), 4), "sweep": {"0.2": round(iou(5.5), 4), "0.4": round(iou(5), 4)},
    }  # fmt: skip


def test_every_layer_and_the_entropy_have_an_epsilon_of_their_own(monkeypatch):
    asked = []

    def choose(study, name, epsilons, **options):
        asked.append((name, *epsilons, options))
        return 50.0, epsilons[1], {str(len(asked)): 50.0}

    monkeypatch.setattr(tuning, "choose", choose)
    monkeypatch.setattr(tuning, "layer_scale", lambda study, name, layer: {"pool1": 1.26, "pool3": 10}[layer])
    plan = dataclasses.replace(DIGITS.networks["fcn8s"], layers=("pool1", "pool3"))
    study = dataclasses.replace(DIGITS, epsilons=(0.1, 0.2), crfs=(), networks={"fcn8s": plan}, images={"val": 9})
    assert tuning.tune(study, "fcn8s") == {
        "epsilon": 0.2,
        "val": 50.0,
        "sweep": {"1": 50.0},
        "entropy": {"epsilon": 0.2, "sweep": {"2": 50.0}},
        "pool1": {"epsilon": 0.013, "sweep": {"3": 50.0}},
        "pool3": {"epsilon": 0.1, "sweep": {"4": 50.0}},
    }
    assert asked == [
        ("fcn8s", 0.1, 0.2, {"seed": 0}),
        ("fcn8s", 0.1, 0.2, {"signal": "entropy"}),
        ("fcn8s", 0.0038, 0.013, 0.038, 0.13, 0.38, {"at": "pool1"}),
        ("fcn8s", 0.03, 0.1, 0.3, 1.0, 3.0, {"at": "pool3"}),
    ]
    asked.clear()
    tuning.tune(study, "fcn8s", seed=2)
    assert asked == [("fcn8s", 0.1, 0.2, {"seed": 2})]


def test_choose_passes_its_options_on(monkeypatch):
    asked = []
    monkeypatch.setattr(
        measure,
        "sweep_counts",
        lambda *args, **options: asked.append((args[2:], options)) or pairs([5, 6])[:, None],
    )
    options = {"at": "pool1", "signal": "entropy", "images": 7, "seed": 3}
    assert tuning.choose(DIGITS, "fcn8s", (0.1,), **options) == (round(iou(5), 4), 0.1, {"0.1": round(iou(6), 4)})
    assert asked == [(("val", (0.0, 0.1)), options)]


def test_the_scale_of_a_layer_is_its_root_mean_square(study):
    """On five validation images; of batches of three and two the mean of their means."""
    seen = []
    handle = study.network("fcn8s").pool1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = [study.dataset("val")[i][0] for i in study.indices("val", 5)]
    with torch.no_grad():
        for part in (images[:3], images[3:]):
            study.network("fcn8s")(torch.stack(part))
    handle.remove()
    expected = (sum(each.square().mean() for each in seen) / 2).sqrt().item()
    assert tuning.layer_scale(study, "fcn8s", "pool1") == pytest.approx(expected, rel=1e-5)


def test_the_best_crf_of_the_best_is_kept(monkeypatch):
    """All on a fifth of the images, then six on all, where another one is best."""
    crfs = tuple({"gaussian": (3, i)} for i in range(8))
    study = dataclasses.replace(DIGITS, crfs=crfs)
    monkeypatch.setattr(tuning, "choose", lambda *args, **options: (50.0, 0.1, {}))
    monkeypatch.setattr(tuning, "layer_scale", lambda *args: 1.0)
    rounds = [[4, 9, 7, 8, 6, 2, 5, 3], [5, 9, 6, 4, 7, 3]]
    asked, names = [], set()

    def count(*args, keep):
        names.add(keep)
        asked.append(args)
        return torch.stack([pairs([h - 1, h + 1]) for h in rounds[len(asked) - 1]])

    monkeypatch.setattr(measure, "count", count)
    tuned = tuning.tune(study, "fcn8s")
    images = study.images["val"]
    assert [(args[0], *args[2:]) for args in asked] == [(study, "val", images // 5), (study, "val", images)]
    assert len(names) == 2  # another grid is kept apart
    # on a fifth 1, 3, 2, 4, 6, 0 are the best, in that order; of these 3 is the best on all
    assert tuned["crf"] == {"gaussian": [3, 3]}
    assert {json.loads(crf)["gaussian"][1]: score for crf, score in tuned["grid"].items()} == {
        i: round(iou(h), 4) for i, h in zip((3, 6, 2, 1, 4, 0), (9, 7, 6, 5, 4, 3), strict=True)
    }


def test_a_robust_network_has_a_larger_epsilon_and_no_crf(monkeypatch):
    tried = []
    monkeypatch.setattr(tuning, "choose", lambda *args, **rest: (50.0, tried.extend(args[2]) or 0.1, {"0.1": 50.0}))
    monkeypatch.setattr(measure, "count", lambda *args: pytest.fail("a CRF was tried"))
    assert tuning.tune(DIGITS, "at-small") == {"epsilon": 0.1, "val": 50.0, "sweep": {"0.1": 50.0}}
    assert tried == [*DIGITS.epsilons, 0.032, 0.064, 0.128]


def test_a_classifier_is_tuned_by_its_neighbours(monkeypatch):
    monkeypatch.setattr(tuning, "tune_classifier", lambda study, name: {"epsilon": 0.04, "of": (study.name, name)})
    assert tuning.tune(HANDWRITING, "classifier") == {"epsilon": 0.04, "of": ("handwriting", "classifier")}
