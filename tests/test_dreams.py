"""Class images and dreams: by hand, against a few independent lines and scipy."""

import math

import pytest
import torch
from conftest import network
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.testing import assert_close

from gpcore.cut import activations
from gpcore.dreams import class_images, dream, regularised, smoothed


def flat(weights):
    """A linear classifier of 3 x 2 x 2 images; or, by "0", images as the one answer of a module."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, len(weights), bias=False)).double().eval()
    model[1].weight.data = weights
    return model


def test_class_images_of_a_linear_network_by_hand():
    """The first step from zeros goes along w; where w = 2 l2 I it goes no further. Each class has its own image."""
    weights = torch.arange(-10.0, 14).double().view(2, 12).roll(5, 1)
    model, classes = flat(weights), torch.tensor([1, 0, 1])
    options = {"bounds": None, "grey": 0.25}
    w = weights[classes].view(3, 3, 2, 2)
    length = 0.1 * math.sqrt(12) / w.flatten(1).norm(dim=1).view(3, 1, 1, 1)
    found = class_images(model, classes, 2, steps=1, step_size=0.1, **options)
    assert_close(found, 0.25 + length * w)
    found = class_images(model, classes, 2, l2=10.0, steps=400, step_size=0.05, settle=1.0, **options)
    assert_close(found, 0.25 + w / 20, atol=2e-3, rtol=0)
    assert (w / 20).abs().max() > 0.6


def test_class_images_against_the_decks_loop():
    """Zeros in; a one in the gradient of the scores; backprop; a small update; again. Logits and channels."""
    model = nn.Sequential(
        network("segment"), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).double()
    for at, part in (("", model), ("0.0", model[0][0])):
        found = class_images(model, torch.tensor([2, 3]), 6, at=at, l2=0.01, steps=4, step_size=0.1, bounds=(0.3, 0.7))
        for image, c in zip(found, (2, 3), strict=True):
            x = torch.full((1, 3, 6, 6), 127 / 255, dtype=torch.float64)
            for step in range(4):
                leaf = x.clone().requires_grad_()
                (part(leaf)[0, c].sum() - 0.01 * (leaf - 127 / 255).square().sum()).backward()
                x = (x + 0.1 * (1 - step / 8) * leaf.grad / leaf.grad.square().mean().sqrt()).clamp(0.3, 0.7)
            assert_close(image, x[0])


def test_a_dream_sends_back_the_activations_themselves():
    """By hand, h = A x: back comes A^T A x, the gradient of half of |A x|^2."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False).double(), nn.Conv2d(2, 3, 1).double())
    model[0].weight.data = torch.tensor([[1.0, 2], [0, 1]]).double().view(2, 2, 1, 1)
    x = torch.tensor([0.5, 0.25]).double().view(1, 2, 1, 1)
    back = torch.tensor([1.0, 2.25])  # A x = (1, 1/4)
    found = dream(model, x, "0", octaves=1, steps=1, step_size=0.1, bounds=None, jitter=3)
    assert_close(found.flatten() - x.flatten(), (0.1 * back / back.square().mean().sqrt()).double(), atol=1e-7, rtol=0)
    net, images = network("segment"), torch.rand(5, 3, 4, 5).double()
    leaf = images.clone().requires_grad_()
    (net[1](net[0](leaf)).square().sum() / 2).backward()
    step = 0.01 * leaf.grad / leaf.grad.square().mean((1, 2, 3), keepdim=True).sqrt()
    found = dream(net, images, "1", octaves=1, steps=1, step_size=0.01, jitter=0, bounds=(-1, 2))
    assert_close(found, images + step)


def test_what_octaves_and_jitter_may_do():
    """No step, no dream; a shift round the border means nothing to a network that looks at single pixels."""
    net, images = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).double(), torch.rand(2, 3, 20, 24).double()
    still = dream(net, images, "1", octaves=3, steps=2, step_size=0, jitter=4)
    assert_close(still, images)
    moved, fixed = (dream(net, images, "1", octaves=2, steps=3, jitter=jitter) for jitter in (5, 0))
    assert_close(moved, fixed)
    wide = network("segment")
    first, again, other = (dream(wide, images, "0", steps=2, jitter=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_blur_and_small_norms_by_hand():
    spike = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    spike[..., 4, 4] = 1
    expected = gaussian_filter(spike[0, 0].numpy(), 0.8, truncate=3.4, mode="nearest")  # reaches three pixels
    assert_close(regularised(spike, 0.8, 0)[0, 0], torch.from_numpy(expected))
    x = torch.tensor([[[[3.0, 0.1, 2.0, -1.0]], [[4.0, 0.1, 0.0, 0.0]]]])  # norms 5, .14, 2, 1
    assert regularised(x, 0, 0.5).tolist() == [[[[3, 0, 2, 0]], [[4, 0, 0, 0]]]]
    flat_image = torch.full((1, 3, 5, 5), 0.3)
    assert_close(regularised(flat_image, 1.5, 0), flat_image)


def test_activations_stop_at_their_module():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Linear(999, 1))  # what follows could not run
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(activations(model, x, "1"), model[1](model[0](x)))
    assert dream(model, x, "1", octaves=1, steps=2).shape == x.shape
    assert not any(each._forward_hooks for each in model.modules())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps: got 0, expected at least 1"),
        ({"jitter": -1}, "jitter: got -1, expected at least 0"),
        ({"octaves": 0}, "octaves: got 0, expected at least 1"),
        ({"images": torch.rand(3, 4, 4)}, "images: got torch.float32 of shape"),
        ({"images": 2 + torch.rand(1, 3, 4, 4)}, "images: got values 2"),
    ],
)
def test_mistakes_in_dreams_are_named(wrong, message):
    options = {"images": torch.rand(1, 3, 4, 4), "at": "0"} | wrong
    with pytest.raises(ValueError, match=message):
        dream(nn.Sequential(nn.Conv2d(3, 2, 1)), **options)


def test_mistakes_in_class_images_are_named():
    model = flat(torch.ones(2, 12).double())
    with pytest.raises(ValueError, match=r"sparsity: got 1\.0, expected 0 to below 1"):
        class_images(model, torch.tensor([0]), 2, sparsity=1.0)
    with pytest.raises(ValueError, match=r"labels: got torch\.float32, expected integer classes"):
        class_images(model, torch.tensor([0.0]), 2)


def test_frequencies_are_weighed_by_hand():
    """A wave of eight cycles in 32 pixels has a quarter of a cycle per pixel; the mean counts as one cycle in all."""
    wave = torch.cos(2 * math.pi * torch.arange(32.0).double() / 4).expand(1, 1, 32, 32)
    assert_close(smoothed(wave, 1.0), 4 * wave, atol=1e-4, rtol=0)
    assert_close(smoothed(wave.mT, 2.0), 16 * wave.mT, atol=1e-4, rtol=0)
    assert_close(smoothed(torch.ones(1, 1, 8, 8), 1.0), torch.full((1, 1, 8, 8), 8.0))
    assert torch.equal(smoothed(wave, 0.0), wave)
