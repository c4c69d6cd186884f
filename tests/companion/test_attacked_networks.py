"""Measurements under attack, against the attacks themselves and against counts made by hand."""

import math

import pytest
import torch
from conftest import scenes
from torch import nn

from gpcore import metrics
from gpcore.companion.experiments import attacked_networks
from gpcore.networks.fcn import fcn_small
from gpcore.networks.unet import unet_small


def test_counts_pair_every_attack_with_every_answer(study):
    network = study.network("fcn8s")
    moves = {"same": lambda x, y: x, "black": lambda x, y: 0 * x, "labels": lambda x, y: x * (y == 3).unsqueeze(1)}
    answers = {"network": network, "flipped": lambda x: network(x).flip(1)}
    counts = attacked_networks.attacked_counts(study, moves, answers, "test")
    assert [*counts] == [(move, answer) for move in moves for answer in answers]
    for (move, answer), found in counts.items():
        for i, counted in enumerate(found):
            x, y = scenes(study)[i]
            with torch.no_grad():
                predicted = answers[answer](moves[move](x, y))[0].argmax(0)
            assert torch.equal(counted, metrics.confusion(predicted, y[0], 11, study.void))


def test_budget_rows_count_images_of_which_half_errs():
    # right on a share of each image: all, half, less, none
    matrices = torch.stack([torch.tensor([[s * 100, (1 - s) * 100], [0, 0]]) for s in (1.0, 0.5, 0.4, 0.0)]).long()
    counts = {(("BIM", 2), "fcn8s"): matrices, (("PGD", 4), "fcn8s"): matrices[:1]}
    rows = attacked_networks.budget_rows(counts)
    assert rows[["attack", "epsilon", "success"]].to_numpy().tolist() == [["BIM", 2, 75], ["PGD", 4, 0]]
    assert rows["miou"].tolist() == pytest.approx([100 * 190 / 400 / 2, 100])  # IoU .475 and 0; one class alone


def test_transfer_rows_are_gains_backwards(study):
    network = study.network("fcn8s")
    moves, answers = {"x": lambda x, y: x, "0": lambda x, y: 0 * x}, {"a": network, "b": lambda x: network(1 - x)}
    rows = attacked_networks.transfer_rows(study, moves["0"], answers, "test")
    counts = attacked_networks.attacked_counts(study, moves, {"a": network}, "test")
    before, after = (100 * metrics.miou(counts[move, "a"].sum(0)).item() for move in ("x", "0"))
    first = rows.iloc[0]
    assert (first["alone"], first["attacked"]) == pytest.approx((before, after))
    drop = metrics.gain(counts["0", "a"], counts["x", "a"])
    assert first[["drop", "low", "high"]].tolist() == pytest.approx(list(drop))
    assert drop.value == pytest.approx(before - after)
    assert rows["network"].tolist() == ["a", "b"] and rows["alone"].nunique() == 2


def test_kinship():
    torch.manual_seed(0)
    first = fcn_small(11)
    torch.manual_seed(0)
    sibling = unet_small(11)
    torch.manual_seed(1)
    stranger = fcn_small(11)
    shared = [n for n, m in first.named_modules() if isinstance(m, nn.Conv2d) and n.startswith("conv")]
    assert attacked_networks.kinship(first, first) == pytest.approx(1)
    assert abs(attacked_networks.kinship(first, stranger)) < 0.02
    torch.testing.assert_close(first.get_submodule(shared[0]).weight, sibling.get_submodule(shared[0]).weight)
    assert attacked_networks.kinship(first, sibling) > 0.9
    assert math.isnan(attacked_networks.kinship(first, nn.Conv2d(3, 3, 1)))


def test_sizes_by_hand(study):
    network, two = study.network("fcn8s"), scenes(study)[:2]
    images, labels = (torch.cat(each) for each in zip(*two, strict=True))
    labels[:, :48] = 99
    attacked = {"half": images + 0.5, "one": images + torch.eye(96, 128)}
    rows = attacked_networks.size_rows(network, attacked, images, labels, void=99).set_index("attack")
    pixels = 3 * 96 * 128
    assert rows["linf"].tolist() == pytest.approx([127.5, 255], rel=1e-4)
    assert rows["l2"].tolist() == pytest.approx([0.5 * pixels**0.5, (3 * 96) ** 0.5], rel=1e-4)
    assert rows["psnr"].tolist() == pytest.approx([6.0206, 10 * math.log10(128)], rel=1e-4)
    errs = (network(images + 0.5).argmax(1) != labels)[:, 48:]
    assert rows["wrong"]["half"] == pytest.approx(100 * errs.double().mean().item())


def test_panels_show_the_attack_ten_times(study):
    x, _ = study.scene(3)
    attacked = {"a": x + 0.01, "b": x, "c": x}
    rows = attacked_networks.scene_panels(study.network("fcn8s"), attacked, x)
    assert [len(row) for row in rows] == [6, 3] and [panel.title for panel in rows[0][::3]] == ["a", "b"]
    torch.testing.assert_close(rows[0][1].data, torch.full((3, 96, 128), 0.6), atol=1e-5, rtol=0)
    predicted = [study.network("fcn8s")(each)[0].argmax(0) for each in (x + 0.01, x)]
    assert torch.equal(rows[0][2].data, predicted[0]) and torch.equal(rows[0][5].data, predicted[1])
    assert torch.equal(rows[0][0].data, x[0] + 0.01)
    assert [panel.kind for panel in rows[0]] == ["image", "image", "labels"] * 2


def test_universal_rows_by_hand(study):
    perturbations = {
        name: torch.full((3, 96, 128), size) for name, size in (("none", 0.0), ("white", 2.0), ("some", 0.3))
    }
    network = study.network("fcn8s")
    rows = attacked_networks.universal_rows(study, network, perturbations, "test").set_index("perturbation")
    assert [*rows.index] == [*perturbations] and rows.loc["none", ["images", "pixels"]].tolist() == [0, 0]
    for name, perturbation in perturbations.items():
        moved = [(x + perturbation).clamp(0, 1) for x, _ in scenes(study)]
        after = [network(x).argmax(1) for x in moved]
        changed = [
            (new != network(x).argmax(1)).double().mean().item()
            for new, (x, _) in zip(after, scenes(study), strict=True)
        ]
        assert rows.loc[name, "pixels"] == pytest.approx(100 * sum(changed) / 4)
        assert rows.loc[name, "images"] == 25 * sum(each >= 0.5 for each in changed)
        counts = sum(metrics.confusion(new, y, 11, 255) for new, (_, y) in zip(after, scenes(study), strict=True))
        assert rows.loc[name, "miou"] == pytest.approx(100 * metrics.miou(counts).item())
