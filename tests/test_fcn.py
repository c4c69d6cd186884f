import pytest
import torch
from torch import nn

from gpcore.networks import FCN, crop_classifier, fcn_deep, fcn_small, fcn_vgg16


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts():
    with torch.device("meta"):
        deep, vgg16 = fcn_deep(11), fcn_vgg16(11)
        assert (count(vgg16), count(fcn_small(11)), count(deep)) == (17_351_265, 858_201, 1_262_825)
    for network in (deep, vgg16):
        assert sum(name.startswith("conv") and not name.endswith("bn") for name, _ in network.named_children()) == 13


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("size", [(32, 32), (33, 65), (97, 131), (96, 128)])
def test_output_has_the_image_size(stride, size):
    network = fcn_small(11, stride).eval()
    images = torch.rand(2, 3, *size)
    assert network(images).shape == (2, 11, *size)
    assert [tuple(s.shape[-2:]) for s in network.scores(images)] == [
        (-(-size[0] // s), -(-size[1] // s)) for s in (32, 16, 8) if s >= stride
    ]


def test_one_trunk_serves_three_strides():
    fine = fcn_small(11, 8).eval()
    images = torch.rand(1, 3, 70, 90)
    for stride, logits in zip((32, 16, 8), fine.supervised(images), strict=True):
        network = fcn_small(11, stride).eval()
        network.load_state_dict(fine.state_dict())
        assert torch.allclose(network(images), logits, atol=1e-6)


def test_a_crop_classifier_is_an_fcn_averaged_over_its_map():
    classifier, network = crop_classifier(11).eval(), fcn_small(11, 32).eval()
    network.load_state_dict(classifier.state_dict())
    crops = torch.rand(3, 3, 64, 32)
    scores = network.scores(crops)[-1]
    assert scores.shape == (3, 11, 2, 1)
    torch.testing.assert_close(classifier(crops), (scores[:, :, 0, 0] + scores[:, :, 1, 0]) / 2)
    assert torch.equal(classifier.supervised(crops)[0], classifier(crops))


def test_scores_add_up_the_skips():
    """FCN-8s = up(up(up(score_fr) + score_pool4) + score_pool3), the forward pass written out by hand."""
    network = fcn_small(4).eval()
    images = torch.rand(1, 3, 64, 96)

    def layer(name, x):
        return torch.relu(getattr(network, f"{name}_bn")(getattr(network, name)(x)))

    def up(x, factor):
        return nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    x, pools = (images - 0.5) / 0.25, []
    for names in (["conv1_1"], ["conv2_1"], *([f"conv{s}_1", f"conv{s}_2"] for s in (3, 4, 5))):
        for name in names:
            x = layer(name, x)
        x = nn.functional.max_pool2d(x, 2)
        pools.append(x)
    x = network.score_fr(layer("fc7", layer("fc6", x)))
    expected = up(up(up(x, 2) + network.score_pool4(pools[3]), 2) + network.score_pool3(pools[2]), 8)
    assert torch.allclose(network(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 4}, "stride: got 4, expected 32, 16 or 8"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        FCN(**{"classes": 3, "stages": [(8, 1)] * 5, "fc": 8} | change)
