import dataclasses
import json

import pytest
import torch

from gpcore import experiments, metrics, neighbours, studies, training, weights
from gpcore.networks import fcn_small
from gpcore.studies import DIGITS, HANDWRITING, Recipe

RECIPE = Recipe(epochs=3, samples=8, batch=4, rate=1e-3)


def fitted(checkpoint, epochs=3, seed=0):
    torch.manual_seed(seed)
    recipe = dataclasses.replace(RECIPE, epochs=3)
    network = fcn_small(11)
    data = torch.utils.data.Subset(DIGITS.dataset("train"), range(8))

    class Interrupted(Exception):
        pass

    real, calls = training.batches, []

    def stopping(*args):
        if len(calls) == epochs:
            raise Interrupted
        calls.append(1)
        return real(*args)

    patch = pytest.MonkeyPatch()
    patch.setattr(training, "batches", stopping)
    try:
        return training.fit(network, data, recipe, void=255, checkpoint=checkpoint, seed=seed)
    except Interrupted:
        return None
    finally:
        patch.undo()


def test_resumed_training_ends_in_the_same_weights(tmp_path):
    straight, losses = fitted(tmp_path / "a.pt")
    assert fitted(tmp_path / "b.pt", epochs=1) is None
    assert (tmp_path / "b.pt").is_file()
    resumed, same = fitted(tmp_path / "b.pt")
    assert losses == same
    assert losses[2] < losses[0]
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_frozen_stages_stay_and_others_move(tmp_path):
    network = fcn_small(11)
    before = {name: value.clone() for name, value in network.named_parameters()}
    recipe = dataclasses.replace(RECIPE, epochs=1, frozen=("conv1", "conv2"))
    data = torch.utils.data.Subset(DIGITS.dataset("train"), range(8))
    training.fit(network, data, recipe, void=255, checkpoint=tmp_path / "c.pt")
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith(("conv1", "conv2"))}


def test_class_weights_by_hand():
    recipe = dataclasses.replace(RECIPE, balance=0.5, frequencies=(64.0, 16.0, 4.0, 16.0))
    # 1/sqrt(.64 .16 .04 .16) = 1.25 2.5 5 2.5, whose mean over pixels is .8 + .4 + .2 + .4 = 1.8
    assert training.class_weights(recipe).tolist() == pytest.approx([1.25 / 1.8, 2.5 / 1.8, 5 / 1.8, 2.5 / 1.8])
    assert training.class_weights(RECIPE) is None


def test_loss_leaves_void_out_and_averages_heads():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 3, 2, 2, generator=generator)
    labels = torch.tensor([[[0, 255], [2, 1]]])
    logs = [x.log_softmax(1) for x in (a, b)]
    by_hand = [-(x[0, 0, 0, 0] + x[0, 2, 1, 0] + x[0, 1, 1, 1]) / 3 for x in logs]
    assert training.segmentation_loss([a, b], labels, None, 255).item() == pytest.approx(sum(by_hand).item() / 2)


def test_augmented_labels_follow_the_image():
    """An image that encodes its label in its first channel still does after crop, rescaling and flip."""
    labels = torch.arange(4).repeat_interleave(90).view(1, 360).expand(360, 360).contiguous()
    image = torch.stack([labels / 4.0, labels / 4.0, labels / 4.0])
    recipe = dataclasses.replace(RECIPE, crop=224, scale=(0.7, 1.5))
    torch.manual_seed(0)
    flips = set()
    for _ in range(12):
        x, y = training.augment(image, labels, recipe)
        assert x.shape == (3, 224, 224)
        assert y.shape == (224, 224)
        # colour jitter scales and shifts values but keeps their order: grey levels sort as labels do, away from seams
        levels = [x[0][y == label].median().item() for label in y.unique()]
        assert levels == sorted(levels)
        flips.add(bool(y[0, 0] <= y[0, -1]))
    assert flips == {True, False}


def test_half_of_mirrored_items_are_flipped_and_nothing_else():
    pictures = torch.arange(64.0).view(64, 1, 1, 1) + torch.tensor([0.0, 0.5])  # left, right
    recipe = dataclasses.replace(RECIPE, samples=64, batch=16, mirror=True)
    torch.manual_seed(0)
    flipped = 0
    for images, labels in training.batches([(x, torch.tensor(int(x[0, 0, 0]))) for x in pictures], recipe):
        assert labels.shape == (16,)
        for image, label in zip(images, labels, strict=True):
            assert sorted(image.flatten().tolist()) == [label, label + 0.5]
            flipped += bool(image[0, 0, 0] > label)
    assert 20 <= flipped <= 44  # of 64


def test_epsilon_is_the_best_on_validation(monkeypatch):
    scores = {0.0: 5, 0.1: 7, 0.2: 9, 0.4: 8}

    def counts(study, name, split, epsilons, **options):
        assert split == "val"
        assert options == {"at": None, "signal": "ce", "count": None, "seed": 1}
        return torch.stack([torch.tensor([[[scores[e], 10 - scores[e]], [0, 10]]]) for e in epsilons])

    monkeypatch.setattr(experiments, "sweep_counts", counts)
    tuned = training.tune(dataclasses.replace(DIGITS, epsilons=(0.1, 0.2, 0.4)), "fcn8s", seed=1)
    assert tuned["epsilon"] == 0.2
    assert tuned["val"] == pytest.approx(100 * (0.5 + 10 / 15) / 2, abs=1e-4)
    assert tuned["sweep"]["0.4"] == pytest.approx(100 * (0.8 + 10 / 12) / 2, abs=1e-4)


def test_studies_name_what_is_unknown():
    with pytest.raises(ValueError, match="study: got 'voc', expected one of digits, scenes, stages, camvid"):
        studies.study("voc")
    with pytest.raises(
        ValueError, match="network: got 'fcn4s', expected one of fcn32s, fcn16s, fcn8s, deeplab, unet, crfrnn"
    ):
        DIGITS.network("fcn4s")


def test_subsets_are_evenly_spaced():
    data = DIGITS.data("val", 4)
    assert data.indices == [0, 25, 50, 75]
    assert torch.equal(data[1][0], DIGITS.dataset("val")[25][0])


def test_committed_weights_score_as_recorded():
    """All validation mosaics, every network, within print precision."""
    found = {}
    for name, network in DIGITS.networks.items():
        found[name] = 100 * metrics.miou(experiments.base_counts(DIGITS, name, "val").sum(0)).item()
        entry = weights.info(DIGITS.weights(name))
        assert found[name] == pytest.approx(entry["networks"][name]["val"], abs=0.05)
        assert entry["recipe"] == json.loads(json.dumps(dataclasses.asdict(network.recipe)))
    assert found["fcn32s"] < found["fcn16s"] < found["fcn8s"]
    assert found["fcn8s"] > 75


def test_a_network_starts_from_what_fits(monkeypatch):
    """CRF-RNN takes all of FCN-8s, whose names it prefixes; DeepLab its trunk alone, though both have other layers."""
    given = fcn_small(11).state_dict()
    monkeypatch.setattr(weights, "load", lambda name: {"digits/fcn-seed0": given}[name])
    for name, prefix, own in (("crfrnn", "network.", {"spatial", "bilateral", "compatibility"}), ("deeplab", "", None)):
        network = DIGITS.networks[name].build(11)
        started = training.start(network, "fcn", DIGITS, 0)
        parameters = dict(network.named_parameters())
        for key in started & set(parameters):
            assert torch.equal(parameters[key], given[key.removeprefix(prefix)])
        if own is not None:
            assert set(parameters) - started == own
        else:
            assert all(key.startswith("conv") for key in started)
            assert {key for key in parameters if key.startswith("conv")} <= started


def test_the_best_crf_of_the_grid_is_kept(monkeypatch):
    study = dataclasses.replace(DIGITS, crfs=({"gaussian": (3, 1)}, {"gaussian": (3, 2)}, {"gaussian": (3, 3)}))
    monkeypatch.setattr(training, "choose", lambda *args, **options: (50.0, 0.1, {}))
    monkeypatch.setattr(training, "layer_scale", lambda *args: 1.0)
    hits = torch.tensor([4, 9, 7])
    scores = torch.stack([torch.tensor([[[h, 10 - h], [0, 10]]]) for h in hits])
    monkeypatch.setattr(experiments, "crf_grid_counts", lambda *args: scores)
    tuned = training.tune(study, "fcn8s")
    assert tuned["crf"] == {"gaussian": (3, 2)}
    expected = [100 * (h / 10 + 10 / (20 - h)) / 2 for h in (4, 9, 7)]
    assert list(tuned["grid"].values()) == pytest.approx(expected, abs=1e-4)
    assert json.loads(list(tuned["grid"])[1]) == {"gaussian": [3, 2]}
    assert set(tuned) > {"pool1", "pool2", "pool3", "pool4", "entropy"}


def test_a_classifier_is_tuned_by_its_neighbours(monkeypatch):
    monkeypatch.setattr(neighbours, "choose", lambda study, name: {"epsilon": 0.04, "of": (study.name, name)})
    assert training.tune(HANDWRITING, "classifier") == {"epsilon": 0.04, "of": ("handwriting", "classifier")}
