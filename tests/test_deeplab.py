import torch
from torch import nn

from gpcore.networks import deeplab_small, deeplab_vgg16


def test_branches_add_up():
    """Logits = bilinear(sum of fc8(fc7(fc6))) over the four branches, written out by hand; rates as published."""
    network = deeplab_small(4).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        deepest = network.features(images)[1][4]
        scores = 0
        for i, rate in enumerate((1, 2, 4, 6), 1):
            fc6, fc7 = getattr(network, f"fc6_{i}"), getattr(network, f"fc7_{i}")
            x = nn.functional.conv2d(deepest, fc6.weight, padding=rate, dilation=rate)
            x = torch.relu(getattr(network, f"fc6_{i}_bn")(x))
            x = torch.relu(getattr(network, f"fc7_{i}_bn")(fc7(x)))
            scores = scores + getattr(network, f"fc8_{i}")(x)
        expected = nn.functional.interpolate(scores, scale_factor=8, mode="bilinear")
        assert torch.allclose(network(images), expected, atol=1e-5)
    assert [getattr(deeplab_vgg16(2), f"fc6_{i}").dilation[0] for i in (1, 2, 3, 4)] == [6, 12, 18, 24]
