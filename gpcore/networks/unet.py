"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015) on a VGG-style contracting path."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpcore.checks import expect
from gpcore.networks.vgg import SCENES, SMALL, VGG16, Stages, Trunk, channels_last, cropped


class UNet(Trunk):
    """Decoder of four levels: upsample by 2, join the trunk's activations of that size, two 3x3 convolutions.

    The original's cropping is replaced by convolutions that keep the size, its transposed convolutions by bilinear
    upsampling; the trunk's pool5 is not used.

    Args:
        classes: number of classes K.
        stages, options: see `Trunk`.
        widths: channels of the four levels, from stride 8 to stride 1.
        skips: whether a level sees the trunk's activations beside the map from below.
        switches: unpool each value to where the trunk's pool of that size had found its maximum, instead of upsampling
            (Noh, Hong, Han, ICCV 2015); a level must leave as many channels as that pool has.
    Takes B x C x H x W images in [0, 1]; returns B x K x H x W logits.
    """

    def __init__(
        self,
        classes: int,
        stages: Stages,
        widths: Sequence[int],
        *,
        skips: bool = True,
        switches: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(stages, **options)
        self.skips, self.switches = skips, switches
        self.levels: list[list[str]] = []
        below = stages[4][0]
        for level, width in zip((4, 3, 2, 1), widths, strict=True):
            beside = stages[level - 1][0]
            fits = not switches or below == beside
            expect("widths", f"{below} channels into level {level}", fits, f"{beside}, which its pool has switches for")
            first, second = f"upconv{level}_1", f"upconv{level}_2"
            joined = below + beside * skips
            self.levels.append(self.conv(first, joined, width) + self.conv(second, width, width))
            below = width
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear")
        self.score = nn.Conv2d(below, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips, _ = self.features(images)
        x = skips[4]
        for names, skip in zip(self.levels, reversed(skips[:4]), strict=True):
            x = unpool(x, skip) if self.switches else cropped(self.upsample(x), skip)
            x = self.run(names, torch.cat([x, skip], 1) if self.skips else x)
        logits: Tensor = self.score(x)
        return logits


def unpool(x: Tensor, before: Tensor) -> Tensor:
    """Values B x C x h x w put where 2 x 2 max pooling of `before`, B x C x H x W, finds its maxima; elsewhere zero."""
    _, switches = nn.functional.max_pool2d(before, 2, ceil_mode=True, return_indices=True)
    return nn.functional.max_unpool2d(x, switches, [2, 2], output_size=before.shape[-2:])


def unet_vgg16(classes: int) -> UNet:
    """U-Net over VGG16's 13 convolutions (16.6 M parameters)."""
    return channels_last(UNet(classes, VGG16, (128, 96, 48, 16)))


def unet_small(classes: int) -> UNet:
    """The same shape for our scenes (1.0 M parameters)."""
    return UNet(classes, SMALL, (64, 48, 32, 16), **SCENES)
