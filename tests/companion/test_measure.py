import dataclasses
import itertools

import pytest
import torch
from conftest import CRF, EPSILON, iou, pairs, scenes

from gpcore import metrics
from gpcore.adapt import Tent, augmented
from gpcore.companion import measure
from gpcore.companion.report.panels import change_map
from gpcore.companion.studies import DIGITS, Study
from gpcore.crf import dense_crf
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide


def counted(study, logits, labels):
    return metrics.confusion(logits.argmax(0), labels, 11, study.void)


def test_guided_counts_are_those_of_guide(study):
    counts, pixels = measure.guided_counts(study, "fcn8s", "test")
    assert counts.shape == (2, 4, 11, 11)
    for i, (x, (y,)) in enumerate(scenes(study)):
        guided = guide(study.network("fcn8s"), x, EPSILON)
        assert torch.equal(counts[0, i], counted(study, guided.before[0], y))
        assert torch.equal(counts[1, i], counted(study, guided.after[0], y))
        was, now = guided.before[0].argmax(0) == y, guided.after[0].argmax(0) == y
        assert pixels.loc[i].tolist() == [(~was & now).sum(), (was & ~now).sum()]
    assert pixels.to_numpy().sum() > 0
    half, _ = measure.guided_counts(study, "fcn8s", "test", epsilon=EPSILON / 2)
    assert torch.equal(half[0], counts[0])
    assert not torch.equal(half[1], counts[1])


def test_sweeps_at_a_layer_perturb_that_layer(study):
    swept = measure.sweep_counts(study, "fcn8s", "test", [0.0, 0.5], at="pool4")
    for i, (x, (y,)) in enumerate(scenes(study)):
        guided = guide(study.network("fcn8s"), x, 0.5, at="pool4")
        assert torch.equal(swept[0, i], counted(study, guided.before[0], y))
        assert torch.equal(swept[1, i], counted(study, guided.after[0], y))


@pytest.mark.parametrize("renew", [True, False])
def test_iterations_are_those_of_guide(study, renew):
    counts = measure.iteration_counts(study, "fcn8s", "test", 3, renew=renew)
    assert counts.shape == (4, 4, 11, 11)
    for i, (x, (y,)) in enumerate(scenes(study)):
        steps = guide(study.network("fcn8s"), x, EPSILON, steps=3, renew=renew).trajectory
        assert torch.equal(counts[:, i], torch.stack([counted(study, z[0], y) for z in steps]))


def test_sweeps_go_where_they_are_told(study):
    """By the true labels, without void, or by another signal; a minus steps away."""
    study = dataclasses.replace(study, void=3)
    tried = {"truth": {"labels": "truth"}, "eq5": {"signal": "eq5", "labels": "top2"}}
    found = {name: measure.sweep_counts(study, "fcn8s", "test", [EPSILON, -EPSILON], **o) for name, o in tried.items()}
    for i, (x, y) in enumerate(scenes(study)):
        options = {"truth": {"labels": y, "void": 3}, "eq5": tried["eq5"]}
        for (name, each), (e, epsilon) in itertools.product(options.items(), enumerate((EPSILON, -EPSILON))):
            after = guide(study.network("fcn8s"), x, epsilon, **each).after[0]
            assert torch.equal(found[name][e, i], counted(study, after, y[0]))
    assert not torch.equal(found["truth"], found["eq5"])


def test_every_measurement_asks_for_the_training_it_is_told(study, monkeypatch):
    network, asked = study.network("fcn8s"), []
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: asked.append((name, seed)) or network)
    monkeypatch.setattr(
        Study, "tuned", lambda self, name, seed=0: {"epsilon": asked.append(("tuned", seed)) or EPSILON}
    )
    measure.guided_counts(study, "unet", "test", count=1, seed=2)
    measure.sweep_counts(study, "unet", "test", [0.0], count=1, seed=1)
    assert asked == [("unet", 2), ("tuned", 2), ("unet", 1)]


def test_answers_see_what_a_change_makes_of_the_images(study):
    network = study.network("fcn8s")
    answers = {"alone": network, "flipped": lambda x: network(x).flip(1)}
    found = measure.answer_counts(study, answers, "test", 3, change=lambda x: 1 - x)
    plain = measure.base_counts(study, "fcn8s", "test", 3)
    for i, (x, y) in enumerate(study.data("test", 3)):
        with torch.no_grad():
            before, after = network(x[None])[0], network(1 - x[None])[0]
        assert torch.equal(plain[i], counted(study, before, y))
        assert torch.equal(found["alone"][i], counted(study, after, y))
        assert torch.equal(found["flipped"][i], counted(study, after.flip(0), y))
    assert len(plain) == len(found["alone"]) == 3


def test_directions_are_compared_with_the_ideal_one(study):
    study = dataclasses.replace(study, void=3)
    rows = measure.direction_rows(study, "fcn8s", "test")
    for row, (x, y) in zip(rows.itertuples(), scenes(study), strict=True):
        own, ideal = (guide(study.network("fcn8s"), x, 0.0, labels=each, void=3).signal for each in ("onehot", y))
        assert row.cosine == pytest.approx(((own * ideal).sum() / own.norm() / ideal.norm()).item(), rel=1e-3)
        assert row.sign_agreement == (own.sign() == ideal.sign()).double().mean().item()


def test_panels_of_changes(study):
    rows = measure.change_panels(study, "fcn8s", [1, 2])
    titles = ["image", "truth", "prediction", "after one step", "changes"]
    assert [[panel.title for panel in row] for row in rows] == [titles, [""] * 5]
    for row, (x, y) in zip(rows, map(study.scene, (1, 2)), strict=True):
        guided = guide(study.network("fcn8s"), x, EPSILON)
        before, after = (z[0].argmax(0) for z in guided.trajectory)
        expected = [x[0], y[0], before, after, change_map(before, after, y[0], 255)]
        assert all(torch.equal(panel.data, data) for panel, data in zip(row, expected, strict=True))
    assert [panel.kind for panel in rows[0]] == ["image", "labels", "labels", "labels", "changes"]
    (hidden,) = measure.change_panels(dataclasses.replace(study, photographs=False), "fcn8s", [1], 10 * EPSILON)
    assert [panel.title for panel in hidden] == titles[2:]
    assert torch.equal(
        hidden[1].data, guide(study.network("fcn8s"), study.scene(1)[0], 10 * EPSILON).after[0].argmax(0)
    )


def test_crf_counts_put_the_crf_on_both_predictions(study):
    counts = measure.crf_counts(study, "fcn8s", "test")
    guided_alone, _ = measure.guided_counts(study, "fcn8s", "test")
    assert torch.equal(counts[[0, 2]], guided_alone)
    x, (y,) = scenes(study)[1]
    guided = guide(study.network("fcn8s"), x, EPSILON)
    for variant, logits in ((1, guided.before[0]), (3, guided.after[0])):
        refined = dense_crf(logits.softmax(0), x[0], **CRF)
        assert torch.equal(counts[variant, 1], counted(study, refined, y))
        assert not torch.equal(counts[variant, 1], counts[variant - 1, 1])
    grid = measure.crf_grid_counts(dataclasses.replace(study, crfs=(CRF | {"iterations": 1}, CRF)), "fcn8s", "test")
    assert torch.equal(grid[1], counts[1]) and not torch.equal(grid[0], counts[1])


def test_seed_rows_ask_for_every_training(monkeypatch):
    asked = []

    def counts(study, name, split, *, count, seed):
        asked.append((name, split, count, seed))
        return torch.stack([pairs([3 + seed, 5 + seed]), pairs([4 + seed, 6 + seed])]), None

    monkeypatch.setattr(measure, "guided_counts", counts)
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: {"epsilon": seed / 10})
    rows = measure.seed_rows(dataclasses.replace(DIGITS, seeds={"fcn8s": 3}), 7)
    assert asked == [("fcn8s", "test", 7, seed) for seed in range(3)]
    assert rows["epsilon"].tolist() == [0, 0.1, 0.2]
    miou = [iou(hits) for hits in (4, 5, 6, 7)]
    assert rows["base"].tolist() == pytest.approx(miou[:3])
    assert rows["gain"].tolist() == pytest.approx([b - a for a, b in itertools.pairwise(miou)])


def test_eq5_is_a_gradient_for_one_hot_labels_alone():
    errors = measure.eq5_errors()
    assert errors["onehot"] < 1e-12
    assert errors["uniform"] > 0.1
    assert errors["top2"] > 0.1


def test_changes_and_their_distances(study):
    before = torch.tensor([[0, 0, 1], [2, 2, 2]])
    after = torch.tensor([[0, 1, 1], [2, 1, 2]])
    truth = torch.tensor([[0, 1, 1], [2, 2, 255]])
    kinds = measure.changes(before, after, truth, 255)
    assert kinds["base error"].int().tolist() == [[0, 1, 0], [0, 0, 0]]
    assert kinds["corrected"].int().tolist() == [[0, 1, 0], [0, 0, 0]]
    assert kinds["newly wrong"].int().tolist() == [[0, 0, 0], [0, 1, 0]]
    rows = measure.change_rows(study, "fcn8s", "test", 2)
    for image, (x, y) in enumerate([study.data("test", 2)[i] for i in range(2)]):
        guided = guide(study.network("fcn8s"), x[None], EPSILON)
        kinds = measure.changes(guided.before[0].argmax(0), guided.after[0].argmax(0), y, 255)
        for kind, mask in kinds.items():
            part = rows[(rows["image"] == image) & (rows["kind"] == kind)]
            assert part["pixels"].sum() == mask.sum()
            expected = metrics.boundary_distance(y)[mask].floor().sum().item()
            assert (part["pixels"] * part["distance"]).sum() == expected


def test_psnr_of_a_step():
    assert metrics.step_psnr(0.01) == pytest.approx(40)
    noisy = torch.full((3, 8, 8), 0.5) + 0.002 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
    error = (noisy - 0.5).square().mean()
    assert metrics.step_psnr(-0.002) == pytest.approx(-10 * torch.log10(error).item(), abs=1e-3)


def test_methods_by_condition_against_each_alone(study):
    study = dataclasses.replace(study, batch=2)
    found = measure.method_counts(study, "fcn8s", [("", 0), ("fog", 3)], "test", 4)
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
    fewer = measure.method_counts(study, "fcn8s", [("fog", 3)], "test", 4, names)["fog", 3]
    assert list(fewer) == names
    assert all(torch.equal(counts, found["fog", 3][method]) for method, counts in fewer.items())


def test_networks_without_batch_norm_have_no_tent(monkeypatch):
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: torch.nn.Conv2d(3, 11, 1))
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: {"epsilon": EPSILON})
    assert "TENT" not in measure.methods(DIGITS, "fcn8s")
