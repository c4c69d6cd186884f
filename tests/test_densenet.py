import pytest
import torch

from gpcore.networks import FCDenseNet, fc_densenet56, fc_densenet67, fc_densenet103, fc_densenet_small


def floats(network):
    return sum(value.numel() for value in network.state_dict().values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("build", "parameters", "with_statistics"),
    [
        (fc_densenet56, 1_376_795, 1_397_963),
        (fc_densenet67, 3_463_243, 3_502_923),
        (fc_densenet103, 9_322_091, 9_425_163),
    ],
)
def test_published_sizes(build, parameters, with_statistics):
    """1.4, 3.5 and 9.4 M as published, where running statistics count."""
    network = build(11)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert floats(network) == with_statistics


def test_parameters_of_a_small_one_by_hand():
    """One layer on each side, one between, growth 2, three channels first, four classes; norm 2, conv 9 or 1 + bias."""
    layer = [2 * 3 + 9 * 3 * 2 + 2, 2 * 5 + 9 * 5 * 2 + 2, 2 * 7 + 9 * 7 * 2 + 2]  # of 3, 5 and 2 + 5 channels
    first, down, up, score = 9 * 3 * 3 + 3, 2 * 5 + 5 * 5 + 5, 9 * 2 * 2 + 2, 9 * 4 + 4
    network = FCDenseNet(4, (1, 1), 2, first=3)
    assert sum(p.numel() for p in network.parameters()) == sum(layer) + first + down + up + score


@pytest.mark.parametrize("size", [(32, 48), (33, 50), (45, 31)])
def test_logits_have_the_images_size(size):
    torch.manual_seed(0)
    network = FCDenseNet(5, (1, 2, 2), 4, first=6).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.std() > 1e-3


def test_skip_carries_full_resolution_and_the_way_up_only_what_the_block_below_added():
    network = FCDenseNet(5, (1, 2, 3), 4, first=6)
    assert network.up2.in_channels == network.up2.out_channels == 3 * 4  # what the lowest block added
    assert network.up1.in_channels == 2 * 4  # not the 12 that were upsampled, nor the skip
    assert network.score.in_channels == 8 + (6 + 4) + 4
    assert network.down1[2].in_channels == 6 + 4


def test_the_small_ones_size():
    assert sum(p.numel() for p in fc_densenet_small(11).parameters()) == 436_655
