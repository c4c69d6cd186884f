import pytest
import torch
from torch.testing import assert_close
from torchvision.models.vgg import cfgs, make_layers
from torchvision.transforms.functional import normalize

from gpcore.networks.deeplab import deeplab_small, deeplab_vgg16
from gpcore.networks.fcn import fcn_small, fcn_vgg16
from gpcore.networks.unet import unet_small, unet_vgg16
from gpcore.networks.vgg import SMALL, MaxPool, Trunk, load_imagenet_vgg16


@pytest.mark.parametrize("build", [fcn_vgg16, unet_vgg16, deeplab_vgg16])
def test_imagenet_weights_reach_every_convolution(build):
    source = make_layers(cfgs["D"])
    for convolution in (module for module in source if isinstance(module, torch.nn.Conv2d)):
        torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # activations keep their size
        torch.nn.init.uniform_(convolution.bias, -1, 1)
    network = build(11)
    load_imagenet_vgg16(network, source.state_dict())
    images = torch.rand(1, 3, 64, 64)
    x = normalize(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        before, after = network.features(images)
        assert_close(before[3], source[:23](x), rtol=1e-3, atol=1e-3)
        if build is deeplab_vgg16:  # from pool4 on it keeps the size
            assert torch.equal(network.conv5_1.weight, source[24].weight) and network.conv5_1.dilation == (2, 2)
            assert torch.equal(network.conv5_3.bias, source[28].bias) and before[4].shape == (1, 512, 8, 8)
        else:
            assert_close(after[4], source(x), rtol=1e-3, atol=1e-3)
            sizes = [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
            assert [tuple(x.shape[1:]) for x in before] == sizes
    with pytest.raises(ValueError, match="features: got 13 convolutions, expected 8"):
        load_imagenet_vgg16(fcn_small(11), source.state_dict())


def test_stride_8_keeps_the_size_and_looks_as_far():
    """From pool3 on nothing shrinks; conv5 is dilated, so that its neighbours lie where they lay at stride 16."""
    coarse, fine = Trunk(SMALL), Trunk(SMALL, stride=8)
    images = torch.rand(1, 3, 64, 96)
    assert [tuple(x.shape[-2:]) for x in fine.features(images)[1]] == [(32, 48), (16, 24), (8, 12), (8, 12), (8, 12)]
    assert [tuple(x.shape[-2:]) for x in coarse.features(images)[1]] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert (fine.conv5_1.dilation, fine.conv4_1.dilation, coarse.conv5_1.dilation) == ((2, 2), (1, 1), (1, 1))
    assert {k: v.shape for k, v in fine.state_dict().items()} == {k: v.shape for k, v in coarse.state_dict().items()}


def test_images_are_normalised():
    trunk = Trunk(SMALL, mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 0.125))
    with torch.no_grad():
        got = trunk.features(torch.ones(1, 3, 32, 32))[0][0]
        by_hand = torch.tensor([1.0, 3.0, 7.0]).view(1, 3, 1, 1).expand(-1, -1, 32, 32)
        assert torch.allclose(got, trunk.relu1_1(trunk.conv1_1(by_hand)))


def test_errors():
    with pytest.raises(ValueError, match="stages: got 4 stages, expected 5"):
        Trunk(SMALL[:4])


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (deeplab_vgg16, 17_146_220),
        (deeplab_small, 1_005_124),
        (unet_vgg16, 16_593_211),
        (unet_small, 1_012_179),
    ],
)
def test_parameter_counts(build, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build(11).parameters()) == count


@pytest.mark.parametrize("build", [deeplab_small, unet_small, fcn_small])
def test_networks_for_our_scenes_centre_their_images(build):
    network = build(11)
    assert (network.mean.flatten().tolist(), network.std.flatten().tolist()) == ([0.5] * 3, [0.25] * 3)
    assert not {"mean", "std"} & {*network.state_dict()}
    assert network.conv5_2.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)  # Kaiming's normal


@pytest.mark.parametrize("build", [deeplab_small, unet_small])
@pytest.mark.parametrize("size", [(32, 32), (33, 65), (97, 131), (96, 128)])
def test_output_has_the_image_size(build, size):
    network, images = build(11).eval(), torch.rand(2, 3, *size)
    assert network(images).shape == (2, 11, *size)


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (6, 7)])
def test_a_pool_returns_what_torchs_returns(size):
    x = torch.randint(4, (2, 3, *size), generator=torch.Generator().manual_seed(0)).float()  # ties everywhere
    x[0, 0, 1, 2] = torch.nan
    for rounding in (False, True):
        ours, theirs = MaxPool(2, ceil_mode=rounding), torch.nn.MaxPool2d(2, ceil_mode=rounding)
        for leaf in (x, x.clone().requires_grad_()):
            assert_close(ours(leaf), theirs(leaf), atol=0, rtol=0, equal_nan=True)
