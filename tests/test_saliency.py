"""The three rules for ReLUs by hand and against captum, occlusion against captum and on the tripod, GrabCut."""

import warnings

import pytest
import torch
from captum import attr
from torch import nn
from torch.testing import assert_close

from gpcore import saliency
from gpcore.datasets import photographs
from gpcore.networks.efficientnet import efficientnet_lite0


@pytest.fixture
def two_layers():
    """Scores relu(2 a - b) - relu(a + b) + relu(-a - c) and relu(-a - c) of pixels a, b, c and d, which is not used."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).eval()
    network[1].weight.data = torch.tensor([[2.0, -1, 0, 0], [1, 1, 0, 0], [-1, 0, -1, 0]])
    network[3].weight.data = torch.tensor([[1.0, -1, 1], [0, 0, 1]])
    return network


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("gradient", [1.0, -2, 0, 0]),  # units 0 and 1 are on: (2, -1) - (1, 1)
        ("deconvnet", [1.0, -1, -1, 0]),  # signals 1, -1, 1: those of units 0 and 2 pass
        ("guided", [2.0, -1, 0, 0]),  # unit 0 alone
    ],
)
def test_rules_by_hand(two_layers, rule, expected):
    x = torch.tensor([0.9, 0.5, 0.2, 0.7]).view(1, 1, 2, 2)
    found = saliency.attribute(two_layers, x, saliency.score(0), rule=rule)
    assert_close(found, torch.tensor(expected).view(1, 1, 2, 2))
    method = getattr(attr, saliency.RULES[rule])(two_layers)
    options = {"abs": False} if rule == "gradient" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        theirs = method.attribute(x.clone().requires_grad_(), target=0, **options)
    assert_close(found, theirs.detach())
    assert not any(m._backward_hooks or m._forward_hooks or m._forward_pre_hooks for m in two_layers.modules())


def test_reads_by_hand():
    logits = torch.tensor([[1.0, 2, 3]]).log()
    assert_close(saliency.log_probability([0, 1])(logits), torch.tensor([0.5]).log())
    assert_close(saliency.score(2)(logits), torch.tensor([3.0]).log())
    h = torch.arange(8.0).view(1, 2, 2, 2)
    assert saliency.unit(1)(h).tolist() == [7]
    assert saliency.unit(1, (0, 1))(h).tolist() == [5]
    assert saliency.magnitude(torch.tensor([1.0, -3, 2]).view(1, 3, 1, 1)).tolist() == [[[3]]]


def test_a_unit_inside_is_read_there(two_layers):
    x = torch.tensor([0.9, 0.5, 0.2, 0.7]).view(1, 1, 2, 2)
    found = saliency.attribute(two_layers, x, lambda h: h[:, 1], at="1")
    assert_close(found.flatten(), torch.tensor([1.0, 1, 0, 0]))


def test_occlusion_against_captum():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    image = torch.rand(3, 4, 4)
    found = saliency.occlusion(network, image, [2], 2, 2)
    probability = nn.Sequential(network, nn.Softmax(1))
    lost = attr.Occlusion(probability).attribute(image[None], (3, 2, 2), (3, 2, 2), target=2)
    with torch.no_grad():
        assert_close(found, probability(image[None])[0, 2] - lost[0, 0, ::2, ::2])
    assert saliency.occlusion(network, image, [2], 2, 1).shape == (3, 3)


def test_what_hides_the_tripod_costs_most():
    image, tripod = photographs.photograph("camera"), photographs.classes("camera")
    left = saliency.occlusion(efficientnet_lite0(), image, tripod, 56, 56)
    assert left.shape == (4, 4)
    assert divmod(int(left.argmin()), 4) in {(2, 2), (3, 2)}  # rows 112 to 224, columns 112 to 168
    assert left.min() < 0.5 < 0.9 < left[0, 0]


def test_grabcut_goes_on_from_its_seed_to_all_of_the_objects_colour():
    """The seed, a twentieth of the picture, lies in the middle of a red square; no more than that is told of it."""
    draw, inside = torch.Generator().manual_seed(0), torch.zeros(32, 32, dtype=torch.bool)
    inside[8:24, 8:24] = True
    red, blue = torch.tensor([[0.9, 0.1, 0.1], [0.0, 0.0, 0.8]]).view(2, 3, 1, 1)
    image = torch.where(inside, red, blue) + 0.03 * torch.randn(3, 32, 32, generator=draw)
    salient = 0.1 * torch.rand(32, 32, generator=draw) + 0.5 * inside
    salient[12:20, 12:20] += 1
    seed = salient >= salient.quantile(0.95)
    assert seed.sum() < 0.25 * inside.sum() and not (seed & ~inside).any()
    assert torch.equal(saliency.grabcut(image, salient), inside)


def test_errors(two_layers):
    x = torch.rand(1, 1, 2, 2)
    with pytest.raises(ValueError, match="rule"):
        saliency.attribute(two_layers, x, saliency.score(0), rule="lrp")
    with pytest.raises(AttributeError):
        saliency.attribute(two_layers, x, saliency.score(0), at="nowhere")
    with pytest.raises(ValueError, match="size"):
        saliency.occlusion(two_layers, x[0], [0], 3, 1)
    with pytest.raises(ValueError, match="stride"):
        saliency.occlusion(two_layers, x[0], [0], 1, 0)
    with pytest.raises(ValueError, match="saliency"):
        saliency.grabcut(torch.rand(3, 4, 4), torch.rand(3, 4))
