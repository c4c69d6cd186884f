"""The assignment: its split, what is measured of a network, and how trainings are put together."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gpcore import metrics, paths
from gpcore.adapt import View, augmented
from gpcore.companion import keeping, studies, weights
from gpcore.companion.experiments import unet_assignment as assignment
from gpcore.companion.studies import LABELS, Network, Recipe
from gpcore.companion.studies.assignment import PARITY, STREETS, VOID, parts_of
from gpcore.networks.assignment import Recurrent, unet

RECIPE = Recipe(epochs=1, samples=8, batch=4, rate=1e-3)


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """Three untrained networks whose weights depend on the seed, on four random pictures of three classes."""
    monkeypatch.setattr(paths, "COUNTS", tmp_path)
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.rand(3, 64, 64, generator=generator), torch.randint(0, 3, (64, 64), generator=generator)) for _ in "1234"
    ]
    pairs[0][1][:5] = VOID
    made = {"plain": unet, "no-skips": lambda classes: unet(classes, skips=False), "recurrent": Recurrent}
    networks = {name: Network(build, name, RECIPE, label=LABELS[name]) for name, build in made.items()}
    study = dataclasses.replace(
        PARITY, dataset=lambda split: pairs, images={"test": 4, "val": 4}, networks=networks, batch=3
    )

    def load(name):
        store, seed = name.removeprefix("parity/").split("-seed")
        torch.manual_seed(int(seed) + 7)
        return made[store](3).state_dict()

    monkeypatch.setattr(weights, "load", load)
    return study


def test_the_random_split_is_a_function_of_its_seed():
    items = range(53)
    first, again, other = (parts_of(items, seed) for seed in (3, 3, 4))
    for split, count in (("train", 42), ("val", 11)):
        assert [*first[split]] == [*again[split]] != [*other[split]] and len(first[split]) == count
    assert sorted([*first["train"], *first["val"]]) == [*items]
    assert [*first["train"]] != sorted(first["train"])


def test_the_parts_of_the_scenes_share_none_and_have_these_classes():
    train, val, test = (PARITY.dataset(split) for split in ("train", "val", "test"))
    assert [len(each) for each in (train, val, test)] == [PARITY.images[split] for split in ("train", "val", "test")]
    assert not {*train.indices} & {*val.indices} and len({*train.indices, *val.indices}) == 750
    image, labels = test[5]
    assert image.shape == (3, 32, 40) and labels.shape == (32, 40)
    _, digits = studies.get("digits").dataset("test")[5]
    expected = {0: 0} | {1 + digit: 1 + digit % 2 for digit in range(10)} | {VOID: VOID}
    assert labels.tolist() == [[expected[k] for k in row] for row in digits[2::4, 2::4].tolist()]


@pytest.mark.skipif(not (paths.DATA / "camvid").is_dir(), reason="CamVid is not laid out")
def test_streets_are_road_things_and_the_rest():
    assert [len(STREETS.dataset(split)) for split in ("train", "val", "test")] == [374, 94, 233]
    image, labels = STREETS.dataset("test")[100]
    _, full = studies.get("camvid").dataset("test")[100]
    assert image.shape == (3, 60, 80)
    kinds = [2, 2, 1, 0, 2, 2, 1, 2, 1, 1, 1, VOID]
    assert labels.tolist() == [[kinds[k] for k in row] for row in full[3::6, 3::6].tolist()]


def test_augmentations_are_those_that_are_tried_at_test_time():
    for study, flips in ((PARITY, False), (STREETS, True)):
        recipes = {name: plan.recipe for name, plan in study.networks.items()}
        assert ("flip" in recipes) == flips == ("flips" in assignment.views(study))
        changed = {
            name: {f: getattr(r, f) for f in ("turn", "scale", "crop", "mirror") if getattr(r, f) != getattr(RECIPE, f)}
            for name, r in recipes.items()
        }
        alone = {name: each for name, each in changed.items() if name not in ("plain", "all") and each}
        assert all(len(each) == 1 for each in alone.values()) and len(alone) == 3 + flips
        assert changed["all"] == {key: value for each in alone.values() for key, value in each.items()}
        turns = {view.turn for view in assignment.views(study)["turns"]}
        scales = {view.scale for view in assignment.views(study)["scales"]}
        assert turns == {0, 10, -10} and alone["rotation"]["turn"] == 10
        assert (min(scales), max(scales)) == alone["scale"]["scale"]
        every = {view for name, each in assignment.views(study).items() if name != "all views" for view in each}
        assert {*assignment.views(study)["all views"]} == every and View() in every


def test_counts_are_those_of_every_way_to_answer(toys):
    views = assignment.views(toys)
    plain, recurrent = assignment.counts(toys, "plain"), assignment.counts(toys, "recurrent")
    assert list(plain) == [assignment.ALONE, *views] and list(recurrent) == ["pass 1", "pass 2", "pass 3"]
    network, passes = toys.network("plain"), toys.network("recurrent")
    for i, (x, y) in enumerate(toys.dataset("test")):
        with torch.no_grad():
            expected = {assignment.ALONE: network(x[None])}
            expected |= {name: augmented(network, x[None], each) for name, each in views.items()}
            for name, scores in expected.items():
                assert torch.equal(plain[name][i], metrics.confusion(scores[0].argmax(0), y, 3, VOID))
            for name, scores in zip(recurrent, passes.supervised(x[None]), strict=True):
                assert torch.equal(recurrent[name][i], metrics.confusion(scores[0].argmax(0), y, 3, VOID))


def test_counts_of_other_trainings_are_read_as_they_were_kept(toys, monkeypatch):
    monkeypatch.setenv("GPCORE_RECORD", "1")
    first, second = (assignment.counts(toys, "no-skips", seed) for seed in (0, 1))
    assert not torch.equal(first[assignment.ALONE], second[assignment.ALONE])
    monkeypatch.setattr(weights, "load", lambda name: pytest.fail(f"{name} is not here"))
    assert torch.equal(assignment.counts(toys, "no-skips", 1)[assignment.ALONE], second[assignment.ALONE])
    with pytest.raises(pytest.fail.Exception, match="parity/no-skips-seed0"):
        assignment.counts(toys, "no-skips")


def test_trainings_stand_beside_each_other(toys):
    every = assignment.every_count(toys, [0, 1])
    assert [name for name in every if "," not in name] == ["plain", "no-skips"]
    assert {"recurrent, pass 1", "recurrent, pass 3", "plain, turns", "plain, all views"} <= {*every}
    for name, seed in (("plain", 0), ("no-skips", 1)):
        expected = assignment.counts(toys, name, seed)[assignment.ALONE]
        assert torch.equal(every[name][:, seed], expected) and every[name].shape == (4, 2, 3, 3)
    blocks = dataclasses.replace(toys, sequences={"test": (1, 3)})
    assert assignment.every_count(blocks, [0])["plain"].shape == (2, 1, 3, 3)


def test_a_gain_is_the_mean_over_trainings_of_each_ones_gain():
    """Two classes of ten pixels each; hits of three images before and after, of two trainings."""

    def counted(hits):
        return torch.tensor([[[[h, 10 - h], [0, 10]] for h in row] for row in hits])

    def miou(hits):
        return 50 * (sum(hits) / 30 + 30 / (60 - sum(hits)))

    before, after = counted([[5, 2], [6, 2], [4, 2]]), counted([[8, 1], [6, 2], [7, 0]])
    single = [miou([8, 6, 7]) - miou([5, 6, 4]), miou([1, 2, 0]) - miou([2, 2, 2])]
    rows = assignment.gain_rows({"a": before, "b": after}, {"step": ("a", "b")})
    (row,) = rows.to_dict("records")
    assert (row["feature"], row["answer"]) == ("step", "b")
    assert row["gain"] == pytest.approx(sum(single) / 2, rel=1e-6)
    assert (row["least"], row["most"]) == pytest.approx((single[1], single[0]), rel=1e-6)
    assert row["miou"] == pytest.approx((miou([8, 6, 7]) + miou([1, 2, 0])) / 2, rel=1e-6)
    assert row["low"] < row["gain"] < row["high"]
    same = assignment.gain(before, before)
    assert same == (0, 0, 0)


def test_features_name_answers_that_are_counted():
    for study in (PARITY, STREETS):
        pairs = assignment.features(study)
        used = {name.split(",")[0] for pair in pairs.values() for name in pair}
        assert used == {*study.networks}
        assert all(before in ("plain", "recurrent, pass 1", "recurrent, pass 2") for before, _ in pairs.values())


def test_costs_are_counted(toys):
    many = dataclasses.replace(toys, dataset=lambda split: toys.dataset(split) * 4)
    costs = assignment.cost_rows(many).set_index("network")
    assert costs.loc["plain", "parameters"] == sum(p.numel() for p in unet(3).parameters()) / 1e3
    first = 2 * 3 * 12 * 9 * 64 * 64 / 1e6  # operations of the first convolution alone
    assert costs.loc["plain", "mflop"] > 10 * first
    assert costs.loc["no-skips", "mflop"] < costs.loc["plain", "mflop"]
    # three times the network, whose first convolution sees three channels more
    assert costs.loc["recurrent", "mflop"] == pytest.approx(3 * (costs.loc["plain", "mflop"] + first), rel=1e-6)
    assert costs.loc["plain, turns", "mflop"] == pytest.approx(3 * costs.loc["plain", "mflop"], rel=1e-6)
    assert math.isnan(costs.loc["plain, turns", "parameters"])
    # every activation is alive when the backward pass begins
    assert costs.loc["recurrent", "megabytes"] > 2.5 * costs.loc["plain", "megabytes"]
    assert costs.loc["plain", "megabytes"] > 16 * 64 * 64 * 4 * 2 * 12 * 3 / 1e6


def test_costs_stand_beside_an_answer_once():
    rows = pd.DataFrame({"feature": ["a", "b", "c"], "answer": ["plain", "deep", "deep"], "gain": [0.0, 1.0, 2.0]})
    beside = assignment.beside_costs(rows, pd.DataFrame({"parameters": [3.0, 5.0]}, index=["deep", "plain"]))
    assert beside["gain"].tolist() == [0, 1, 2] and beside["parameters"].fillna(-1).tolist() == [5, 3, -1]


def test_errors_are_counted_by_their_distance_to_the_outline(toys, monkeypatch):
    """A square of class 1 on class 0, of which the network says 0 throughout: all of the square is wrong, at distances
    from 1 on; void is not counted."""
    labels = torch.zeros(64, 64, dtype=torch.long)
    labels[20:40, 20:40] = 1
    labels[:, 60:] = VOID
    study = dataclasses.replace(toys, dataset=lambda split: [(torch.rand(3, 64, 64), labels)] * 4)

    class Blind(nn.Module):
        def forward(self, x):
            return torch.eye(3)[0].view(1, 3, 1, 1).expand(len(x), 3, 64, 64)

    monkeypatch.setattr(type(study), "network", lambda self, name, seed=0: Blind())
    rows = assignment.outline_rows(study, ["plain"], 4)
    assert rows["network"].tolist() == ["plain U-Net"] * 5 and rows["band"].tolist() == [0, 1, 2, 3, 4]
    ring = 20**2 - 18**2  # pixels of the square that touch its outline
    # outside it, four sides of 20 and, at the distance of root 2, four corners, and a column beside the void
    assert rows["wrong"][0] == pytest.approx(100 * ring / (ring + 80 + 4 + 64), rel=1e-4)
    assert (rows["low"] <= rows["wrong"]).all() and rows["wrong"][4] < rows["wrong"][0]


def test_restored_counts_maxima_at_their_places(toys):
    network, x = toys.network("plain"), torch.rand(2, 3, 64, 64)
    matches, expected = assignment.restored(network, x)
    with torch.no_grad():
        _, pooled = network.features(x)
    assert expected == sum(int((each > 0).sum()) for each in pooled[:4]) == matches > 1000
    # with the switches of another picture they do not come back
    features = network.features
    network.features = lambda x: (features(x.flip(-1))[0], features(x)[1])
    wrong, _ = assignment.restored(network, x)
    assert wrong < 0.5 * expected


@pytest.mark.parametrize("study", [PARITY, STREETS], ids=lambda study: study.name)
def test_every_training_is_kept_and_seed_0_can_be_run(study):
    for name in study.networks:
        recorded = weights.info(study.stored_as(name))
        assert recorded["networks"][name]["val"] > 40 and recorded["seed"] == 0
        assert recorded["recipe"] == dataclasses.asdict(study.networks[name].recipe) | {
            "scale": [*study.networks[name].recipe.scale], "frozen": [], "frequencies": [],
        }  # fmt: skip
        for seed in (0, 1, 2):
            file = keeping.file(study, f"assignment {name} seed{seed} test {study.images['test']}")
            counts = np.load(file)["counts"]
            assert counts.shape[1:] == (study.images["test"], 3, 3)
