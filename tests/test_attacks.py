"""Attacks of bounded size against foolbox, guided perturbation and numbers worked out by hand."""

import copy
import math
import re
import warnings

import pytest
import torch
from conftest import network
from torch import nn
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.testing import assert_close

from gpcore import attacks, guide
from gpcore.attacks import bim, cross_entropy, fgsm, pgd, project, projected_gradient, random_noise

pytestmark = pytest.mark.usefixtures("one_core")

ATTACKS = pytest.mark.parametrize("attack", [fgsm, bim, pgd])
KINDS = pytest.mark.parametrize("kind", ["classify", "segment"])
TARGETED = pytest.mark.parametrize("targeted", [False, True])
BALLS = pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.6)])


def pictures(batch=5):
    return torch.rand(batch, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def labels_for(model, images, targeted):
    """The network's classes, or the ones after them; of label maps the first column is void."""
    labels = (model(images).argmax(1) + targeted) % 4
    if labels.dim() == 3:
        labels[..., 0] = 255
    return labels


def loss(model, images, labels):
    """Cross-entropy of every image, summed over its pixels."""
    losses = torch_cross_entropy(model(images), labels, reduction="none", ignore_index=255)
    return losses.reshape(len(images), -1).sum(1).detach()


def size(delta, norm):
    return torch.linalg.vector_norm(delta.flatten(1), math.inf if norm == "linf" else 2, dim=1)


@pytest.mark.filterwarnings("ignore:Please import `gaussian_filter`:DeprecationWarning")  # foolbox, on import
@BALLS
@TARGETED
@ATTACKS
def test_foolbox(attack, targeted, norm, epsilon):
    import eagerpy
    import foolbox

    model, images = network("classify"), pictures()
    labels = labels_for(model, images, targeted)
    ours = attack(model, images, labels, epsilon, norm=norm, targeted=targeted).images
    steps, step_size = {fgsm: (1, epsilon), bim: (10, epsilon / 4), pgd: (40, epsilon / 16)}[attack]
    name = {"linf": "Linf", "l2": "L2"}[norm] + "BasicIterativeAttack"
    theirs = getattr(foolbox.attacks, name)(abs_stepsize=step_size, steps=steps, random_start=attack is pgd)
    noise = eagerpy.astensor(random_noise(images, epsilon, norm))
    theirs.get_random_start = lambda x, epsilon: x + noise
    criteria = foolbox.criteria
    wanted = (criteria.TargetedMisclassification if targeted else criteria.Misclassification)(labels)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    assert_close(ours, theirs.run(wrapped, images, wanted, epsilon=epsilon), atol=1e-12, rtol=0)
    assert ((ours == 0) | (ours == 1)).any() and not torch.equal(ours, images)


@KINDS
@TARGETED
def test_fgsm_is_guided_perturbation_with_the_other_sign(kind, targeted):
    model, images = network(kind), pictures()
    labels = labels_for(model, images, targeted)
    epsilon = 0.05 if targeted else -0.05
    expected = guide(model, images, epsilon, labels=labels, bounds=(0, 1)).images
    assert torch.equal(fgsm(model, images, labels, 0.05, targeted=targeted).images, expected)


@pytest.mark.parametrize("targeted", [1, 0])
def test_many_small_nudges_add_up(targeted):
    """The lecture's example: in ten dimensions a nudge of .5 each moves the score from -3 to 2."""
    x = torch.tensor([2.0, -1, 3, -2, 2, 2, 1, -4, 5, 1]).view(1, 1, 1, 10)
    w = torch.tensor([-1.0, -1, 1, -1, 1, -1, 1, 1, -1, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 2, bias=False))
    model[1].weight.data = torch.stack([0 * w, w])
    label = torch.tensor([targeted])
    moved = fgsm(model, x, label, 0.5, targeted=bool(targeted), bounds=None, check=False).images
    assert torch.equal(moved.flatten() - x.flatten(), 0.5 * w)
    scores = torch.cat([model(x), model(moved)])
    assert scores[:, 1].tolist() == [-3, 2]
    assert [round(p, 4) for p in scores.softmax(1)[:, 1].tolist()] == [0.0474, 0.8808]


@KINDS
@BALLS
@TARGETED
@ATTACKS
def test_stays_in_ball_and_box_and_moves_the_loss(attack, targeted, norm, epsilon, kind):
    model, images = network(kind), pictures()
    labels = labels_for(model, images, targeted)
    found = attack(model, images, labels, epsilon, norm=norm, targeted=targeted)
    assert (size(found.images - images, norm) <= epsilon + 1e-12).all()
    assert found.images.min() >= 0 and found.images.max() <= 1 and found.images.is_contiguous()
    before, after = (loss(model, x, labels) for x in (images, found.images))
    assert ((after < before) if targeted else (after > before)).all()
    assert found.losses.shape == ({fgsm: 1, bim: 10, pgd: 40}[attack], 5)
    start = images if attack is not pgd else (images + random_noise(images, epsilon, norm)).clamp(0, 1)
    assert_close(found.losses[0], loss(model, start, labels))


def test_more_steps_are_stronger():
    model, images = network("segment"), pictures(20)
    labels = labels_for(model, images, False)
    one, ten = (loss(model, attack(model, images, labels, 0.1).images, labels) for attack in (fgsm, bim))
    assert ten.mean() > one.mean()
    assert_close(bim(model, images, labels, 0.1, steps=1, step_size=0.1).losses[0], loss(model, images, labels))


@ATTACKS
def test_what_a_network_says_where_void_has_no_influence(attack):
    model, images = network("segment"), pictures()
    labels = labels_for(model, images, False)
    expected = attack(model, images, labels, 0.1).images

    class Disturbed(nn.Module):
        def forward(self, x):
            noise = 9 * torch.randn(5, 4, 4, 5, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
            return {"out": model(x) + x.mean() * noise * (labels == 255).unsqueeze(1)}

    assert torch.equal(attack(Disturbed(), images, labels, 0.1).images, expected)
    assert torch.equal(attack(model, images, labels.where(labels != 255, 9), 0.1, void=9).images, expected)
    other = attack(model, images, labels.where(labels != 255, 0), 0.1).images
    assert not torch.equal(other, expected)
    assert torch.equal(
        attack(model, images, torch.full_like(labels, 255), 0.1, seed=1).losses[0], torch.zeros(5).double()
    )


def test_pixels_out_of_sight_stay():
    """With 1 x 1 convolutions no pixel sees another: where void, nothing moves."""
    model, images = nn.Conv2d(3, 4, 1).double(), pictures()
    labels = labels_for(model, images, False)
    moved = bim(model, images, labels, 0.1).images != images
    assert not moved[..., 0].any() and moved[..., 1:].all(1).any()


@KINDS
@BALLS
@ATTACKS
def test_an_image_does_not_depend_on_its_batch(attack, norm, epsilon, kind):
    model, images = network(kind), pictures()
    labels, generator = labels_for(model, images, False), torch.Generator().manual_seed(4)
    options = {"norm": norm, "seed": 4}
    whole = attack(model, images, labels, epsilon, **options)
    options["seed"] = generator  # goes on through the batches
    parts = [attack(model, images[i : i + 1], labels[i : i + 1], epsilon, **options) for i in range(5)]
    assert_close(torch.cat([part.images for part in parts]), whole.images, atol=1e-12, rtol=0)
    assert_close(torch.cat([part.losses for part in parts], 1), whole.losses)


def found_in(model):
    """All that must be left as it was found."""
    modules = [
        (m.training, sorted(vars(m)), [len(v) for k, v in vars(m).items() if "hooks" in k]) for m in model.modules()
    ]
    parameters = [(p.tolist(), p.requires_grad, p.grad) for p in model.parameters()]
    return modules, parameters, [b.tolist() for b in model.buffers()], torch.get_rng_state().tolist()


@ATTACKS
def test_the_model_is_left_as_found(attack):
    model, images = network("segment"), pictures()
    model = nn.Sequential(model, nn.BatchNorm2d(4).double(), nn.Dropout(0.5)).train()
    model[0][0].weight.requires_grad_(False)
    labels, found, given = torch.zeros(5, 4, 5, dtype=torch.long), found_in(model), images.clone()
    result = attack(model, images.requires_grad_(), labels, 0.1)
    assert found_in(model) == found
    assert torch.equal(images, given) and images.grad is None
    assert not result.images.requires_grad and not result.losses.requires_grad
    assert torch.equal(result.images, attack(model, images, labels, 0.1).images)  # the same dropout, the same start
    with pytest.raises(ValueError, match="labels"):
        attack(model, images, labels + 4, 0.1)
    assert found_in(model) == found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@ATTACKS
def test_cuda_gives_the_same(attack):
    model, images = network("segment"), pictures()
    labels = labels_for(model, images, False)
    expected = attack(model, images, labels, 0.1)
    found = attack(model.cuda(), images.cuda(), labels, 0.1)
    assert_close(found.images.cpu(), expected.images, atol=1e-10, rtol=0)
    assert_close(found.losses.cpu(), expected.losses)


@KINDS
def test_cross_entropy_and_its_gradient(kind):
    model, images = network(kind), pictures().requires_grad_()
    labels = labels_for(model, images, False)
    total = torch_cross_entropy(model(images), labels, reduction="sum", ignore_index=255)
    found, gradient = cross_entropy(model, labels)(images)
    assert_close(found, loss(model, images, labels))
    assert_close(gradient, torch.autograd.grad(total, images)[0])
    soft = model(pictures(5).flip(0)).softmax(1).detach()
    total = torch_cross_entropy(model(images), soft, reduction="sum")
    found, gradient = cross_entropy(model, soft)(images)
    assert_close(found.sum(), total.detach())
    assert_close(gradient, torch.autograd.grad(total, images)[0])


def towards(place):
    """Squared distance to a place: an objective without a network."""
    return lambda x: ((x - place).square().flatten(1).sum(1), 2 * (x - place))


def test_any_objective():
    images, place = torch.full((2, 1, 1, 2), 0.5), torch.tensor([[0.5, 1.1], [0.9, 0.8]]).view(2, 1, 1, 2)
    options = {"epsilon": 0.25, "step_size": 0.01, "steps": 100, "norm": "l2"}
    found = projected_gradient(towards(place), images.clone().requires_grad_(), **options)
    assert not found.images.requires_grad and not found.losses.requires_grad
    nearest = torch.tensor([[0.5, 0.75], [0.7, 0.65]]).view(2, 1, 1, 2)  # .25 toward (0, .6) and toward (.4, .3)
    assert_close(found.images, nearest, atol=1e-3, rtol=0)
    assert found.losses.shape == (100, 2)
    assert_close(found.losses[0], torch.tensor([0.36, 0.25]))
    far = projected_gradient(towards(place), images, **options | {"epsilon": math.inf})
    assert_close(far.images, place.clamp(0, 1), atol=0.011, rtol=0)
    away = projected_gradient(towards(place), images, **options, ascend=True).images
    assert_close(away, 1 - nearest, atol=1e-3, rtol=0)
    start = images + 0.1
    found = projected_gradient(towards(place), images, start=start, **options | {"steps": 1, "norm": "linf"})
    assert_close(found.images - start, torch.tensor([[-0.01, 0.01], [0.01, 0.01]]).view(2, 1, 1, 2))
    assert_close(found.losses, towards(place)(start)[0].unsqueeze(0))


def test_a_mean_over_views_by_hand():
    """Of an image (a, b): as it is and doubled with its sides swapped, (2 b, 2 a), both to come near (1, 0)."""
    place = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    objective = attacks.over_views(towards(place), [lambda x: x, lambda x: 2 * x.flip(-1)])
    loss, gradient = objective(torch.tensor([[0.5, 0.25], [0.0, 1.0]]).view(2, 1, 1, 2))
    # losses ((a - 1)^2 + b^2 + (2 b - 1)^2 + (2 a)^2) / 2; gradients (5 a - 1, 5 b - 2)
    assert_close(loss, torch.tensor([0.78125, 1.5]))
    assert_close(gradient.flatten(1), torch.tensor([[1.5, -0.75], [-1.0, 3.0]]))
    with pytest.raises(ValueError, match="views: got none, expected at least one"):
        attacks.over_views(towards(place), [])


def test_a_mean_over_views_is_autograds():
    model, images = network("classify"), pictures()
    labels = labels_for(model, images, False)
    views = [lambda x: x.flip(-1), lambda x: 0.7 * x.roll(1, 2) ** 2]
    loss, gradient = attacks.over_views(cross_entropy(model, labels), views)(images)
    leaf = images.clone().requires_grad_()
    expected = sum(torch_cross_entropy(model(view(leaf)), labels, reduction="none") for view in views) / 2
    assert_close(loss, expected.detach())
    assert_close(gradient, torch.autograd.grad(expected.sum(), leaf)[0])


@pytest.mark.parametrize("ascend", [False, True])
def test_the_best_iterate_is_kept_image_by_image(ascend):
    values = iter(torch.tensor([[3.0, 5, 2], [math.nan, 4, 1], [1, 9, 1], [2, 2, 1]]).unbind())
    images, sign = torch.zeros(3, 1, 1, 1), -1 if ascend else 1

    def objective(x):
        return sign * next(values), -sign * torch.ones_like(x)

    options = {"epsilon": math.inf, "step_size": 0.125, "steps": 3, "best": True, "ascend": ascend}
    found = projected_gradient(objective, images, **options)
    # the last, never stepped from, counts too; of equals the first does
    assert found.images.flatten().tolist() == [0.25, 0.375, 0.125]
    assert found.losses.shape == (4, 3)


def test_projection_by_hand():
    delta = torch.tensor([[3.0, -4], [0.3, 0.4], [0, 0]]).view(3, 1, 1, 2)
    assert project(delta, 1, "linf").flatten().tolist() == [1, -1, *delta[1].flatten().tolist(), 0, 0]
    assert_close(project(delta, 1, "l2").flatten(), torch.tensor([0.6, -0.8, 0.3, 0.4, 0, 0]))
    assert torch.equal(project(delta, 0, "l2"), torch.zeros_like(delta))
    assert torch.equal(project(delta, math.inf, "l2"), delta)


def test_random_noise_is_uniform_in_the_ball():
    images, state = torch.zeros(4000, 1, 1, 3), torch.get_rng_state()
    noise = random_noise(images, 0.5, "linf", seed=1)
    assert noise.abs().max() <= 0.5
    # within five standard deviations of the mean of a uniform number and of its square
    assert noise.mean().abs() < 5 * 0.5 / math.sqrt(3 * 12000)
    assert abs(noise.square().mean() - 0.25 / 3) < 5 * 0.25 * math.sqrt(4 / 45 / 12000)
    noise = random_noise(images, 0.5, "l2", seed=1)
    volumes = (size(noise, "l2") / 0.5) ** 3  # of the smaller ball: uniform in [0, 1]
    assert volumes.max() <= 1
    assert abs(volumes.mean() - 0.5) < 5 / math.sqrt(12 * 4000)
    assert noise.mean((0, 1, 2)).abs().max() < 5 * 0.5 / math.sqrt(5 * 4000)
    assert torch.equal(noise, random_noise(images, 0.5, "l2", seed=torch.Generator().manual_seed(1)))
    assert not torch.equal(noise, random_noise(images, 0.5, "l2", seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(random_noise(images[:7], 0.5, "l2", seed=1), noise[:7])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": -0.1}, "epsilon: got -0.1, expected at least 0"),
        ({"epsilon": math.nan}, "epsilon: got nan, expected at least 0"),
        ({"epsilon": math.inf}, "epsilon: got inf, expected a finite number, at least 0"),
        ({"steps": 0}, "steps: got 0, expected at least 1"),
        ({"step_size": -1.0}, "step_size: got -1.0, expected a finite number, at least 0"),
        ({"norm": "l1"}, "norm: got 'l1', expected one of linf, l2"),
        ({"step_size": math.inf}, "step_size: got inf, expected a finite number, at least 0"),
        ({"bounds": (0.5, 0.5)}, r"bounds: got \(0.5, 0.5\), expected \(low, high\) with low < high, or None"),
        ({"bounds": (0, 0.5)}, r"images: got values 0\.\d+ to 0\.\d+, expected within \(0, 0.5\)"),
        ({"bounds": (0.5, 1)}, r"images: got values 0\.\d+ to 0\.\d+, expected within \(0.5, 1\)"),
        (
            {"images": torch.zeros(3, 4, 5)},
            r"images: got torch.float32 of shape \[3, 4, 5\], expected floats B x C x H x W",
        ),
        ({"labels": torch.full((5,), 4)}, "labels: got class 4, expected 0 to 3 or void = 255"),
        (
            {"labels": torch.zeros(4, dtype=torch.long)},
            r"labels: got torch.int64 of shape \[4\], expected an integer map",
        ),
        ({"labels": torch.zeros(5, dtype=torch.long).numpy()}, "labels: got ndarray, expected integer classes"),
        ({"labels": torch.zeros(5, dtype=torch.bool)}, "labels: got torch.bool, expected integer classes"),
        ({"labels": torch.zeros(5, dtype=torch.complex64)}, "labels: got torch.complex64, expected integer classes"),
    ],
)
def test_mistakes_are_named(wrong, message):
    options = {"images": pictures(), "labels": torch.zeros(5, dtype=torch.long), "epsilon": 0.1} | wrong
    with pytest.raises(ValueError, match=message):
        pgd(network("classify"), **options)


def test_mistakes_of_the_parts_are_named():
    options, images = {"epsilon": 1, "step_size": 1, "steps": 1}, torch.zeros(1, 3, 4, 5)
    message = r"start: got shape \[1, 3, 4, 6\], expected that of the images, \[1, 3, 4, 5\]"
    with pytest.raises(ValueError, match=message):
        projected_gradient(towards(0), images, start=torch.zeros(1, 3, 4, 6), **options)
    with pytest.raises(ValueError, match=r"images: got values -1 to -1, expected within \(0.0, 1.0\)"):
        projected_gradient(towards(0), images - 1, **options)
    with pytest.raises(ValueError, match="epsilon: got inf, expected a finite number, at least 0"):
        random_noise(images, math.inf, "linf")
    with pytest.raises(ValueError, match="norm: got 'l3', expected one of linf, l2"):
        random_noise(torch.zeros(1, 3, 4, 5), 0.1, "l3")
    with pytest.raises(ValueError, match="norm: got 'l3', expected one of linf, l2"):
        attacks.project(torch.zeros(1, 3, 4, 5), 0.1, "l3")
    with pytest.raises(TypeError, match="step"):
        fgsm(network("classify"), pictures(), torch.zeros(5, dtype=torch.long), 0.1, step=1)


@pytest.mark.parametrize(
    ("scale", "shift", "last", "message"),
    [
        (255, 0, nn.Identity, "images: .* bytes"),
        (4, -2, nn.Identity, "images: .* normalised"),
        (1, 0, lambda: nn.Softmax(1), "model: .* probabilities"),
        (1, 0, lambda: nn.Sequential(nn.Conv2d(4, 1, 1), nn.Sigmoid()), "model: .* probabilities"),
        (1, 0, lambda: nn.Conv2d(4, 1, 1), None),
        (1.2, -0.1, nn.Identity, None),
    ],
)
def test_what_is_seldom_meant_is_mentioned_once(scale, shift, last, message):
    model, images = nn.Sequential(*network("segment"), last()).double(), scale * pictures() + shift
    arguments, options = (model, images, torch.zeros(5, 4, 5, dtype=torch.long), 0.1), {"steps": 3, "bounds": None}
    pgd(*arguments, check=False, **options)
    for action, calls in (("always", 1), ("default", 3)):
        with warnings.catch_warnings(record=True, action=action) as caught:
            for _ in range(calls):
                pgd(*arguments, **options)
        assert len(caught) == (message is not None)
        assert not caught or re.match(message, str(caught[0].message))


@ATTACKS
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(attack, value):
    model, images, labels = network("segment"), pictures(), torch.zeros(5, 4, 5, dtype=torch.long)
    model[2].bias.data[1] = value
    with pytest.raises(ValueError, match="model: got logits with NaN or infinite values, expected finite ones"):
        attack(model, images, labels, 0.1)
    root = nn.Sequential(nn.ReLU(), *network("segment"))
    root[0].forward = torch.sqrt  # whose gradient is infinite at zero
    images[2, 1, 2, 3] = 0
    with pytest.raises(ValueError, match="model: got a gradient with NaN or infinite values"):
        bim(root, images, labels, 0.1, norm="l2")


@BALLS
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_networks_in_half_precision(dtype, norm, epsilon):
    """Perturbations are in float32: within their bound, and as long as they should be where the network's are not."""
    model, images = network("segment").to(dtype), pictures().to(dtype)
    labels, exactly = labels_for(model, images, False), copy.deepcopy(model).float()
    for attack in (fgsm, pgd):
        found = attack(model, images, labels, epsilon, norm=norm)
        expected = attack(exactly, images.float(), labels, epsilon, norm=norm)
        assert found.images.dtype == found.losses.dtype == torch.float32
        moved = found.images - images.float()
        assert (size(moved, norm) <= epsilon + 1e-7).all()
        assert torch.cosine_similarity(moved.flatten(1), (expected.images - images.float()).flatten(1)).min() > 0.95
        assert_close(found.losses, expected.losses, atol=0, rtol=0.02)
    small = fgsm(model, images, labels, 0.00025, norm=norm, bounds=None).images - images.float()
    assert_close(size(small, norm), torch.full((5,), 0.00025), atol=1e-7, rtol=0)
    assert small.all()


@KINDS
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_empty_batch_stays_empty(norm, kind):
    model, none = network(kind), pictures(0)
    for attack, steps in ((fgsm, 1), (bim, 10), (pgd, 40)):
        found = attack(model, none, labels_for(model, none, False), 0.1, norm=norm, bounds=(0.6, 0.7))
        assert found.images.shape == (0, 3, 4, 5) and found.losses.shape == (steps, 0)
    assert random_noise(none, 0.1, norm).shape == none.shape
