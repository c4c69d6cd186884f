import pytest
import torch
from torch import nn

from gpcore.networks.densenet import (
    DenseBlock,
    FCDenseNet,
    fc_densenet56,
    fc_densenet67,
    fc_densenet103,
    fc_densenet_small,
)


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
    """1.4, 3.5 and 9.4 M as published, where running statistics count; dropout 0.2 throughout."""
    with torch.device("meta"):
        network = build(11)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert floats(network) == with_statistics
    dropouts = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [0.2] * (sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()))


def test_parameters_of_a_small_one_by_hand():
    """One layer on each side, one between, growth 2, three channels first, four classes; norm 2, conv 9 or 1 + bias."""
    layer = [2 * 3 + 9 * 3 * 2 + 2, 2 * 5 + 9 * 5 * 2 + 2, 2 * 7 + 9 * 7 * 2 + 2]  # of 3, 5 and 2 + 5 channels
    first, down, up, score = 9 * 3 * 3 + 3, 2 * 5 + 5 * 5 + 5, 9 * 2 * 2 + 2, 9 * 4 + 4
    network = FCDenseNet(4, (1, 1), 2, first=3)
    assert sum(p.numel() for p in network.parameters()) == sum(layer) + first + down + up + score


def literal(network, weights):
    """Middles of the named convolutions' kernels as given (outputs x inputs), all else 0; exact batch norm."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            middle = module.kernel_size[0] // 2
            module.weight.data[:, :, middle, middle] = torch.tensor(weights[name], dtype=torch.float)
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return network.eval()


def test_a_layer_is_fed_with_the_input_and_all_earlier_layers():
    block = literal(
        DenseBlock(1, 1, 3, 0.0), {"layers.0.2": [[2]], "layers.1.2": [[3, 5]], "layers.2.2": [[7, 11, 13]]}
    )
    assert {(layer[2].padding, layer[2].dilation) for layer in block.layers} == {((1, 1), (1, 1))}
    assert block(torch.ones(1, 1, 1, 1)).flatten().tolist() == [2, 13, 7 + 22 + 169]
    assert block(-torch.ones(1, 1, 1, 1)).flatten().tolist() == [0, 0, 0]  # a ReLU before each


def test_forward_pass_by_hand():
    """One layer on each side, one between, growth 1; the score shows the map from below, the skip and what is added."""
    middles = {"first": [[1, 0, 0]], "block1.layers.0.2": [[2]], "down1.2": [[1, 0], [0, 1]]}
    middles |= {"block2.layers.0.2": [[3, 5]], "block_up1.layers.0.2": [[7, 11, 13]], "score": torch.eye(4).tolist()}
    network = literal(FCDenseNet(4, (1, 1), 1, first=1), middles)
    nn.init.zeros_(network.up1.bias)
    network.up1.weight.data[0, 0] = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])  # repeats each pixel
    image = torch.tensor([1.0, 3, 5, 2]).expand(1, 3, 4, 4)
    # maxima 3 and 5: 3 x 3 + 5 x 6 = 39 and 65 from below; 7 x 39 + 11 x 1 + 13 x 2 = 310 added, and so on
    assert network(image)[0, :, 3].tolist() == [[39, 39, 65, 65], [1, 3, 5, 2], [2, 6, 10, 4], [310, 384, 640, 529]]
    assert network(-image)[0, :, 3].tolist() == [[0] * 4, [-1, -3, -5, -2], [0] * 4, [0] * 4]


@pytest.mark.parametrize("size", [(32, 48), (33, 50), (45, 31)])
def test_logits_have_the_images_size(size):
    torch.manual_seed(0)
    network, images = FCDenseNet(5, (1, 2, 2), 4, first=6).eval(), torch.rand(2, 3, *size)
    assert network(images).shape == (2, 5, *size)
    for layer, inputs in ((network.first, 3), (network.up1, 8)):  # Kaiming's uniform: up to (6 / (9 x inputs))^0.5
        assert layer.weight.abs().max().item() == pytest.approx((6 / 9 / inputs) ** 0.5, rel=0.05)


def test_skip_carries_full_resolution_and_the_way_up_only_what_the_block_below_added():
    network = FCDenseNet(5, (1, 2, 3), 4, first=6)
    assert network.up2.in_channels == network.up2.out_channels == 3 * 4  # what the lowest block added
    assert network.up1.in_channels == 2 * 4  # not the 12 that were upsampled, nor the skip
    assert network.score.in_channels == 8 + (6 + 4) + 4
    assert network.down1[2].in_channels == 6 + 4


def test_the_small_one():
    network = fc_densenet_small(11)
    assert sum(p.numel() for p in network.parameters()) == 436_655
    assert not any(module.p for module in network.modules() if isinstance(module, nn.Dropout))
