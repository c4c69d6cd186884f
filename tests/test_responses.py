import numpy as np
import pytest
import torch

from gpcore import responses
from gpcore.perturb import guide
from gpcore.study import POOLS


def test_rows_are_relative_changes_of_what_hooks_see(study):
    network, seen = study.network("fcn8s"), {}
    images = torch.stack([image for image, _ in study.data("val", 4)])
    for layer in POOLS:
        network.get_submodule(layer).register_forward_hook(lambda m, i, o, layer=layer: seen.update({layer: o}))
    with torch.no_grad():
        logits = network(images)
        before = dict(seen)
        network(guide(network, images, study.epsilon("fcn8s")).images)
        after = dict(seen)
    rows = responses.rows(study, "fcn8s", "val", 4)
    assert rows["layer"].tolist() == [*POOLS] * 4
    first, second = logits.softmax(1).sort(1, descending=True).values[:, :2].unbind(1)
    contest = (1 - first + second).view(4, 3, 32, 4, 32).mean((2, 4))  # over the cells of pool5
    assert [*responses.extract(network, images)] == [*POOLS]  # panels are drawn in this order
    for i in range(4):
        found = rows[5 * i : 5 * i + 5].set_index("layer")
        changes = [((after[layer][i] - before[layer][i]).norm() / before[layer][i].norm()).item() for layer in POOLS]
        assert found["change"].tolist() == pytest.approx(changes, rel=1e-3)
        moved = (after["pool5"][i].mean(0) - before["pool5"][i].mean(0)).abs()
        ranks = torch.stack([moved, contest[i]]).flatten(1).argsort().argsort()
        assert found["competition"]["pool5"] == pytest.approx(np.corrcoef(ranks)[0, 1], abs=0.02)
        assert abs(found["competition"]["pool5"]) > 0.05  # a flipped sign would be noticed
    assert rows["competition"].notna().sum() == 4


def test_panels_by_hand():
    """Two layers of two channels: 2 x 2, as large as the panels, and a single cell."""
    first = {"a": torch.tensor([[[[1.0, -5], [0, 2]], [[3, -1], [0, 2]]]]), "b": torch.tensor([[[[1.0]], [[2.0]]]])}
    second = {"a": first["a"] + torch.tensor([[[[1.0]], [[3.0]]]]), "b": first["b"] * 4}
    lines, ranges = responses.panels(first, second, (2, 2))
    drawn = [[(panel.kind, panel.data.tolist(), panel.title, panel.limit) for panel in line] for line in lines]
    assert drawn == [
        [("size", [[2, -3], [0, 2]], "a", 3), ("size", [[1.5, 1.5]] * 2, "b", 1.5)],
        [("size", [[4, -1], [2, 4]], "a", 3), ("size", [[6, 6]] * 2, "b", 1.5)],
        [("signed", [[2, 2]] * 2, "Δ", None), ("signed", [[4.5, 4.5]] * 2, "Δ", None)],
    ]
    assert ranges.columns.tolist() == ["layer", "max_before", "max_after", "max_difference"]
    assert ranges.to_numpy().tolist() == [["a", 3, 4, 2], ["b", 1.5, 6, 4.5]]
