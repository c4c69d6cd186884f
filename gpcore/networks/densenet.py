"""FC-DenseNet (Jégou et al., The One Hundred Layers Tiramisu, CVPR Workshops 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gpcore.networks.vgg import MaxPool


class DenseBlock(nn.Module):
    """Layers of batch norm, ReLU, 3x3 convolution and dropout, each fed with the input and all earlier layers' outputs.

    Returns what the layers added, growth x depth channels; the caller puts it behind the input where that is wanted.
    """

    def __init__(self, inputs: int, growth: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(inputs + i * growth),
                nn.ReLU(),
                nn.Conv2d(inputs + i * growth, growth, 3, padding=1),
                nn.Dropout(dropout),
            )
            for i in range(depth)
        )
        self.added = growth * depth

    def forward(self, x: Tensor) -> Tensor:
        known = [x]
        for layer in self.layers:
            known.append(layer(torch.cat(known, 1)))
        return torch.cat(known[1:], 1)


class FCDenseNet(nn.Module):
    """Dense blocks on a way down (transitions `down1`, `down2`, ... halve the size), one between, and a way up.

    On the way up a transposed convolution doubles what the block below has added, cut to the size of the skip that
    joins it. Sizes that are not multiples of two lose their last row or column in a pool, as in the original.

    Args:
        classes: number of classes K.
        depths: layers of every block on the way down and of the one between; the way up mirrors the way down.
        growth: channels that a layer adds.
        first: channels of the first convolution.
    Takes B x 3 x H x W images in [0, 1], unnormalised as in the original; returns B x K x H x W logits.
    """

    def __init__(
        self, classes: int, depths: Sequence[int], growth: int, *, first: int = 48, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, first, 3, padding=1)
        *outer, middle = depths
        channels, skips = first, []
        for level, depth in enumerate(outer, 1):
            block = DenseBlock(channels, growth, depth, dropout)
            channels += block.added
            skips.append(channels)
            down = [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.Dropout(dropout)]
            self.add_module(f"block{level}", block)
            self.add_module(f"down{level}", nn.Sequential(*down, MaxPool(2)))
        block = DenseBlock(channels, growth, middle, dropout)
        self.add_module(f"block{len(depths)}", block)
        for level, depth in reversed(list(enumerate(outer, 1))):
            below = block.added
            block = DenseBlock(below + skips[level - 1], growth, depth, dropout)
            self.add_module(f"up{level}", nn.ConvTranspose2d(below, below, 3, stride=2))
            self.add_module(f"block_up{level}", block)
            channels = below + skips[level - 1] + block.added
        self.score = nn.Conv2d(channels, classes, 1)
        self.levels = len(outer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x, skips = self.first(images), []
        for level in range(1, self.levels + 1):
            x = torch.cat([x, self.get_submodule(f"block{level}")(x)], 1)
            skips.append(x)
            x = self.get_submodule(f"down{level}")(x)
        added = self.get_submodule(f"block{self.levels + 1}")(x)
        for level in range(self.levels, 0, -1):
            skip = skips.pop()
            x = torch.cat([_cropped(self.get_submodule(f"up{level}")(added), skip), skip], 1)
            added = self.get_submodule(f"block_up{level}")(x)
        logits: Tensor = self.score(torch.cat([x, added], 1))
        return logits


def _cropped(x: Tensor, like: Tensor) -> Tensor:
    """The middle of x, of the height and width of `like`."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[-2:], like.shape[-2:], strict=True))
    return x[..., top : top + like.shape[-2], left : left + like.shape[-1]]


def fc_densenet56(classes: int) -> FCDenseNet:
    """FC-DenseNet56 (1.4 M parameters, as the original counts them: with the running statistics)."""
    return FCDenseNet(classes, (4,) * 6, 12)


def fc_densenet67(classes: int) -> FCDenseNet:
    """FC-DenseNet67 (3.5 M parameters)."""
    return FCDenseNet(classes, (5,) * 6, 16)


def fc_densenet103(classes: int) -> FCDenseNet:
    """FC-DenseNet103 (9.4 M parameters)."""
    return FCDenseNet(classes, (4, 5, 7, 10, 12, 15), 16)


def fc_densenet_small(classes: int) -> FCDenseNet:
    """The same shape, narrow, for few images: four times down (0.4 M parameters)."""
    return FCDenseNet(classes, (1, 2, 3, 4, 5), 12, first=16, dropout=0.0)
