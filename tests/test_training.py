import copy
import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from gpcore import denoise, experiments, metrics, paths, studies, training, tuning, weights
from gpcore.attacks import pgd, random_noise
from gpcore.networks import crop_classifier, fcn_small
from gpcore.networks.classifiers import Classifier
from gpcore.studies import DIGITS
from gpcore.study import Attack, Network, Recipe, Refiner

RECIPE = Recipe(epochs=3, samples=8, batch=4, rate=1e-3)
ATTACK = Attack(epsilon=0.06, step_size=0.03)
KINDS = pytest.mark.parametrize("kind", ["classify", "segment"])


class Interrupted(Exception):
    pass


def fitted(network, epoch, objective, checkpoint, epochs=3):
    """What training ends in, or None where it was interrupted after some epochs."""
    calls = []

    def stopping():
        if len(calls) == epochs:
            raise Interrupted
        calls.append(1)
        return epoch()

    try:
        return training.fit(network, stopping, objective, RECIPE, checkpoint=checkpoint)
    except Interrupted:
        return None


def segmenting(recipe=RECIPE):
    torch.manual_seed(0)
    network = fcn_small(11)
    data = torch.utils.data.Subset(DIGITS.dataset("train"), range(8))

    def objective(images, labels):
        return training.segmentation_loss(network.supervised(images), labels, None, 255)

    return network, lambda: training.batches(data, recipe), objective


def denoising():
    torch.manual_seed(0)
    dae = denoise.DAE(3, 4, widths=(8, 8), join=1, skips=True)
    kept = [(torch.rand(3, 16, 16).softmax(0), torch.rand(4, 8, 8), torch.randint(3, (16, 16))) for _ in range(8)]

    def objective(y, h, labels):
        return denoise.reconstruction_loss(dae(y + 0.1 * torch.randn_like(y), h), labels, 255)

    return dae, lambda: training.crops(kept, RECIPE), objective


class Recorded(Classifier):
    """Two classes per image, or per pixel, from nine channels; remembers what it was trained on."""

    def __init__(self, kind, dropout=0.0):
        torch.manual_seed(0)
        last = [nn.Flatten()] if kind == "classify" else []
        super().__init__(nn.BatchNorm2d(9, affine=False, momentum=0.5), nn.Dropout(dropout), nn.Conv2d(9, 2, 1), *last)
        self.fed = []

    def supervised(self, images):
        self.fed.append(images.clone())
        return super().supervised(images)


def toy(kind, count, seed=0):
    """Images and labels: one channel tells the class from far, with noise; eight do so from near, more reliably."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count, 1, 1) if kind == "classify" else (count, 4, 5), generator=draw)
    lead, noise = torch.tensor([0.2] + 8 * [0.02]), torch.tensor([0.1] + 8 * [0.01])
    values = 0.5 + (2 * labels.unsqueeze(-1) - 1) * lead + noise * torch.randn(*labels.shape, 9, generator=draw)
    return values.movedim(-1, 1).clamp(0, 1), labels.flatten() if kind == "classify" else labels


def attacking():
    network, data = Recorded("segment", dropout=0.5), list(zip(*toy("segment", 8), strict=True))

    def objective(images, labels):
        fed = training.adversarial(network, images, labels, ATTACK, 255)
        return training.segmentation_loss(network.supervised(fed), labels, None, 255)

    return network, lambda: training.batches(data, RECIPE), objective


@pytest.mark.parametrize("case", [segmenting, denoising, attacking])
def test_resumed_training_ends_in_the_same_weights(case, tmp_path):
    straight, losses = fitted(*case(), tmp_path / "a.pt")
    assert fitted(*case(), tmp_path / "b.pt", epochs=1) is None
    assert (tmp_path / "b.pt").is_file()
    resumed, same = fitted(*case(), tmp_path / "b.pt")
    assert losses == same
    assert losses[2] < losses[0]
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.fixture
def trained(monkeypatch, tmp_path_factory):
    """Trains a toy network under an attack: the network, what it was fed, the clean batches and what was saved."""

    def run(kind, attack, *, epochs=1, dropout=0.0):
        network, clean, saved, (images, labels) = Recorded(kind, dropout), [], {}, toy(kind, 256)
        labels[0] = 7  # the void of this study
        data = list(zip(images, labels, strict=True))

        def batches(*args):
            for batch in original(*args):
                clean.append(batch[0])
                yield batch

        recipe = Recipe(epochs=epochs, samples=256, batch=32, rate=0.1, average=0.9, attack=attack)
        chosen = dataclasses.replace(
            DIGITS,
            void=7,
            dataset=lambda split: data,
            networks={"toy": Network(lambda classes: network, "toy", recipe)},
        )
        with monkeypatch.context() as patch:
            patch.setattr(paths, "DATA", tmp_path_factory.mktemp("data"))
            patch.setattr(training, "batches", batches)
            patch.setattr(weights, "save", lambda name, state, info, **options: saved.update(info))
            patch.setattr(weights, "update", lambda name, **fields: None)
            patch.setattr(tuning, "tune", lambda *args: {})
            training.train(chosen, "toy")
        return network, network.fed, clean, saved

    original = training.batches
    return run


@KINDS
def test_adversarial_training_resists(trained, kind):
    """Who learns the near and reliable channels is right until attacked."""
    images, labels = toy(kind, 200, seed=1)
    found = {}
    for ratio in (0.0, 0.5, 1.0):
        network = trained(kind, dataclasses.replace(ATTACK, ratio=ratio), epochs=6)[0]
        attacked = pgd(network, images, labels, 0.06, steps=20).images
        for name, x in (("clean", images), ("attacked", attacked)):
            scores = network(x).detach()
            accuracy = (scores.argmax(1) == labels).double().mean().item()
            found[name, ratio] = nn.functional.cross_entropy(scores, labels).item(), accuracy
    assert found["clean", 0.0][1] > 0.99 and found["attacked", 0.0][1] < 0.2
    for ratio in (0.5, 1.0):
        assert found["clean", ratio][1] > 0.9 and found["attacked", ratio][1] > 0.8
        assert found["attacked", ratio][0] < found["attacked", 0.0][0] / 5


@pytest.mark.parametrize(("norm", "order", "epsilon"), [("linf", math.inf, 0.06), ("l2", 2, 0.3)])
@pytest.mark.parametrize(("ratio", "count"), [(1.0, 32), (0.3, 10)])
@KINDS
def test_a_share_of_every_batch_is_moved_within_the_bound(trained, kind, ratio, count, norm, order, epsilon):
    attack = Attack(epsilon=epsilon, steps=3, step_size=epsilon / 2, norm=norm, ratio=ratio)
    _, fed, clean, saved = trained(kind, attack)
    assert len(fed) == len(clean) == 8
    for x, given in zip(fed, clean, strict=True):
        distance = (x - given).flatten(1).norm(order, dim=1)
        assert (distance[:count] > 0.5 * epsilon).all() and distance.max() <= epsilon + 1e-6
        assert torch.equal(x[count:], given[count:])
        assert x.min() >= 0 and x.max() <= 1
    starts = {tuple((x - given)[0].flatten().tolist()) for x, given in zip(fed, clean, strict=True)}
    assert len(starts) == 8
    assert saved["recipe"]["attack"] == {
        "epsilon": epsilon, "steps": 3, "step_size": epsilon / 2, "norm": norm, "ratio": ratio,
    }  # fmt: skip


@KINDS
def test_no_share_is_no_attack(trained, kind):
    attacks = (None, Attack(ratio=0), Attack(ratio=0.5))
    plain, none, some = (trained(kind, attack, dropout=0.2)[0].state_dict() for attack in attacks)
    assert all(torch.equal(none[name], value) for name, value in plain.items())
    assert not torch.equal(some["2.weight"], plain["2.weight"])
    batch, network = toy(kind, 6), Recorded(kind)
    state = torch.get_rng_state()
    for attack in attacks[:2]:  # what was trained before there were attacks comes out the same
        assert training.adversarial(network, *batch, attack, 255) is batch[0]
        assert torch.equal(torch.get_rng_state(), state)


@KINDS
def test_examples_are_pgd_against_the_network_in_evaluation_mode(kind):
    (images, labels), network = toy(kind, 6), Recorded(kind, dropout=0.5).train()
    network(images)  # leaves statistics behind
    found = copy.deepcopy(network.state_dict())
    torch.manual_seed(5)
    seed = int(torch.randint(2**31, ()))
    expected = pgd(copy.deepcopy(network).eval(), images, labels, 0.06, steps=3, step_size=0.03, seed=seed).images
    torch.manual_seed(5)
    moved = training.adversarial(network, images, labels, ATTACK, 255)
    assert torch.equal(moved, expected)
    torch.manual_seed(5)
    assert torch.equal(training.adversarial(network, images[:2], labels[:2], ATTACK, 255), moved[:2])
    torch.manual_seed(5)
    half = training.adversarial(network, images, labels, dataclasses.replace(ATTACK, ratio=0.5), 255)
    assert torch.equal(half, torch.cat([moved[:3], images[3:]]))
    assert all(module.training for module in network.modules())
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not moved.requires_grad


def test_void_pixels_are_not_attacked():
    (images, labels), network = toy("segment", 6), Recorded("segment")
    labels[..., :2] = 9
    torch.manual_seed(5)
    seed = int(torch.randint(2**31, ()))
    torch.manual_seed(5)
    moved = training.adversarial(network, images, labels, ATTACK, 9)
    start = (images + random_noise(images, 0.06, "linf", seed=seed)).clamp(0, 1)
    assert torch.equal(moved[..., :2], start[..., :2])
    assert (moved != start)[..., 2:].any(1).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ratio": 1.5}, "ratio: got 1.5, expected 0 <= ratio <= 1"),
        ({"ratio": math.nan}, "ratio: got nan, expected 0 <= ratio <= 1"),
        ({"steps": 0}, "steps: got 0, expected at least 1"),
        ({"norm": "l1"}, "norm: got 'l1', expected one of linf, l2"),
    ],
)
def test_mistakes_of_attacks_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        training.adversarial(Recorded("classify"), *toy("classify", 4), dataclasses.replace(ATTACK, **wrong), 255)


def test_frozen_stages_stay_and_others_move(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1, frozen=("conv1", "conv2"))
    network, epoch, objective = segmenting(recipe)
    before = {name: value.clone() for name, value in network.named_parameters()}
    training.fit(network, epoch, objective, recipe, checkpoint=tmp_path / "c.pt")
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith(("conv1", "conv2"))}


def test_crops_of_predictions_features_and_labels_lie_above_each_other():
    """A map that counts pixels, its features the same at every fourth one; sizes are not multiples of four."""
    labels = torch.arange(37 * 50).view(37, 50)
    whole = (labels[None].double(), labels[None, ::4, ::4].double(), labels)
    recipe = dataclasses.replace(RECIPE, samples=6, batch=3, crop=16)
    torch.manual_seed(0)
    corners = set()
    for y, h, cut in training.crops([whole] * 6, recipe):
        assert [*y.shape, *h.shape] == [3, 1, 16, 16, 3, 1, 4, 4]
        assert torch.equal(y[:, 0], cut.float())
        assert torch.equal(h, y[..., ::4, ::4])
        corners |= set(cut[:, 0, 0].tolist())
    assert len(corners) > 3
    assert all(corner // 50 % 4 == 0 == corner % 50 % 4 for corner in corners)


def test_candidates_are_predictions_their_features_and_labels_then_the_mirrored_ones(study):
    recipe = dataclasses.replace(RECIPE, mirror=True)
    refiner = Refiner("fcn8s", "pool4", lambda classes: None, recipe, 2)
    kept = training.candidates(dataclasses.replace(study, refiners={"dae": refiner}), "dae")
    assert len(kept) == 4
    (images, labels), network = next(study.batches("train", 2)), study.network("fcn8s")
    for i, flip in ((0, False), (1, False), (2, True), (3, True)):
        x = images[i % 2].flip(-1) if flip else images[i % 2]
        with torch.no_grad():
            expected = network(x[None]).softmax(1)[0]
        y, h, truth = kept[i]
        assert (y.float() - expected).abs().max() < 1e-3
        assert h.shape == (128, 6, 8)
        assert torch.equal(truth.long(), labels[i % 2].flip(-1) if flip else labels[i % 2])


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


def test_a_robust_network_may_learn_from_data_of_its_own_and_is_not_tuned_then(monkeypatch, tmp_path):
    """Crops in which one channel is the class, though the study's own data are mosaics."""
    crops = [
        (torch.rand(3, 32, 32) * 0.1 + 0.9 * torch.eye(3)[i % 3].view(3, 1, 1), torch.tensor(i % 3)) for i in range(8)
    ]
    plan = Network(crop_classifier, "backbone", RECIPE, dataset=lambda split: {"train": crops}[split])
    chosen = dataclasses.replace(DIGITS, robust={"backbone": plan})
    monkeypatch.setattr(paths, "DATA", tmp_path)
    saved = {}
    monkeypatch.setattr(weights, "save", lambda name, state, info, **options: saved.update({name: (info, options)}))
    monkeypatch.setattr(weights, "update", lambda name, **fields: pytest.fail("tuned"))
    training.train(chosen, "backbone")
    ((info, options),) = saved.values()
    assert [*saved] == ["digits/backbone-seed0"] and options["base"] == ""
    assert info["loss"][-1] < info["loss"][0]


def test_frozen_layers_of_a_robust_backbone_are_not_stored_twice():
    """RB keeps the backbone's convolutions, to the bit, and has a head of its own."""
    entry = weights.info("digits/rb-seed0")
    backbone, rb = (weights.load(f"digits/{name}-seed0") for name in ("backbone", "rb"))
    kept = [name for name in rb if name.startswith("conv") and name.endswith("weight")]
    assert len(kept) == 16 and all(torch.equal(rb[name], backbone[name]) for name in kept)
    assert entry["base"] == "digits/backbone-seed0" and set(kept) <= set(entry["shared"])
    assert not torch.equal(rb["score_pool3.weight"], backbone["score_pool3.weight"])


def test_committed_weights_score_as_recorded():
    """All validation mosaics, every network, within print precision."""
    found = {}
    robust = {name: network for name, network in DIGITS.robust.items() if not network.dataset}
    for name, network in {**DIGITS.networks, **robust}.items():
        found[name] = 100 * metrics.miou(experiments.base_counts(DIGITS, name, "val").sum(0)).item()
        entry = weights.info(DIGITS.weights(name))
        assert found[name] == pytest.approx(entry["networks"][name]["val"], abs=0.05)
        assert entry["recipe"] == json.loads(json.dumps(dataclasses.asdict(network.recipe)))
    assert found["fcn32s"] < found["fcn16s"] < found["fcn8s"]
    assert found["fcn8s"] > 75
    entry = weights.info(DIGITS.weights("backbone"))
    assert entry["recipe"] == json.loads(json.dumps(dataclasses.asdict(DIGITS.robust["backbone"].recipe)))


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
