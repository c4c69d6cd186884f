import dataclasses
import timeit
from functools import partial

import pytest
import torch
from torch import nn

from gpcore.companion import cost
from gpcore.companion.studies import DIGITS


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


def test_memory_of_others_and_of_shared_storages():
    outside = torch.zeros(1000)
    with cost.PeakMemory() as memory:
        outside.add_(1)
        outside.view(10, 100)
        assert memory.peak == 0
    memory.__torch_dispatch__(lambda: (whole := torch.zeros(10), whole[:5])[::-1], ())
    assert memory.peak == 40


def test_memory_held_for_the_backward_pass_counts():
    weight = torch.ones(1000, requires_grad=True)
    with cost.PeakMemory() as with_graph:
        weight.exp().exp().exp().sum()
    with cost.PeakMemory() as without, torch.no_grad():
        weight.exp().exp().exp().sum()
    assert with_graph.peak == 3 * 4000 + 4
    assert without.peak == 2 * 4000


def test_operations_of_a_guided_step(monkeypatch):
    """One convolution and free ReLUs: the step costs a pass, a backward to the input, which is as much, and a pass."""
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.ReLU(), nn.ReLU(), nn.ReLU())
    monkeypatch.setattr(type(DIGITS), "network", lambda self, name, seed=0: network)
    monkeypatch.setattr(type(DIGITS), "tuned", lambda self, name, seed=0: {"epsilon": 0.01})
    rows = cost.operations(dataclasses.replace(DIGITS, batch=2), "fcn32s").set_index("place")
    assert rows["gflop"][cost.ALONE] == pytest.approx(2 * 2 * 3 * 9 * 5 * 128 * 160 / 1e9)
    assert rows["gflop"]["input"] == pytest.approx(3 * rows["gflop"][cost.ALONE])
    assert rows["megabytes"][cost.ALONE] == 2 * (2 * 5 * 128 * 160 * 4) / 1e6  # what a layer reads and what it writes


def test_a_step_at_a_layer_is_cheaper_the_deeper():
    """Three passes at the input; at a layer one of all and three of what follows, which at first are more than that."""
    rows = cost.operations(dataclasses.replace(DIGITS, batch=1), "fcn8s").set_index("place")
    assert rows.index.tolist() == [cost.ALONE, "input", "pool1", "pool2", "pool3", "pool4"]
    passes = rows["gflop"] / rows["gflop"][cost.ALONE]
    assert passes["input"] == pytest.approx(3, rel=1e-3)
    assert 4 > passes["pool1"] > passes["pool2"] > passes["pool3"] > passes["pool4"] > 1
    assert passes["pool2"] > passes["input"] > passes["pool3"]
    assert rows["megabytes"]["pool4"] < rows["megabytes"]["input"]


def test_times_are_medians_of_the_rounds_after_the_first_in_turn(monkeypatch):
    seconds, clock, ran = {"a": [50.0, 1, 9, 2], "b": [60.0, 4, 3, 7]}, [0.0], []

    def run(place):
        clock[0] += seconds[place][ran.count(place)]
        ran.append(place)

    monkeypatch.setattr(cost, "_tasks", lambda study, name: {place: partial(run, place) for place in seconds})
    monkeypatch.setattr(cost, "timeit", partial(timeit.timeit, timer=lambda: clock[0]))
    times = cost.timing(DIGITS, "fcn8s", repeats=3)
    assert times.to_dict("list") == {"place": ["a", "b"], "milliseconds": [2000, 4000]}
    assert ran == ["a", "b"] * 4


def test_relative_operations_by_hand():
    network = nn.Conv2d(3, 4, 3, padding=1)
    tasks = {"once": network, "twice": lambda x: network(network(x)[:, :3]), "half": lambda x: network(x[..., :8])}
    spent = cost.relative(tasks, torch.rand(2, 3, 8, 16))
    assert spent.to_dict() == pytest.approx({"once": 1, "twice": 2, "half": 0.5})
