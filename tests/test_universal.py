"""Universal perturbations by hand, and their properties: the bound, the fooling rate, what a seed decides."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gpcore import universal
from gpcore.minimal import BEYOND
from gpcore.universal import fooling_rate, gd_uap, uap

pytestmark = pytest.mark.usefixtures("one_core")


def network(kind="classify", seed=0, act=nn.Tanh):
    torch.manual_seed(seed)
    last = [nn.Flatten(), nn.Linear(6 * 4 * 5, 4)] if kind == "classify" else [nn.Conv2d(6, 4, 3, padding=1)]
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), act(), *last).eval()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


def pictures(batch=30, seed=1):
    return torch.rand(batch, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def line(border):
    """Of each pixel whether it is above its border: a network with two classes per pixel."""
    model = nn.Conv2d(1, 2, 1)
    model.weight.data = torch.tensor([0.0, 1]).view(2, 1, 1, 1)
    model.bias.data = torch.tensor([border, 0.0])
    return model


@pytest.mark.parametrize(("epsilon", "moved"), [(1.0, 0.4), (0.3, 0.3)])
def test_uap_by_hand(epsilon, moved):
    """One pixel, border at .5: from .1 it is .4 away, which also takes .2 over it; .3 gets only .2 there."""
    model, images = line(0.5), torch.tensor([0.1, 0.2]).view(2, 1, 1, 1)
    found = uap(model, images[:1], epsilon=epsilon, passes=3)
    expected = 1.02 * (moved + BEYOND) if epsilon == 1 else moved
    assert_close(found.perturbation, torch.full((1, 1, 1), expected))
    assert found.history == ((1.0,) if epsilon == 1 else (0.0, 0.0, 0.0))
    assert fooling_rate(model, images, found.perturbation) == (1.0 if epsilon == 1 else 0.0)
    assert fooling_rate(model, images, torch.full((1, 1, 1), 0.31)) == 0.5
    beyond = uap(line(1.5), images, epsilon=epsilon, passes=1)  # which no image in the box reaches
    assert beyond.perturbation.item() == 0 and beyond.history == (0.0,)


@pytest.mark.parametrize(
    ("kind", "norm", "epsilon"),
    [("classify", "linf", 0.2), ("classify", "l2", 1.2), ("segment", "linf", 0.4), ("segment", "l2", 2.4)],
)
def test_uap_fools_within_its_bound(kind, norm, epsilon):
    model, images, share = network(kind), pictures(), 0.3
    found = uap(model, images, epsilon=epsilon, norm=norm, share=share)
    v = found.perturbation
    assert v.shape == (3, 4, 5)
    assert (v.abs().max() if norm == "linf" else v.norm()) <= epsilon * (1 + 1e-6)
    changed = model((images + v).clamp(0, 1)).argmax(1) != model(images).argmax(1)
    rate = (changed.reshape(30, -1).double().mean(1) >= share).double().mean().item()
    assert fooling_rate(model, images, v, share=share) == pytest.approx(rate) == max(found.history) >= 0.8
    assert all(rate < 0.8 for rate in found.history[:-1])
    assert fooling_rate(model, pictures(40, seed=2), v, share=share) > 0.6  # unseen ones, too
    signs = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).sign()
    noise = signs * (epsilon if norm == "linf" else epsilon / math.sqrt(60))
    assert fooling_rate(model, images, noise, share=share) < 0.5


def test_uap_returns_its_best_pass():
    model, images = network(), pictures()
    found = uap(model, images, epsilon=0.1, passes=4)
    assert len(found.history) == 4 and found.history[-1] < max(found.history) < 0.8
    assert fooling_rate(model, images, found.perturbation) == max(found.history)


def test_uap_depends_on_its_seed_alone():
    model, images, state = network(), pictures(), torch.get_rng_state()
    first, again, other = (uap(model, images, epsilon=0.1, passes=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.perturbation, again.perturbation) and first.history == again.history
    assert not torch.equal(first.perturbation, other.perturbation)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(uap(model, images, epsilon=0.1, passes=1, seed=generator).perturbation, first.perturbation)
    assert torch.equal(torch.get_rng_state(), state)


def bare(*widths):
    """Convolutions and ReLUs without bias: half of v makes half of every activation."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(m for a, b in pairwise(widths) for m in (nn.Conv2d(a, b, 3, padding=1, bias=False), nn.ReLU()))
    )


def excitement(model, x):
    """-sum log(||a||^2 / 2) over the ReLUs of a `bare` network."""
    total = 0.0
    for layer in model:
        x = layer(x).detach()
        total -= math.log(x.square().sum() / 2) if isinstance(layer, nn.ReLU) else 0
    return total


def test_gd_uap_excites_every_layer_within_its_bound():
    model, background = bare(3, 6, 8, 4), torch.zeros(3, 6, 6)
    found = gd_uap(model, background, epsilon=0.1, steps=150)
    v, history = found.perturbation, found.history
    assert v.shape == (3, 6, 6) and v.abs().max() == torch.tensor(0.1) and len(history) == 150
    assert history[0] > history[20] > history[60] > min(history)
    assert excitement(model, v) == pytest.approx(min(history), abs=1e-5)
    noise = 0.1 * torch.randn(1000, 3, 6, 6, generator=torch.Generator().manual_seed(0)).sign()
    assert min(history) < min(excitement(model, each) for each in noise)


def test_gd_uap_takes_adams_first_step():
    """Which is the rate against the sign of the gradient: here up, as all weights are positive."""
    model = bare(1, 1)
    model[0].weight.data.abs_()
    first, second = (gd_uap(model, torch.ones(1, 3, 3), epsilon=0.1, steps=steps) for steps in (1, 2))
    assert first.history == second.history[:1]
    assert_close(second.perturbation, (first.perturbation + 0.001).clamp(-0.1, 0.1), atol=1e-6, rtol=0)
    noise = first.perturbation / 0.1
    assert noise.abs().max() <= 1 and 0.3 < noise.std() < 0.8
    total = model(1 + first.perturbation).square().sum().item()
    assert first.history[0] == pytest.approx(-math.log(total / 2), abs=1e-6)


def test_gd_uap_halves_what_is_saturated():
    """Just where over half of v is at the bound and was before; so a quarter of ||a||^2 is left in all three layers."""
    model, seen = bare(3, 6, 8, 4), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().abs()))  # on zeros: v
    history = torch.tensor(gd_uap(model, torch.zeros(3, 6, 6), epsilon=0.1, steps=250).history)
    v, epsilon = torch.stack(seen), seen[-1].new_tensor(0.1)
    halved = torch.tensor([False, *(jump > 3 for jump in history.diff())])
    v[halved] *= 2
    saturation = (v >= epsilon).double().mean((1, 2, 3, 4))
    still = torch.tensor([True, *(saturation.diff() == 0)])
    assert torch.equal(halved, still & (saturation > 0.5)) and halved.any() and (saturation[~still] > 0.5).any()
    assert (v.amax((1, 2, 3, 4)) <= epsilon).all()
    assert history.diff().max().item() == pytest.approx(3 * math.log(4), abs=0.1)


def test_gd_uap_at_named_modules():
    model, background = network(act=nn.Tanh), torch.full((3, 4, 5), 0.5)
    found = gd_uap(model, background, at=["0", "3"], steps=2)
    outputs = model[0](background + found.perturbation), model((background + found.perturbation).unsqueeze(0))
    assert min(found.history) == pytest.approx(-sum(math.log(o.detach().square().sum() / 2) for o in outputs), abs=1e-5)


def test_gd_uap_depends_on_its_seed_alone():
    model, background, state = bare(3, 6), torch.full((3, 6, 6), 0.5), torch.get_rng_state()
    first, again, other = (gd_uap(model, background, steps=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.perturbation, again.perturbation) and first.history == again.history
    assert not torch.equal(first.perturbation, other.perturbation)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attack", [uap, gd_uap])
def test_the_model_is_left_as_found(attack):
    model = nn.Sequential(network("segment", act=nn.ReLU), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    model[0][0].weight.requires_grad_(False)

    def state():
        parameters = [(p.tolist(), p.requires_grad, p.grad) for p in model.parameters()]
        hooks = [len(v) for m in model.modules() for k, v in vars(m).items() if "hooks" in k]
        buffers = [b.tolist() for b in model.buffers()]
        return parameters, hooks, buffers, [m.training for m in model.modules()], torch.get_rng_state().tolist()

    found, images = state(), pictures(4)
    given = images if attack is uap else images[0]
    result = attack(model, given.requires_grad_(), steps=2)
    assert state() == found
    assert not result.perturbation.requires_grad and given.grad is None
    assert torch.equal(images, pictures(4))
    with pytest.raises(RuntimeError):
        attack(model, pictures(4)[:, :2] if attack is uap else pictures(1)[0, :2])
    assert state() == found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_gives_the_same():
    model, images = network(act=nn.ReLU).double(), pictures(5).double()
    expected = uap(model, images, epsilon=0.1, passes=1), gd_uap(model, images[0], steps=5)
    model, images = model.cuda(), images.cuda()
    found = uap(model, images, epsilon=0.1, passes=1), gd_uap(model, images[0], steps=5)
    for one, other in zip(expected, found, strict=True):
        assert_close(other.perturbation.cpu(), one.perturbation, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": -1.0}, "epsilon: got -1.0, expected at least 0"),
        ({"norm": "l0"}, "norm: got 'l0', expected one of linf, l2"),
        ({"passes": 0}, "passes: got 0, expected at least 1"),
        ({"share": 2}, "share: got 2, expected 0 < share <= 1"),
        ({"candidates": 0}, "candidates: got 0, expected at least 2"),
        ({"images": 2 * pictures()}, r"images: got values 0\.\d+ to 1\.\d+, expected within \(0.0, 1.0\)"),
    ],
)
def test_mistakes_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        uap(network(), **{"images": pictures()} | wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: got 0.0, expected a finite number above 0"),
        ({"steps": 0}, "steps: got 0, expected at least 1"),
        ({"at": ["7"]}, r"at: got \['7'\], expected names of modules, or a model with ReLUs"),
        ({}, r"at: got \[\], expected names of modules, or a model with ReLUs"),
        ({"at": ["1.idle"]}, r"at: got \['1.idle'\], expected modules that the model calls"),
        (
            {"background": pictures()},
            r"images: got torch.float32 of shape \[1, 30, 3, 4, 5\], expected floats B x C x H x W",
        ),
    ],
)
def test_mistakes_of_gd_uap_are_named(wrong, message):
    model = network()
    model[1].register_module("idle", nn.Identity())
    with pytest.raises(ValueError, match=message):
        gd_uap(model, **{"background": pictures()[0]} | wrong)


def test_images_are_predicted_in_parts_and_left_alone(monkeypatch):
    monkeypatch.setattr(universal, "PART", 7)
    sizes, images = [], 2 * pictures() - 1
    model, plain = (nn.Sequential(nn.ReLU(inplace=inplace), *network()) for inplace in (True, False))
    model.register_forward_hook(lambda *args: sizes.append(len(args[1][0])))
    v = torch.full((3, 4, 5), 0.5)
    changed = plain(images + v).argmax(1) != plain(images).argmax(1)
    assert fooling_rate(model, images, v, bounds=None) == pytest.approx(changed.double().mean().item())
    assert 0 < changed.sum() < 30
    assert torch.equal(images, 2 * pictures() - 1)
    assert sizes == [7, 7, 7, 7, 2] * 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value):
    model = network(act=nn.ReLU)
    model[3].bias.data[1] = value
    for attack in (uap, lambda model, images: fooling_rate(model, images, images[0])):
        with pytest.raises(ValueError, match="model: got logits with NaN or infinite values, expected finite ones"):
            attack(model, pictures(2))
    model[0].bias.data[1] = abs(value)  # which a ReLU lets through
    with pytest.raises(ValueError, match=r"model: got an objective of (nan|-inf), expected finite activations"):
        gd_uap(model[:2], pictures()[0], steps=2)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_networks_in_half_precision(dtype):
    model, images = network().to(dtype), pictures(4).to(dtype)
    exactly, options = copy.deepcopy(model).float(), {"epsilon": 0.1, "passes": 1}
    found, expected = uap(model, images, **options), uap(exactly, images.float(), **options)
    assert found.perturbation.dtype == torch.float32 and found.perturbation.abs().max() <= 0.1
    assert torch.cosine_similarity(found.perturbation.flatten(), expected.perturbation.flatten(), 0) > 0.95
    assert found.history == (fooling_rate(model, images, found.perturbation),)
    for epsilon in (0.1, 0.00025):  # also where it is lost in the network's own numbers
        options = {"epsilon": epsilon, "at": ["0"], "steps": 30}
        found, expected = gd_uap(model, images[0], **options), gd_uap(exactly, images[0].float(), **options)
        v = found.perturbation
        assert v.dtype == torch.float32 and v.abs().max() <= epsilon * (1 + 1e-6)
        assert torch.cosine_similarity(v.flatten(), expected.perturbation.flatten(), 0) > 0.9


def test_no_images_have_no_perturbation():
    for kind in ("classify", "segment"):
        found = uap(network(kind), pictures(0))
        assert torch.equal(found.perturbation, torch.zeros(3, 4, 5)) and found.history == ()
