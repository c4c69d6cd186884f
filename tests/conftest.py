"""What several tests share."""

import ast
import dataclasses

import nbformat
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gpcore import paths
from gpcore.companion.studies import DIGITS, Study
from gpcore.datasets.scenes import Scenes
from gpcore.networks.fcn import fcn_small

EPSILON = 0.02
CRF = {"gaussian": (3, 3), "bilateral": (20, 30, 3)}


def network(kind, seed=0):
    """A small double-precision network for 3 x 4 x 5 images, steep enough for attacks: to "classify" or "segment"."""
    torch.manual_seed(seed)
    last = [nn.Flatten(), nn.Linear(6 * 4 * 5, 4)] if kind == "classify" else [nn.Conv2d(6, 4, 3, padding=1)]
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), *last).double().eval()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


def downhill(network, x, target):
    """Minus the gradient of the cross-entropy with classes or distributions."""
    leaf = x.clone().requires_grad_()
    return -torch.autograd.grad(nn.functional.cross_entropy(network(leaf), target, reduction="sum"), leaf)[0]


def close(ours, theirs, tolerance=1e-12):
    assert_close(ours, theirs, atol=tolerance, rtol=0)


def pairs(hits):
    """Counts of images with 10 pixels of each of two classes; hits: right pixels of the first class, image by image."""
    return torch.tensor([[[h, 10 - h], [0, 10]] for h in hits])


def iou(hits):
    """Their mIoU in per cent; of several images together that of their mean hits."""
    return 100 * (hits / 10 + 10 / (20 - hits)) / 2


def scenes(study):
    """The four test images of `study`: pairs of 1 x 3 x H x W and 1 x H x W."""
    return [study.scene(i) for i in study.indices("test")]


def defined_in(notebook, *names, **given):
    """What a notebook's cells define under some names, run after its imports and the `given` names, as a dictionary."""
    cells = nbformat.read(paths.ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    for line in ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code")).body:
        targets = [node for target in getattr(line, "targets", []) for node in ast.walk(target)]
        found = {getattr(line, "name", None), *(getattr(node, "id", None) for node in targets)}
        if isinstance(line, ast.Import | ast.ImportFrom) or found & {*names}:
            exec(compile(ast.Module([line], []), notebook, "exec"), given)
    return given


@pytest.fixture(scope="module")
def classifier():
    """A small network that knows five classes of 1 x 8 x 8 pictures."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()


@pytest.fixture
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def one_core():
    """Threads would cost tensors of this size more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Middles(Scenes):
    """The middle 96 x 128 pixels of scenes."""

    def __getitem__(self, index):
        return tuple(part[..., 16:-16, 16:-16] for part in super().__getitem__(index))


@pytest.fixture
def withheld(study, monkeypatch):
    """The study as the runner's --record sees one whose pictures are not ours."""
    monkeypatch.setenv("GPCORE_RECORD", "1")
    return dataclasses.replace(study, photographs=False)


@pytest.fixture
def study(monkeypatch):
    """The digits with an untrained network, whose predictions change at the slightest step of EPSILON."""
    torch.manual_seed(0)
    network = fcn_small(11).eval()
    tuned = {"epsilon": EPSILON, "crf": CRF, "entropy": {"epsilon": 0.05}}
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: network)
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: tuned)
    images = {"train": 4, "val": 4, "test": 4}
    return dataclasses.replace(DIGITS, dataset=lambda split: Middles(split, 16), images=images, batch=3, crfs=(CRF,))
