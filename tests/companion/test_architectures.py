import pandas as pd
import pytest
import torch
from conftest import EPSILON

from gpcore import paths
from gpcore.companion import spread
from gpcore.companion.experiments import architectures
from gpcore.companion.report import panels
from gpcore.companion.studies import DIGITS
from gpcore.perturb import guide

ROW = {"epsilon": 0.1, "base": 50.0, "guided": 51.0, "low": 0.5, "high": 1.5, "images": 2}


def test_trainings_are_the_first_and_the_others_network_by_network(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "COUNTS", tmp_path)
    monkeypatch.setattr(spread, "IMAGES", 2)
    right, wrong = torch.tensor([[4, 0], [0, 4]]), torch.tensor([[2, 2], [2, 2]])
    before = torch.stack([wrong, right, wrong, right])  # two are compared, the first and the third
    after = {"unet": before, "fcn8s": right.expand(4, 2, 2)}
    pixels = {"corrected": torch.zeros(4)}
    measured = {name: (torch.stack([before, counts]), pixels) for name, counts in after.items()}
    found = architectures.trainings(DIGITS, measured)
    assert found[["network", "seed", "images"]].to_numpy().tolist() == [["unet", 0, 2], ["fcn8s", 0, 2]]
    assert found["base"].tolist() == pytest.approx([100 / 3, 100 / 3])  # IoU 2 / 6
    assert found["gain"].tolist() == pytest.approx([0, 200 / 3])
    kept = [("fcn8s", 0, 7.0), ("fcn8s", 2, 2.0), ("fcn8s", 1, 3.0), ("unet", 1, 4.0), ("deeplab", 1, 5.0)]
    file = tmp_path / DIGITS.name / "seeds.csv"
    file.parent.mkdir()
    pd.DataFrame([ROW | {"network": n, "seed": s, "gain": g, "val": 60.0} for n, s, g in kept]).to_csv(file)
    found = architectures.trainings(DIGITS, measured)
    assert found["network"].tolist() == ["unet", "unet", "fcn8s", "fcn8s", "fcn8s"]
    assert found["seed"].tolist() == [0, 1, 0, 1, 2]
    assert found["gain"].tolist() == pytest.approx([0, 4, 200 / 3, 3, 2])  # of seed 0 what the notebook measured


def test_net_pixels_by_hand():
    pixels = {"corrected": torch.tensor([7, 1, 4]), "newly_wrong": torch.tensor([2, 2, 2])}
    (row,) = architectures.net_pixels({"unet": (torch.zeros(0), pixels)}).to_dict("records")
    assert (row["network"], row["images"]) == ("unet", 3)
    numbers = [row[name] for name in ("corrected", "newly wrong", "net", "low", "high")]
    assert numbers == pytest.approx([4, 2, 2, -1, 5])
    assert architectures.net_of(pixels).tolist() == [5, -1, 2]
    table = architectures.net_rows({"unet": torch.tensor([5, -1]), "fcn8s": torch.tensor([0, 3])})
    assert table.to_dict("list") == {"image": [0, 1], "unet": [5, -1], "fcn8s": [0, 3]}


def test_extremes_are_the_largest_and_the_smallest_the_first_of_equals():
    assert architectures.extremes(torch.tensor([2, 9, -3, 9, -3, 0]), 2) == ([1, 3], [2, 4])


def test_networks_stand_side_by_side(study):
    rows = architectures.side_by_side(study, ["fcn32s", "fcn8s"], [1, 3])
    assert len(rows) == 6 and all(len(row) == 3 for row in rows)
    for scene, (above, middle, below) in zip((1, 3), (rows[:3], rows[3:]), strict=True):
        x, y = study.scene(scene)
        before, after = (z[0].argmax(0) for z in guide(study.network("fcn8s"), x, EPSILON).trajectory)
        net = int((after == y[0]).sum() - (before == y[0]).sum())
        assert [panel.title for panel in above] == [f"scene {scene}", "FCN-32s", "FCN-8s"]
        assert [panel.title for panel in middle] == ["truth", "after one step", "after one step"]
        assert below[2].title == f"net {net:+d} px" and net != 0
        changes = panels.change_map(before, after, y[0], study.void)
        for panel, data in ((above[0], x[0]), (middle[0], y[0]), (above[2], before), (middle[2], after)):
            assert torch.equal(panel.data, data)
        assert torch.equal(below[2].data, changes) and below[0].data.min() == 1  # white
