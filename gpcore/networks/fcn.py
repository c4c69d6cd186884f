"""Fully convolutional networks with strides 32, 16 and 8 (Long, Shelhamer, Darrell, CVPR 2015)."""

from typing import Any

from torch import Tensor, nn

from gpcore.checks import expect
from gpcore.networks.vgg import SCENES, SMALL, VGG16, Stages, Trunk, channels_last, cropped


class Scored(Trunk):
    """VGG-style trunk and 1x1 score layers on pool3, pool4 and fc7, with the original's names.

    Where the original padded by 100 and cropped, convolutions here keep the size, pools round up and sums are cropped.

    Args:
        classes: number of classes K.
        stages, options: see `Trunk`.
        fc: channels of fc6 (3x3, dilation 2, in place of the original's 7x7) and fc7 (1x1).
        stride: 32, 16 or 8.
    """

    def __init__(
        self, classes: int, stages: Stages, fc: int, *, stride: int = 8, dropout: float = 0.0, **options: Any
    ) -> None:
        expect("stride", stride, stride in (32, 16, 8), "32, 16 or 8")
        super().__init__(stages, **options)
        self.stride = stride
        self.head = [*self.conv("fc6", stages[4][0], fc, 3, dilation=2), "drop6"]
        self.drop6 = nn.Dropout2d(dropout)
        self.head += [*self.conv("fc7", fc, fc, 1), "drop7"]
        self.drop7 = nn.Dropout2d(dropout)
        self.score_fr = nn.Conv2d(fc, classes, 1)
        self.score_pool4 = nn.Conv2d(stages[3][0], classes, 1)
        self.score_pool3 = nn.Conv2d(stages[2][0], classes, 1)
        self.upscore2 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.upscore_pool4 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.upscore = nn.Upsample(scale_factor=stride, mode="bilinear")

    def scores(self, images: Tensor) -> list[Tensor]:
        """Score maps before the last upsampling, from stride 32 down to this network's stride."""
        _, pools = self.features(images)
        scores = [self.score_fr(self.run(self.head, pools[4]))]
        if self.stride <= 16:
            scores.append(cropped(self.upscore2(scores[-1]), pools[3]) + self.score_pool4(pools[3]))
        if self.stride <= 8:
            scores.append(cropped(self.upscore_pool4(scores[-1]), pools[2]) + self.score_pool3(pools[2]))
        return scores


class FCN(Scored):
    """B x C x H x W images in [0, 1] to B x K x H x W logits: the finest score map, by fixed bilinear upsampling.

    FCN-32s reads `score_fr` alone; FCN-16s adds `score_pool4`, FCN-8s also `score_pool3`.
    """

    def forward(self, images: Tensor) -> Tensor:
        return cropped(self.upscore(self.scores(images)[-1]), images)

    def supervised(self, images: Tensor) -> list[Tensor]:
        """Logits at every stride down to this network's, for training all heads on one trunk together."""
        return [
            cropped(nn.functional.interpolate(s, scale_factor=32 // 2**i, mode="bilinear"), images)
            for i, s in enumerate(self.scores(images))
        ]


class CropClassifier(Scored):
    """What FCN-32s' trunk and head say of a whole small image: B x K logits, the mean of its coarsest score map.

    Its weights fit an `FCN` of the same stages, to which it is a backbone trained for classification.
    """

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images)[0].mean((2, 3))


def fcn_vgg16(classes: int, stride: int = 8) -> FCN:
    """FCN on VGG16's 13 convolutions with compact 512-wide fc6 and fc7 (17.4 M parameters; the original's 134 M)."""
    return channels_last(FCN(classes, VGG16, 512, stride=stride, dropout=0.1))


def fcn_small(classes: int, stride: int = 8) -> FCN:
    """The same shape for our scenes: eight batch-normalised convolutions (0.9 M parameters)."""
    return FCN(classes, SMALL, 128, stride=stride, **SCENES)


def fcn_deep(classes: int) -> FCN:
    """FCN-8s for our scenes with a convolution more in each stage from pool2 on: eleven (1.3 M parameters)."""
    return FCN(classes, [*SMALL[:2], *((width, depth + 1) for width, depth in SMALL[2:])], 128, **SCENES)


def crop_classifier(classes: int) -> CropClassifier:
    """A classifier of crops of our scenes, on `fcn_small`'s trunk."""
    return CropClassifier(classes, SMALL, 128, stride=32, **SCENES)
