"""DeepLab-v2 with atrous spatial pyramid pooling (Chen, Papandreou, Kokkinos, Murphy, Yuille, PAMI 2018)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpcore.networks.vgg import SCENES, SMALL, VGG16, Stages, Trunk, channels_last, cropped


class DeepLab(Trunk):
    """VGG-style trunk kept at stride 8 by dilation, then parallel branches of one dilation each, whose scores add up.

    Args:
        classes: number of classes K.
        stages, options: see `Trunk`.
        fc: channels of each branch's fc6_* (3x3, dilated) and fc7_* (1x1).
        rates: the branches' dilations.
    Takes B x C x H x W images in [0, 1]; returns B x K x H x W logits.
    """

    def __init__(
        self,
        classes: int,
        stages: Stages,
        fc: int,
        *,
        rates: Sequence[int] = (6, 12, 18, 24),
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(stages, stride=8, **options)
        self.branches: list[list[str]] = []
        for i, rate in enumerate(rates, 1):
            names = self.conv(f"fc6_{i}", stages[4][0], fc, 3, dilation=rate) + self.conv(f"fc7_{i}", fc, fc, 1)
            self.add_module(f"drop7_{i}", nn.Dropout2d(dropout))
            self.add_module(f"fc8_{i}", nn.Conv2d(fc, classes, 1))
            self.branches.append([*names, f"drop7_{i}", f"fc8_{i}"])
        self.upscore = nn.Upsample(scale_factor=8, mode="bilinear")

    def forward(self, images: Tensor) -> Tensor:
        deepest = self.features(images)[1][4]
        scores = torch.stack([self.run(names, deepest) for names in self.branches]).sum(0)
        return cropped(self.upscore(scores), images)


def deeplab_vgg16(classes: int) -> DeepLab:
    """DeepLab-v2 on VGG16 with four compact 128-wide branches (17.2 M parameters)."""
    return channels_last(DeepLab(classes, VGG16, 128, dropout=0.1))


def deeplab_small(classes: int) -> DeepLab:
    """The same shape for our scenes; the dilations fit their 16 x 20 cells of stride 8."""
    return DeepLab(classes, SMALL, 64, rates=(1, 2, 4, 6), **SCENES)
