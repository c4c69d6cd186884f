import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gpcore.networks.fcn import FCN, crop_classifier, fcn_deep, fcn_small, fcn_vgg16


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts():
    with torch.device("meta"):
        deep, vgg16 = fcn_deep(11), fcn_vgg16(11)
        assert (count(vgg16), count(fcn_small(11)), count(deep)) == (17_351_265, 858_201, 1_236_761)
    for network, expected in ((deep, 11), (vgg16, 13)):
        names = [name for name, _ in network.named_children() if re.fullmatch(r"conv\d_\d", name)]
        assert len(names) == expected


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


def tiny(stride: int, fr: float = 0, pool4: float = 0, pool3: float = 0) -> FCN:
    """One channel, convolutions that pass their middle on, but fc6 what lies at its left; scores of these weights."""
    network = FCN(1, [(8, 1)] * 5, 8, stride=stride, mean=[0.0], std=[1.0]).eval()
    for convolution in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        nn.init.dirac_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    network.fc6.weight.data = network.fc6.weight.data.roll(-1, 3)
    for score, weight in ((network.score_fr, fr), (network.score_pool4, pool4), (network.score_pool3, pool3)):
        score.weight.data *= weight
    return network


@pytest.mark.parametrize(
    ("weights", "cells", "expected"),
    [
        ({"stride": 32, "fr": 1}, [[9, 9, 8, 5]] * 2, [[0, 0, 9, 9]] * 2),  # fc6 looks two cells away
        ({"stride": 8, "pool3": 2}, [[9, 1, 8, 5]], [[18, 2, 16, 10]]),
        ({"stride": 16, "pool4": 2}, [[9, 1, 8, 5]], [[18, 2, 16, 10]]),
        # maxima of two, 9 8 5, doubled bilinearly and cropped
        ({"stride": 8, "pool4": 1}, [[9, 1, 8, 5, 5]], [[9, 8.75, 8.25, 7.25, 5.75]]),
        # of four, 4 4 8, which fc6 reads as 0 0 4: to 0 0 0 1 3 4, to that
        ({"stride": 8, "fr": 1}, [[4] * 8 + [8] * 4], [[0] * 5 + [0.25, 0.75, 1.5, 2.5, 3.25, 3.75, 4]]),
        # 0 0 100, to 0 0 0 25 75 100, plus ten, to that, plus one
        (
            {"stride": 8, "fr": 100, "pool4": 10, "pool3": 1},
            [[1] * 12],
            [[11] * 5 + [17.25, 29.75, 48.5, 73.5, 92.25, 104.75, 111]],
        ),
    ],
)
def test_scores_add_up_the_skips(weights, cells, expected):
    """The finest scores of images whose squares of the network's stride have one colour each."""
    network = tiny(**weights)
    image = torch.tensor(cells, dtype=torch.float).repeat_interleave(weights["stride"], 0)
    scores = network.scores(image.repeat_interleave(weights["stride"], 1)[None, None])[-1][0, 0]
    assert_close(scores, torch.tensor(expected, dtype=torch.float))


def test_logits_are_the_finest_scores_upsampled_bilinearly():
    """Cells 0 and 16 of stride 8 meet between pixels 7 and 8; the last is cut."""
    image = torch.tensor([0.0] * 8 + [16.0] * 5).expand(1, 1, 9, 13)
    expected = torch.tensor([0.0] * 4 + [1, 3, 5, 7, 9, 11, 13, 15, 16])
    network = tiny(8, pool3=1)
    assert_close(network(image)[0, 0], expected.expand(9, 13))
    assert_close(network.supervised(image)[-1][0, 0], expected.expand(9, 13))


@pytest.mark.parametrize("name", ["drop6", "drop7"])
def test_dropout_acts_in_training_alone(name):
    network, image = tiny(32, fr=1), torch.ones(1, 1, 96, 96)
    network.get_submodule(name).p = 1.0
    assert network(image).max() == 1
    assert network.train()(image).max() == 0
    with torch.device("meta"):
        assert fcn_vgg16(2).get_submodule(name).p == 0.1 and fcn_vgg16(2, 32).stride == 32


def test_errors():
    with pytest.raises(ValueError, match="stride: got 4, expected 32, 16 or 8"):
        FCN(3, [(8, 1)] * 5, 8, stride=4)
