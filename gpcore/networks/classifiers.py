"""The classifiers of section 4.2: convolutions 20-50, layers 500-10; convolutions 64-64-128-128-128, layers 128-10."""

from collections import OrderedDict

from torch import Tensor, nn


class Classifier(nn.Sequential):
    """Named layers one after the other: B x C x H x W images in [0, 1] to B x K logits."""

    def supervised(self, images: Tensor) -> list[Tensor]:
        """Logits B x K of the one output that training supervises."""
        return [self(images)]


def lenet(classes: int) -> Classifier:
    """LeNet as Caffe ships it, for 1 x 28 x 28 digits (0.43 M parameters); a ReLU also follows each convolution."""
    return Classifier(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            drop2=nn.Dropout(0.3),
            fc3=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            drop3=nn.Dropout(0.5),
            score=nn.Linear(500, classes),
        )
    )


def cifar_net(classes: int) -> Classifier:
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
    layers |= OrderedDict(
        flat=nn.Flatten(),
        drop5=nn.Dropout(0.3),
        fc6=nn.Linear(2048, 128),
        relu6=nn.ReLU(),
        drop6=nn.Dropout(0.3),
        score=nn.Linear(128, classes),
    )
    return Classifier(layers)
