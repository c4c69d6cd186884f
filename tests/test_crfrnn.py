import math
from collections import Counter

import numpy as np
import pytest
import torch
from pydensecrf import densecrf
from test_crf import array, pairwise, smooth
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from gpcore import GuidedPerturbation, guide
from gpcore.networks import crfrnn
from gpcore.networks.crfrnn import CRFRNN, MeanField
from gpcore.networks.fcn import fcn_small

NAN = math.nan


class Given(nn.Module):
    """A network that answers `logits` whatever the image is."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits


def matrices(classes, seed=0):
    """Neither symmetric nor diagonal, so that a transposed or skipped one shows."""
    generator = torch.Generator().manual_seed(seed)
    names = ("spatial", "bilateral", "compatibility")
    return {name: torch.randn(classes, classes, generator=generator, dtype=torch.float64) for name in names}


@pytest.mark.parametrize("seed", range(3))
def test_mean_field_is_pydensecrfs(seed):
    """Five steps from the initial weights end where pydensecrf does, 0.01 away on average over pixels and classes.

    Its lattice only approximates the Gaussians; where two classes are close the steps amplify that, so single pixels
    differ by up to 0.3. The unary, a wrong sign, exchanged weights or bandwidths are at least five times as far away.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width, classes = 24, 20, 4
    image = (smooth(3, height, width, generator) * 255).round() / 255
    logits = 3 * smooth(classes, height, width, generator) + torch.randn(1, classes, height, width, generator=generator)
    options = pairwise("NORMALIZE_AFTER")
    theirs = densecrf.DenseCRF2D(width, height, classes)
    theirs.setUnaryEnergy(array(-logits[0].log_softmax(0).flatten(1), np.float32))
    theirs.addPairwiseGaussian(sxy=3, compat=3, **options)
    rgb = array((image[0] * 255).round().permute(1, 2, 0), np.uint8)
    theirs.addPairwiseBilateral(sxy=60, srgb=60, rgbim=rgb, compat=5, **options)
    expected = torch.from_numpy(np.array(theirs.inference(5))).view(classes, height, width)

    def distance(alpha=60, gamma=3, **scales):
        model = CRFRNN(Given(logits), classes, alpha=alpha, beta=60, gamma=gamma)
        with torch.no_grad():
            for name, scale in scales.items():
                getattr(model, name).mul_(scale)
            return (model(image).softmax(1)[0] - expected).abs()

    near = distance().mean()
    assert near < 0.012 and distance().max() < 0.35
    assert 5 * near < (logits[0].softmax(0) - expected).abs().mean()
    assert 5 * near < distance(compatibility=-1).mean()
    assert 5 * near < distance(spatial=5 / 3, bilateral=3 / 5).mean()
    assert 5 * near < distance(alpha=3, gamma=60).mean()


def test_one_step_by_hand():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 3, 4, generator=generator).double()
    logits = torch.randn(1, 3, 3, 4, generator=generator).double()
    weights, alpha, beta, gamma = matrices(3), 2.0, 60.0, 1.5
    q, rgb = logits[0].softmax(0).numpy(), image[0].numpy() * 255
    pixels = [(y, x) for y in range(3) for x in range(4)]
    expected = logits[0].numpy().copy()
    for y, x in pixels:
        sums, norms = np.zeros((2, 3)), np.zeros(2)
        for v, u in pixels:
            distance, colour = (y - v) ** 2 + (x - u) ** 2, ((rgb[:, y, x] - rgb[:, v, u]) ** 2).sum()
            near = np.exp(-distance / 2 / gamma**2)
            alike = np.exp(-distance / 2 / alpha**2 - colour / 2 / beta**2)
            sums += [near * q[:, v, u], alike * q[:, v, u]]
            norms += [near, alike]
        spatial, bilateral, compatibility = (w.numpy() for w in weights.values())
        expected[:, y, x] -= compatibility @ (spatial @ (sums[0] / norms[0]) + bilateral @ (sums[1] / norms[1]))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        model = CRFRNN(Given(logits.to(dtype)), 3, iterations=1, alpha=alpha, beta=beta, gamma=gamma)
        ours = functional_call(model, {n: w.to(dtype) for n, w in weights.items()}, image.to(dtype))[0]
        assert np.abs(ours.numpy() - expected).max() < tolerance


@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(stride):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 3, 5, generator=generator).double()
    logits = torch.randn(2, 2, 3, 5, generator=generator).double()

    def run(logits, *weights):
        model = CRFRNN(Given(logits), 2, stride=stride, iterations=3, alpha=2, beta=60)
        return functional_call(model, dict(zip(matrices(2), weights, strict=True)), image)

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in (logits, *matrices(2).values())])


def test_stride_runs_the_mean_field_on_the_pooled_image():
    """The same as on means of 2 x 2 pixels, fewer at the border, with bandwidths in their own, larger pixels."""
    image, logits = torch.rand(2, 3, 5, 7).double(), torch.randn(2, 4, 5, 7).double()
    padded = (nn.functional.pad(x, [0, 1, 0, 1], value=NAN) for x in (image, logits))
    pooled = [x.unflatten(3, (4, 2)).unflatten(2, (3, 2)).nanmean((3, 5)) for x in padded]
    small = CRFRNN(Given(pooled[1]), 4, alpha=5, beta=60, gamma=1.5).double()(pooled[0]) - pooled[1]
    upsampled = nn.functional.interpolate(small, scale_factor=2, mode="bilinear")[..., :5, :7]
    large = CRFRNN(Given(logits), 4, stride=2, alpha=10, beta=60, gamma=3).double()(image)
    assert torch.allclose(large, logits + upsampled, atol=1e-8)
    assert upsampled.abs().max() > 1


def test_defaults():
    image, logits = 0.5 + 0.02 * torch.rand(1, 3, 9, 40), torch.randn(1, 4, 9, 40)
    settings = {"stride": 1, "iterations": 5, "alpha": 160, "beta": 3, "gamma": 3}
    assert torch.equal(CRFRNN(Given(logits), 4)(image), CRFRNN(Given(logits), 4, **settings)(image))


def test_single_precision_is_enough_for_bright_images():
    image = 1 - 0.1 * torch.rand(1, 3, 9, 11)
    single, double = (crfrnn._kernels(x, 1, 10, 1, 3)[2] for x in (image, image.double()))
    assert (single - double).abs().max() < 1e-3
    assert single.min() > 1e-30  # far from the denormal numbers that make products slow


def test_gradient_flows_through_the_logits_only():
    torch.manual_seed(0)
    network, image = nn.Conv2d(3, 4, 3, padding=1), torch.rand(1, 3, 8, 9, requires_grad=True)
    model = CRFRNN(network, 4, beta=60)
    model(image)[:, 0].sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    assert sorted(model.state_dict()) == ["bilateral", "compatibility", "network.bias", "network.weight", "spatial"]

    logits = network(image).detach().requires_grad_()
    output = CRFRNN(Given(logits), 4, beta=60)(image)
    (upper,) = torch.autograd.grad(output[:, 0].sum(), logits, retain_graph=True)
    assert torch.autograd.grad(output.sum(), image, allow_unused=True) == (None,)
    (expected,) = torch.autograd.grad(network(image), image, upper)
    assert expected.abs().max() > 0
    assert torch.allclose(image.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        ((3, 4, 5), {"classes": 0}, "classes: got 0, expected a whole number"),
        ((3, 4, 5), {"stride": 0}, "stride: got 0, expected a whole number"),
        ((3, 4, 5), {"iterations": 1.5}, "iterations: got 1.5, expected a whole number"),
        ((3, 4, 5), {"beta": 0.19}, "beta: got 0.19, expected a number of 0.2 to"),
        ((3, 4, 5), {"gamma": NAN}, "gamma: got nan"),
        ((3, 4, 5), {"alpha": math.inf}, "alpha: got inf"),
        ((2, 4, 5), {}, r"network: got logits \[1, 2, 4, 5\] on the grid, expected \[1, 3, 4, 5\]"),
        ((3, 2, 3), {}, r"network: got logits \[1, 3, 2, 3\] on the grid"),
    ],
)
def test_crfrnn_errors(logits, options, message):
    with pytest.raises(ValueError, match=message):
        CRFRNN(Given(torch.zeros(1, *logits)), **{"classes": 3, **options})(torch.rand(1, 3, 4, 5))


def test_a_large_grid_names_the_stride_that_fits(monkeypatch):
    message = r"stride: got 2, a grid of 180 x 240 = 43200 pixels.* 7.5 GB .* at most 16000 pixels: use stride=4"
    network = Given(None)
    network.register_forward_hook(lambda *_: pytest.fail("ran the network before"))
    with pytest.raises(ValueError, match=message):
        CRFRNN(network, 2, stride=2)(torch.rand(1, 3, 360, 480))
    monkeypatch.setattr(crfrnn, "LARGEST_GRID", 4)
    image, logits = torch.rand(1, 3, 7, 8), torch.randn(1, 2, 7, 8)  # 3 x 3 pixels with stride 3
    with pytest.raises(ValueError, match="use stride=4"):
        CRFRNN(Given(logits), 2)(image)
    assert CRFRNN(Given(logits), 2, stride=4)(image).shape == logits.shape


@pytest.fixture
def wrapped():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1))
    return CRFRNN(network, 4, stride=2, beta=60), torch.rand(2, 3, 9, 11)


@pytest.mark.parametrize("at", [None, "network.0", "network"])
def test_guided_perturbation_by_hand(wrapped, at):
    model, images = wrapped
    network, epsilon = model.network, 0.02
    parts = {None: (0, 3), "network.0": (1, 3), "network": (3, 3)}
    after = network[slice(*parts[at])]  # what is left of the network after the perturbed place
    place = network[: parts[at][0]](images).detach().requires_grad_()

    def run(place):
        whole = CRFRNN(Given(after(place)), 4, stride=2, beta=60)
        return whole(place if at is None else images)

    logits = run(place)
    target = nn.functional.one_hot(logits.argmax(1), 4).movedim(-1, 1)
    (gradient,) = torch.autograd.grad(logits, place, target - logits.softmax(1))
    out = guide(model, images, epsilon, at=at)
    assert not out.repeated
    assert gradient.abs().max() > 0
    assert torch.allclose(out.before, logits, atol=1e-5)
    assert torch.allclose(out.signal, gradient, atol=1e-5)
    expected = run(place + epsilon * gradient.sign())
    assert torch.allclose(out.after, expected, atol=1e-4)
    assert not torch.allclose(out.after, logits, atol=1e-3)
    assert torch.equal(GuidedPerturbation(model, epsilon, at=at)(images), out.output)


class Computed(TorchDispatchMode):
    """Counts what is computed, call by call of an operator; what a cut gives back is not."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func] += 1
        return func(*args, **(kwargs or {}))


def test_cut_inside_a_real_network_computes_the_kernels_once():
    model = CRFRNN(fcn_small(4, 8).eval(), 4, stride=2)
    with Computed() as computed:
        out = guide(model, torch.rand(1, 3, 48, 49), 0.01, at="network.pool4", steps=3)
    assert not out.repeated
    assert computed.count[torch.ops.aten.baddbmm.default] == 1  # of the bilateral kernel
    assert out.after.shape == (1, 4, 48, 49)


def test_behind_a_finished_network_it_is_the_same_layer():
    """Under the same matrices, from log y, whose softmax is y again."""
    generator = torch.Generator().manual_seed(0)
    y, images = torch.rand(2, 3, 8, 12, generator=generator).softmax(1), torch.rand(2, 3, 8, 12, generator=generator)
    options = {"stride": 2, "alpha": 20, "beta": 30, "gamma": 4}
    inside, behind = CRFRNN(Given(y.log()), 3, **options), MeanField(3, **options)
    for model in (inside, behind):
        model.load_state_dict({name: value.float() for name, value in matrices(3).items()})
    with torch.no_grad():
        assert torch.equal(behind(y, images), inside(images))
        assert torch.isfinite(behind(torch.eye(3).view(1, 3, 3, 1), torch.rand(1, 3, 3, 1))).all()  # where y is 0
