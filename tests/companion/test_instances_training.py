"""The training of notebook 46's Mask R-CNN."""

import dataclasses

import pandas as pd
import pytest
import torch
from torch import nn

from gpcore.companion import studies, weights
from gpcore.companion.experiments import instances, instances_training
from gpcore.companion.experiments.instances_training import RECIPE
from gpcore.datasets.scenes import Instances
from gpcore.networks.maskrcnn import LOSSES

DIGITS = studies.get("digits")


class Told(nn.Module):
    """Five losses that grow by one with every batch."""

    def __init__(self):
        super().__init__()
        self.weight, self.batches = nn.Parameter(torch.zeros(())), 0

    def forward(self, images, targets):
        assert [len(each["labels"]) for each in targets] == [2, 2] and len(images) == 2
        self.batches += 1
        return {name: self.weight + i * self.batches for i, name in enumerate(LOSSES)}


def test_every_loss_counts_and_is_noted(tmp_path):
    network, log = Told(), tmp_path / "new" / "log.csv"
    coded = torch.tensor([[17, 0, 34]]).expand(2, 1, 3)
    for epoch in (0, 1):
        torch.manual_seed(epoch)
        for _ in range(2):
            loss = instances_training.objective(network, log, torch.zeros(2, 3, 1, 3), coded)
            assert loss == 10 * network.batches and torch.autograd.grad(loss, network.weight)[0] == 5
    noted = instances_training.logged(log, dataclasses.replace(RECIPE, samples=16, batch=8))
    assert noted == {name: [1.5 * i, 3.5 * i] for i, name in enumerate(LOSSES)}


def test_what_an_interrupted_epoch_left_does_not_count(tmp_path):
    log = tmp_path / "log.csv"
    pd.DataFrame([[0, *[1] * 5], [1, *[9] * 5], [1, *[2] * 5], [1, *[4] * 5]]).to_csv(log, header=False, index=False)
    noted = instances_training.logged(log, dataclasses.replace(RECIPE, samples=9, batch=8))
    assert noted["loss_mask"] == [1, 3]


@pytest.mark.usefixtures("one_core")
def test_training_keeps_the_trunk_and_stores_only_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("gpcore.paths.DATA", tmp_path)
    monkeypatch.setattr(instances, "dataset", lambda split: Instances(split, 4))
    kept = {}
    monkeypatch.setattr(weights, "save", lambda name, state, info, base: kept.update(state=state, info=info, base=base))
    monkeypatch.setattr(weights, "update", lambda name, **fields: kept.update(fields))
    monkeypatch.setattr(instances_training, "tuned", lambda study, seed: {"score": 0.5})
    before = instances.untrained(DIGITS).state_dict()
    instances_training.train(DIGITS, recipe=dataclasses.replace(RECIPE, epochs=1, samples=4, batch=2))
    same = {name for name, value in kept["state"].items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith("backbone.fcn.")}
    assert kept["base"] == "digits/fcn-seed0" and kept["tuned"] == {"score": 0.5}
    assert [len(each) for each in kept["info"]["losses"].values()] == [1] * 5
    assert sum(each[0] for each in kept["info"]["losses"].values()) == pytest.approx(kept["info"]["loss"][0], rel=1e-4)
    assert not [*tmp_path.rglob("*maskrcnn*")]  # neither checkpoint nor log


def test_tuning_takes_the_best_least(monkeypatch):
    monkeypatch.setattr(instances, "SPLITS", {"val": 3})
    monkeypatch.setattr(instances, "detector", instances.untrained)
    monkeypatch.setattr(instances, "detected", lambda network, image: nothing)
    nothing = instances.components(torch.zeros(2, 128, 160), 1)
    aps = iter((7.0, 1.0, 3.0, 3.0, 2.0, 2.0, 2.0))
    monkeypatch.setattr(instances, "mean_ap", lambda found, truth, times: next(aps))
    monkeypatch.setattr(instances, "best_score", lambda found, truth: (0.5, 60.0))
    chosen = instances_training.tuned(DIGITS)
    assert [(each["least"], each["ap50"]) for each in chosen.values()] == [(0, 7), (instances_training.LEAST[1], 3)]
    assert list(chosen) == list(instances.METHODS)
