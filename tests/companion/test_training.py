import copy
import dataclasses
import json
import math
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gpcore import denoise, metrics, paths
from gpcore.attacks import pgd
from gpcore.companion import epochs, measure, studies, training, tuning, weights
from gpcore.companion.studies import DIGITS, SCENES, Attack, Network, Recipe, Refiner
from gpcore.datasets.scenes import Scenes
from gpcore.networks.fcn import crop_classifier, fcn_small

RECIPE = Recipe(epochs=3, samples=8, batch=4, rate=1e-3)
ATTACK = Attack(epsilon=0.06, step_size=0.03)
KINDS = pytest.mark.parametrize("kind", ["classify", "segment"])


def test_training_loads_nothing_that_draws_or_tabulates():
    code = "import sys, gpcore.companion.training; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded and not {"matplotlib", "pandas", "sklearn", "seaborn", "IPython"} & {*loaded}


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
    data = [(x[:, 48:80, 64:96], y[48:80, 64:96]) for x, y in (Scenes("train", 8)[i] for i in range(8))]
    epoch = partial(epochs.batches, data, recipe, epochs.augment)
    return network, epoch, partial(training.network_loss, network, None, None, 255)


def denoising():
    torch.manual_seed(0)
    dae = denoise.DAE(3, 4, widths=(8, 8), join=1, skips=True)
    kept = [(torch.rand(3, 16, 16).softmax(0), torch.rand(4, 8, 8), torch.randint(3, (16, 16))) for _ in range(8)]
    epoch = partial(epochs.batches, kept, RECIPE, epochs.cut)
    return dae, epoch, partial(training.refiner_loss, dae, Refiner("", None, None, RECIPE, 8, sigma=0.1), None, 255)


class Recorded(nn.Sequential):
    """Two classes per image, or per pixel, from nine channels; remembers what it was trained on."""

    def __init__(self, kind, dropout=0.0):
        torch.manual_seed(0)
        last = [nn.Flatten()] if kind == "classify" else []
        super().__init__(nn.BatchNorm2d(9, affine=False, momentum=0.5), nn.Dropout(dropout), nn.Conv2d(9, 2, 1), *last)
        self.fed = []

    def supervised(self, images):
        self.fed.append(images.clone())
        return [self(images)]


def toy(kind, count, seed=0):
    """Images and labels: one channel tells the class from far, with noise; eight do so from near, more reliably."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count, 1, 1) if kind == "classify" else (count, 4, 5), generator=draw)
    lead, noise = torch.tensor([0.2] + 8 * [0.02]), torch.tensor([0.1] + 8 * [0.01])
    values = 0.5 + (2 * labels.unsqueeze(-1) - 1) * lead + noise * torch.randn(*labels.shape, 9, generator=draw)
    return values.movedim(-1, 1).clamp(0, 1), labels.flatten() if kind == "classify" else labels


def attacking():
    network, data = Recorded("segment", dropout=0.5), list(zip(*toy("segment", 8), strict=True))
    epoch = partial(epochs.batches, data, RECIPE, epochs.augment)
    return network, epoch, partial(training.network_loss, network, ATTACK, None, 255)


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


class Line(nn.Module):
    """Two parameters whose gradients are 1 and 3, and running statistics; remembers what it was before every step."""

    def __init__(self):
        super().__init__()
        self.old, self.new = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(2.0))
        self.norm, self.seen = nn.BatchNorm1d(1, affine=False), []

    def forward(self, x):
        self.norm(x)
        self.seen.append((self.training, self.old.grad, self.new.grad, self.norm.running_mean.item(), len(x)))
        return self.old + 3 * self.new + x.mean()


@pytest.mark.parametrize(("start_rate", "sizes"), [(0.01, [3, 3, 3, 1]), (None, [5, 5])])
def test_fit_by_hand(start_rate, sizes, tmp_path):
    """Five epochs: rates, weight decay, averages of weights and statistics, and losses from their formulas."""
    recipe = Recipe(5, samples=10, batch=sizes[0], rate=0.1, start_rate=start_rate, weight_decay=0.5, average=0.9)
    data, network = torch.linspace(0, 1, 100).view(5, 10, 1, 2), Line().eval()
    epochs, last = iter(data), 5 * len(sizes) - 1
    turn = 0.15 * (last + 1) - 1
    found, losses = training.fit(
        network,
        lambda: ((x,) for x in next(epochs).split(sizes)),
        network,
        recipe,
        checkpoint=tmp_path / "a.pt",
        started=["old", "norm"],
    )
    assert [size for *_, size in network.seen] == 5 * sizes
    values, averages, momentum, expected = {"old": 1.0, "new": 2.0}, {}, 0.0, []
    for step, x in enumerate(x for part in data for x in part.split(sizes)):
        expected.append((values["old"] + 3 * values["new"] + x.mean().item()) * len(x) / 10)
        # along cosines: up to the peak and down from it; the momentum the other way
        done = (1 - math.cos(math.pi * (step / turn if step <= turn else (step - turn) / (last - turn)))) / 2
        beta = 0.95 - 0.1 * done if step <= turn else 0.85 + 0.1 * done
        momentum = beta * momentum + 1 - beta
        for name, peak in (("old", start_rate or 0.1), ("new", 0.1)):
            begin, end = (peak / 25, peak) if step <= turn else (peak, peak / 25e4)
            rate = begin + (end - begin) * done
            # AdamW: a gradient that stays the same is divided by its size
            values[name] -= rate * (0.5 * values[name] + momentum / (1 - beta ** (step + 1)))
        for name, value in {**values, "mean": network.seen[step][3]}.items():
            averages[name] = 0.9 * averages.get(name, value) + 0.1 * value
    assert [found.old.item(), found.new.item()] == pytest.approx([averages["old"], averages["new"]], rel=1e-5)
    assert found.norm.running_mean.item() == pytest.approx(averages["mean"], rel=1e-5)
    assert losses == pytest.approx([sum(expected[i : i + len(sizes)]) for i in range(0, last, len(sizes))], rel=1e-5)
    assert all(training and old == 1 and new == 3 for training, old, new, *_ in network.seen[1:])
    assert found is network and not any(module.training for module in found.modules())


def test_every_epoch_of_every_seed_draws_its_own_numbers_and_leaves_the_others_alone(tmp_path):
    def draws(seed, outside):
        found, network = [], Line()

        def epoch():
            found.append(tuple(torch.randperm(100).tolist()))
            return [(torch.rand(4, 1),), (torch.rand(4, 1),)]

        torch.manual_seed(outside)
        before = torch.get_rng_state()
        training.fit(network, epoch, network, RECIPE, checkpoint=tmp_path / f"{seed}-{outside}.pt", seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return found

    assert draws(0, 1) == draws(0, 2)
    assert len({*draws(0, 3), *draws(1, 3), *draws(2, 3)}) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, "got epochs 3, expected epochs 2"),
        ({"rate": 0.5, "attack": Attack()}, "got rate 0.001, attack None, expected rate 0.5, attack {'epsilon': .*}"),
        ({"seed": 4}, "got seed 0, expected seed 4"),
        ({"identity": {"sigma": 2}}, "got sigma 1, expected sigma 2"),
        ({"identity": None}, "got sigma 1, expected sigma None"),
        ({"old": True}, "got epochs None, .*, sigma None, expected epochs 3, .*, sigma 1"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(change, message, tmp_path):
    network, path = Line(), tmp_path / "a.pt"
    options = {"checkpoint": path, "identity": {"sigma": 1}, "seed": 0}
    training.fit(network, lambda: [(torch.rand(4, 1),)] * 2, network, RECIPE, **options)
    if change.pop("old", False):  # written before checkpoints knew what they are of
        torch.save({key: part for key, part in torch.load(path).items() if key != "plan"}, path)
    options |= {key: change.pop(key) for key in options.keys() & change.keys()}
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"a\.pt: {message}; remove it to start anew"):
        training.fit(Line(), lambda: pytest.fail("trained"), Line(), dataclasses.replace(RECIPE, **change), **options)
    assert path.read_bytes() == before


@pytest.fixture
def store(monkeypatch, tmp_path):
    """Weights and checkpoints go to a folder of their own; what is tuned tells for whom."""
    monkeypatch.setattr(paths, "DATA", tmp_path)
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(tuning, "tune", lambda chosen, name, seed: {"tuned": [name, seed]})
    monkeypatch.setattr(tuning, "tune_refiner", lambda chosen, name: {"tuned": [name]})
    return tmp_path


class Refining(nn.Module):
    """Logits of three classes, pixel by pixel; remembers what it was given."""

    def __init__(self, classes):
        super().__init__()
        self.last, self.given = nn.Conv2d(classes, 3, 1), []

    def forward(self, y, h):
        self.given.append((y, h))
        return self.last(y)


class Plain(Refining):
    def forward(self, images):
        return self.last(images)


def toys(recipe, made=None, **options):
    """A study of two networks that share weights, and of a refiner of the second; what is built joins `made`."""

    def build(kind):
        return lambda classes: made.append(kind(classes)) or made[-1]

    made, draw = [] if made is None else made, torch.Generator().manual_seed(0)
    data = [(torch.rand(3, 8, 8, generator=draw), torch.randint(3, (8, 8), generator=draw)) for _ in range(8)]
    for _, labels in data:
        labels[0] = 9
    networks = {
        "first": Network(lambda classes: pytest.fail("built"), "toy", recipe),
        "toy": Network(build(Plain), "toy", recipe),
        "after": Network(build(Plain), "after", recipe, start="toy"),
        "begun": Network(build(Plain), "begun", recipe, start="imagenet"),
    }
    return dataclasses.replace(
        DIGITS,
        classes=("a", "b", "c"),
        void=9,
        dataset=lambda split: {"train": data}[split],
        networks=networks,
        refiners={"dae": Refiner("toy", None, build(Refining), recipe, 8, **options)},
        robust={},
    )


@pytest.mark.parametrize(("name", "tuner"), [("toy", "tune"), ("dae", "tune_refiner")])
def test_a_finished_training_begins_anew_and_a_killed_one_goes_on(name, tuner, store, monkeypatch):
    training.train(toys(RECIPE), "toy")
    checkpoint, begun, original = store / f"checkpoints/digits-{name}-seed0.pt", [], epochs.batches

    def epoch(*args):
        begun.append(1)
        return original(*args)

    def killed(*args, **options):
        assert checkpoint.is_file()
        raise Interrupted

    monkeypatch.setattr(epochs, "batches", epoch)
    training.train(toys(RECIPE), name)
    expected = weights.info(f"digits/{name}-seed0")
    training.train(toys(RECIPE), name)
    assert len(begun) == 6 and weights.info(f"digits/{name}-seed0") == expected
    stops = (epochs, "batches", 2), (weights, "save", 0), (weights, "update", 0), (tuning, tuner, 0)
    for where, what, left in stops:
        assert not checkpoint.exists()
        calls = iter([epoch] if where is epochs else [])
        with monkeypatch.context() as patch:
            patch.setattr(where, what, lambda *args, calls=calls, **options: next(calls, killed)(*args, **options))
            with pytest.raises(Interrupted):
                training.train(toys(RECIPE), name)
        with pytest.raises(ValueError, match=f"{checkpoint.name}: got epochs 3, expected epochs 2; remove it"):
            training.train(toys(dataclasses.replace(RECIPE, epochs=2)), name)
        begun.clear()
        training.train(toys(RECIPE), name)
        assert len(begun) == left and weights.info(f"digits/{name}-seed0") == expected


# 1 / sqrt(.64 .32 .04) = 1.25 1.7678 5, whose mean over pixels is .8 + .5657 + .2
BALANCED, BY_HAND = {"balance": 0.5, "frequencies": (0.64, 0.32, 0.04)}, torch.tensor([1.25, 1.767767, 5]) / 1.565685


def check_entry(entry, recipe, store):
    assert (entry["study"], entry["seed"]) == ("digits", 3)
    assert entry["recipe"] == json.loads(json.dumps(dataclasses.asdict(recipe)))
    (file,) = entry["files"]
    assert {tensor.dtype for tensor in load_file(store / "weights" / file).values()} == {torch.float16}


def test_what_is_stored_of_a_training(store, monkeypatch):
    """One step on all images, so that the loss is that of the network at its start."""
    recipe = Recipe(epochs=1, samples=8, batch=8, rate=0.1, **BALANCED)
    chosen, fitted, fit = toys(recipe), [], training.fit
    monkeypatch.setattr(training, "fit", lambda *args, **options: fitted.append(options) or fit(*args, **options))
    monkeypatch.setattr(training, "imagenet_features", dict)
    monkeypatch.setattr(training, "load_imagenet_vgg16", lambda network, features: network)
    for store_name, begun, base in (("toy", None, None), ("after", "toy", "digits/toy-seed3"), ("begun", None, None)):
        training.train(chosen, store_name, seed=3)
        name = f"digits/{store_name}-seed3"
        torch.manual_seed(3)
        network, entry = Plain(3), weights.info(name)
        if begun:
            network.load_state_dict(weights.load(f"digits/{begun}-seed3"))
        images, labels = map(torch.stack, zip(*chosen.dataset("train"), strict=True))
        logits, known = network(images).movedim(1, -1), labels != 9
        losses = -logits.log_softmax(-1)[known].gather(1, labels[known][:, None])[:, 0]
        counted = BY_HAND[labels[known]]
        assert entry["loss"] == [pytest.approx(((losses * counted).sum() / counted.sum()).item(), rel=1e-5)]
        assert entry.get("base") == base
        check_entry(entry, recipe, store)
    assert [fit["started"] for fit in fitted] == [set(), {"last.weight", "last.bias"}, set()]
    assert [fit["seed"] for fit in fitted] == [3, 3, 3]
    tuned = weights.info("digits/toy-seed3")["networks"]
    assert tuned == {"first": {"tuned": ["first", 3]}, "toy": {"tuned": ["toy", 3]}}


@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_a_refiner_learns_from_predictions_or_the_truth_with_noise(truth, sigma, store, monkeypatch):
    fitted, fit = [], training.fit
    monkeypatch.setattr(training, "fit", lambda *args, **options: fitted.append(options) or fit(*args, **options))
    recipe, made = Recipe(epochs=2, samples=8, batch=8, rate=1e-6, **BALANCED), []
    chosen = toys(recipe, made, truth=truth, sigma=sigma)
    training.train(chosen, "toy")
    training.train(chosen, "dae", seed=3)
    torch.manual_seed(3)
    begun, entry, noise = Refining(3), weights.info("digits/dae-seed3"), []
    assert fitted[-1]["seed"] == 3 and len(training.candidates(chosen, "dae")) == 8
    kept = {float(h[0, 0, 0]): (y, labels) for y, h, labels in training.candidates(chosen, "dae")}
    (module,) = (each for each in made if type(each) is Refining)
    for (given, h), loss in zip(module.given, entry["loss"], strict=True):
        y, labels = map(torch.stack, zip(*[kept[float(each[0, 0, 0])] for each in h], strict=True))
        known, labels = labels != 9, labels.long()
        right = torch.eye(4)[labels.where(known, 3)][..., :3].movedim(-1, 1)
        noise.append(given - (right if truth else y.float()))
        logits = begun(given, h)
        counted = BY_HAND[labels[known]]
        entropy = -(right * logits.log_softmax(1)).sum(1)[known]
        squares = (logits.softmax(1) - right).square().sum(1)[known]
        assert loss == pytest.approx(((entropy + squares) * counted).sum().item() / counted.sum().item(), rel=1e-3)
    assert (torch.stack(noise).std() - sigma).abs() < 0.05 * sigma + 1e-6
    assert torch.stack(noise).mean().abs() < 0.02 * sigma + 1e-6
    assert sigma == 0 or (noise[0] != noise[1]).all()
    check_entry(entry, recipe, store)
    assert entry["networks"] == {"dae": {"tuned": ["dae"]}}
    assert entry["refiner"] == {"network": "toy", "at": None, "images": 8, "sigma": sigma, "truth": truth}


def test_what_one_refiner_learned_from_is_there_for_the_next_of_its_kind(store, monkeypatch):
    """And makes room for what another kind needs."""
    chosen = toys(RECIPE)
    training.train(chosen, "toy")
    refiner = chosen.refiners["dae"]
    others = {"noisy": dataclasses.replace(refiner, sigma=0.5), "fewer": dataclasses.replace(refiner, images=4)}
    chosen, seen = dataclasses.replace(chosen, refiners={"dae": refiner, **others}), training.Seen()
    first = training.candidates(chosen, "dae", seen)
    assert training.candidates(chosen, "noisy", seen) is first
    assert len(training.candidates(chosen, "fewer", seen)) == 4 and len(seen) == 1
    assert training.candidates(chosen, "dae", seen) is not first
    assert training.candidates(chosen, "dae") is not training.candidates(chosen, "dae")


def test_another_training_of_a_head_has_the_only_trunk_that_there_is(store, monkeypatch):
    chosen = toys(RECIPE)
    training.train(chosen, "toy")
    training.train(chosen, "after", seed=4)
    assert weights.info("digits/after-seed4")["base"] == "digits/toy-seed0"
    training.train(chosen, "toy", seed=4)
    training.train(chosen, "after", seed=4)
    assert weights.info("digits/after-seed4")["base"] == "digits/toy-seed4"


def test_a_checkpoint_of_another_network_or_refiner_is_refused(store, monkeypatch):
    training.train(toys(RECIPE), "toy")
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "tune_refiner", lambda chosen, name: {}["killed"])
        patch.setattr(tuning, "tune", lambda chosen, name, seed: {}["killed"])
        for name in ("dae", "toy"):
            with pytest.raises(KeyError):
                training.train(toys(RECIPE), name)
    with pytest.raises(ValueError, match=r"got refiner .*'sigma': 0\.0.*, expected refiner .*'sigma': 0\.5.*; remove"):
        training.train(toys(RECIPE, sigma=0.5), "dae")
    (store / "checkpoints/digits-toy-seed0.pt").rename(store / "checkpoints/digits-after-seed0.pt")
    with pytest.raises(ValueError, match="got store 'digits-toy-seed0', expected store 'digits-after-seed0'; remove"):
        training.train(toys(RECIPE), "after")


@pytest.fixture
def trained(store, monkeypatch):
    """Trains a toy network under an attack: the network, what it was fed, the clean batches and what was saved."""

    def run(kind, attack, *, epochs=1, dropout=0.0):
        network, clean, (images, labels) = Recorded(kind, dropout), [], toy(kind, 256)
        labels[0] = 7  # the void of this study
        data = list(zip(images, labels, strict=True))
        recipe = Recipe(epochs=epochs, samples=256, batch=32, rate=0.1, average=0.9, attack=attack)
        networks = {"toy": Network(lambda classes: network, "toy", recipe)}
        loss = training.network_loss
        with monkeypatch.context() as patch:
            patch.setattr(training, "network_loss", lambda *args: clean.append(args[4]) or loss(*args))
            training.train(dataclasses.replace(DIGITS, void=7, dataset=lambda split: data, networks=networks), "toy")
        return network, network.fed, clean, weights.info("digits/toy-seed0")

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
def test_examples_are_pgd_against_the_network_in_evaluation_mode(kind, monkeypatch):
    (images, labels), network = toy(kind, 6), Recorded(kind, dropout=0.5).train()
    network(images)  # leaves statistics behind
    found = copy.deepcopy(network.state_dict())
    seeds = []
    monkeypatch.setattr(
        training, "pgd", lambda *args, **options: seeds.append(options["seed"]) or pgd(*args, **options)
    )
    torch.manual_seed(5)
    moved = training.adversarial(network, images, labels, ATTACK, 255)
    expected = pgd(copy.deepcopy(network).eval(), images, labels, 0.06, steps=3, step_size=0.03, seed=seeds[0]).images
    assert torch.equal(moved, expected)
    torch.manual_seed(5)
    assert torch.equal(training.adversarial(network, images[:2], labels[:2], ATTACK, 255), moved[:2])
    torch.manual_seed(5)
    half = training.adversarial(network, images, labels, dataclasses.replace(ATTACK, ratio=0.5), 255)
    assert torch.equal(half, torch.cat([moved[:3], images[3:]]))
    assert all(module.training for module in network.modules())
    training.adversarial(network.eval(), images, labels, ATTACK, 255)
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not moved.requires_grad


def test_void_pixels_are_not_attacked():
    (images, labels), network = toy("segment", 6), Recorded("segment")
    """They stay where the random start puts them, whatever the network; others go to the bound, the other way round
    for the network that is wrong wherever this one is right."""
    labels[..., :2] = 9
    moved = []
    for sign in (1, -1):
        network[2].weight.data *= sign
        torch.manual_seed(5)
        moved.append(training.adversarial(network, images, labels, ATTACK, 9) - images)
    assert torch.equal(moved[0][..., :2], moved[1][..., :2])
    inside = moved[0][..., :2].abs().flatten()
    assert 0.02 < inside.mean() < 0.04 and inside.max() <= 0.06 + 1e-6
    assert (moved[0] * moved[1] < 0)[..., 2:].double().mean() > 0.9


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
        assert (y.dtype, h.dtype, truth.dtype) == (torch.float16, torch.float16, torch.uint8)
        assert torch.equal(truth.long(), labels[i % 2].flip(-1) if flip else labels[i % 2])


def test_class_weights_by_hand():
    recipe = dataclasses.replace(RECIPE, balance=0.5, frequencies=(64.0, 16.0, 4.0, 16.0))
    # 1/sqrt(.64 .16 .04 .16) = 1.25 2.5 5 2.5, whose mean over pixels is .8 + .4 + .2 + .4 = 1.8
    assert training.class_weights(recipe).tolist() == pytest.approx([1.25 / 1.8, 2.5 / 1.8, 5 / 1.8, 2.5 / 1.8])
    assert training.class_weights(RECIPE) is None


def test_loss_leaves_void_out_and_averages_heads():
    a, b = torch.randn(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels, network = torch.tensor([[[0, 255], [2, 1]]]), SimpleNamespace(supervised=lambda x: [a, b], training=False)
    loss = partial(training.network_loss, network, None)
    logs = [x.log_softmax(1) for x in (a, b)]
    by_hand = [-(x[0, 0, 0, 0] + x[0, 2, 1, 0] + x[0, 1, 1, 1]) / 3 for x in logs]
    assert loss(None, 255, a, labels).item() == pytest.approx(sum(by_hand).item() / 2)
    weighted = [-(x[0, 0, 0, 0] + 4 * x[0, 2, 1, 0] + 2 * x[0, 1, 1, 1]) / 7 for x in logs]
    found = loss(torch.tensor([1.0, 2.0, 4.0]), 3, a, labels.where(labels != 255, 3))
    assert found.item() == pytest.approx(sum(weighted).item() / 2)


@pytest.mark.parametrize("half", [False, True])
def test_bfloat16_is_for_computing_alone(half, tmp_path):
    """Convolutions return it and see channels last; loss, gradients and weights stay float32."""
    recipe = dataclasses.replace(RECIPE, epochs=1, bfloat16=half)
    network, epoch, objective = segmenting(recipe)
    seen = []
    network.conv2_1.register_forward_hook(lambda module, inputs, output: seen.append((module.weight, output)))

    def noted(*batch):
        seen.append(objective(*batch))
        return seen[-1]

    trained, (loss,) = training.fit(network, epoch, noted, recipe, checkpoint=tmp_path / "c.pt")
    weight, output = seen[0]
    assert output.dtype == (torch.bfloat16 if half else torch.float32) and seen[1].dtype == torch.float32
    assert weight.is_contiguous(memory_format=torch.channels_last) == half
    assert {each.dtype for each in trained.parameters()} == {torch.float32} and 0 < loss < 10


@pytest.mark.parametrize("plan", [*DIGITS.networks.values(), *DIGITS.robust.values()], ids=lambda plan: plan.store)
def test_the_loss_is_put_on_three_heads_of_an_fcn_and_on_the_one_output_of_others(plan):
    """The last head is what FCN-8s itself returns; the crops' classifier, though built like it, has no such heads."""
    network, images = plan.build(11).eval(), torch.rand(2, 3, 64, 96)
    heads = training.supervised(network, images)
    fcns = {"fcn", "rb", "at-small", "at-large"}
    assert len(heads) == ({32: 1, 16: 2, 8: 3}[network.stride] if plan.store in fcns else 1)
    assert torch.equal(heads[-1], network(images))


def test_a_robust_network_may_learn_from_data_of_its_own_and_is_not_tuned_then(store):
    """Crops in which one channel is the class, though the study's own data are scenes."""
    crops = [
        (torch.rand(3, 32, 32) * 0.1 + 0.9 * torch.eye(3)[i % 3].view(3, 1, 1), torch.tensor(i % 3)) for i in range(8)
    ]
    plan = Network(crop_classifier, "backbone", RECIPE, dataset=lambda split: {"train": crops}[split])
    training.train(dataclasses.replace(DIGITS, robust={"backbone": plan}), "backbone")
    entry = weights.info("digits/backbone-seed0")
    assert "networks" not in entry and "base" not in entry
    assert entry["loss"][-1] < entry["loss"][0]


def test_frozen_layers_of_a_robust_backbone_are_not_stored_twice():
    """RB keeps the backbone's convolutions, to the bit, and has a head of its own."""
    entry = weights.info("digits/rb-seed0")
    backbone, rb = (weights.load(f"digits/{name}-seed0") for name in ("backbone", "rb"))
    kept = [name for name in rb if name.startswith("conv") and name.endswith("weight")]
    assert len(kept) == 16 and all(torch.equal(rb[name], backbone[name]) for name in kept)
    assert entry["base"] == "digits/backbone-seed0" and set(kept) <= set(entry["shared"])
    assert not torch.equal(rb["score_pool3.weight"], backbone["score_pool3.weight"])


@pytest.mark.parametrize(("study", "least"), [(DIGITS, 60), (SCENES, 40)], ids=["digits", "scenes"])
def test_committed_weights_score_as_recorded(study, least):
    """All validation images, every network, within print precision."""
    found = {}
    robust = {name: network for name, network in study.robust.items() if not network.dataset}
    for name, network in {**study.networks, **robust}.items():
        found[name] = (
            100 * metrics.miou(measure.answer_counts(study, {name: study.network(name)}, "val")[name].sum(0)).item()
        )
        entry = weights.info(study.stored_as(name))
        assert found[name] == pytest.approx(entry["networks"][name]["val"], abs=0.05)
        assert entry["recipe"] == json.loads(json.dumps(dataclasses.asdict(network.recipe)))
    assert study is SCENES or found["fcn32s"] < found["fcn16s"] < found["fcn8s"]
    assert found["fcn8s"] > least


def test_the_recipe_of_the_backbone_is_the_recorded_one():
    entry = weights.info(DIGITS.stored_as("backbone"))
    assert entry["recipe"] == json.loads(json.dumps(dataclasses.asdict(DIGITS.robust["backbone"].recipe)))


def test_a_network_starts_from_what_fits(monkeypatch):
    """CRF-RNN takes all of FCN-8s, whose names it prefixes; DeepLab its trunk alone, though both have other layers."""
    given = fcn_small(11).state_dict()
    monkeypatch.setattr(weights, "load", lambda name: {"digits/fcn-seed0": given}[name])
    for name, prefix, own in (("crfrnn", "network.", {"spatial", "bilateral", "compatibility"}), ("deeplab", "", None)):
        network = DIGITS.networks[name].build(11)
        started = training.start(network, "digits/fcn-seed0")
        parameters = dict(network.named_parameters())
        for key in started & set(parameters):
            assert torch.equal(parameters[key], given[key.removeprefix(prefix)])
        if own is not None:
            assert set(parameters) - started == own
        else:
            assert all(key.startswith("conv") for key in started)
            assert {key for key in parameters if key.startswith("conv")} <= started


def test_heads_for_other_classes_do_not_fit(monkeypatch):
    given = fcn_small(11).state_dict()
    monkeypatch.setattr(weights, "load", lambda name: given)
    network = fcn_small(44)
    started = training.start(network, "digits/fcn-seed0")
    left = {name for name, _ in network.named_parameters()} - started
    assert left == {f"score_{at}.{part}" for at in ("fr", "pool4", "pool3") for part in ("weight", "bias")}
    assert torch.equal(network.fc7.weight, given["fc7.weight"])


def test_imagenet_features_come_from_the_folder_or_the_net(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    monkeypatch.setattr(training, "vgg16", lambda weights: SimpleNamespace(features=net))
    assert torch.equal(training.imagenet_features()["0.weight"], net[0].weight)
    (tmp_path / "pretrained").mkdir()
    save_file({"0.weight": torch.tensor([5.0])}, tmp_path / "pretrained" / "vgg16_features.safetensors")
    assert training.imagenet_features()["0.weight"].tolist() == [5]
    given, network = [], fcn_small(11)
    monkeypatch.setattr(training, "load_imagenet_vgg16", lambda *args: given.append(args))
    started = training.start(network, "imagenet")
    assert started == {name for name, _ in network.named_parameters() if not name.startswith(("fc", "score"))}
    assert given[0][0] is network and given[0][1]["0.weight"].tolist() == [5]


def test_the_command_trains_what_it_names(monkeypatch, capsys):
    def ask(words):
        found = []
        monkeypatch.setattr(training, "train", lambda *args: found.append(args))
        monkeypatch.setattr("sys.argv", ["training", "toys", *words.split()])
        training.main()
        return found

    chosen = toys(RECIPE)
    chosen = dataclasses.replace(chosen, robust={"at-1": dataclasses.replace(chosen.networks["toy"], store="at")})
    monkeypatch.setitem(studies.STUDIES, "toys", chosen)
    assert ask("--only dae toy --seed 3 --device cpu") == [(chosen, name, 3, "cpu", {}) for name in ("dae", "toy")]
    every = "toy", "after", "begun", "at", "dae"
    assert ask("--device cpu") == [(chosen, name, 0, "cpu", {}) for name in every]
    with pytest.raises(SystemExit):
        ask("--only unet")
    assert "--only: got 'unet', expected some of toy, after, begun, at, dae" in capsys.readouterr().err
