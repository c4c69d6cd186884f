"""The assignment's networks against what they are made of, put together by hand."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate
from torch.testing import assert_close

from gpcore.networks.assignment import Contextual, MultiScale, Recurrent, Repeated, strided, unet


def images(batch: int = 2, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("build", [unet, strided, Contextual, Recurrent, MultiScale])
def test_every_pixel_of_any_size_is_scored_and_every_weight_learns(build):
    network = build(3)
    x = images(height=45, width=60)
    out = network(x)
    assert out.shape == (2, 3, 45, 60)
    out.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_passes_see_the_answer_before():
    torch.manual_seed(0)
    network, x = Recurrent(3, passes=3).eval(), images()
    with torch.no_grad():
        first = network.network(torch.cat([x, torch.zeros(2, 3, 32, 48)], 1), 0)
        second = network.network(torch.cat([x, first.softmax(1)], 1), 1)
        third = network.network(torch.cat([x, second.softmax(1)], 1), 2)
        found = network.supervised(x)
        assert all(torch.equal(a, b) for a, b in zip(found, (first, second, third), strict=True))
        assert torch.equal(network(x), third) and not torch.allclose(first, second, atol=1e-3)


def test_every_use_has_norms_of_its_own_and_the_same_weights():
    """Of inputs that differ in scale, each use normalises by its own statistics, and in training updates no other's."""
    torch.manual_seed(0)
    repeated, alone = Repeated(unet(3), 2), unet(3)
    alone.load_state_dict(repeated.network.state_dict())
    x = images()
    for _ in range(200):
        repeated(x, 0), repeated(100 * x, 1), alone(x)
    assert all(torch.equal(a, b) for a, b in zip(repeated.network.buffers(), alone.buffers(), strict=True))
    mine, other = repeated.network.conv1_1_bn, repeated.others[0]["conv1_1_bn"]
    assert other.num_batches_tracked == 200 and (other.running_var / mine.running_var).min() > 5000
    repeated.eval()
    with torch.no_grad():
        assert torch.equal(repeated(x, 0), alone.eval()(x))
        assert not torch.allclose(repeated(x, 1), repeated(x, 0), atol=1e-3)
    shared = sum(p.numel() for n, p in repeated.named_parameters() if "_bn" not in n)
    assert shared == sum(p.numel() for n, p in alone.named_parameters() if "_bn" not in n)


def test_an_answer_is_not_normalised_as_an_image_is():
    network = Recurrent(3)
    assert network.network.network.mean.flatten().tolist() == [0.5] * 3 + [0.0] * 3
    assert network.network.network.std.flatten().tolist() == [0.25] * 3 + [1.0] * 3


def test_scales_share_their_weights_and_are_scored_together():
    torch.manual_seed(0)
    network, x = MultiScale(3).eval(), images()
    with torch.no_grad():
        maps = [network.network(x, 0)]
        maps += [interpolate(network.network(avg_pool2d(x, 2**k), k), (32, 48), mode="bilinear") for k in (1, 2)]
        assert_close(network(x), network.score(torch.cat(maps, 1)))


def test_context_stands_between_maps_and_scores():
    torch.manual_seed(0)
    network, x = Contextual(3).eval(), images()
    with torch.no_grad():
        maps = network.network(x)
        assert maps.shape[1] == 12
        # untrained, the module passes on what is not negative
        assert_close(network(x), network.score(maps.relu()))


def test_strided_convolutions_halve_as_pools_do():
    network, x = strided(3).eval(), images(height=45, width=60)
    with torch.no_grad():
        _, halved = network.features(x)
        _, pooled = unet(3).eval().features(x)
    assert [each.shape for each in halved] == [each.shape for each in pooled]
    assert isinstance(network.pool1, torch.nn.Conv2d) and network.pool1.stride == (2, 2)
