import dataclasses
import json
import re

import pandas as pd
import pytest
import torch
from conftest import CRF, EPSILON, iou, pairs
from torch import nn

from gpcore import denoise, metrics
from gpcore.companion import measure, tuning, weights
from gpcore.companion.experiments import dae_and_gp, dae_iterations, dae_table
from gpcore.companion.measure import with_crf
from gpcore.companion.studies import DIGITS, STUDIES, Refiner, Study
from gpcore.perturb import guide

TUNED = {"epsilon": 0.5, "steps": 3, "miou": 60.0, "val": 50.0}


class Shift(nn.Module):
    """Prefers one class wherever it is asked, whatever it is given."""

    def __init__(self, target=3):
        super().__init__()
        self.target = target

    def forward(self, y, h):
        logits = torch.zeros_like(y)
        logits[:, self.target] = 4.0
        return logits


@pytest.fixture
def refining(study, monkeypatch):
    """The study of `conftest` with a DAE that turns everything into class 3, and a context module likewise."""
    segment, tuned = study.network("fcn8s"), study.tuned("fcn8s")
    plain = {"network": "fcn8s", "at": "pool4", "build": None, "recipe": None, "images": 2}
    refiners = {name: Refiner(**plain) for name in ("fcn8s-dae-y-0.1", "fcn8s-dae-truth-0.1")}
    refiners["fcn8s-context"] = Refiner(**plain | {"at": None})
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: Shift() if name in refiners else segment)
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: TUNED if name in refiners else tuned)
    return dataclasses.replace(study, refiners=refiners)


def test_inference_counts_follow_every_step_size_and_step(refining):
    counts = measure.inference_counts(refining, "fcn8s-dae-y-0.1", "test", (0.01, 1.0), 2)
    assert counts.shape == (2, 3, 4, 11, 11)
    alone = measure.guided_counts(refining, "fcn8s", "test")[0][0]
    assert torch.equal(counts[:, 0], alone.expand(2, -1, -1, -1))
    # a full step leaves class 3 alone, a hundredth of one nearly nothing changed
    assert counts[1, 1].sum((0, 1))[3] == alone.sum() == counts[1, 1].sum()
    assert (counts[0, 1] - alone).abs().sum() < 0.1 * alone.sum()


def test_tuning_takes_the_first_of_the_best_steps(refining, monkeypatch):
    """Of two images together: their mean hits are 5, 6, 8, 7 and 5, 8, 8, 4."""
    found = torch.stack([pairs([5, 6, 8, 7, 5, 8, 8, 4]) for _ in range(2)], 1)
    found[3, :, 0] = torch.tensor([[10, 0], [4, 6]])  # image by image the mean is higher than that of 8 and 8

    def counts(study, name, split, epsilons, steps, count):
        assert (name, split, epsilons, steps, count) == ("dae", "val", (0.1, 0.5), 3, 2)
        return found.view(2, 4, 2, 2, 2)

    monkeypatch.setattr(measure, "inference_counts", counts)
    refiner = Refiner("fcn8s", "pool4", None, None, 2, epsilons=(0.1, 0.5), steps=3, val=2)
    tuned = tuning.tune_refiner(dataclasses.replace(refining, refiners={"dae": refiner}), "dae")
    rows = [{"epsilon": epsilon, "steps": steps, "miou": round(iou(8), 4)} for epsilon, steps in ((0.1, 2), (0.5, 1))]
    assert tuned == {"val": round(iou(5), 4), **rows[0], "sweep": rows}


def test_rows_of_what_was_tuned_are_those_of_one_network(refining):
    other = dataclasses.replace(refining.refiners["fcn8s-context"], network="unet")
    study = dataclasses.replace(refining, refiners=refining.refiners | {"unet-context": other})
    rows = dae_table.tuned_rows(study, "fcn8s")
    assert rows["refiner"].tolist() == ["fcn8s-dae-y-0.1", "fcn8s-dae-truth-0.1", "fcn8s-context"]
    assert (
        rows.iloc[0].tolist() == ["fcn8s-dae-y-0.1", "pool4", 0.0, 0.5, 3, 50.0, 60.0] and rows["h"].isna().sum() == 1
    )


def test_the_noise_that_does_best_on_validation_images_is_taken(monkeypatch):
    scores = {"fcn8s-dae-y-0.1": 3, "fcn8s-dae-y-0.5": 5, "fcn8s-dae-truth-0.5": 9, "densenet-dae-y-0.1": 8}
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: {"miou": scores[name]})
    study = dataclasses.replace(DIGITS, refiners=dict.fromkeys(scores))
    assert dae_table.best_dae(study, "fcn8s", "y") == "fcn8s-dae-y-0.5"
    assert dae_table.best_dae(study, "fcn8s", "truth") == "fcn8s-dae-truth-0.5"


def test_a_refined_prediction_is_the_last_of_its_trajectory(refining):
    x, _ = next(refining.batches("test", 2))
    answer = dae_table.refined(refining, "fcn8s-dae-y-0.1")(x)
    y, h = denoise.candidate(refining.network("fcn8s"), x, "pool4")
    r = Shift()(y, h).softmax(1)
    by_hand = r + 0.5**3 * (y - r)  # three halvings of the distance
    assert torch.allclose(answer, by_hand, atol=1e-6)


def test_methods_of_table_1(refining):
    every = dae_table.refinements(refining, "fcn8s")
    assert {*every} == {"network alone", "+CRF", dae_table.JOINT, *refining.refiners}
    rows = dae_table.table_one(refining, "fcn8s", {name: name for name in every})
    assert [*rows] == ["network alone", "+CRF", "+context module", "+CRF-RNN", "+DAE(ytrue)", "+DAE(y)"]
    assert (rows["+DAE(ytrue)"], rows["+context module"]) == ("fcn8s-dae-truth-0.1", "fcn8s-context")
    two = {name: every[name] for name in ("network alone", "+CRF")}
    counts = measure.answer_counts(refining, two, "test")
    network = refining.network("fcn8s")
    expected = measure.count(refining, lambda x, y: (z for a in [network(x)] for z in (a, with_crf(a, x, CRF))), "test")
    assert torch.equal(counts["network alone"], expected[0])
    assert torch.equal(counts["+CRF"], expected[1])


def test_crf_rnn_is_the_better_of_two_on_validation_images(refining, monkeypatch):
    assert dae_table.best_crfrnn(refining, "fcn8s") == dae_table.JOINT  # nothing else is there
    both = dataclasses.replace(refining, refiners=refining.refiners | dict.fromkeys(["fcn8s-crfrnn", "unet-crfrnn"]))
    scores = {"fcn8s-crfrnn": {"miou": 61.0}, "unet-crfrnn": {"miou": 1.0}, "crfrnn": {"val": 61.1}}
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: scores[name])
    assert dae_table.best_crfrnn(both, "fcn8s") == dae_table.JOINT
    assert dae_table.best_crfrnn(both, "unet") == "unet-crfrnn"  # the joint one is FCN-8s'
    scores["crfrnn"] = {"val": 61.0}
    assert dae_table.best_crfrnn(both, "fcn8s") == "fcn8s-crfrnn"


def test_of_several_kernels_the_best_is_taken(refining, monkeypatch):
    names = ["fcn8s-crfrnn", "fcn8s-crfrnn-narrow"]
    study = dataclasses.replace(refining, refiners=refining.refiners | dict.fromkeys(names))
    scores = {names[0]: {"miou": 61.0}, names[1]: {"miou": 61.2}, "crfrnn": {"val": 61.1}}
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: scores[name])
    assert dae_table.best_crfrnn(study, "fcn8s") == names[1]


def test_each_ingredient_stands_beside_the_whole_design():
    counts = {"network alone": pairs([4, 4]), "a": pairs([6, 6]), "a-far": pairs([5, 7]), "b": pairs([9, 9])}
    rows = dae_table.ablation_rows(counts, "a")
    assert rows["design"].tolist() == ["as it is", "not near the identity"]
    assert rows["miou"].tolist() == pytest.approx([iou(6), iou(6)])
    assert rows["gain"].tolist() == pytest.approx([iou(6) - iou(4)] * 2)
    first, second = rows[["beside", "beside_low", "beside_high"]].to_numpy()
    assert first.tolist() == [0, 0, 0]
    assert second.tolist() == pytest.approx([0, iou(5) - iou(6), iou(7) - iou(6)])


def test_noises_are_compared_over_one_build(refining, monkeypatch):
    names = ("dae-y-0.1", "dae-truth-0.25", "dae-y-0.1-switches", "context")
    refiners = {f"fcn8s-{name}": Refiner("fcn8s", None, None, None, 2, sigma=0.1 + i) for i, name in enumerate(names)}
    study = dataclasses.replace(refining, refiners=refiners | {"unet-dae-y-0.1": None})
    scores = dict(zip(refiners, (52.0, 49.5, 70.0, 60.0), strict=True))
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: {"val": 50.0, "miou": scores[name]})
    found = dae_table.by_sigma(study, "fcn8s").to_numpy().tolist()
    assert found == [["DAE(y)", 0.1, 2.0], ["DAE(ytrue)", 1.1, -0.5]]


def test_gains_stand_beside_the_published_ones():
    counts = {"fcn8s": {"network alone": pairs([5, 5]), "+CRF": pairs([5, 7]), "mine": pairs([4, 4])}}
    published = pd.DataFrame(
        [("fcn8s", "network alone", 57.0), ("fcn8s", "+CRF", 58.5)], columns=["network", "method", "mean IoU"]
    )
    rows = dae_table.gain_rows(counts, published)
    assert rows["network"].tolist() == ["FCN-8s"] * 3
    assert rows["paper"].fillna(9).tolist() == [0, 1.5, 9]
    assert rows["gain"].tolist() == pytest.approx([0, iou(6) - iou(5), iou(4) - iou(5)])


def test_losses_of_one_networks_refiners_by_epoch(refining, monkeypatch):
    losses = {"digits/fcn8s-dae-y-0.1-seed0": [2.0, 1.5], "digits/fcn8s-dae-truth-0.1-seed0": [1.0]}
    monkeypatch.setattr(weights, "info", lambda name: {"loss": losses.get(name, [])})
    rows = dae_table.curves(refining, "fcn8s")
    assert rows.to_numpy().tolist() == [
        ["fcn8s-dae-y-0.1", 1, 2.0],
        ["fcn8s-dae-y-0.1", 2, 1.5],
        ["fcn8s-dae-truth-0.1", 1, 1.0],
    ]
    more = rows.assign(refiner=rows["refiner"].str.replace("fcn8s-dae-truth-0.1", "densenet-crfrnn"))
    once, by_y, by_truth = dae_table.learning_figure(more).axes
    assert [(line.get_label(), line.get_linestyle(), [*line.get_ydata()]) for line in by_y.lines] == [
        ("0.1", "-", [2.0, 1.5])
    ]
    assert [(line.get_label(), line.get_linestyle()) for line in once.lines] == [("crfrnn, FC-DenseNet", "--")]
    assert not by_truth.lines


def test_cost_starts_at_one_pass_and_grows_by_equal_steps(refining):
    rows = dae_and_gp.cost_rows(refining, "fcn8s", "test", 3, 2)
    for _, part in rows.groupby("method"):
        assert part["steps"].tolist() == [0, 1, 2, 3]
        assert part["cost"].iloc[0] == 1
        assert part["gain"].iloc[0] == 0
        assert part["cost"].diff().iloc[2:].nunique() == 1
    gp = rows[rows["method"] == "GP"].set_index("steps")["cost"]
    assert 2.5 < gp[1] < 3.5  # forward, backward, forward
    network = refining.network("fcn8s")
    counts = measure.count(refining, lambda x, y: guide(network, x, EPSILON, steps=3).trajectory, "test", 2)
    gains = [metrics.gain(counts[0], after) for after in counts]
    assert rows.loc[rows["method"] == "GP", ["gain", "low", "high"]].to_numpy().tolist() == [[*gain] for gain in gains]
    assert rows["method"].unique().tolist() == ["GP", *(f"DAE(y), ε {epsilon:g}" for epsilon in (0.1, 0.5, 1.0))]
    dae = measure.inference_counts(refining, "fcn8s-dae-y-0.1", "test", (0.1,), 3, 2)[0]
    assert rows["gain"][7] == metrics.gain(dae[0], dae[3]).value
    assert gp[2] - gp[1] == pytest.approx(gp[1] - 1, rel=0.2)


def test_iterations_of_every_curve_start_at_the_network_alone(refining):
    counts = dae_iterations.iteration_counts(refining, "fcn8s", "test", 2)
    rows = dae_iterations.curve_rows(counts)
    sizes = {f"ε {epsilon:g}": epsilon for epsilon in denoise.EPSILONS}
    assert [*counts] == rows["label"].unique().tolist() == [*sizes, "CRF"]
    assert rows[rows["iteration"] == 0]["miou"].nunique() == 1
    assert rows.groupby("label").size()[[*sizes]].tolist() == [251, 126, 51, 51, 51, 51, 51]
    for label, epsilon in sizes.items():  # by tens, or in one go
        whole = measure.inference_counts(refining, "fcn8s-dae-y-0.1", "test", (epsilon,), 25, 2)[0]
        assert torch.equal(counts[label][1][:26], whole)
    network = refining.network("fcn8s")
    for iterations in (1, 5):
        crf = CRF | {"iterations": iterations}
        (expected,) = measure.count(refining, lambda x, y, crf=crf: [with_crf(network(x), x, crf)], "test", 2)
        found = rows[(rows["label"] == "CRF") & (rows["iteration"] == iterations)]["miou"].item()
        assert found == pytest.approx(100 * metrics.miou(expected.sum(0)).item())


def test_highest_points_and_whether_they_lie_before_the_end():
    rows = pd.DataFrame(
        [("a", 0, 1.0), ("a", 1, 3.0), ("a", 2, 3.0), ("b", 0, 1.0), ("b", 1, 2.0)],
        columns=["label", "iteration", "miou"],
    )
    found = dae_iterations.maxima(rows)
    assert found["iteration"].to_dict() == {"a": 1, "b": 1}  # of equals the first
    assert found["arrived"].to_dict() == {"a": True, "b": False}


def test_the_spread_is_between_the_best_of_every_step_size():
    """Each image alike, so that resamples are, too; the CRF takes no part."""
    first = torch.stack([pairs([5, 5]), pairs([8, 8]), pairs([6, 6])])
    second = torch.stack([pairs([5, 5]), pairs([6, 6])])
    crf = torch.stack([pairs([5, 5]), pairs([10, 10])])
    counts = {"ε 1": ([0, 1, 2], first), "ε 0.5": ([0, 1], second), "CRF": ([0, 1], crf)}
    expected = pytest.approx(iou(8) - iou(6))
    assert dae_iterations.spread(counts) == (expected, expected, expected)


BUILDS = [name for name in DIGITS.refiners if not re.search("dae-truth|0.25|0.5|1.0|densenet-[^d]", name)]  # one each


@pytest.mark.parametrize("name", BUILDS)
def test_committed_refiners_score_as_recorded(name):
    """On the validation scenes that chose them, by the step size that took the fewest steps to its best."""
    refiner, tuned = DIGITS.refiners[name], DIGITS.tuned(name)
    quick = min(tuned["sweep"], key=lambda row: row["steps"])
    (counts,) = measure.inference_counts(DIGITS, name, "val", [quick["epsilon"]], quick["steps"], refiner.val)
    alone, *_, refined = (100 * metrics.miou(counts.sum(1))).tolist()
    assert (alone, refined) == (pytest.approx(tuned["val"], abs=0.05), pytest.approx(quick["miou"], abs=0.05))
    best = max(tuned["sweep"], key=lambda row: row["miou"])
    assert best == {key: tuned[key] for key in ("epsilon", "steps", "miou")}


def test_every_refiner_was_trained_by_its_recipe():
    for study in STUDIES.values():
        for name, refiner in study.refiners.items():
            entry = weights.info(study.stored_as(name))
            assert entry["recipe"] == json.loads(json.dumps(dataclasses.asdict(refiner.recipe)))
            for field in ("network", "at", "images", "sigma", "truth"):
                assert entry["refiner"][field] == getattr(refiner, field)


def test_the_subject_is_fcn8s_where_it_gains_a_point(monkeypatch):
    def gains(**points):
        score = {name: {"val": 60.0, "miou": 60.0 + points[name.split("-")[0]]} for name in DIGITS.refiners}
        monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: score[name])
        return dae_table.subject(DIGITS)

    assert gains(fcn8s=1.0, densenet=5.0) == "fcn8s"
    assert gains(fcn8s=0.9, densenet=5.0) == "densenet"
    assert gains(fcn8s=0.9, densenet=0.5) == "fcn8s"
