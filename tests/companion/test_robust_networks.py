"""Measurements of robust networks, against the attacks themselves and against counts made by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import scenes
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import cross_entropy

from gpcore import attacks, metrics
from gpcore.companion import measure
from gpcore.companion.experiments import attacked_networks, robust_networks
from gpcore.companion.studies import DIGITS, STUDIES, Attack
from gpcore.perturb import guide

EPSILON = 0.03


def test_the_adversary_is_that_of_training():
    assert robust_networks.ADVERSARY == {"epsilon": 0.03, "steps": 3, "step_size": 0.01, "norm": "linf"}
    for name in ("at-small", "at-large"):
        assert DIGITS.robust[name].recipe.attack == Attack(epsilon=0.03, steps=3, step_size=0.01)


def test_every_compared_network_has_a_label_of_its_own():
    robust = {"RB": "rb", "AT-small": "at-small", "AT-large": "at-large"}
    assert robust_networks.compared(DIGITS) == {"Pre": "fcn8s"} | robust
    assert robust_networks.compared(STUDIES["camvid"]) == {"Pre": "densenet", "AT-small": "at-small"}


def test_every_network_meets_its_own_attack(study):
    tried = {"none": {}, "PGD": {"epsilon": EPSILON, "steps": 2}}
    counts = robust_networks.defence_counts(study, {"A": "fcn8s"}, tried, "test")
    assert [*counts] == [("none", "A"), ("PGD", "A")]
    assert torch.equal(counts["none", "A"], measure.guided_counts(study, "fcn8s", "test")[0][0])
    move = {"PGD": attacked_networks.strongest(study.network("fcn8s"), EPSILON, steps=2)}
    again = attacked_networks.attacked_counts(study, move, {"A": study.network("fcn8s")}, "test")
    assert torch.equal(counts["PGD", "A"], again["PGD", "A"])
    assert metrics.accuracy(counts["PGD", "A"].sum(0)) < metrics.accuracy(counts["none", "A"].sum(0))


def test_rows_by_hand():
    matrices = torch.tensor([[[8, 2], [0, 10]], [[10, 0], [0, 10]]])
    (row,) = robust_networks.defence_rows({("PGD", "Pre"): matrices}).to_dict("records")
    assert (row["network"], row["attack"]) == ("Pre", "PGD")
    assert row["accuracy"] == pytest.approx(95)
    assert row["miou"] == pytest.approx(100 * (18 / 20 + 20 / 22) / 2)
    assert (row["low"], row["high"]) == pytest.approx((100 * (0.8 + 10 / 12) / 2, 100))


def test_marks_by_hand():
    """IoU of one class alone is its share of right pixels, halved where the other class is named."""
    right = {("standard", "Pre"): 10, ("robust", "Pre"): 2, ("standard", "AT"): 8, ("robust", "AT"): 6}
    counts = {key: torch.tensor([[[each, 10 - each], [0, 0]]] * 2) for key, each in right.items()}
    marks = robust_networks.marks(counts, "AT")
    assert marks["points"] == pytest.approx((60, 60, 60)) and marks["times"] == pytest.approx((3, 3, 3))


def test_the_loss_is_that_of_fgsm_and_void_counts_nothing(study):
    rows = robust_networks.loss_rows(study, {"A": "fcn8s"}, [0, 4], "test")
    network, expected = study.network("fcn8s"), []
    for epsilon in (0, 4 / 255):
        losses = []
        for x, y in scenes(study):
            moved = attacks.fgsm(network, x, y, epsilon, void=study.void).images
            losses.append(cross_entropy(network(moved), y, ignore_index=study.void).item())
        expected.append(losses)
    assert rows["step"].tolist() == [0, 4] and np.mean(expected[1]) > np.mean(expected[0])
    assert rows["loss"].tolist() == pytest.approx(np.mean(expected, 1), rel=1e-4)
    for found, each in zip(rows[["low", "high"]].to_numpy(), expected, strict=True):
        assert found.tolist() == pytest.approx(metrics.mean(torch.tensor(each))[1:], rel=1e-3)
        assert found[0] < np.mean(each) < found[1]


def test_a_guided_step_after_an_attack(study):
    rows = robust_networks.undone_rows(study, {"A": "fcn8s"}, [0, 2], "test")
    network = study.network("fcn8s")
    alone, own = measure.guided_counts(study, "fcn8s", "test")[0]
    move, counts = attacked_networks.strongest(network, 2 / 255, steps=3), []
    for x, y in study.batches("test"):
        done = guide(network, move(x, y), study.epsilon("fcn8s"))
        counts.append(torch.stack([measure.count_pixels(study, logits, y) for logits in done.trajectory]))
    before, after = torch.cat(counts, 1)
    expected = [[100 * metrics.miou(b.sum(0)).item(), *metrics.gain(b, a)] for b, a in ((alone, own), (before, after))]
    assert rows[["network", "epsilon"]].to_numpy().tolist() == [["A", 0], ["A", 2]]
    assert np.allclose(rows[["attacked", "gain", "low", "high"]], expected)
    assert rows["attacked"][1] < rows["attacked"][0] and expected[1][1] != expected[0][1]


def test_edges_are_steep_where_the_picture_changes():
    picture = torch.zeros(1, 3, 20, 30)
    picture[..., 15:] = 0.6
    picture[0, 0] += torch.linspace(0, 0.3, 20).view(-1, 1)
    found = robust_networks.edges(picture)
    smooth = gaussian_filter(picture[0].mean(0).double().numpy(), 1)
    middle = np.hypot(*np.gradient(smooth))[6:14, 4:26]
    np.testing.assert_allclose(found[0, 6:14, 4:26], middle, atol=0.03)
    assert set(found[0].argmax(1).tolist()) <= {14, 15}


class Weighted(nn.Module):
    """Two classes by a plane of colours, with one weight for every pixel."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        z = self.weight * x[:, 0]
        return torch.stack([z, -z], 1)


def test_alignment_is_the_correlation_of_gradient_sizes_with_a_map():
    draw = torch.Generator().manual_seed(0)
    weight = torch.rand(6, 7, generator=draw) - 0.5
    images, labels = torch.zeros(2, 3, 6, 7), torch.tensor([0, 1]).view(2, 1, 1).expand(2, 6, 7)
    reference = torch.rand(2, 6, 7, generator=draw)
    found = robust_networks.alignment(Weighted(weight), images, labels, reference)
    # at zero every pixel's gradient is its weight, up to sign
    expected = [np.corrcoef(weight.abs().flatten(), each.flatten())[0, 1] for each in reference]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    aligned = robust_networks.alignment(Weighted(weight), images, labels, 3 + 2 * weight.abs().expand(2, -1, -1))
    assert aligned.tolist() == pytest.approx([1, 1])


def test_a_gradients_size_is_its_largest_channel(study):
    x, y = study.scene(3)
    leaf = x.clone().requires_grad_()
    cross_entropy(study.network("fcn8s")(leaf), y, reduction="sum", ignore_index=study.void).backward()
    size = robust_networks.gradient_size(study.network("fcn8s"), x, y)
    torch.testing.assert_close(size, leaf.grad.abs().amax(1), rtol=1e-3, atol=1e-6)
    assert size.max() > 1e-3


def test_alignment_rows_stand_beside_scores(study):
    aligned = robust_networks.alignments(study, {"A": "fcn8s"}, "test")
    counts = robust_networks.defence_counts(
        study, {"A": "fcn8s"}, {"standard": {}, "robust": {"epsilon": 0.02}}, "test"
    )
    (row,) = robust_networks.alignment_rows(aligned, counts).to_dict("records")
    network, values = study.network("fcn8s"), []
    for x, y in scenes(study):
        values.append(robust_networks.alignment(network, x, y, robust_networks.edges(x)).item())
    assert aligned["A"].tolist() == pytest.approx(values, abs=1e-5)
    assert row["alignment"] == pytest.approx(np.mean(values), abs=1e-5) and row["low"] < row["alignment"] < row["high"]
    alone = 100 * metrics.miou(measure.guided_counts(study, "fcn8s", "test")[0][0].sum(0)).item()
    assert row["standard"] == pytest.approx(alone) and row["network"] == "A" and row["robust"] != row["standard"]


def test_the_rank_correlation_is_spearmans():
    draw = np.random.default_rng(0)
    aligned = torch.from_numpy(draw.normal(size=(5, 30)))
    right = torch.from_numpy(draw.integers(1, 100, size=(5, 30)))
    counts = [torch.stack([torch.stack([r, 100 - r], -1), torch.zeros(30, 2)], -2).long() for r in right]
    found = robust_networks.rank_correlation([*aligned], counts)
    scores = [metrics.miou(each.sum(0)).item() for each in counts]
    assert found.value == pytest.approx(spearmanr(aligned.mean(1), scores).statistic)
    assert -1 <= found.low < found.value < found.high <= 1
    same = robust_networks.rank_correlation([*right.double()], counts)
    assert same == pytest.approx((1, 1, 1))


def test_void_pixels_do_not_align():
    weight, images = torch.ones(6, 7), torch.zeros(1, 3, 6, 7)
    labels = torch.zeros(1, 6, 7, dtype=torch.int64)
    labels[..., :3] = 255
    reference = (labels != 255).double()
    assert robust_networks.alignment(Weighted(weight), images, labels, reference).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="labels: got class 255"):
        robust_networks.alignment(Weighted(weight), images, labels, reference, void=254)


def test_a_study_with_no_robust_network_compares_one():
    assert robust_networks.compared(dataclasses.replace(DIGITS, robust={})) == {"Pre": "fcn8s"}
