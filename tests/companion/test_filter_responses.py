import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import EPSILON

from gpcore.companion import measure
from gpcore.companion.experiments import filter_responses
from gpcore.companion.studies import POOLS


def test_rows_are_relative_changes_of_what_hooks_see(study, monkeypatch):
    """Under a change of the images by which pool5's means rise here and fall there."""
    study, network, seen = dataclasses.replace(study, batch=2), study.network("fcn8s"), {}
    images = torch.stack([image for image, _ in study.data("val", 3)])

    def changed(model, x, epsilon):
        return SimpleNamespace(before=model(x).detach(), images=x + 50 * epsilon * (x.flip(2, 3) - x))

    monkeypatch.setattr(filter_responses, "guide", changed)
    rows = filter_responses.response_rows(study, "fcn8s", "val", 3)
    assert [*measure.extract(network, images)] == [*POOLS]  # panels are drawn in this order
    assert rows["layer"].tolist() == [*POOLS] * 3
    for layer in POOLS:
        network.get_submodule(layer).register_forward_hook(lambda m, i, o, layer=layer: seen.update({layer: o}))
    with torch.no_grad():
        network(changed(network, images, EPSILON).images)
        after = dict(seen)
        first, second = network(images).softmax(1).sort(1, descending=True).values[:, :2].unbind(1)
    contest = (1 - first + second).view(3, 3, 32, 4, 32).mean((2, 4))  # over the cells of pool5
    for i in range(3):
        found = rows[5 * i : 5 * i + 5].set_index("layer")
        changes = [((after[layer][i] - seen[layer][i]).norm() / seen[layer][i].norm()).item() for layer in POOLS]
        assert found["change"].tolist() == pytest.approx(changes, rel=1e-3)
        moved = (after["pool5"][i] - seen["pool5"][i]).mean(0)
        assert moved.min() < 0 < moved.max()
        ranks = torch.stack([moved.abs(), contest[i]]).flatten(1).argsort().argsort()
        assert found["competition"]["pool5"] == pytest.approx(np.corrcoef(ranks)[0, 1], abs=0.02)
        assert abs(found["competition"]["pool5"]) > 0.05  # a flipped sign would be noticed
    assert rows["competition"].notna().sum() == 3


def test_panels_by_hand():
    """Two layers of two channels: one row as wide as the panels, and one half as wide."""
    first = {"a": torch.tensor([[[[1.0, -5, 0, 2]], [[3, -1, 0, 2]]]]), "b": torch.tensor([[[[-1.0, 3]], [[1, 5]]]])}
    second = {"a": first["a"] - torch.tensor([[[[1.0]], [[3.0]]]]), "b": first["b"] * 2}
    lines, ranges = filter_responses.response_panels(first, second, (1, 4))
    drawn = [[(panel.kind, panel.data.tolist(), panel.title, panel.limit) for panel in line] for line in lines]
    assert drawn == [
        [("size", [[2, -3, 0, 2]], "a", 3), ("size", [[0, 1, 3, 4]], "b", 4)],
        [("size", [[0, -5, -2, 0]], "a", 3), ("size", [[0, 2, 6, 8]], "b", 4)],
        [("signed", [[-2, -2, -2, -2]], "Δ", None), ("signed", [[0, 1, 3, 4]], "Δ", None)],
    ]
    assert ranges.columns.tolist() == ["layer", "max_before", "max_after", "max_difference"]
    assert ranges.to_numpy().tolist() == [["a", 3, 5, 2], ["b", 4, 8, 4]]
