"""Inpainting and generation against optima worked out by hand; the objective, its bound and what it may depend on."""

import copy
import io
import math

import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.nn.functional import cross_entropy, softplus
from torch.testing import assert_close
from tqdm import tqdm

from gpcore import synthesis
from gpcore.networks.fcn import fcn_small
from gpcore.synthesis import fill, generate, inpaint

pytestmark = pytest.mark.usefixtures("one_core")

BALLS = pytest.mark.parametrize(("norm", "epsilon", "step_size"), [("linf", 0.1, 0.02), ("l2", 0.6, 0.1)])


class Named(nn.Module):
    """Any network, its logits under "out"."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return {"out": self.network(x)}


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1)).double().eval()
    for parameter in model.parameters():
        parameter.data *= 3
    return Named(model)


def scene(batch=5):
    """Images, labels whose first column is void, and a hole in each image, which are all different."""
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(batch, 3, 4, 5, generator=draw, dtype=torch.float64)
    labels = torch.randint(4, (batch, 4, 5), generator=draw)
    labels[..., 0] = 255
    mask = torch.zeros(batch, 4, 5, dtype=torch.bool)
    for i in range(batch):
        mask[i, i % 3 : i % 3 + 2, 1 : 3 + i % 2] = True
    return images, labels, mask


def objective(model, x, start, labels, mask, outside, weight):
    """Of every image: mean cross-entropy, plus the weighted penalty of what has changed outside the hole."""
    values = []
    for z, label, change, hole in zip(model(x)["out"].detach(), labels, x - start, mask, strict=True):
        values.append(cross_entropy(z[None], label[None], ignore_index=255))
        kept = change[:, ~hole]
        values[-1] += weight * {"fixed": 0, "norm": kept.norm(), "mean": (kept**2).sum() / change.numel()}[outside]
    return torch.stack(values)


def size(delta, norm):
    return torch.linalg.vector_norm(delta.flatten(1), math.inf if norm == "linf" else 2, dim=1)


W = torch.tensor([[0.2, -0.4, 0.1], [1.2, -1.4, 2.1]], dtype=torch.float64)  # rows differ by (1, -1, 2)


def linear(bias):
    """Two classes by a plane of colours: class 1 leads by (1, -1, 2) . x + bias in every pixel."""
    model = nn.Conv2d(3, 2, 1).double()
    model.weight.data, model.bias.data = W.view(2, 3, 1, 1), torch.tensor([0.0, bias], dtype=torch.float64)
    return model


def test_fill_is_the_mean_colour_of_what_is_known():
    image = torch.tensor([[[0.1, 0.2, 0.9], [0.3, 0.6, 0.8]], [[0.0, 1.0, 0.5], [0.5, 0.5, 0.7]]])
    mask = torch.tensor([[False, False, True], [False, False, True]])
    filled = fill(torch.stack([image, image]), torch.stack([mask, torch.ones_like(mask)]))
    assert torch.equal(filled[0, ..., :2], image[..., :2])
    assert_close(filled[0, ..., 2], torch.tensor([[0.3, 0.3], [0.5, 0.5]]))
    assert_close(filled[1], torch.tensor([2.9 / 6, 3.2 / 6]).view(2, 1, 1).expand(2, 2, 3))
    assert torch.equal(fill(image[None], torch.zeros_like(mask)[None]), image[None])


@pytest.mark.parametrize(
    ("norm", "unit"),
    [("l2", [1 / math.sqrt(6), -1 / math.sqrt(6), 2 / math.sqrt(6)]), ("linf", [1, -1, 1])],
)
def test_generation_of_a_linear_network_by_hand(norm, unit):
    """Grey is on the border: every pixel goes straight to its side of it, as far as its share of epsilon leads."""
    model, labels = linear(-1.0), torch.tensor([[[0, 1, 1], [1, 0, 255]]])
    epsilon = 0.3 if norm == "l2" else 0.1
    images = torch.full((1, 3, 2, 3), 0.5, dtype=torch.float64)
    found = generate(model, images, labels, epsilon=epsilon, step_size=0.02, norm=norm)
    length = epsilon / math.sqrt(5) if norm == "l2" else epsilon
    side = torch.tensor([[-1, 1, 1], [1, -1, 0]], dtype=torch.float64)
    unit = torch.tensor(unit, dtype=torch.float64)
    assert_close(found.images[0], 0.5 + length * side * unit.view(3, 1, 1), atol=1e-9, rtol=0)
    lead = torch.tensor([1.0, -1, 2], dtype=torch.float64) @ unit * length
    assert_close(found.losses[[0, -1], 0], torch.stack([torch.tensor(2.0).double().log(), softplus(-lead)]))


def corners(known=255):
    """Four pixels on the border of a linear network's classes: one is the hole, two beside it are of class 1."""
    images = torch.tensor([0.5, 0.6, 0.4], dtype=torch.float64).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    mask, labels = torch.tensor([[[True, False], [False, False]]]), torch.tensor([[[known, 1], [1, 255]]])
    return linear(-0.7), images, labels, mask


def mean_square(weight):
    """sigma(-lead) / pixels is balanced by 2 weight t / values; the lead, |w|^2 t = 6 t, is 0 at first."""
    return brentq(lambda t: 1 / (1 + math.exp(6 * t)) / 2 - 2 * weight * t / 12, 0, 10)


@pytest.mark.parametrize(
    ("outside", "weight", "t"),
    [
        ("mean", 4.0, mean_square(4)),
        ("mean", 10.0, mean_square(10)),
        # CE falls by sigma(-6 t) |w| / sqrt(2), at most sqrt(3) / 2, per unit of the norm of both pixels
        ("norm", math.sqrt(3) / 4, math.log(3) / 6),  # sigma(-log(3)) = 1/4
        ("norm", 0.87, 0.0),
        ("fixed", 10.0, 0.0),
    ],
)
def test_inpainting_with_a_linear_network_by_hand(outside, weight, t):
    """How far, times (1, -1, 2), the two pixels go that have a label and are no hole."""
    model, images, labels, mask = corners()
    options = {"epsilon": math.inf, "step_size": 1e-3, "steps": 800, "bounds": None}
    found = inpaint(model, images, labels, mask, outside=outside, weight=weight, **options)
    expected = fill(images, mask)
    expected[0, :, [0, 1], [1, 0]] += t * torch.tensor([[1.0], [-1], [2]], dtype=torch.float64)
    assert_close(found.images, expected, atol=2e-3 if t else 0, rtol=0)
    assert torch.equal(found.images[..., 0, 0], fill(images, mask)[..., 0, 0])  # no label pulls at the hole


@pytest.mark.parametrize(("outside", "price"), [("fixed", 0), ("norm", 0.1), ("mean", 0.1**2 / 12)])
def test_the_objective_after_one_step_by_hand(outside, price):
    """A step of .1 is shared by two pixels outside the hole: each gains .1 |w| / sqrt(2) = .1 sqrt(3) of lead."""
    model, images, labels, mask = corners()
    found = inpaint(model, images, labels, mask, outside=outside, weight=4, step_size=0.1, steps=1)
    lead = torch.tensor([0.0, 0.1 * math.sqrt(3) * (outside != "fixed")], dtype=torch.float64)
    assert_close(found.losses[:, 0], softplus(-lead) + torch.tensor([0, 4 * price], dtype=torch.float64))


@BALLS
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_what_is_fixed_stays_to_the_last_bit(norm, epsilon, step_size, noise):
    model, (images, labels, mask) = network(), scene()
    options = {"norm": norm, "epsilon": epsilon, "step_size": step_size, "steps": 20, "noise": noise}
    found = inpaint(model, images, labels, mask, outside="fixed", **options)
    kept = ~mask.unsqueeze(1).expand_as(images)
    assert torch.equal(found.images[kept], images[kept])
    assert torch.equal(found.images, inpaint(model, images, labels, mask, weight=0, **options).images)


def test_all_of_a_step_goes_into_the_hole_where_the_rest_is_fixed():
    model, images, labels, mask = corners(known=1)
    found = inpaint(model, images, labels, mask, epsilon=0.25, step_size=0.1, steps=4, outside="fixed")
    expected = images.clone()
    expected[0, :, 0, 0] += 0.25 / math.sqrt(6) * torch.tensor([1.0, -1, 2], dtype=torch.float64)
    assert_close(found.images, expected)


@BALLS
@pytest.mark.parametrize(("outside", "weight"), [("fixed", 10.0), ("norm", 0.1), ("mean", 0.0), ("mean", 10.0)])
def test_inpainting_lowers_its_objective_within_ball_and_box(norm, epsilon, step_size, outside, weight):
    model, (images, labels, mask) = network(), scene()
    options = {"epsilon": epsilon, "step_size": step_size, "steps": 40, "norm": norm}
    found = inpaint(model, images, labels, mask, outside=outside, weight=weight, **options)
    start = fill(images, mask)
    assert found.losses.shape == (41, 5)
    assert_close(found.losses[0], objective(model, start, start, labels, mask, outside, weight))
    assert_close(found.losses.amin(0), objective(model, found.images, start, labels, mask, outside, weight))
    assert (found.losses.amin(0) < 0.98 * found.losses[0]).all()
    assert (size(found.images - start, norm) <= epsilon + 1e-12).all()
    assert (size(found.images - start, norm) > 0.9 * epsilon).any()
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert (found.images != start).movedim(1, -1)[mask].all()


def test_the_penalty_keeps_what_is_known():
    """A change outside the hole must pay for itself: weight * mean square <= what the cross-entropy falls by."""
    model, (images, labels, mask) = network(), scene()
    options, changes = {"epsilon": 2, "step_size": 0.02, "steps": 100}, []
    for weight in (0, 10, 100):
        found = inpaint(model, images, labels, mask, outside="mean", weight=weight, **options)
        changes.append(((found.images - images) * ~mask.unsqueeze(1)).square().flatten(1).mean(1))
        assert (weight * changes[-1] <= found.losses[0] - found.losses.amin(0)).all()
        assert weight or (100 * changes[-1] > found.losses[0]).all()  # 100 would not have allowed that
    assert (changes[1] < changes[0]).all() and (changes[2] < changes[1]).all()


@pytest.mark.parametrize(("norm", "step_size"), [("linf", 0.4), ("l2", 0.8)])
def test_each_image_keeps_its_best_iterate(norm, step_size):
    """Steps so long that they go to and fro: what is returned is where an image's objective was least."""
    model, (images, labels, mask) = network(), scene()
    options = {"norm": norm, "epsilon": 9, "step_size": step_size, "outside": "mean"}
    found = inpaint(model, images, labels, mask, steps=6, **options)
    best = found.losses.argmin(0).tolist()
    assert len(set(best)) >= 3
    for i in range(5):  # a run that ends there, where it can have no better one
        upto = inpaint(model, images, labels, mask, steps=max(best[i], 1), **options)
        assert torch.equal(upto.images[i], found.images[i])
        assert torch.equal(upto.losses, found.losses[: len(upto.losses)])


def test_nothing_of_the_hole_or_beyond_the_mean_is_used():
    model, (images, labels, mask) = network(), scene()
    other = torch.where(mask.unsqueeze(1), images.flip(0), images)
    assert not torch.equal(other, images)
    first, second = (inpaint(model, x, labels, mask, steps=5, epsilon=1) for x in (images, other))
    assert torch.equal(first.images, second.images) and torch.equal(first.losses, second.losses)
    first, second = (generate(model, x, labels, steps=5, epsilon=1) for x in (images, images.flip(2, 3)))
    assert_close(first.images, second.images)
    still = generate(model, images, labels, steps=1, step_size=0).images
    assert_close(still, images.mean((2, 3), keepdim=True).expand_as(images))


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_generation_is_inpainting_where_all_is_a_hole(noise):
    model, (images, labels, _) = network(), scene()
    found = generate(model, images, labels, epsilon=0.6, step_size=0.1, steps=30, noise=noise)
    start = generate(model, images, labels, step_size=0, steps=1, noise=noise).images
    assert_close(found.losses.amin(0), objective(model, found.images, start, labels, labels == labels, "mean", 10))
    assert (found.losses.amin(0) < 0.95 * found.losses[0]).all()
    assert (size(found.images - start, "l2") <= 0.6 + 1e-12).all()


@BALLS
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_an_image_does_not_depend_on_its_batch(norm, epsilon, step_size, noise):
    model, (images, labels, mask) = network(), scene()
    labels[2] = labels[2].where(labels[2] == 0, 255)
    options = {"norm": norm, "epsilon": epsilon, "step_size": step_size, "steps": 20, "noise": noise}
    whole = inpaint(model, images, labels, mask, seed=3, **options)
    draw = torch.Generator().manual_seed(3)  # goes on through the batches
    parts = [
        inpaint(model, *part, seed=draw, **options)
        for part in zip(images.split(1), labels.split(1), mask.split(1), strict=True)
    ]
    assert_close(torch.cat([part.images for part in parts]), whole.images, atol=1e-12, rtol=0)
    assert_close(torch.cat([part.losses for part in parts], 1), whole.losses)


def test_noise_depends_on_the_seed_and_stays_in_the_hole():
    model, (images, labels, mask) = network(), scene()
    options, state = {"noise": 0.2, "steps": 3, "epsilon": 1}, torch.get_rng_state()
    first, again, other = (inpaint(model, images, labels, mask, seed=seed, **options) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images) and torch.equal(first.losses, again.losses)
    assert not torch.equal(first.losses, other.losses)
    assert torch.equal(torch.get_rng_state(), state)
    start = inpaint(model, images, labels, mask, **options | {"steps": 1, "step_size": 0}).images
    noise = (start - fill(images, mask)).movedim(1, -1)
    assert not noise[~mask].any() and noise[mask].all()
    assert 0.1 < noise.abs().max() <= 0.2


def test_noise_is_clipped():
    start = inpaint(network(), *scene(), noise=3, steps=1, step_size=0).images
    assert start.min() == 0 and start.max() == 1


def test_void_pixels_count_nothing():
    model, (images, labels, mask) = network(), scene()
    expected = inpaint(model, images, labels, mask, steps=5)
    found = inpaint(model, images, labels.where(labels != 255, 9), mask, steps=5, void=9)
    assert torch.equal(found.images, expected.images) and torch.equal(found.losses, expected.losses)
    labels[1] = 255
    found = inpaint(model, images, labels, mask, steps=5)
    assert torch.equal(found.images[1], fill(images, mask)[1]) and not found.losses[:, 1].any()
    assert torch.equal(found.images[2:], expected.images[2:])


def test_any_segmentation_network():
    torch.manual_seed(0)
    model = fcn_small(11).eval()
    images, labels = torch.rand(2, 3, 32, 40), torch.arange(11).repeat_interleave(117)[:1280].view(1, 32, 40)
    mask = torch.zeros(2, 32, 40, dtype=torch.bool)
    mask[:, 8:24, 8:24] = True
    found = inpaint(model, images, labels.expand(2, -1, -1), mask, steps=4)
    assert found.images.shape == images.shape and (found.losses[-1] < found.losses[0]).all()
    named = inpaint(Named(model), images, labels.expand(2, -1, -1), mask, steps=4)
    assert torch.equal(named.images, found.images)


def found_in(model):
    """All that must be left as it was found."""
    hooks = [len(v) for m in model.modules() for k, v in vars(m).items() if "hooks" in k]
    parameters = [(p.tolist(), p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [b.tolist() for b in model.buffers()]
    return hooks, parameters, buffers, [m.training for m in model.modules()], torch.get_rng_state().tolist()


def test_the_model_is_left_as_found():
    images, labels, mask = scene()
    layers = [network().network, nn.BatchNorm2d(4).double(), nn.Dropout(0.5)]
    model, given = nn.Sequential(*layers).train(), images.clone()
    layers[0][0].weight.requires_grad_(False)
    found = found_in(model)
    result = inpaint(model, images.requires_grad_(), labels, mask, steps=3)
    assert found_in(model) == found
    assert torch.equal(images, given) and images.grad is None
    assert not result.images.requires_grad and not result.losses.requires_grad
    assert torch.equal(result.images, inpaint(model, images, labels, mask, steps=3).images)  # the same dropout
    with pytest.raises(ValueError, match="labels"):
        generate(model, images, labels + 4)
    assert found_in(model) == found


def test_a_bar_shows_how_far_it_is(monkeypatch):
    bars = []

    def bar(**options):
        bars.append(tqdm(**options, disable=False, file=io.StringIO()))
        return bars[-1]

    monkeypatch.setattr(synthesis, "progress", bar)
    inpaint(network(), *scene(), steps=7)
    assert [(each.n, each.total) for each in bars] == [(8, 8)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@BALLS
def test_cuda_gives_the_same(norm, epsilon, step_size):
    model, parts = network(), scene()
    options = {"norm": norm, "epsilon": epsilon, "step_size": step_size, "steps": 10, "noise": 0.1}
    expected = inpaint(model, *parts, **options)
    model.cuda()
    for cuda in ([part.cuda() for part in parts], [parts[0].cuda(), *parts[1:]]):
        found = inpaint(model, *cuda, **options)
        assert_close(found.images.cpu(), expected.images, atol=1e-10, rtol=0)
        assert_close(found.losses.cpu(), expected.losses)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": -0.1}, "epsilon: got -0.1, expected at least 0"),
        ({"steps": 0}, "steps: got 0, expected at least 1"),
        ({"step_size": math.nan}, "step_size: got nan, expected a finite number, at least 0"),
        ({"norm": "l1"}, "norm: got 'l1', expected one of linf, l2"),
        ({"outside": "free"}, "outside: got 'free', expected one of fixed, norm, mean"),
        ({"weight": -1}, "weight: got -1, expected a finite number, at least 0"),
        ({"weight": math.inf}, "weight: got inf, expected a finite number, at least 0"),
        ({"noise": math.inf}, "noise: got inf, expected a finite number, at least 0"),
        ({"noise": -0.1}, "noise: got -0.1, expected a finite number, at least 0"),
        ({"images": 2 * scene()[0]}, r"images: got values 0\.\d+ to 1\.\d+, expected within \(0.0, 1.0\)"),
        ({"labels": scene()[1].clamp_max(4)}, "labels: got class 4, expected 0 to 3 or void = 255"),
        ({"labels": scene()[1].double()}, "labels: got torch.float64, expected integer classes"),
        ({"labels": scene()[1].numpy()}, "labels: got ndarray, expected integer classes"),
        ({"labels": scene()[1] > 1}, "labels: got torch.bool, expected integer classes"),
        ({"labels": scene()[1] * 1j}, "labels: got torch.complex64, expected integer classes"),
        ({"labels": scene(4)[1]}, r"labels: got torch.int64 of shape \[4, 4, 5\], expected an integer map of shape"),
        ({"mask": scene(4)[2]}, r"mask: got torch.bool of shape \[4, 4, 5\], expected torch.bool of shape \[5, 4, 5\]"),
        ({"mask": scene()[2].int()}, r"mask: got torch.int32 of shape \[5, 4, 5\], expected torch.bool of shape"),
    ],
)
def test_mistakes_are_named(wrong, message):
    options = dict(zip(("images", "labels", "mask"), scene(), strict=True)) | wrong
    with pytest.raises(ValueError, match=message):
        inpaint(network(), **options)


def test_images_without_a_network_are_checked_too():
    images, labels, mask = scene()
    for wrong in (images[0], (255 * images).byte()):
        for run in (lambda x: fill(x, mask), lambda x: generate(network(), x, labels)):
            with pytest.raises(ValueError, match=r"images: got .* expected floats B x C x H x W"):
                run(wrong)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value):
    model, (images, labels, mask) = network(), scene()
    model.network[2].bias.data[1] = value
    for run in (lambda: inpaint(model, images, labels, mask), lambda: generate(model, images, labels)):
        with pytest.raises(ValueError, match="model: got logits with NaN or infinite values, expected finite ones"):
            run()


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_networks_in_half_precision(dtype):
    model, (images, labels, mask) = network().to(dtype), scene()
    images, exactly = images.to(dtype), copy.deepcopy(model).float()
    for run, holes, options in ((inpaint, [mask], {"epsilon": 0.3}), (generate, [], {"epsilon": 0.01})):
        options |= {"step_size": options["epsilon"] / 4, "steps": 6}
        found, expected = (
            run(m, x, labels, *holes, **options) for m, x in ((model, images), (exactly, images.float()))
        )
        assert found.images.dtype == found.losses.dtype == torch.float32
        start = fill(images.float(), *holes or [torch.ones_like(mask)])
        moved, exact = ((each.images - start).flatten(1) for each in (found, expected))
        assert (size(moved, "l2") <= options["epsilon"] + 1e-7).all()
        assert torch.cosine_similarity(moved, exact).min() > 0.95
        assert_close(found.losses, expected.losses, atol=0, rtol=0.02)
        assert (found.losses.amin(0) < found.losses[0]).all()


def test_an_empty_batch_stays_empty():
    model, (images, labels, mask) = network(), scene(0)
    for found in (
        inpaint(model, images, labels, mask, steps=3, bounds=(0.6, 0.7)),
        generate(model, images, labels, steps=3, noise=0.1),
    ):
        assert found.images.shape == (0, 3, 4, 5) and found.losses.shape == (4, 0)
    assert fill(images, mask).shape == images.shape
