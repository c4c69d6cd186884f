"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015) on a VGG-style contracting path."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpcore.networks.vgg import SCENES, SMALL, VGG16, Stages, Trunk, cropped


class UNet(Trunk):
    """Decoder of four levels: upsample by 2, join the trunk's activations of that size, two 3x3 convolutions.

    The original's cropping is replaced by convolutions that keep the size, its transposed convolutions by bilinear
    upsampling; the trunk's pool5 is not used.

    Args:
        classes: number of classes K.
        stages, options: see `Trunk`.
        widths: channels of the four levels, from stride 8 to stride 1.
    Takes B x C x H x W images in [0, 1]; returns B x K x H x W logits.
    """

    def __init__(self, classes: int, stages: Stages, widths: Sequence[int], **options: Any) -> None:
        super().__init__(stages, **options)
        self.levels: list[list[str]] = []
        below = stages[4][0]
        for level, width in zip((4, 3, 2, 1), widths, strict=True):
            joined = below + stages[level - 1][0]
            first, second = f"upconv{level}_1", f"upconv{level}_2"
            self.levels.append(self.conv(first, joined, width) + self.conv(second, width, width))
            below = width
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear")
        self.score = nn.Conv2d(below, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips, _ = self.features(images)
        x = skips[4]
        for names, skip in zip(self.levels, reversed(skips[:4]), strict=True):
            x = self.run(names, torch.cat([cropped(self.upsample(x), skip), skip], 1))
        logits: Tensor = self.score(x)
        return logits


def unet_vgg16(classes: int) -> UNet:
    """U-Net over VGG16's 13 convolutions (16.6 M parameters)."""
    return UNet(classes, VGG16, (128, 96, 48, 16))


def unet_small(classes: int) -> UNet:
    """The same shape for our scenes (1.0 M parameters)."""
    return UNet(classes, SMALL, (64, 48, 32, 16), **SCENES)
