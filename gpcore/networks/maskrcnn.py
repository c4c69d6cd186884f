"""Mask R-CNN (He, Gkioxari, Dollár and Girshick, ICCV 2017): torchvision's, its small heads on a frozen FCN's trunk."""

from collections import OrderedDict
from typing import Self

import torch
from torch import Tensor, nn

from gpcore.networks.fcn import FCN

CHANNELS = 64  # of every level of the pyramid and of the mask head
ANCHORS = ((20,), (36,), (64,), (110,))  # pixels: root of the area, at strides 4, 8, 16 and 32
LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")  # as torchvision's


class Pyramid(nn.Module):
    """B x 3 x H x W images in [0, 1] to four maps of CHANNELS, strides 4 to 32: a feature pyramid on an FCN's trunk.

    It is built on the last activations of stages 3 to 5 and on fc7. The FCN is frozen: it asks for no gradients, and
    its batch norms stay in evaluation mode. Source: Lin et al., Feature Pyramid Networks, CVPR 2017.
    """

    def __init__(self, fcn: FCN) -> None:
        from torchvision.ops import FeaturePyramidNetwork  # two seconds that few need to wait

        super().__init__()
        self.fcn = fcn.requires_grad_(False).eval()
        self.fpn = FeaturePyramidNetwork([x.shape[1] for x in self.maps(torch.zeros(1, 3, 32, 32))], CHANNELS)
        self.out_channels = CHANNELS  # by which torchvision knows it

    def maps(self, images: Tensor) -> list[Tensor]:
        before, after = self.fcn.features(images)
        return [*before[2:], self.fcn.run(self.fcn.head, after[-1])]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn(OrderedDict(zip("0123", self.maps(images), strict=True)))
        return levels

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.fcn.eval()
        return self


def maskrcnn_small(fcn: FCN, classes: int, size: tuple[int, int] = (128, 160)) -> nn.Module:
    """Mask R-CNN for images of `size`, K `classes` with the ground: box heads of 128, masks of 28 x 28 from 14 x 14.

    In training mode it maps B images and as many `objects` to its five LOSSES; else B images to as many dictionaries of
    N boxes (x1, y1, x2, y2), labels, scores, best first, and masks N x 1 x H x W in [0, 1].
    """
    from torchvision.models.detection import MaskRCNN, faster_rcnn, mask_rcnn
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    network: nn.Module = MaskRCNN(
        Pyramid(fcn),
        min_size=min(size),
        max_size=max(size),
        image_mean=(0.0,) * 3,  # the trunk normalises
        image_std=(1.0,) * 3,
        rpn_anchor_generator=AnchorGenerator(ANCHORS, ((0.5, 1.0, 2.0),) * len(ANCHORS)),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        # a box of 56 to 112 pixels is read at stride 8
        box_roi_pool=MultiScaleRoIAlign([*"0123"], 7, 2, canonical_scale=112),
        box_head=faster_rcnn.TwoMLPHead(CHANNELS * 7**2, 128),
        box_predictor=faster_rcnn.FastRCNNPredictor(128, classes),
        box_batch_size_per_image=32,
        box_detections_per_img=20,
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        mask_head=mask_rcnn.MaskRCNNHeads(CHANNELS, (CHANNELS,) * 3, 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(CHANNELS, CHANNELS, classes),
    )
    return network


def objects(coded: Tensor) -> dict[str, Tensor]:
    """The N objects of an H x W map of `scenes.Instances`: boxes N x 4, labels N and masks N x H x W, bool."""
    codes = coded.unique()
    codes = codes[codes > 0]
    masks = coded == codes[:, None, None]
    return {"boxes": tight_boxes(masks), "labels": codes % 16, "masks": masks}


def tight_boxes(masks: Tensor) -> Tensor:
    """The tightest boxes (x1, y1, x2, y2) around N masks: N x 4. They end where the pixel after the last one begins."""
    from torchvision.ops import masks_to_boxes

    found: Tensor = masks_to_boxes(masks)
    return found + torch.tensor([0.0, 0, 1, 1])
