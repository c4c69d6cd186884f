"""The context module put behind a finished network (Yu & Koltun, Multi-Scale Context Aggregation, ICLR 2016)."""

import torch
from torch import Tensor, nn

DILATIONS = (1, 2, 4, 8, 16, 1)


class ContextModule(nn.Module):
    """A class map y (B x K x H x W) behind its image, through 3x3 convolutions dilated 1, 1, 2, 4, 8, 16, 1: logits.

    K channels throughout, ReLU after each, a 1x1 convolution at the end. All start as the identity on y, so that an
    untrained module returns y itself.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(classes + 3, classes, 3, padding=1)]
        convs += [nn.Conv2d(classes, classes, 3, padding=d, dilation=d) for d in DILATIONS]
        self.layers = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())))
        self.score = nn.Conv2d(classes, classes, 1)
        with torch.no_grad():
            for conv in (*convs, self.score):
                nn.init.zeros_(conv.weight)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                middle = conv.kernel_size[0] // 2
                conv.weight[:, :classes, middle, middle] = torch.eye(classes)

    def forward(self, y: Tensor, images: Tensor) -> Tensor:
        logits: Tensor = self.score(self.layers(torch.cat([y, images], 1)))
        return logits
