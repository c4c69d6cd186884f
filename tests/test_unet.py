from typing import Any

import pytest
import torch
from torch.testing import assert_close

from gpcore.networks.unet import UNet, unet_small, unpool


def tiny(joins: dict[int, tuple[float, float]], **options: Any) -> UNet:
    """One channel, convolutions that pass their middle on; `joins` weighs a level's map from below (1) and skip (0)."""
    network = UNet(1, [(1, 1)] * 5, [1] * 4, mean=[0.0], std=[1.0], **options).eval()
    for convolution in (module for module in network.modules() if isinstance(module, torch.nn.Conv2d)):
        torch.nn.init.dirac_(convolution.weight)
        if convolution.bias is not None:
            torch.nn.init.zeros_(convolution.bias)
    for level, weights in joins.items():
        network.get_submodule(f"upconv{level}_1").weight.data[0, :, 1, 1] = torch.tensor(weights)
    return network


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_level_joins_the_map_from_below_and_its_skip(batch_norm):
    """Of an image of ones: (((1 x 2 + 3) x 3 + 5) x 1 + 7) x 2 + 11 = 65."""
    network = tiny({4: (2, 3), 3: (3, 5), 2: (1, 7), 1: (2, 11)}, batch_norm=batch_norm)
    ones = torch.ones(1, 1, 32, 48)
    assert_close(network(ones), 65 * ones, rtol=1e-3, atol=0)
    assert_close(tiny({1: (1, -2)}, batch_norm=batch_norm)(ones), 0 * ones)  # 1 - 2, and a ReLU behind it


@pytest.mark.parametrize(
    ("level", "row", "expected"),
    [
        (1, [0, 4, 2, 1, 0, 0, 8, 3], [0, 4, 2, 1, 0, 0, 8, 3]),
        (2, [0, 4, 2, 1, 0, 0, 8, 3], [4, 3.5, 2.5, 1.5, 0.5, 2, 6, 8]),  # maxima 4 2 0 8, doubled bilinearly
        (2, [0, 4, 2, 1, 3], [4, 3.5, 2.5, 2.25, 2.75]),  # 4 2 3, doubled and cropped
        (3, [0, 4, 2, 1, 0, 0, 8, 3], [4, 4.25, 4.75, 5.5, 6.5, 7.25, 7.75, 8]),  # 4 8, to 4 5 7 8, to that
        (4, [0, 4, 2, 1, 0, 0, 8, 3], [8] * 8),
        (5, [2] * 8 + [8] * 8, [8] * 16),  # the trunk's last map alone: a maximum of sixteen
    ],
)
def test_skips_keep_their_resolution(level, row, expected):
    image = torch.tensor(row, dtype=torch.float).expand(1, 1, 3, -1)
    assert_close(tiny({level: (0, 1)} if level < 5 else {})(image)[0, 0, 1], torch.tensor(expected, dtype=torch.float))


def test_batch_norm_comes_between_convolution_and_relu():
    names = [name for name, _ in unet_small(4).named_children()]
    for name in ("conv1_1", "upconv4_1", "upconv1_2"):
        start = names.index(name)
        assert names[start : start + 3] == [name, f"{name}_bn", name.replace("conv", "relu")]
    assert names[-1] == "score"


def test_without_skips_a_level_sees_the_map_from_below_alone():
    network = tiny({}, skips=False)
    image = torch.tensor([2.0] * 8 + [8.0] * 8).expand(1, 1, 3, -1)
    assert_close(network(image), 8 * torch.ones_like(image))  # the last map's maximum of sixteen, whatever stands where
    assert network.get_submodule("upconv4_1").in_channels == 1


def test_unpooling_restores_maxima_at_their_places():
    """The lecture's example, and an odd size, whose last column is a pool of its own."""
    large = torch.tensor([[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])[None, None]
    small = torch.tensor([[1.0, 2], [3, 4]])[None, None]
    expected = torch.tensor([[0.0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]])
    assert torch.equal(unpool(small, large)[0, 0], expected)
    odd = torch.tensor([[4.0, 1, 2], [3, 0, 9]])[None, None]
    assert unpool(torch.tensor([[[[5.0, 7]]]]), odd)[0, 0].tolist() == [[5, 0, 0], [0, 0, 7]]


def test_switches_of_a_network_are_its_own_pools():
    """Convolutions that pass their middle on: one bright pixel comes back alone, where it was."""
    network = tiny({}, skips=False, switches=True)
    image = torch.zeros(1, 1, 16, 32)
    image[..., 5, 19] = 3
    assert torch.equal(network(image), image)


def test_switches_need_a_map_for_every_pool():
    with pytest.raises(ValueError, match=r"widths: got 6 channels into level 3, expected 4, which its pool"):
        UNet(2, [(2, 1), (3, 1), (4, 1), (5, 1), (5, 1)], [6, 3, 2, 2], switches=True)
