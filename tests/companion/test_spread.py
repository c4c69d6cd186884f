"""Rows of other trainings: what they say, that each is measured once, and that weights of other seeds do not stay."""

import dataclasses

import pytest
from conftest import EPSILON

from gpcore import metrics, paths
from gpcore.companion import measure, spread, training, weights


@pytest.fixture
def trained(study, tmp_path, monkeypatch):
    """Two networks, of which one is there with seed 1, and what was trained and forgotten."""
    monkeypatch.setattr(paths, "COUNTS", tmp_path)
    there, done = {"digits/fcn-seed0", "digits/unet-seed0", "digits/fcn-seed1"}, []

    def train(study, store, seed):
        done.append(("trained", store, seed))
        there.add(f"digits/{store}-seed{seed}")

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(weights, "known", lambda name: name in there)
    monkeypatch.setattr(weights, "forget", lambda name: done.append(("forgotten", name)))
    monkeypatch.setattr(
        type(study), "tuned", lambda self, name, seed=0: {"epsilon": EPSILON * (seed + 1), "val": 50.0 + seed}
    )
    networks = {name: study.networks[name] for name in ("fcn8s", "unet")}
    return dataclasses.replace(study, networks=networks), done


def test_each_network_and_seed_has_a_row(trained):
    study, done = trained
    assert len(spread.rows(study)) == 0
    spread.spread(study, [0, 1])
    assert done == [("trained", "unet", 1), ("forgotten", "digits/unet-seed1")]  # what was there before stays
    rows = spread.rows(study)
    assert rows[["network", "seed"]].to_numpy().tolist() == [["fcn8s", 0], ["unet", 0], ["fcn8s", 1], ["unet", 1]]
    for row in rows.itertuples():
        (before, after), _ = measure.guided_counts(study, row.network, "test", seed=row.seed)
        found = [row.epsilon, row.val, row.base, row.guided, row.gain, row.low, row.high, row.images]
        scores = [100 * metrics.miou(each.sum(0)).item() for each in (before, after)]
        expected = [EPSILON * (row.seed + 1), 50 + row.seed, *scores, *metrics.gain(before, after), 4]
        assert found == pytest.approx(expected, rel=1e-5)


def test_what_has_its_row_is_not_measured_again(trained, monkeypatch):
    study, _ = trained
    spread.spread(dataclasses.replace(study, networks={"fcn8s": study.networks["fcn8s"]}), [1])
    first = spread.rows(study).iloc[0].tolist()
    asked, real = [], spread.measured
    monkeypatch.setattr(
        spread, "measured", lambda study, name, seed: asked.append((name, seed)) or real(study, name, seed)
    )
    spread.spread(study, [0, 1])
    assert asked == [("fcn8s", 0), ("unet", 0), ("unet", 1)]
    assert first in spread.rows(study).to_numpy().tolist()


def test_only_the_stores_that_are_asked_for_are_trained(trained):
    study, done = trained
    spread.spread(study, [1], only=["fcn"])
    assert spread.rows(study)["network"].tolist() == ["fcn8s"] and not any("trained" in each for each in done)


def test_trainings_are_measured_on_an_evenly_spaced_part(monkeypatch):
    monkeypatch.setattr(spread, "IMAGES", 3)
    assert spread.evenly(9) == [0, 3, 6] and spread.evenly(2) == [0, 1]
