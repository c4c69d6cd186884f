"""The lectures' U-Net assignment: a small U-Net, and what can be put around one to see more or to look again."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, interpolate

from gpcore.networks.context import ContextModule
from gpcore.networks.unet import UNet
from gpcore.networks.vgg import SCENES, Stages

STAGES: Stages = ((12, 1), (20, 1), (32, 2), (40, 2), (40, 2))
WIDTHS = (32, 20, 12, 12)  # each level leaves what the next pool has, so that switches fit


def unet(classes: int, **options: Any) -> UNet:
    """The assignment's U-Net, for images of some 64 x 80 pixels (0.13 M parameters)."""
    return UNet(classes, STAGES, WIDTHS, **SCENES | options)


def strided(classes: int) -> UNet:
    """The same, halving its maps by convolutions of stride 2 where it has pools."""
    network = unet(classes)
    for number, (width, _) in enumerate(STAGES[:4], 1):
        setattr(network, f"pool{number}", nn.Conv2d(width, width, 3, stride=2, padding=1))
    return network


class Contextual(nn.Module):
    """A context module behind a network's C maps, which see 67 x 67 of them, and scores for K classes.

    Source: Yu & Koltun, Multi-Scale Context Aggregation by Dilated Convolutions, ICLR 2016.
    """

    def __init__(self, classes: int, maps: int = WIDTHS[-1]) -> None:
        super().__init__()
        self.network, self.context = unet(maps), ContextModule(maps)
        self.score = nn.Conv2d(maps, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.score(self.context(self.network(images), images))
        return logits


class Repeated(nn.Module):
    """A network with several uses, each with batch norms of its own: what they normalise differs from use to use.

    Source: Cooijmans et al., Recurrent Batch Normalization, ICLR 2017, section 3.
    """

    def __init__(self, network: UNet, uses: int) -> None:
        super().__init__()
        norms = {name: part for name, part in network.named_children() if isinstance(part, nn.BatchNorm2d)}
        self.network = network
        self.others = nn.ModuleList(nn.ModuleDict(copy.deepcopy(norms)) for _ in range(uses - 1))

    def forward(self, x: Tensor, use: int) -> Tensor:
        """What the network makes of x in its use of that number, from 0 on."""
        own = self.others[use - 1].state_dict(keep_vars=True) if use else {}
        scores: Tensor = functional_call(self.network, own, (x,))
        return scores


class Recurrent(nn.Module):
    """One network, applied to an image and to its own last answer again and again: logits of the last pass.

    The first pass sees an answer of zeros; every pass is trained (`supervised`), through all that come before it.
    Source: Pinheiro & Collobert, Recurrent CNNs for Scene Labeling, ICML 2014.
    """

    def __init__(self, classes: int, passes: int = 3) -> None:
        super().__init__()
        normal = {name: (*SCENES[name], *[value] * classes) for name, value in (("mean", 0.0), ("std", 1.0))}
        self.network, self.classes, self.passes = Repeated(unet(classes, **normal), passes), classes, passes

    def supervised(self, images: Tensor) -> list[Tensor]:
        """The logits of every pass, the first one first."""
        answer, every = images.new_zeros(len(images), self.classes, *images.shape[-2:]), list[Tensor]()
        for number in range(self.passes):
            every.append(self.network(torch.cat([images, answer], 1), number))
            answer = every[-1].softmax(1)
        return every

    def forward(self, images: Tensor) -> Tensor:
        return self.supervised(images)[-1]


class MultiScale(nn.Module):
    """One network on the image at 1, 1/2 and 1/4 of its size; its maps, enlarged and side by side, are scored together.

    Source: Farabet et al., Learning Hierarchical Features for Scene Labeling, PAMI 2013.
    """

    def __init__(self, classes: int, shrink: Sequence[int] = (1, 2, 4), maps: int = WIDTHS[-1]) -> None:
        super().__init__()
        self.network, self.shrink = Repeated(unet(maps), len(shrink)), shrink
        self.score = nn.Conv2d(len(shrink) * maps, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        smaller = [avg_pool2d(images, factor, ceil_mode=True) for factor in self.shrink]
        seen = [self.network(each, number) for number, each in enumerate(smaller)]
        logits: Tensor = self.score(torch.cat([interpolate(each, size, mode="bilinear") for each in seen], 1))
        return logits
