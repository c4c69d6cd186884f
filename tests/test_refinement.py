import dataclasses
import json

import pandas as pd
import pytest
import torch
from torch import nn

from gpcore import denoise, experiments, metrics, refinement, regions, weights
from gpcore.studies import DIGITS, STUDIES
from gpcore.study import Refiner, Study

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
    counts = refinement.inference_counts(refining, "fcn8s-dae-y-0.1", "test", (0.01, 1.0), 2)
    assert counts.shape == (2, 3, 4, 11, 11)
    alone = experiments.base_counts(refining, "fcn8s", "test")
    assert torch.equal(counts[:, 0], alone.expand(2, -1, -1, -1))
    # a full step leaves class 3 alone, a hundredth of one nearly nothing changed
    assert counts[1, 1].sum((0, 1))[3] == alone.sum() == counts[1, 1].sum()
    assert (counts[0, 1] - alone).abs().sum() < 0.1 * alone.sum()


def test_tuning_takes_the_first_of_the_best_steps(refining, monkeypatch):
    hits = torch.tensor([[5, 6, 8, 7], [5, 8, 8, 4]])
    found = torch.stack([hits, 10 - hits, torch.zeros_like(hits), torch.full_like(hits, 10)], -1)

    def counts(study, name, split, epsilons, steps, count):
        assert (name, split, epsilons, steps, count) == ("dae", "val", (0.1, 0.5), 3, 2)
        return found.view(2, 4, 1, 2, 2)

    monkeypatch.setattr(refinement, "inference_counts", counts)
    refiner = Refiner("fcn8s", "pool4", None, None, 2, epsilons=(0.1, 0.5), steps=3, val=2)
    tuned = refinement.tune(dataclasses.replace(refining, refiners={"dae": refiner}), "dae")
    best = round(100 * (0.8 + 10 / 12) / 2, 4)
    assert tuned["val"] == round(100 * (0.5 + 10 / 15) / 2, 4)
    assert (tuned["epsilon"], tuned["steps"], tuned["miou"]) == (0.1, 2, best)
    assert tuned["sweep"][1] == {"epsilon": 0.5, "steps": 1, "miou": best}


def test_the_noise_that_does_best_on_validation_images_is_taken(monkeypatch):
    scores = {"fcn8s-dae-y-0.1": 3, "fcn8s-dae-y-0.5": 5, "fcn8s-dae-truth-0.5": 9, "densenet-dae-y-0.1": 8}
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: {"miou": scores[name]})
    study = dataclasses.replace(DIGITS, refiners=dict.fromkeys(scores))
    assert refinement.best_dae(study, "fcn8s", "y") == "fcn8s-dae-y-0.5"
    assert refinement.best_dae(study, "fcn8s", "truth") == "fcn8s-dae-truth-0.5"


def test_a_refined_prediction_is_the_last_of_its_trajectory(refining):
    x, _ = next(refining.batches("test", 2))
    answer = refinement.refined(refining, "fcn8s-dae-y-0.1")(x)
    y, h = denoise.candidate(refining.network("fcn8s"), x, "pool4")
    r = Shift()(y, h).softmax(1)
    by_hand = r + 0.5**3 * (y - r)  # three halvings of the distance
    assert torch.allclose(answer, by_hand, atol=1e-6)


def test_methods_of_table_1(refining):
    every = refinement.methods(refining, "fcn8s")
    assert {*every} == {"network alone", "+CRF", "+CRF-RNN", *refining.refiners}
    rows = refinement.table_one(refining, "fcn8s", {name: name for name in every})
    assert [*rows] == ["network alone", "+CRF", "+context module", "+CRF-RNN", "+DAE(ytrue)", "+DAE(y)"]
    assert (rows["+DAE(ytrue)"], rows["+context module"]) == ("fcn8s-dae-truth-0.1", "fcn8s-context")
    two = {name: every[name] for name in ("network alone", "+CRF")}
    counts = experiments.answer_counts(refining, two, "test")
    expected = experiments.crf_counts(refining, "fcn8s", "test")
    assert torch.equal(counts["network alone"], expected[0])
    assert torch.equal(counts["+CRF"], expected[1])


def test_guided_toward_the_dae_uses_its_label(refining):
    """The DAE wants class 3 everywhere: toward its label that class rises, and after it nothing else is left."""
    x, _ = next(refining.batches("test", 2))
    every = refinement.combinations(refining, "fcn8s")
    third = {name: every[name](x).log_softmax(1)[:, 3].mean() for name in ("network alone", "GP", "GP toward DAE(y)")}
    assert third["GP toward DAE(y)"] > max(third["GP"], third["network alone"]) + 0.1
    assert (every["GP, then DAE(y)"](x).argmax(1) == 3).all()


def test_cost_starts_at_one_pass_and_grows_by_equal_steps(refining):
    rows = refinement.cost_rows(refining, "fcn8s", "test", 3, 2)
    for _, part in rows.groupby("method"):
        assert part["steps"].tolist() == [0, 1, 2, 3]
        assert part["cost"].iloc[0] == 1
        assert part["gain"].iloc[0] == 0
        assert part["cost"].diff().iloc[2:].nunique() == 1
    gp = rows[rows["method"] == "GP"].set_index("steps")["cost"]
    assert 2.5 < gp[1] < 3.5  # forward, backward, forward
    assert gp[2] - gp[1] == pytest.approx(gp[1] - 1, rel=0.2)


def test_region_rows_name_image_and_method(refining):
    three = refinement.table_one(refining, "fcn8s", refinement.methods(refining, "fcn8s"))
    rows = regions.rows(refining, {n: three[n] for n in ("network alone", "+CRF", "+DAE(y)")}, "test")
    assert rows.groupby("method").size().to_dict() == {"+CRF": 4, "+DAE(y)": 4}
    assert rows["image"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    pairs = rows.pivot(index="image", columns="method", values="absent")
    assert (pairs["+CRF"] == pairs["+DAE(y)"]).all()


def test_panels_show_the_truth_only_where_it_is_ours(refining):
    every = refinement.table_one(refining, "fcn8s", refinement.methods(refining, "fcn8s"))
    chosen = {n: every[n] for n in ("network alone", "+DAE(y)")}
    ((first, second),) = ([[p.title for p in row] for row in refinement.panels(refining, chosen, [0, 1])],)
    assert first == ["truth", "network alone", "+DAE(y)", "changes"]
    assert second == [""] * 4
    hidden = dataclasses.replace(refining, photographs=False)
    assert [p.title for p in refinement.panels(hidden, chosen, [0])[0]] == first[1:]


def test_iterations_of_every_curve_start_at_the_network_alone(refining):
    refiners = {n: dataclasses.replace(r, epsilons=(1.0,), steps=1) for n, r in refining.refiners.items()}
    rows = refinement.iteration_rows(dataclasses.replace(refining, refiners=refiners), "fcn8s", "test", 2)
    sizes = [f"ε {epsilon:g}" for epsilon in denoise.EPSILONS]
    assert rows["label"].unique().tolist() == [*sizes, "CRF"]
    assert rows[rows["iteration"] == 0]["miou"].nunique() == 1
    assert rows.groupby("label").size()[sizes].tolist() == [51] * 7
    crf = experiments.crf_counts(refining, "fcn8s", "test", 2)[1]
    five = rows[(rows["label"] == "CRF") & (rows["iteration"] == 5)]["miou"].item()
    assert five == pytest.approx(100 * metrics.miou(crf.sum(0)).item())  # dense_crf's default


def test_maxima_are_the_first_of_the_highest():
    rows = pd.DataFrame({"label": ["a"] * 3 + ["b"] * 2, "iteration": [0, 1, 2, 0, 1], "miou": [5.0, 7, 7, 9, 8]})
    found = refinement.maxima(rows)
    assert found["iteration"].to_dict() == {"a": 1, "b": 0}
    assert found["miou"].to_dict() == {"a": 7, "b": 9}


@pytest.mark.parametrize("name", DIGITS.refiners)
def test_committed_refiners_score_as_recorded(name):
    """On the validation mosaics that chose its step size and steps, with these, within print precision."""
    refiner, tuned = DIGITS.refiners[name], DIGITS.tuned(name)
    (counts,) = refinement.inference_counts(DIGITS, name, "val", [tuned["epsilon"]], tuned["steps"], refiner.val)
    scores = 100 * metrics.miou(counts.sum(1))
    assert scores[0].item() == pytest.approx(tuned["val"], abs=0.05)
    assert scores[-1].item() == pytest.approx(tuned["miou"], abs=0.05)
    assert tuned["miou"] == max(row["miou"] for row in tuned["sweep"])


def test_every_refiner_was_trained_by_its_recipe():
    for study in STUDIES.values():
        for name, refiner in study.refiners.items():
            entry = weights.info(study.weights(name))
            assert entry["recipe"] == json.loads(json.dumps(dataclasses.asdict(refiner.recipe)))
            for field in ("network", "at", "images", "sigma", "truth"):
                assert entry["refiner"][field] == getattr(refiner, field)


def test_the_subject_is_fcn8s_where_it_gains_a_point(monkeypatch):
    def gains(**points):
        score = {name: {"val": 60.0, "miou": 60.0 + points[name.split("-")[0]]} for name in DIGITS.refiners}
        monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: score[name])
        return refinement.subject(DIGITS)

    assert gains(fcn8s=1.0, densenet=5.0) == "fcn8s"
    assert gains(fcn8s=0.9, densenet=5.0) == "densenet"
    assert gains(fcn8s=0.9, densenet=0.5) == "fcn8s"
