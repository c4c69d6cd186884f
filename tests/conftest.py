"""What several tests share."""

import dataclasses

import pytest
import torch

from gpcore.networks import fcn_small
from gpcore.studies import DIGITS
from gpcore.study import Study

EPSILON = 0.02
CRF = {"gaussian": (3, 3), "bilateral": (20, 30, 3)}


@pytest.fixture
def study(monkeypatch):
    """The digits with an untrained network, whose predictions change at the slightest step of EPSILON."""
    torch.manual_seed(0)
    network = fcn_small(11).eval()
    tuned = {"epsilon": EPSILON, "crf": CRF, "entropy": {"epsilon": 0.05}}
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: network)
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: tuned)
    return dataclasses.replace(DIGITS, images={"train": 4, "val": 4, "test": 4}, batch=3, crfs=(CRF,))
