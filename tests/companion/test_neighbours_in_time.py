import dataclasses

import pytest
import torch
from conftest import EPSILON, iou, pairs, scenes

from gpcore import metrics
from gpcore.adapt import Tent, augmented
from gpcore.companion.experiments import neighbours_in_time
from gpcore.companion.studies import DIGITS, Study
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide


def counted(study, logits, labels):
    return metrics.confusion(logits.argmax(0), labels, 11, study.void)


def test_methods_by_condition_against_each_alone(study):
    study = dataclasses.replace(study, batch=2)
    found = neighbours_in_time.method_counts(study, "fcn8s", [("", 0), ("fog", 3)], "test", 4)
    assert list(found) == [("", 0), ("fog", 3)]
    network, generator = study.network("fcn8s"), torch.Generator().manual_seed(0)
    tent = Tent(network)
    for b in range(2):
        x, y = (torch.cat(part) for part in zip(*scenes(study)[2 * b : 2 * b + 2], strict=True))
        foggy = corrupt(x, "fog", 3, seed=generator)
        expected = {
            "network alone": network(foggy),
            "guided step": guide(network, foggy, EPSILON).after,
            "entropy step": guide(network, foggy, 0.05, signal="entropy").after,
            "mean over shifts": augmented(network, foggy, "shift"),
            "TENT": tent(foggy),
        }
        for method, logits in expected.items():
            want = torch.stack([counted(study, z, t) for z, t in zip(logits, y, strict=True)])
            assert torch.equal(found["fog", 3][method][2 * b : 2 * b + 2], want), method
        clean = torch.stack([counted(study, z, t) for z, t in zip(network(x), y, strict=True)])
        assert torch.equal(found["", 0]["network alone"][2 * b : 2 * b + 2], clean)
    assert {"mean over flips", "mean over scales", "batch statistics"} < set(found["", 0])
    names = ["mean over shifts", "network alone"]
    fewer = neighbours_in_time.method_counts(study, "fcn8s", [("fog", 3)], "test", 4, names)["fog", 3]
    assert list(fewer) == names
    assert all(torch.equal(counts, found["fog", 3][method]) for method, counts in fewer.items())


def test_networks_without_batch_norm_have_no_tent(monkeypatch):
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: torch.nn.Conv2d(3, 11, 1))
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: {"epsilon": EPSILON})
    assert "TENT" not in neighbours_in_time.alternatives(DIGITS, "fcn8s")


def test_what_of_a_loss_comes_back():
    """Two images alike but for one method: clean 9 of 10 right, corrupted 4."""
    clean, alone = pairs([9, 9]), pairs([4, 4])
    foggy = {"network alone": alone, "batch statistics": pairs([8, 8]), "guided step": pairs([4, 6])}
    rows = neighbours_in_time.recovered(
        {"clean": {"network alone": clean}, "fog 2": foggy}, ["guided step", "batch statistics", "TENT"]
    )
    assert rows["method"].tolist() == ["guided step", "batch statistics"]
    lost = iou(9) - iou(4)
    assert rows["lost"].tolist() == pytest.approx([lost] * 2)
    back = [100 * (iou(hits) - iou(4)) / lost for hits in (5, 8, 6)]
    assert rows["share"].tolist() == pytest.approx(back[:2])
    assert rows.loc[0, ["low", "high"]].tolist() == pytest.approx([0, back[2]])
    shown = neighbours_in_time.recovered_table(rows)
    assert shown.loc["fog 2", "guided step (% of it)"] == f"{back[0]:.0f} [0, {back[2]:.0f}]"
    assert shown.loc["fog 2", "batch statistics (% of it)"] == "{0:.0f} [{0:.0f}, {0:.0f}] most".format(back[1])
