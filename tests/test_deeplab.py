import torch
from torch import nn
from torch.testing import assert_close

from gpcore.networks.deeplab import DeepLab, deeplab_small, deeplab_vgg16


def tiny(rates) -> DeepLab:
    """One channel, convolutions that pass their middle on, but fc6_i what lies at its left; fc8_i counts 10^i."""
    network = DeepLab(1, [(1, 1)] * 5, 1, rates=rates, mean=[0.0], std=[1.0]).eval()
    for convolution in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        nn.init.dirac_(convolution.weight)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
    for i in range(1, len(rates) + 1):
        network.get_submodule(f"fc6_{i}").weight.data[0, 0, 1] = torch.tensor([1.0, 0, 0])
        network.get_submodule(f"fc8_{i}").weight.data.fill_(10 ** (i - 1))
    return network


def test_each_branch_looks_at_its_rate_and_their_scores_add_up():
    """Twelve cells of eight pixels, bright from the seventh on; pool4 and pool5 widen that by a cell each."""
    image = (torch.arange(96) >= 48).float().expand(1, 1, 16, 96)
    network = tiny((1, 2, 4, 6))
    network.upscore = nn.Identity()
    assert network(image)[0, 0, 0].tolist() == [0, 0, 0, 0, 0, 1, 11, 11, 111, 111, 1111, 1111]
    network.drop7_3.p = 1.0
    assert network.train()(image)[0, 0, 0].tolist() == [0, 0, 0, 0, 0, 1, 11, 11, 11, 11, 1011, 1011]


def test_scores_are_upsampled_bilinearly_to_the_images_size():
    """Two cells, the first with nothing at its left: 0 and 1, which meet between pixels 7 and 8."""
    scores = tiny((1,))(torch.ones(1, 1, 9, 13))[0, 0]
    expected = torch.tensor([0.0] * 4 + [1 / 16, 3 / 16, 5 / 16, 7 / 16, 9 / 16, 11 / 16, 13 / 16, 15 / 16, 1])
    assert_close(scores, expected.expand(9, 13))


def test_published_rates():
    with torch.device("meta"):
        assert {m.p for m in deeplab_vgg16(2).modules() if isinstance(m, nn.Dropout2d)} == {0.1}
        for network, rates in ((deeplab_vgg16(2), [6, 12, 18, 24]), (deeplab_small(2), [1, 2, 4, 6])):
            assert [network.get_submodule(f"fc6_{i}").dilation for i in (1, 2, 3, 4)] == [
                (rate, rate) for rate in rates
            ]
