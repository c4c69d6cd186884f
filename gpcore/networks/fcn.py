"""Fully convolutional networks with strides 32, 16 and 8 (Long, Shelhamer, Darrell, CVPR 2015)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FCN(nn.Module):
    """VGG-style trunk, 1x1 score layers on pool3, pool4 and fc7, fixed bilinear upsampling.

    FCN-32s reads `score_fr` alone; FCN-16s adds `score_pool4`, FCN-8s also `score_pool3`. Layers carry the original's
    names. Where it padded by 100 and cropped, convolutions here keep the size, pools round up and sums are cropped.

    Args:
        classes: number of classes K.
        stages: for each of the five stages, (channels, number of 3x3 convolutions).
        fc: channels of fc6 (3x3, dilation 2, in place of the original's 7x7) and fc7 (1x1).
        stride: 32, 16 or 8.
    Takes B x C x H x W images in [0, 1], normalised inside; returns B x K x H x W logits.
    """

    def __init__(
        self,
        classes: int,
        stages: Sequence[tuple[int, int]],
        fc: int,
        *,
        stride: int = 8,
        batch_norm: bool = False,
        dropout: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if stride not in (32, 16, 8):
            raise ValueError(f"stride: got {stride}, expected 32, 16 or 8")
        if len(stages) != 5:
            raise ValueError(f"stages: got {len(stages)} stages, expected 5, one per pool")
        self.stride = stride
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.stages: list[list[str]] = []
        channels = len(mean)
        for s, (width, depth) in enumerate(stages, 1):
            names = []
            for d in range(1, depth + 1):
                names += self._conv(f"conv{s}_{d}", channels, width, 3, batch_norm)
                channels = width
            self.add_module(f"pool{s}", nn.MaxPool2d(2, ceil_mode=True))
            self.stages.append([*names, f"pool{s}"])
        self.head = [*self._conv("fc6", channels, fc, 3, batch_norm, dilation=2), "drop6"]
        self.drop6 = nn.Dropout2d(dropout)
        self.head += [*self._conv("fc7", fc, fc, 1, batch_norm), "drop7"]
        self.drop7 = nn.Dropout2d(dropout)
        self.score_fr = nn.Conv2d(fc, classes, 1)
        self.score_pool4 = nn.Conv2d(stages[3][0], classes, 1)
        self.score_pool3 = nn.Conv2d(stages[2][0], classes, 1)
        self.upscore2 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.upscore_pool4 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.upscore = nn.Upsample(scale_factor=stride, mode="bilinear")

    def _conv(self, name: str, inputs: int, outputs: int, size: int, batch_norm: bool, dilation: int = 1) -> list[str]:
        conv = nn.Conv2d(inputs, outputs, size, padding=size // 2 * dilation, dilation=dilation, bias=not batch_norm)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        parts: list[tuple[str, nn.Module]] = [(name, conv)]
        if batch_norm:
            parts.append((f"{name}_bn", nn.BatchNorm2d(outputs)))
        parts.append((name.replace("conv", "relu").replace("fc", "relu"), nn.ReLU()))
        for part, module in parts:
            self.add_module(part, module)
        return [part for part, _ in parts]

    def _run(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x

    def scores(self, images: Tensor) -> list[Tensor]:
        """Score maps before the last upsampling, from stride 32 down to this network's stride."""
        pools = [(images - self.mean) / self.std]
        for names in self.stages:
            pools.append(self._run(names, pools[-1]))
        scores = [self.score_fr(self._run(self.head, pools[5]))]
        if self.stride <= 16:
            scores.append(_sum(self.upscore2(scores[-1]), self.score_pool4(pools[4])))
        if self.stride <= 8:
            scores.append(_sum(self.upscore_pool4(scores[-1]), self.score_pool3(pools[3])))
        return scores

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        logits: Tensor = self.upscore(self.scores(images)[-1])
        return logits[..., :height, :width]

    def supervised(self, images: Tensor) -> list[Tensor]:
        """Logits at every stride down to this network's, for training all heads on one trunk together."""
        size = images.shape[-2:]
        return [
            nn.functional.interpolate(s, scale_factor=32 // 2**i, mode="bilinear")[..., : size[0], : size[1]]
            for i, s in enumerate(self.scores(images))
        ]


def _sum(coarse: Tensor, fine: Tensor) -> Tensor:
    return coarse[..., : fine.shape[-2], : fine.shape[-1]] + fine


def fcn_vgg16(classes: int, stride: int = 8) -> FCN:
    """FCN on VGG16's 13 convolutions with compact 512-wide fc6 and fc7 (17.4 M parameters; the original's 134 M)."""
    return FCN(classes, [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 512, stride=stride, dropout=0.1)


def fcn_small(classes: int, stride: int = 8) -> FCN:
    """The same shape for 3-channel digit mosaics: eight batch-normalised convolutions (0.9 M parameters)."""
    return FCN(
        classes, [(24, 1), (48, 1), (96, 2), (128, 2), (128, 2)], 128,
        stride=stride, batch_norm=True, mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip


def load_imagenet_vgg16(network: FCN, features: dict[str, Tensor]) -> None:
    """Copies torchvision's `vgg16().features` state into the trunk's convolutions, in order."""
    convs = [m for n, m in network.named_children() if n.startswith("conv") and isinstance(m, nn.Conv2d)]
    indices = sorted({int(k.split(".")[0]) for k in features})
    if len(convs) != len(indices):
        raise ValueError(f"features: got {len(indices)} convolutions, expected {len(convs)}")
    for conv, i in zip(convs, indices, strict=True):
        conv.load_state_dict({"weight": features[f"{i}.weight"], "bias": features[f"{i}.bias"]})
