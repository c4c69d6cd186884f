import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import EPSILON
from torch import nn

from gpcore import metrics
from gpcore.companion.experiments import filter_responses
from gpcore.companion.experiments.filter_responses import LAYERS
from gpcore.companion.report.panels import change_map
from gpcore.companion.studies import POOLS
from gpcore.networks.fcn import fcn_small
from gpcore.perturb import guide


def test_responses_are_the_pools_the_sums_of_scores_and_the_probabilities(seeded):
    network, x = fcn_small(11).eval(), torch.rand(2, 3, 64, 96)
    found = filter_responses.responses(network, x)
    assert [*found] == [*LAYERS] == [*POOLS, "score_fr", "score_pool4", "score_pool3", "probabilities"]
    with torch.no_grad():
        _, pools = network.features(x)
        coarse, middle, fine = network.scores(x)
        assert all(torch.equal(found[layer], pool) for layer, pool in zip(POOLS, pools, strict=True))
        for layer, scores in zip(LAYERS[5:], (coarse, middle, fine, network(x).softmax(1)), strict=True):
            assert torch.equal(found[layer], scores)
        assert [*filter_responses.responses(fcn_small(11, stride=32).eval(), x)] == [*POOLS, "score_fr", LAYERS[-1]]
    with pytest.raises(ValueError, match="network: got a Conv2d"):
        filter_responses.responses(nn.Conv2d(3, 4, 1), x)


def test_rows_are_relative_changes_of_what_the_layers_return(study, monkeypatch):
    """Under a change of the images by which pool5's means rise here and fall there."""
    study, network = dataclasses.replace(study, batch=2), study.network("fcn8s")
    images = torch.stack([image for image, _ in study.data("val", 3)])

    def changed(model, x, epsilon):
        return SimpleNamespace(images=x + 50 * epsilon * (x.flip(2, 3) - x))

    monkeypatch.setattr(filter_responses, "guide", changed)
    rows = filter_responses.response_rows(study, "fcn8s", "val", 3)
    assert rows["layer"].tolist() == [*LAYERS] * 3
    assert rows["image"].tolist() == [i for i in range(3) for _ in LAYERS]
    before, after = (
        filter_responses.responses(network, each) for each in (images, changed(network, images, EPSILON).images)
    )
    with torch.no_grad():
        first, second = network(images).softmax(1).sort(1, descending=True).values[:, :2].unbind(1)
    contest = (1 - first + second).view(3, 3, 32, 4, 32).mean((2, 4))  # over the cells of pool5
    for i in range(3):
        found = rows[rows["image"] == i].set_index("layer")
        changes = [((after[f][i] - before[f][i]).norm() / before[f][i].norm()).item() for f in LAYERS]
        assert found["change"].tolist() == pytest.approx(changes, rel=1e-3)
        moved = (after["pool5"][i] - before["pool5"][i]).mean(0)
        assert moved.min() < 0 < moved.max()
        ranks = torch.stack([moved.abs(), contest[i]]).flatten(1).argsort().argsort()
        assert found["competition"]["pool5"] == pytest.approx(np.corrcoef(ranks)[0, 1], abs=0.02)
        norm = (after["pool5"][i] - before["pool5"][i]).square().sum(0).sqrt()
        ranks = torch.stack([norm, contest[i]]).flatten(1).argsort().argsort()
        assert found["by_norm"]["pool5"] == pytest.approx(np.corrcoef(ranks)[0, 1], abs=0.02)
        assert abs(found["competition"]["pool5"]) > 0.05  # a flipped sign would be noticed
    assert rows["competition"].notna().sum() == 3


def test_changes_by_layer_and_their_growth_are_paired():
    values = {"pool1": [0.01, 0.03], "pool2": [0.02, 0.04], "pool3": [0.02, 0.05], "pool4": [0.05, 0.03]}
    values |= {"pool5": [0.06, 0.06], "score_fr": [0.2, 0.4]}
    rows = pd.DataFrame([(i, layer, each[i]) for i in (1, 0) for layer, each in values.items()])
    rows.columns = ["image", "layer", "change"]
    short = rows[rows["layer"].isin(["pool1", "score_fr"])]
    table = filter_responses.changes_by_layer({"a": rows, "b": short})
    assert [*zip(table["layer"], table["network"], strict=True)] == [
        ("pool1", "a"), ("pool1", "b"), ("pool2", "a"), ("pool3", "a"), ("pool4", "a"), ("pool5", "a"),
        ("score_fr", "a"), ("score_fr", "b"),
    ]  # fmt: skip
    assert table["mean"].tolist() == pytest.approx([2, 2, 3, 3.5, 4, 6, 30, 30])
    assert table["images"].tolist() == [2] * 8
    found = filter_responses.growth(rows)
    assert [*found] == ["pool1_to_pool2", "pool2_to_pool3", "pool3_to_pool4", "pool4_to_pool5"]
    assert [each.value for each in found.values()] == pytest.approx([1, 0.5, 0.5, 2])
    assert found["pool1_to_pool2"] == pytest.approx((1, 1, 1))  # each image gains as much
    assert found["pool3_to_pool4"] == pytest.approx(metrics.mean(torch.tensor([-2.0, 3.0], dtype=torch.double)))


def test_panels_by_hand():
    """A pool of two channels shows their mean, scores of two classes the larger; cells stay as they are."""
    first = {
        "pool1": torch.tensor([[[[1.0, -5, 0, 2]], [[3, -1, 0, 2]]]]),
        "score_pool4": torch.tensor([[[[-1.0, 3]], [[1, 2]]]]),
    }
    second = {"pool1": first["pool1"] - torch.tensor([[[[1.0]], [[3.0]]]]), "score_pool4": first["score_pool4"] * 2}
    columns, ranges = filter_responses.response_panels(first, second)
    drawn = [[(panel.kind, panel.data.tolist(), panel.title, panel.limit) for panel in c] for c in columns.values()]
    assert [*columns] == ["pool1", "score_pool4"]
    assert drawn == [
        [
            ("size", [[2, -3, 0, 2]], "pool1", 5),
            ("size", [[0, -5, -2, 0]], "pool1", 5),
            ("signed", [[-2, -2, -2, -2]], "Δ", None),
        ],
        [("size", [[1, 3]], "+ pool4", 6), ("size", [[2, 6]], "+ pool4", 6), ("signed", [[1, 3]], "Δ", None)],
    ]
    assert ranges.columns.tolist() == ["layer", "max_before", "max_after", "max_difference"]
    assert ranges.to_numpy().tolist() == [["pool1", 3, 5, 2], ["score_pool4", 3, 6, 3]]


def test_a_scene_runs_from_its_image_to_its_prediction(study):
    network, (x, truth) = study.network("fcn8s"), study.scene(1)
    pools, scores, ranges = filter_responses.scene_panels(study, "fcn8s", x, truth)
    out = guide(network, x, EPSILON)
    before, after = (each[0].argmax(0) for each in (out.before, out.after))
    assert [[panel.title for panel in line] for line in pools] == [[*POOLS], [*POOLS], ["Δ"] * 5]
    titles = ["score_fr", "+ pool4", "+ pool3", "largest y"]
    assert [[panel.title for panel in line] for line in scores] == [
        ["image", *titles, "prediction"],
        ["perturbed", *titles, "prediction"],
        ["ε sign(g)", *["Δ"] * 4, "changes"],
    ]
    assert [torch.equal(line[0].data, each[0]) for line, each in zip(scores, (x, out.images), strict=False)] == [
        True
    ] * 2
    last = [before, after, change_map(before, after, truth[0], 255)]
    assert all(torch.equal(line[-1].data, each) for line, each in zip(scores, last, strict=True))
    assert torch.equal(scores[1][4].data, out.after.softmax(1)[0].amax(0))
    assert ranges["layer"].tolist() == [*LAYERS]
