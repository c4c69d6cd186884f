"""The VGG-style trunk that our segmentation networks share: five named stages of convolutions, each with a pool."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.overrides import handle_torch_function, has_torch_function_unary

from gpcore.checks import expect

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Network = TypeVar("Network", bound=nn.Module)
Stages = Sequence[tuple[int, int]]
VGG16: Stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
SMALL: Stages = ((24, 1), (48, 1), (96, 2), (128, 2), (128, 2))
SCENES: dict[str, Any] = {"batch_norm": True, "mean": (0.5,) * 3, "std": (0.25,) * 3}  # options for our scenes


class MaxPool(nn.MaxPool2d):
    """torch's for 2x2 pixels: the same values, without gradients and for even sizes several times as fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad or x.shape[-2] % 2 or x.shape[-1] % 2:
            pooled: Tensor = super().forward(x)
            return pooled
        return _largest_of_four(x)


def _largest_of_four(x: Tensor) -> Tensor:
    if has_torch_function_unary(x):  # one function also for what notes each, as `Cut` does
        noted: Tensor = handle_torch_function(_largest_of_four, (x,), x)
        return noted
    wide = torch.maximum(x[..., ::2], x[..., 1::2])  # torch's own pool would also note where the largest stand
    return torch.maximum(wide[..., ::2, :], wide[..., 1::2, :])


class Trunk(nn.Module):
    """Layers conv1_1 ... pool5 for B x C x H x W images in [0, 1], which it normalises; base of the networks.

    Args:
        stages: for each of the five stages, (channels, number of 3x3 convolutions).
        stride: 32, or 8: then pool4 and pool5 keep the size and conv5 is dilated by 2 (Chen et al., DeepLab).
    """

    def __init__(
        self,
        stages: Stages,
        *,
        stride: int = 32,
        batch_norm: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        expect("stages", f"{len(stages)} stages", len(stages) == 5, "5, one per pool")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.batch_norm = batch_norm
        self.stages: list[list[str]] = []
        channels = len(mean)
        for s, (width, depth) in enumerate(stages, 1):
            names = []
            for d in range(1, depth + 1):
                names += self.conv(f"conv{s}_{d}", channels, width, dilation=2 if stride == 8 and s == 5 else 1)
                channels = width
            keep = stride == 8 and s >= 4
            self.add_module(f"pool{s}", nn.MaxPool2d(3, 1, 1) if keep else MaxPool(2, ceil_mode=True))
            self.stages.append(names)

    def conv(self, name: str, inputs: int, outputs: int, size: int = 3, dilation: int = 1) -> list[str]:
        """Adds a convolution that keeps the size, its batch norm if any and its ReLU; returns their names in order."""
        conv = nn.Conv2d(
            inputs, outputs, size, padding=size // 2 * dilation, dilation=dilation, bias=not self.batch_norm
        )
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        parts: list[tuple[str, nn.Module]] = [(name, conv)]
        if self.batch_norm:
            parts.append((f"{name}_bn", nn.BatchNorm2d(outputs)))
        parts.append((name.replace("conv", "relu").replace("fc", "relu"), nn.ReLU()))
        for part, module in parts:
            self.add_module(part, module)
        return [part for part, _ in parts]

    def run(self, names: Sequence[str], x: Tensor) -> Tensor:
        """The named layers, one after the other."""
        for name in names:
            x = self.get_submodule(name)(x)
        return x

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Every stage's activations before its pool and after it."""
        x, before, after = (images - self.mean) / self.std, [], []
        for s, names in enumerate(self.stages, 1):
            before.append(self.run(names, x))
            x = self.get_submodule(f"pool{s}")(before[-1])
            after.append(x)
        return before, after


def cropped(x: Tensor, like: Tensor) -> Tensor:
    """The upper left of x, of the height and width of `like`: what upsampling has made larger, rounded up by pools."""
    return x[..., : like.shape[-2], : like.shape[-1]]


def channels_last(network: Network) -> Network:
    """The network with its convolutions' weights, and so what they return, channel by channel within each pixel, in
    which a CPU runs wide networks a tenth to a fifth faster; values differ by rounding."""
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


def load_imagenet_vgg16(network: Trunk, features: dict[str, Tensor]) -> None:
    """Copies torchvision's `vgg16().features` state into the trunk's convolutions, in order."""
    convs = [m for n, m in network.named_children() if n.startswith("conv") and isinstance(m, nn.Conv2d)]
    indices = sorted({int(k.split(".")[0]) for k in features})
    expect("features", f"{len(indices)} convolutions", len(indices) == len(convs), f"{len(convs)}")
    for conv, i in zip(convs, indices, strict=True):
        conv.load_state_dict({"weight": features[f"{i}.weight"], "bias": features[f"{i}.bias"]})
