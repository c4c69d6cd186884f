import dataclasses
import json

import pytest
import torch

from gpcore import experiments, neighbours, tuning
from gpcore.studies import DIGITS, HANDWRITING


def test_epsilon_is_the_best_on_validation(monkeypatch):
    scores = {0.0: 5, 0.1: 7, 0.2: 9, 0.4: 8}

    def counts(study, name, split, epsilons, **options):
        assert split == "val"
        assert options == {"at": None, "signal": "ce", "count": None, "seed": 1}
        return torch.stack([torch.tensor([[[scores[e], 10 - scores[e]], [0, 10]]]) for e in epsilons])

    monkeypatch.setattr(experiments, "sweep_counts", counts)
    tuned = tuning.tune(dataclasses.replace(DIGITS, epsilons=(0.1, 0.2, 0.4)), "fcn8s", seed=1)
    assert tuned["epsilon"] == 0.2
    assert tuned["val"] == pytest.approx(100 * (0.5 + 10 / 15) / 2, abs=1e-4)
    assert tuned["sweep"]["0.4"] == pytest.approx(100 * (0.8 + 10 / 12) / 2, abs=1e-4)


def test_the_best_crf_of_the_grid_is_kept(monkeypatch):
    study = dataclasses.replace(DIGITS, crfs=({"gaussian": (3, 1)}, {"gaussian": (3, 2)}, {"gaussian": (3, 3)}))
    monkeypatch.setattr(tuning, "choose", lambda *args, **options: (50.0, 0.1, {}))
    monkeypatch.setattr(tuning, "layer_scale", lambda *args: 1.0)
    hits = torch.tensor([4, 9, 7])
    scores = torch.stack([torch.tensor([[[h, 10 - h], [0, 10]]]) for h in hits])
    monkeypatch.setattr(experiments, "crf_grid_counts", lambda *args: scores)
    tuned = tuning.tune(study, "fcn8s")
    assert tuned["crf"] == {"gaussian": (3, 2)}
    expected = [100 * (h / 10 + 10 / (20 - h)) / 2 for h in (4, 9, 7)]
    assert list(tuned["grid"].values()) == pytest.approx(expected, abs=1e-4)
    assert json.loads(list(tuned["grid"])[1]) == {"gaussian": [3, 2]}
    assert set(tuned) > {"pool1", "pool2", "pool3", "pool4", "entropy"}


def test_a_robust_network_has_a_larger_epsilon_and_no_crf(monkeypatch):
    tried = []
    monkeypatch.setattr(tuning, "choose", lambda *args, **rest: (50.0, tried.extend(args[2]) or 0.1, {"0.1": 50.0}))
    monkeypatch.setattr(experiments, "crf_grid_counts", lambda *args: pytest.fail("a CRF was tried"))
    assert tuning.tune(DIGITS, "at-small") == {"epsilon": 0.1, "val": 50.0, "sweep": {"0.1": 50.0}}
    assert tried == [0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064]


def test_a_classifier_is_tuned_by_its_neighbours(monkeypatch):
    monkeypatch.setattr(neighbours, "choose", lambda study, name: {"epsilon": 0.04, "of": (study.name, name)})
    assert tuning.tune(HANDWRITING, "classifier") == {"epsilon": 0.04, "of": ("handwriting", "classifier")}
