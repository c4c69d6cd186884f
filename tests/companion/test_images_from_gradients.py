"""Who recognises images, by hand; whether a dream's step makes the rich richer, on a network whose answer is known."""

import pandas as pd
import pytest
import torch
from torch import nn

from gpcore.companion.experiments import images_from_gradients as experiment
from gpcore.datasets.photographs import categories


class Told(nn.Module):
    """Answers logits that were given beforehand, whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[: len(x)]


def test_the_lectures_six_come_first_and_no_class_twice():
    classes = experiment.chosen(26).tolist()
    assert [categories()[i] for i in classes[:6]] == list(experiment.SIX)
    assert classes[6:9] == [25, 75, 125] and len(set(classes)) == 26


def test_judged_by_hand():
    logits = torch.full((2, 1000), -1e4)
    logits[:, :3] = torch.tensor([0.5, 0.3, 0.2]).log()
    classes = torch.tensor([1, 2])
    rows = experiment.judged({"flat": torch.full((2, 3, 8, 8), 0.5)}, classes, Told(logits), Told(logits.flip(0)), 16)
    assert rows["class"].tolist() == [categories()[1], categories()[2]]
    assert rows["own"].tolist() == pytest.approx([0.3, 0.2]) and rows["judge"].tolist() == pytest.approx([0.3, 0.2])
    assert rows["rank"].tolist() == [2, 3] and rows["high"].tolist() == [0, 0]
    (row,) = experiment.ladder_panels({"flat": torch.rand(2, 3, 8, 8)}, rows, 1)
    assert [panel.title for panel in row] == ["flat\n0.30"]


def test_a_step_of_a_linear_layer_makes_the_rich_richer():
    """Where h = a x in every pixel, a dream adds in proportion to h; a random step does not."""
    network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Flatten(), nn.LazyLinear(2))
    network[0].weight.data = torch.eye(3).view(3, 3, 1, 1)
    rows = experiment.richer(network, "0", ["camera", "hopper"], 32, 0.01).set_index(["method", "image"])
    assert (rows.loc["dream", "correlation"] > 0.8).all() and (rows.loc["dream", "growth"] > 0.01).all()
    assert (rows.loc["random", "correlation"].abs() < 0.2).all()
    assert isinstance(rows, pd.DataFrame) and len(rows) == 4
