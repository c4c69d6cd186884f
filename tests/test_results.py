import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from gpcore import claims, figures, paths, results
from gpcore.studies import CAMVID, DIGITS


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    return results.Record("97_example", DIGITS, steps=3)


def test_a_figure_leaves_the_same_bytes_twice(record):
    rows = pd.DataFrame({"x": [1, 2], "y": [0.123456789, 2.0]})
    found = []
    for _ in range(2):
        figure, axes = plt.subplots()
        axes.plot(rows["x"], rows["y"])
        record.save(figure, "line", rows)
        plt.close(figure)
        found.append({path.name: path.read_bytes() for path in record.folder.iterdir()})
    assert found[0] == found[1]
    assert set(found[0]) == {"line.png", "line.pdf", "line.csv", "provenance.json"}
    assert found[0]["line.csv"] == b"x,y\n1,0.12346\n2,2\n"
    provenance = json.loads(found[0]["provenance.json"])
    assert provenance["parameters"] == {"steps": 3}
    assert len(next(iter(provenance["weights"].values()))) == 64


def test_claims_follow_their_criterion(record):
    record.claim("GP-04", corrected_distance=5.0, base_error_distance=3.0)
    ledger = record.claim("GP-05", newly_wrong_distance=5.0, corrected_distance=3.0)
    assert ledger["verdict"].tolist() == ["holds", "fails"]
    assert ledger["numbers"][0] == "corrected_distance 5; base_error_distance 3"
    assert pd.read_csv(record.folder / "claims.csv")["id"].tolist() == ["GP-04", "GP-05"]


@pytest.mark.parametrize(
    ("identity", "numbers", "verdict"),
    [
        ("GP-01", {"fcn32s_low": 0.1, "fcn32s_high": 1, "fcn8s_low": 0.2, "fcn8s_high": 1}, "holds"),
        ("GP-01", {"fcn32s_low": -0.1, "fcn32s_high": 1, "fcn8s_low": 0.2, "fcn8s_high": 1}, "undecided"),
        ("GP-01", {"fcn32s_low": -0.9, "fcn32s_high": -0.1, "fcn8s_low": 0.2, "fcn8s_high": 1}, "fails"),
        ("GP-03", {"fcn32s_ratio": 1.1, "fcn16s_ratio": 0.9, "fcn8s_ratio": 2}, "fails"),
        ("GP-06", {"pool1": 0.5, "pool2": 1.1, "pool3": 2, "pool4": 3, "pool5": 4}, "holds"),
        ("GP-06", {"pool1": 0.5, "pool2": 0.9, "pool3": 2, "pool4": 3, "pool5": 4}, "fails"),
        ("GP-06", {"pool1": 0.5, "pool2": 1.1, "pool3": 3, "pool4": 2, "pool5": 4}, "fails"),
        ("GP-07", {"correlation": 0.29}, "fails"),
        ("GP-08", {"truth_gain": 3.1, "gp_gain": 1.0}, "holds"),
        ("GP-08", {"truth_gain": 2.9, "gp_gain": 0.1}, "fails"),
        ("GP-09", {"sign_agreement_low": 0.51, "gain_low": -0.1}, "fails"),
        ("GP-10", {"first_gain": 0.6, "best_gain": 1.0}, "holds"),
        ("GP-10", {"first_gain": -0.2, "best_gain": -0.1}, "fails"),
    ],
)
def test_criteria(identity, numbers, verdict):
    assert claims.verdict(identity, numbers) == verdict


def test_every_claim_is_stated():
    table = results.paper("claims")
    assert len(table) == 74
    assert table["id"].is_unique
    assert set(claims.CRITERIA) <= set(table["id"])


def test_claim_errors():
    with pytest.raises(ValueError, match=r"claim: got 'GP-99', expected one of GP-01 \.\.\. LEC-20"):
        claims.statement("GP-99")
    with pytest.raises(ValueError, match="claim GP-07: got numbers x, but no 'correlation'"):
        claims.verdict("GP-07", {"x": 1.0})


def test_change_map_codes():
    before, after = torch.tensor([[0, 1, 0, 1, 1]]), torch.tensor([[0, 0, 1, 1, 0]])
    truth = torch.tensor([[0, 0, 0, 0, 255]])
    names = [list(figures.CHANGES)[code] for code in figures.change_map(before, after, truth, 255)[0]]
    assert names == ["right", "corrected", "newly wrong", "still wrong", "void"]


def test_photographs_that_are_not_ours_stay_out_of_figures():
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = {}
    for study in (DIGITS, CAMVID):
        figure, axes = plt.subplots()
        figures.show(axes, figures.photograph(study, image), study)
        drawn[study.name] = axes.images[0].get_array()
        plt.close(figure)
    assert torch.equal(torch.from_numpy(drawn["digits"].data), image.permute(1, 2, 0))
    assert set(drawn["camvid"].ravel()) == {0.93}
