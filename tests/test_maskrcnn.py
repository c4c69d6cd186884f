"""Mask R-CNN: what it is taught, its losses by hand, and the trunk that stays as it is."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.ops import roi_align, roi_pool

from gpcore.networks.fcn import fcn_small
from gpcore.networks.maskrcnn import LOSSES, Pyramid, maskrcnn_small, objects, tight_boxes

CODED = torch.zeros(1, 6, 8, dtype=torch.long)[0]
CODED[1:4, 2:5] = 16 + 3  # object 1, class 3
CODED[3:5, 4:8] = 32 + 3  # object 2 of the same class, in front of its corner


@pytest.fixture
def network():
    torch.manual_seed(0)
    return maskrcnn_small(fcn_small(11), 11)


@pytest.fixture
def lesson():
    coded = torch.zeros(128, 160, dtype=torch.long)
    coded[20:90, 30:80] = 16 + 3
    coded[60:120, 70:150] = 32 + 7
    return [torch.rand(3, 128, 160, generator=torch.Generator().manual_seed(0))], [objects(coded)]


def test_objects_by_hand():
    found = objects(CODED)
    assert found["labels"].tolist() == [3, 3]
    assert found["boxes"].tolist() == [[2, 1, 5, 4], [4, 3, 8, 5]]  # ends lie behind the last pixel
    assert found["masks"].sum((1, 2)).tolist() == [8, 8]  # of nine pixels one is hidden
    assert not found["masks"].all(0).any() and torch.equal(found["masks"].any(0), CODED > 0)


def test_a_scene_without_objects_has_none():
    found = objects(torch.zeros(4, 4, dtype=torch.long))
    assert [list(found[name].shape) for name in ("boxes", "labels", "masks")] == [[0, 4], [0], [0, 4, 4]]


def test_tight_boxes_of_one_pixel_have_a_size():
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[0, 2, 1] = True
    assert tight_boxes(mask).tolist() == [[1, 2, 2, 3]]


@pytest.mark.parametrize(
    ("shift", "pooled", "aligned"),
    [(0, 27, 13.5), (0.25, 27, 15.75), (0.5, 36, 18.0), (0.75, 36, 20.25), (1, 36, 22.5)],
)
def test_pooling_jumps_and_aligning_follows(shift, pooled, aligned):
    features = (8 * torch.arange(8.0)[:, None] + torch.arange(8.0))[None, None]
    box = [torch.tensor([[1.0, 1, 5, 5]]) + shift]
    assert roi_pool(features, box, 2)[0, 0, 0, 0] == pooled
    assert_close(roi_align(features, box, 2, aligned=True)[0, 0, 0, 0].item(), aligned)
    assert_close(roi_align(features, box, 2)[0, 0, 0, 0].item(), aligned + 4.5)  # as detectors call it: half a cell on


def test_the_mask_loss_asks_the_true_class_alone():
    logits = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([[1.0, 0], [1, 1]])
    loss = maskrcnn_loss(
        logits, [torch.tensor([[0.0, 0, 2, 2]])], [mask[None]], [torch.tensor([2])], [torch.tensor([0])]
    )
    asked = torch.tensor([[0.75, 0.5], [1, 1]])  # the mask interpolated half a pixel on, where torchvision reads it
    z = logits[0, 2]
    by_hand = -(asked * z.sigmoid().log() + (1 - asked) * (1 - z.sigmoid()).log()).mean()
    assert_close(loss, by_hand)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0].flatten(1).any(1).tolist() == [False, False, True, False]
    assert_close(gradient[0, 2], (z.sigmoid() - asked).detach() / 4)


def test_the_trunk_stays_and_the_heads_learn(network, lesson):
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.01)
    losses = network(*lesson)
    assert tuple(sorted(losses)) == tuple(sorted(LOSSES)) and all(loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    after = network.state_dict()
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert {name for name in after if name.startswith("backbone.fcn.")} == same  # its batch norms' statistics too
    assert len(after) > len(same)


def test_evaluation_needs_no_targets(network, lesson):
    network.eval()
    with torch.no_grad():
        (found,) = network(lesson[0])
    assert {*found} == {"boxes", "labels", "scores", "masks"}
    assert found["masks"].shape[1:] == (1, 128, 160) and len(found["masks"]) == len(found["scores"])


def test_the_pyramid_has_four_strides_and_a_way_back_to_the_image():
    torch.manual_seed(0)
    pyramid = Pyramid(fcn_small(11)).train()
    assert pyramid.training and not any(module.training for module in pyramid.fcn.modules())
    image = torch.rand(1, 3, 64, 96, requires_grad=True)
    levels = pyramid(image)
    assert [tuple(level.shape[1:]) for level in levels.values()] == [(64, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    levels["3"].sum().backward()
    assert image.grad.any()
    assert all(p.grad is None for p in pyramid.fcn.parameters()) and pyramid.fpn.inner_blocks[3][0].weight.grad.any()
    assert isinstance(pyramid.fcn.fc7, nn.Conv2d) and not pyramid.fcn.fc7.weight.requires_grad
