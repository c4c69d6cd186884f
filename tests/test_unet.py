import torch
from torch import nn

from gpcore.networks import unet_small


def test_levels_join_upsampled_and_skipped_activations():
    """The decoder written out by hand: level by level, concatenate the doubled map with the trunk's, convolve twice."""
    network = unet_small(4).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        skips, _ = network.features(images)
        x = skips[4]
        for level in (4, 3, 2, 1):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = torch.cat([x, skips[level - 1]], 1)
            for i in (1, 2):
                name = f"upconv{level}_{i}"
                x = torch.relu(getattr(network, f"{name}_bn")(getattr(network, name)(x)))
        assert torch.allclose(network(images), network.score(x), atol=1e-5)


def test_every_skip_reaches_the_output():
    network = unet_small(4).eval()
    skips, _ = network.features(torch.rand(1, 3, 32, 32))
    names = [f"relu{s}_{d}" for s, d in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 2))]
    for name in names:
        silenced = network.get_submodule(name).register_forward_hook(lambda m, i, o: torch.zeros_like(o))
        zeroed = network(torch.ones(1, 3, 32, 32))
        silenced.remove()
        assert not torch.allclose(zeroed, network(torch.ones(1, 3, 32, 32)))
    assert len(skips) == len(names)
