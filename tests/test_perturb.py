"""Guided perturbation against numbers worked out by hand, finite differences, foolbox and captum."""

import copy
import math
import random
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, elu
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from gpcore import Guided, GuidedPerturbation, guide, sweep
from gpcore.gradient import pseudo_labels

LOG3 = math.log(3)
STRATEGIES = ["onehot", "top2", "uniform", "random", "random-image"]
KINDS = pytest.mark.parametrize("kind", ["segment", "classify"])


@pytest.fixture(autouse=True)
def _seeded_and_on_one_core(one_core: None) -> None:
    torch.manual_seed(0)


class Wired(nn.Module):
    """Any layers in any wiring, with control flow that looks at values."""

    def __init__(self, wiring: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        if x.sum() > 1e9:
            raise AssertionError
        return self.wiring(self, x)


def front(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return (stem := m.stem(x).tanh()), m.mid(stem)


def back(m: Any, stem: Tensor, h: Tensor) -> Tensor:
    return m.drop(m.head(m.act(h))) + m.side(h * 2) + m.skip(stem)


def plain(m: Any, x: Tensor) -> Tensor:
    return back(m, *front(m, x))


def named(m: Any, x: Tensor) -> dict[str, Tensor]:
    stem, h = front(m, x)
    return {"out": back(m, stem, h), "aux": m.side(stem)}


def skips(wiring: Callable[..., Any] = plain, *, drop: float = 0.0) -> Any:
    """stem -> mid -> logits, which read mid's output twice and the stem's once."""
    heads = {name: nn.Conv2d(5, 4, 3, padding=1) for name in ("head", "side", "skip")}
    mid = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1), nn.Dropout(drop), nn.Tanh(), nn.Conv2d(6, 5, 1))
    layers = {"mid": mid, "act": nn.ReLU(), "drop": nn.Dropout(drop), "idle": nn.ModuleList([nn.ReLU()]), **heads}
    return Wired(wiring, stem=nn.Conv2d(3, 5, 3, padding=1), **layers).double().eval()


class Counted(nn.Module):
    """A 1x1 convolution that counts its backward passes."""

    calls = 0

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, channels))

    def forward(self, x: Tensor) -> Tensor:
        return Product.apply(x, self.weight)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.einsum("bchw,kc->bkhw", x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        Counted.calls += 1
        return torch.einsum("bkhw,kc->bchw", grad, ctx.saved_tensors[0]), None


def pictures(batch: int = 2, seed: int = 0) -> Tensor:
    """Multiples of 1/64, so that adding 1/32 is exact."""
    return torch.randint(16, 49, (batch, 3, 4, 5), generator=torch.Generator().manual_seed(seed)).double() / 64


def given(labels: str, logits: Tensor) -> Any:
    """A strategy's name, or a random label `map` (a quarter void where there are pixels) or `distribution`."""
    if labels == "map":
        chosen = torch.randint(4, logits[:, 0].shape)
        return chosen.masked_fill(torch.rand(chosen.shape) < 0.25, 255) if logits.dim() == 4 else chosen
    return torch.rand_like(logits).softmax(1) if labels == "distribution" else labels


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of every image, summed over its pixels; a zero target counts nothing."""
    return -(target * logits.log_softmax(1)).flatten(1).sum(1)


def uphill(run: Callable[[Tensor], Tensor], x: Tensor, labels: str = "onehot") -> Tensor:
    """Minus the gradient of the loss at x."""
    logits = run(x := x.detach().clone().requires_grad_())
    return -torch.autograd.grad(loss(logits, pseudo_labels(logits.detach(), labels)).sum(), x)[0]


def close(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    assert_close(ours, theirs, atol=tolerance, rtol=0)


def state(model: nn.Module) -> list[Any]:
    """All that must be as it was found, in comparable form."""
    modules = [(sorted(v := vars(m)), m.training, [len(v[k]) for k in v if "hooks" in k]) for m in model.modules()]
    parameters = [(p.tolist(), p.requires_grad, p.is_leaf, str(p.grad)) for p in model.parameters()]
    buffers = [(name, buffer.tolist()) for name, buffer in model.named_buffers()]
    numbers = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
    return [modules, parameters, buffers, numbers, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    found = state(model)
    try:
        yield
    finally:
        assert state(model) == found


def entropy(logits: Tensor) -> Tensor:
    """Of every image, summed over its pixels."""
    return torch.special.entr(logits.softmax(1)).flatten(1).sum(1)


@KINDS
def test_entropy_falls_as_predicted(kind: str) -> None:
    model, images = network(kind, 3), pictures()
    falls = []
    for epsilon in (1e-4, -1e-4):
        out = guide(model, images, epsilon, signal="entropy")
        falls.append(entropy(out.before) - entropy(out.after))
        assert_close(falls[-1], epsilon * out.signal.abs().flatten(1).sum(1), atol=0, rtol=0.02)
    assert (falls[0] > 0).all() and (falls[1] < 0).all()


# Logits (0, log 3) at x = (1, 1).
LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
LINEAR[1].weight.data, LINEAR[1].bias.data = torch.tensor([[2.0, -1], [4, -5]]), torch.tensor([-1, 1 + LOG3])
# Class 0 scores relu(log 3 (x' - x)) and class 1 relu(log 3 (2 x - 3)): (log 3, 0) and (0, log 3) at x = (1, 2, 1).
CONV = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), nn.ReLU())
CONV[0].weight.data = LOG3 * torch.tensor([[[[-1.0, 1]]], [[[2, 0]]]])
CONV[0].bias.data = LOG3 * torch.tensor([0.0, -3])


@pytest.mark.parametrize(
    ("model", "x", "labels", "ce", "weight"),
    [
        (LINEAR, [1, 1], "onehot", [0.5, -1], 0.75),
        (LINEAR, [1, 1], torch.tensor([0]), [-1.5, 3], 0.25),
        (LINEAR, [1, 1], "uniform", [-0.5, 1], 0.5),
        (CONV, [1, 2, 1], "onehot", [-LOG3 / 4, 3 * LOG3 / 4, 0], 0.75),
        (CONV, [1, 2, 1], torch.tensor([[[1, 0]]]), [0.75 * LOG3, -2.25 * LOG3, 0], 0.25),
        (CONV, [1, 2, 1], torch.tensor([[[1, 255]]]), [0.75 * LOG3, -0.75 * LOG3, 0], 0.25),
    ],
)
def test_one_layer_by_hand(model: Any, x: list[float], labels: Any, ce: list[float], weight: float) -> None:
    images = torch.tensor([[[x]]], dtype=torch.float32)
    for signal, g in [("ce", torch.tensor([[[ce]]])), ("eq5", weight * torch.tensor([[[ce]]]))]:
        for direction, unit in [("sign", g.sign()), ("linf", g / g.abs().max()), ("l2", g / g.pow(2).sum().sqrt())]:
            out = guide(model, images, 0.25, labels=labels, signal=signal, direction=direction, check=False)
            close(out.signal, g, 1e-6)
            close(out.images, images + 0.25 * unit, 1e-6)
            close(out.before, torch.tensor([[0, LOG3]] if model is LINEAR else [[[[LOG3, 0]], [[0, LOG3]]]]), 1e-6)
            close(out.after, model(out.images).detach(), 1e-6)


@pytest.mark.parametrize("seed", range(2))
@KINDS
@pytest.mark.parametrize("labels", ["onehot", "top2", "uniform", "random", "map", "distribution"])
def test_finite_differences(labels: str, kind: str, seed: int) -> None:
    model, images = network(kind, seed), pictures(seed=seed)
    logits = model(images).detach()
    chosen, y = given(labels, logits), logits.softmax(1)
    target = pseudo_labels(logits, chosen, seed=seed)
    held = (target * y).sum(1, keepdim=True) * (target - y * target.sum(1, keepdim=True))
    measures = {"ce": lambda z, i: -loss(z, target[i]), "eq5": lambda z, i: (z * held[i]).flatten(1).sum(1)}
    nudges = 1e-5 * torch.eye(60, dtype=torch.float64).view(60, 3, 4, 5)
    for signal, measure in measures.items():
        out = guide(model, images, 0.01, labels=chosen, signal=signal, seed=seed)
        for i in range(2):
            rise = measure(model(images[i] + nudges), i) - measure(model(images[i] - nudges), i)
            assert_close(out.signal[i].flatten(), rise.detach() / 2e-5, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("labels", ["onehot", "top2", "uniform"])
@KINDS
def test_loss_falls_as_predicted(kind: str, labels: str) -> None:
    model, images, errors = network(kind, 3), pictures(), []
    for epsilon in (1e-3, 5e-4):
        out = guide(model, images, epsilon, labels=labels)
        target = pseudo_labels(out.before, labels)
        fall = loss(out.before, target) - loss(out.after, target)
        errors.append((fall / (epsilon * out.signal.abs().flatten(1).sum(1)) - 1).abs())
    assert (errors[0] < 0.05).all()
    close(errors[1] / errors[0], torch.full_like(errors[0], 0.5), 0.05)


@pytest.mark.parametrize("at", [None, "0", "1"])
@KINDS
def test_epsilon_zero_is_the_identity(kind: str, at: str | None) -> None:
    model, images = network(kind), pictures()
    out = guide(model, images, 0.0, at=at)
    assert torch.equal(out.images, images if at is None else model[: int(at) + 1](images))
    assert torch.equal(out.after, out.before)
    assert torch.equal(out.before, model(images))
    assert out.signal.any()


@pytest.mark.parametrize("epsilon", [1 / 32, -1 / 32])
def test_distance_is_epsilon_where_there_is_a_gradient(epsilon: float) -> None:
    model, images = network("segment"), pictures()
    model[0].weight.data[:, 2] = 0  # the third channel is never looked at
    for direction, order in [("sign", math.inf), ("linf", math.inf), ("l2", 2)]:
        out = guide(model, images, epsilon, direction=direction)
        step = out.images - images
        assert not step[:, 2].any()
        assert torch.equal(step.sign(), out.signal.sign() * math.copysign(1, epsilon))
        close(step.flatten(1).norm(order, dim=1).tolist(), [1 / 32, 1 / 32], 1e-15)
        assert direction != "sign" or step[:, :2].abs().unique().tolist() == [1 / 32]


@pytest.mark.parametrize("direction", ["sign", "linf", "l2"])
def test_zero_and_tiny_gradients(direction: str) -> None:
    model, images = network("segment").float(), pictures().float()
    labels = torch.tensor([255, 0]).view(2, 1, 1).expand(2, 4, 5)
    out = guide(model, images, 0.5, labels=labels, direction=direction)
    assert torch.equal(out.images[0], images[0])
    assert not torch.equal(out.images[1], images[1])
    assert out.images.isfinite().all()
    assert torch.equal(out.after[0], out.before[0])
    model[2].weight.data *= 1e-28  # squares of this gradient vanish in float32
    step = (guide(model, images, 0.5, direction=direction).images - images).flatten(1)
    close(step.norm(2 if direction == "l2" else math.inf, dim=1).tolist(), [0.5, 0.5], 1e-5)


@pytest.mark.parametrize("at", [None, "0"])
@KINDS
@pytest.mark.parametrize("labels", [*STRATEGIES, "map", "distribution"])
def test_a_batch_is_its_images_singly(labels: str, kind: str, at: str | None) -> None:
    model, images = network(kind), pictures(3)
    chosen = given(labels, model(images).detach())
    for direction in ("sign", "linf", "l2"):
        together, singly = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
        batch = guide(model, images, 0.02, labels=chosen, direction=direction, at=at, seed=together)
        for i in range(3):
            label = chosen if isinstance(chosen, str) else chosen[i : i + 1]
            one = guide(model, images[i : i + 1], 0.02, labels=label, direction=direction, at=at, seed=singly)
            for name in ("before", "after", "images", "signal"):
                close(getattr(batch, name)[i], getattr(one, name)[0])


@pytest.mark.parametrize("bounds", [None, (0.2, 0.8)])
def test_steps_and_bounds(bounds: tuple[float, float] | None) -> None:
    model, images = network("segment", 2), pictures()
    logits, ends = model(images), []
    for renew in (True, False):
        x, labels, g = images.clone(), logits.argmax(1), images
        for _ in range(4):
            z = model(x.requires_grad_())
            labels = z.argmax(1) if renew else labels
            (g,) = torch.autograd.grad(cross_entropy(z, labels, reduction="sum"), x)
            x = (x.detach() + 0.1 * g.sign()).clip(*(bounds or (-9, 9)))
        options: dict[str, Any] = {"steps": 4, "renew": renew, "check": False}
        out = guide(model, images, -0.1, bounds=bounds, **options)
        close((out.before, out.images, out.signal, out.after), tuple(t.detach() for t in (logits, x, -g, model(x))))
        inside = [guide(model, images, -0.1, at="0", **options)]
        inside.append(guide(model[1:], model[0](images).detach(), -0.1, **options))
        close(*(tuple(vars(each).values()) for each in inside))
        ends.append(x)
    assert not torch.equal(*ends)  # the adversary has changed a prediction on the way


@pytest.mark.filterwarnings("ignore")  # both libraries warn when imported
@pytest.mark.parametrize("epsilon", [0.03, 0.3])
@KINDS
def test_fgsm_of_foolbox_and_captum(kind: str, epsilon: float) -> None:
    import captum.robust
    import foolbox

    model, images = network(kind).float(), pictures(4).float()
    labels = given("map", model(images))
    ours = guide(model, images, -epsilon, labels=labels).images
    fgsm = captum.robust.FGSM(model, lambda z, y: cross_entropy(z, y, reduction="sum", ignore_index=255)[None])
    close(ours, fgsm.perturb(images, epsilon, labels), 1e-6)
    close((ours - images).abs(), torch.full_like(images, epsilon), 1e-6)
    if kind == "classify":
        attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
        wrapped = foolbox.PyTorchModel(model, bounds=(-10, 10), device="cpu")
        close(ours, attack.run(wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=epsilon), 1e-6)
    else:
        assert (labels == 255).any()
        labels[labels == 255] = 9
        assert torch.equal(guide(model, images, -epsilon, labels=labels, void=9).images, ours)


CUTS: dict[str, Any] = {
    "stem": (lambda m, x: (m.stem(x),), lambda m, h: back(m, h.tanh(), m.mid(h.tanh()))),
    "mid.0": (lambda m, x: (m.stem(x).tanh(), m.mid[0](m.stem(x).tanh())), lambda m, s, h: back(m, s, m.mid[1:](h))),
    "mid.3": (front, back),
    "mid": (front, back),
}


@pytest.mark.parametrize("at", CUTS)
@pytest.mark.parametrize("wiring", [plain, named])
def test_at_a_layer_is_the_network_cut_by_hand(at: str, wiring: Any) -> None:
    model, images, (first, rest) = skips(wiring), pictures(), CUTS[at]
    with torch.no_grad():
        *kept, h = first(model, images)
    for labels in ("onehot", "uniform"):
        g = uphill(lambda x: rest(model, *kept, x), h, labels)
        out = guide(model, images, 0.05, at=at, labels=labels)
        close((out.signal, out.images), (g, h + 0.05 * g.sign()))
        close((out.before, out.after), tuple(rest(model, *kept, x).detach() for x in (h, out.images)))
        assert not out.repeated
        assert not guide(model, images, 0.05).repeated


def test_what_runs_how_often() -> None:
    model, images, counts = skips(), pictures(), dict[str, int]()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: counts.update({name: counts.get(name, 0) + 1}))
    for at in ("mid", "mid.3", None):
        for steps in (1, 3):
            for run, options in [(guide, {"epsilon": 0.1, "steps": steps}), (sweep, {"epsilons": [0.1] * steps})]:
                counts.clear()
                result = run(model, images, at=at, **options)
                assert isinstance(result, Guided) or len(list(result)) == steps
                assert {counts[name] for name in counts} == {2 + steps if at else 1 + steps}


@pytest.mark.parametrize("at", [None, "stem", "mid", "mid.0"])
def test_layers_in_place_change_nothing(at: str | None) -> None:
    def separate(m: Any, x: Tensor) -> Tensor:
        stem = m.stem(elu(x))
        return m.head(stem + elu(m.mid(stem * 1)))

    def inplace(m: Any, x: Tensor) -> Tensor:
        stem = m.stem(elu(x, inplace=True))
        return m.head(stem.add_(elu(m.mid(stem * 1), inplace=True)))

    model, images = skips(separate), pictures() - 0.5
    expected = [vars(guide(model, images, 0.1, at=at, steps=steps)) for steps in (1, 2)]
    model.wiring = inplace
    found = [vars(guide(model, images, 0.1, at=at, steps=steps)) for steps in (1, 2)]
    changed = at in ("mid", "mid.0")  # after which the stem's activation, from before, is added to in place
    assert [each.pop("repeated") for each in found + expected] == [changed, changed, False, False]
    close(found, expected)
    close([logits for _, logits in sweep(model, images, [0.1, 0.1], at=at)], [expected[0]["output"]] * 2)
    assert torch.equal(images, pictures() - 0.5)


LRASPP, RESNET = torchvision.models.segmentation.lraspp_mobilenet_v3_large, torchvision.models.resnet18


@pytest.mark.parametrize(
    ("build", "at"),
    [(LRASPP, "backbone.6"), (LRASPP, "classifier.cbr"), (RESNET, "layer2")],
)
def test_torchvision_networks(build: Any, at: str) -> None:
    model = build(weights=None, **({"weights_backbone": None} if build is LRASPP else {})).double().eval()
    images, seen = torch.rand(1, 3, 64, 64, dtype=torch.float64), list[Tensor]()
    module = model.get_submodule(at)

    def rest(x: Tensor) -> Tensor:
        with module.register_forward_hook(lambda *_: x.clone()):  # as if the module had answered x
            out = model(images)
        return out["out"] if build is LRASPP else out

    with module.register_forward_hook(lambda *args: seen.append(args[2].detach().clone())):
        model(images)
    out, g = guide(model, images, 0.01, at=at), uphill(rest, seen[0])
    scale = g.abs().max()
    close(out.signal / scale, g / scale, 1e-9)
    close(out.images, seen[0] + 0.01 * out.signal.sign())
    close((out.before, out.after), (rest(seen[0]).detach(), rest(out.images).detach()), 1e-9)
    assert not out.repeated
    assert scale > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"at": "1", "labels": "random", "seed": 3},
        {"bounds": (0.2, 0.8), "direction": "l2", "signal": "eq5"},
        {"at": "0", "labels": torch.tensor([0, 9, 3]).expand(2, 2, 3), "void": 9, "direction": "linf"},
        {"weight": lambda z: z.max(1, keepdim=True).values, "direction": "l2", "signal": "entropy"},
    ],
)
def test_sweep_is_guide_per_epsilon_with_one_backward(options: dict[str, Any]) -> None:
    model, images = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), Counted(6, 4)).double(), pictures()
    epsilons, Counted.calls = [-0.2, 0.0, 0.01, 0.3], 0
    swept = list(sweep(model, images, iter(epsilons), **options))
    assert Counted.calls == 1
    assert [epsilon for epsilon, _ in swept] == epsilons
    for epsilon, logits in swept:
        close(logits, guide(model, images, epsilon, **options).after)


@pytest.mark.parametrize("at", [None, "mid"])
def test_module_returns_what_the_model_returns(at: str | None) -> None:
    model, images = skips(named), pictures()
    out = guide(model, images, 0.1, at=at, labels="top2")
    result = GuidedPerturbation(model, 0.1, at=at, labels="top2")(images)
    aux = model(images if at else out.images)["aux"].detach()  # it reads the stem, not mid
    assert type(result) is dict
    assert list(result) == ["out", "aux"]
    close((result["out"], result["aux"]), (out.after, aux))
    model.wiring = plain
    close(GuidedPerturbation(model, 0.1, at=at, labels="top2")(images), out.after)
    assert not torch.allclose(out.after, out.before)


def test_module_is_an_ordinary_module() -> None:
    model, images = skips().float(), pictures()
    better = GuidedPerturbation(model, epsilon=0.1)
    assert set(better.state_dict()) == {f"model.{name}" for name in model.state_dict()}
    assert better.train().model.mid.training
    assert not better.eval().model.mid.training
    assert "epsilon=0.1, at=mid, steps=2" in repr(GuidedPerturbation(model, 0.1, at="mid", steps=2))
    with pytest.raises(TypeError, match="stpes"):
        GuidedPerturbation(model, 0.1, stpes=2)
    chained = nn.Sequential(better, nn.Softmax(1)).to(torch.float64)(images)
    close(chained, guide(model, images, 0.1).after.softmax(1))


@pytest.mark.parametrize("at", [None, "3", "1"])
@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_untouched(at: str | None, failing: int, training: bool) -> None:
    def fail(module: Any, *_: Any) -> None:
        passes.append(module)
        if len(passes) == failing:
            raise KeyError("from inside")

    halves = [m for c in (3, 6) for m in (nn.Conv2d(c, 6, 2), nn.BatchNorm2d(6), nn.Dropout())]
    model, passes = nn.Sequential(*halves, nn.Conv2d(6, 4, 1)).double(), list[Any]()
    model(pictures()).sum().backward()
    model.train(training)[4].eval()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = None
    model[6].register_forward_hook(fail)
    images = pictures().requires_grad_()
    with untouched(model):
        if failing:
            with pytest.raises(KeyError, match="from inside"):
                guide(model, images, 0.1, at=at, labels="random")
        else:
            out = guide(model, images, 0.1, at=at, labels="random", steps=2)
            assert not any(x.requires_grad for x in (out.before, out.after, out.images, out.signal))
            with untouched(model):  # also between two epsilons
                next(unfinished := sweep(model, images, [0.1, 0.2], at=at))
            del unfinished
    assert images.requires_grad
    assert images.grad is None
    assert torch.equal(images, pictures())


@pytest.mark.parametrize("at", [None, "stem", "mid"])
def test_every_pass_draws_the_same_dropout(at: str | None) -> None:
    model, images = skips(drop=0.5).train(), pictures()
    with untouched(model):
        out, swept = guide(model, images, 0.0, at=at, steps=2), sweep(model, images, [0.0, 0.0], at=at)
        logits = [next(swept)[1]]
    expected = model(images).detach()  # also moves the random state on
    close([out.before, out.after, *logits, next(swept)[1]], [expected] * 4)
    assert not torch.allclose(model(images), expected)


@pytest.mark.parametrize("at", [None, "0", "1"])
def test_no_parameter_gets_a_gradient(at: str | None) -> None:
    """Three passes of what follows, one of what comes before; a backward pass to parameters too would be two."""
    model, images = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 1)).double(), pictures()
    first, last = (
        2 * 2 * 6 * weights for weights in (27 * 6, 6 * 4)
    )  # two images of 2 x 3 places, a product and a sum
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = guide(model, images, 0.1, at=at)
        assert not torch.is_grad_enabled()
    assert counter.get_total_flops() == (3 * (first + last) if at is None else first + 4 * last)
    assert out.signal.any()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("at", [None, "0"])
def test_autocast(at: str | None) -> None:
    model, images = network("segment").float(), pictures().float()
    exact = guide(model, images, 0.05, at=at)
    with torch.autocast("cpu", torch.bfloat16), untouched(model):
        out = guide(model, images, 0.05, at=at)
    close((out.before, out.after), (exact.before, exact.after), 0.1)  # float32, too
    assert not torch.equal(out.before, exact.before)
    assert torch.cosine_similarity(out.signal.float().flatten(), exact.signal.flatten(), 0) > 0.99
    assert at or out.images.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("at", [None, "mid"])
@pytest.mark.parametrize("labels", STRATEGIES)
def test_cuda_gives_the_same(labels: str, at: str | None) -> None:
    model, images, found = skips(), pictures(), torch.cuda.get_rng_state()
    expected = guide(model, images, 0.05, labels=labels, at=at, seed=torch.Generator().manual_seed(4))
    out = guide(model.cuda(), images.cuda(), 0.05, labels=labels, at=at, seed=torch.Generator().manual_seed(4))
    assert torch.equal(torch.cuda.get_rng_state(), found)
    for name in ("before", "after", "images", "signal"):
        close(getattr(out, name).cpu(), getattr(expected, name), 1e-10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": math.nan}, "epsilon.*nan"),
        ({"epsilon": -math.inf}, "epsilon.*inf"),
        ({"images": torch.zeros(3, 4, 6)}, r"images.*3\D+4\D+6"),
        ({"images": torch.zeros(1, 3, 4, 5, dtype=torch.uint8)}, "images.*uint8"),
        ({"images": pictures().index_fill(2, torch.tensor([1]), math.nan)}, "(?i)images.*(nan|finite)"),
        ({"images": pictures().index_fill(2, torch.tensor([1]), math.inf)}, "(?i)images.*(inf|finite)"),
        ({"labels": torch.zeros(2, 4, 6, dtype=torch.int64)}, r"labels.*2\D+4\D+6"),
        ({"labels": torch.zeros(2, 4, 5, dtype=torch.int64).numpy()}, "labels.*ndarray.*integer"),
        ({"labels": torch.zeros(2, 4, 5, dtype=torch.bool)}, "labels.*bool.*integer"),
        ({"labels": torch.zeros(2, 4, 5, dtype=torch.complex64)}, "labels.*complex64.*integer"),
        ({"labels": torch.full((2, 4, 5), 255), "void": 254}, "labels.*255.*void = 254"),
        ({"signal": "mse"}, "signal.*mse.*eq5"),
        ({"direction": "l1"}, "direction.*l1.*l2"),
        ({"steps": 0}, "steps.*0"),
        ({"at": "steem"}, "at.*steem.*stem"),
        ({"at": "mid.7"}, r"at.*mid\.7.*mid\.\d"),
        ({"at": "idle.0"}, r"at.*idle\.0"),
        ({"at": "mid", "bounds": (0, 1)}, "bounds.*at"),
        ({"bounds": (0.5, 0.5)}, r"bounds: got \(0.5, 0.5\), expected \(low, high\) with low < high"),
        ({"bounds": (0, 0.5)}, r"images: got values 0\.2\d* to 0\.7\d*, expected them within bounds \(0, 0.5\)"),
        ({"bounds": (0.5, 1)}, r"images: got values 0\.2\d* to 0\.7\d*, expected them within bounds \(0.5, 1\)"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    options = {"images": pictures(), "epsilon": 0.1} | wrong
    model, many = skips(), {key: value for key, value in options.items() if key != "epsilon"}
    with untouched(model), pytest.raises(ValueError, match=message):
        guide(model, **options)
    error, text = (TypeError, "steps") if "steps" in wrong else (ValueError, message)
    with untouched(model), pytest.raises(error, match=text):
        list(sweep(model, epsilons=[0.1, options["epsilon"]], **many))


@pytest.mark.parametrize(
    ("at", "message"),
    [("act", "act.*(once|twice|2)"), *((name, f"(depend|reach).*{name}|{name}.*reach") for name in ("side", "skip"))],
)
def test_layers_that_cannot_be_perturbed(at: str, message: str) -> None:
    def wiring(m: Any, x: Tensor) -> dict[str, Tensor]:
        h = m.act(m.act(m.stem(x)) - 0.1)
        m.skip(h)
        return {"out": m.head(h), "aux": m.side(h)}

    model = skips(wiring)
    for run in (guide, lambda *arguments, **options: list(sweep(*arguments[:2], [0.1], **options))):
        with untouched(model), pytest.raises(ValueError, match=message):
            run(model, pictures(), 0.1, at=at)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z.flatten(2), r"2\D+4\D+20"),
        (lambda z: z.argmax(1, keepdim=True), "int64"),
        (lambda z: {"scores": z}, "dict.*logits"),
        (lambda z: ("logits", z), "tuple"),
        (lambda z: (), "tuple"),
        (lambda z: z[0], r"4\D+4\D+5"),
    ],
)
def test_outputs_that_are_no_logits(change: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guide(Wired(lambda m, x: change(m.conv(x)), conv=nn.Conv2d(3, 4, 1).double()), pictures(), 0.1)


def test_weight_scales_the_signal_of_every_pixel():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, 3, padding=1)
    images, half = torch.rand(2, 2, 6, 6), torch.zeros(2, 1, 6, 6)
    half[..., :3] = 2.0
    found = guide(network, images, 0.1, weight=lambda logits: half)
    logits = network(images).detach()
    target = torch.nn.functional.one_hot(logits.argmax(1), 3).movedim(-1, 1).float()
    expected = torch.nn.functional.conv_transpose2d((target - logits.softmax(1)) * half, network.weight, padding=1)
    torch.testing.assert_close(found.signal, expected)
    assert (found.signal[..., 4:] == 0).all()
    assert torch.equal(found.images[..., 4:], images[..., 4:])
    (_, swept), *_ = sweep(network, images, [0.1], weight=lambda logits: half)
    assert torch.equal(swept, found.after)


def test_weight_of_another_shape_is_refused():
    network = torch.nn.Conv2d(2, 3, 1)
    with pytest.raises(ValueError, match=r"weight: got factors of shape \[1, 3, 4, 4\], expected \[1, 1, 4, 4\]"):
        guide(network, torch.rand(1, 2, 4, 4), 0.1, weight=lambda logits: logits)


RUNS: dict[str, Callable[..., Any]] = {
    "guide": lambda model, images, **options: guide(model, images, 0.05, **options),
    "guide at": lambda model, images, **options: guide(model, images, 0.05, at="0", **options),
    "sweep": lambda model, images, **options: list(sweep(model, images, [0.05], **options)),
    "sweep at": lambda model, images, **options: list(sweep(model, images, [0.05], at="0", **options)),
    "module": lambda model, images, **options: GuidedPerturbation(model, 0.05, **options)(images),
}
EVERY = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


@EVERY
@pytest.mark.parametrize(
    ("scale", "shift", "last", "message"),
    [
        (255, 0, nn.Identity, "images: .* bytes"),
        (8, -4, nn.Identity, "images: .* normalised"),
        (1, 0, lambda: nn.Softmax(1), "model: .* probabilities"),
        (1, 0, lambda: nn.Sequential(nn.Conv2d(4, 1, 1), nn.Sigmoid()), "model: .* probabilities"),
        (1, 0, lambda: nn.Conv2d(4, 1, 1), None),
        (2.4, -0.7, nn.Identity, None),  # from -.1 to 1.1
    ],
)
def test_what_is_seldom_meant_is_mentioned_once(run: Any, scale: float, shift: float, last: Any, message: Any) -> None:
    model, images = nn.Sequential(*network("segment"), last()).double(), scale * pictures() + shift
    run(model, images, check=False)
    with warnings.catch_warnings(record=True, action="default") as caught:
        for _ in range(3):
            run(model, images)
    assert len(caught) == (message is not None)
    assert not caught or re.match(message, str(caught[0].message))


@EVERY
def test_logits_that_are_no_numbers(run: Any) -> None:
    model = network("segment")
    for model[2].bias.data[1] in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="model: got logits with NaN or infinite values, expected finite ones"):
            run(model, pictures())


@EVERY
def test_gradients_that_are_no_numbers(run: Any) -> None:
    """The square root's, at zero."""
    model = nn.Sequential(nn.Identity(), Wired(lambda m, x: x.sqrt()), nn.Conv2d(3, 4, 1)).double()
    for direction in ("sign", "linf", "l2"):
        with pytest.raises(ValueError, match="model: got a gradient with NaN or infinite values"):
            run(model, pictures().clamp_min(0.5) - 0.5, direction=direction)


@pytest.mark.parametrize("at", [None, "stem", "mid"])
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_networks_in_half_precision(dtype: torch.dtype, at: str | None) -> None:
    """They compute as they do; perturbations, also those too small for them, and what is returned are in float32."""
    model, images, options = skips().to(dtype), pictures().to(dtype), {"at": at, "direction": "l2"}
    out, exact = (
        guide(model, images, 0.1, **options),
        guide(copy.deepcopy(model).float(), images.float(), 0.1, **options),
    )
    assert {each.dtype for each in (out.before, out.after, out.images, out.signal)} == {torch.float32}
    assert torch.equal(out.before, model(images).detach().float())
    assert out.output.dtype == dtype and torch.equal(out.output.float(), out.after)
    close((out.before, out.after), (exact.before, exact.after), 0.02)
    for ours, theirs in ((out.signal, exact.signal), (out.after - out.before, exact.after - exact.before)):
        assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.95
    assert torch.equal(next(sweep(model, images, [0.1], **options))[1], out.after)
    place, small = guide(model, images, 0.0, at=at).images, guide(model, images, 0.00025, at=at)
    close(small.images - place, 0.00025 * small.signal.sign(), 1e-6)
    assert (small.signal != 0).all()


@KINDS
@pytest.mark.parametrize("at", [None, "0"])
@pytest.mark.parametrize("labels", [*STRATEGIES, "map", "distribution"])
def test_an_empty_batch_stays_empty(labels: str, at: str | None, kind: str) -> None:
    model, none = network(kind), pictures(0)
    logits, place = model(none).detach(), (none if at is None else model[0](none).detach())
    options = {"labels": given(labels, logits), "at": at, "bounds": (0.6, 0.7) if at is None else None}
    for direction, signal in zip(("sign", "linf", "l2"), ("ce", "eq5", "entropy"), strict=True):
        out = guide(model, none, 0.05, steps=2, direction=direction, signal=signal, **options)
        close((*out.trajectory, out.output, out.images, out.signal), (*[logits] * 4, place, place))
        swept = sweep(model, none, [0.05, 0.1], direction=direction, signal=signal, **options)
        close([each for _, each in swept], [logits] * 2)
