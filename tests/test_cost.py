import pandas as pd
import pytest
import torch
from torch import nn

from gpcore import cost, paths
from gpcore.studies import DIGITS


def test_peak_memory_by_hand():
    with cost.PeakMemory() as memory:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1  # 8000
        view = b.view(10, 100)  # owns nothing
        del a  # 4000
        view.mul_(2)
        c = torch.zeros(250)  # 5000
        del b, view, c
    assert (memory.peak, memory.now) == (8000, 0)


def test_memory_held_for_the_backward_pass_counts():
    weight = torch.ones(1000, requires_grad=True)
    with cost.PeakMemory() as with_graph:
        weight.exp().exp().exp().sum()
    with cost.PeakMemory() as without, torch.no_grad():
        weight.exp().exp().exp().sum()
    assert with_graph.peak == 3 * 4000 + 4
    assert without.peak == 2 * 4000


def test_operations_of_a_guided_step(monkeypatch):
    """A network of one convolution: the step costs a pass, a backward to the input, which is as much, and a pass."""
    network = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    monkeypatch.setattr(type(DIGITS), "network", lambda self, name, seed=0: network)
    monkeypatch.setattr(type(DIGITS), "tuned", lambda self, name, seed=0: {"epsilon": 0.01})
    rows = cost.operations(DIGITS, "fcn32s").set_index("place")["gflop"]
    assert rows[cost.ALONE] == pytest.approx(10 * 2 * 3 * 9 * 5 * 96 * 128 / 1e9)
    assert rows["input"] == pytest.approx(3 * rows[cost.ALONE])


def test_a_step_at_a_layer_is_cheaper_the_deeper():
    rows = cost.operations(DIGITS, "fcn8s").set_index("place")
    assert rows["gflop"][cost.ALONE] < rows["gflop"]["pool4"]
    for shallow, deep in (("input", "pool1"), ("pool1", "pool2"), ("pool2", "pool3"), ("pool3", "pool4")):
        assert rows["gflop"][deep] < rows["gflop"][shallow]
    assert rows["megabytes"]["pool4"] < rows["megabytes"]["input"]


def test_times_are_read_back_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FINISHED", tmp_path)
    folder = tmp_path / "digits" / "09_truncated"
    folder.mkdir(parents=True)
    pd.DataFrame({"place": ["input"], "milliseconds": [-1.0]}).to_csv(folder / "timing.csv", index=False)
    assert cost.timing(DIGITS, "fcn8s")["milliseconds"].tolist() == [-1.0]
    again = cost.timing(DIGITS, "fcn8s", repeats=2, again=True).set_index("place")["milliseconds"]
    assert again.min() > 0
    assert again["input"] > again[cost.ALONE]


def test_relative_operations_by_hand():
    network = nn.Conv2d(3, 4, 3, padding=1)
    tasks = {"once": network, "twice": lambda x: network(network(x)[:, :3]), "half": lambda x: network(x[..., :8])}
    spent = cost.relative(tasks, torch.rand(2, 3, 8, 16))
    assert spent.to_dict() == pytest.approx({"once": 1, "twice": 2, "half": 0.5})
