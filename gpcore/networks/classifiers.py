"""The classifiers of section 4.2: convolutions 20-50, layers 500-10; convolutions 64-64-128-128-128, layers 128-10.

Named layers one after the other: B x C x H x W images in [0, 1] to B x K logits.
"""

from collections import OrderedDict

from torch import nn


def lenet(classes: int, hidden: int = 500) -> nn.Sequential:
    """LeNet as Caffe ships it, for 1 x 28 x 28 digits (0.43 M parameters, 0.11 M with 100 units in the `hidden` layer).

    A ReLU also follows each convolution.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(((1, 20), (20, 50)), 1):
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 5)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.MaxPool2d(2)
    return nn.Sequential(layers | _head(3, 800, hidden, classes, (0.3, 0.5)))


def cifar_net(classes: int) -> nn.Sequential:
    """Five batch-normalised 3x3 convolutions and two layers, for 3 x 32 x 32 pictures (0.67 M parameters).

    The paper tells the widths alone: pools follow conv1, conv2 and conv5.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (3, 64, 64, 128, 128, 128)
    for i in range(1, 6):
        layers[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], 3, padding=1, bias=False)
        layers[f"conv{i}_bn"] = nn.BatchNorm2d(widths[i])
        layers[f"relu{i}"] = nn.ReLU()
        if i in (1, 2, 5):
            layers[f"pool{i}"] = nn.MaxPool2d(2)
    return nn.Sequential(layers | _head(6, 2048, 128, classes, (0.3, 0.3)))


def _head(i: int, inputs: int, hidden: int, classes: int, dropout: tuple[float, float]) -> OrderedDict[str, nn.Module]:
    """The i-th layer, fully connected, and the scores, with dropout before each."""
    return OrderedDict(
        {
            "flat": nn.Flatten(),
            f"drop{i - 1}": nn.Dropout(dropout[0]),
            f"fc{i}": nn.Linear(inputs, hidden),
            f"relu{i}": nn.ReLU(),
            f"drop{i}": nn.Dropout(dropout[1]),
            "score": nn.Linear(hidden, classes),
        }
    )
