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
    assert {len(sha256) for sha256 in provenance["weights"]["fcn8s"].values()} == {64}


def test_claims_follow_their_criterion(record):
    record.claim("GP-04", corrected_distance=5.0, base_error_distance=3.0)
    ledger = record.claim("GP-05", newly_wrong_distance=5.0, corrected_distance=3.0)
    assert ledger["verdict"].tolist() == ["holds", "fails"]
    assert ledger["numbers"][0] == "corrected_distance 5; base_error_distance 3"
    assert pd.read_csv(record.folder / "claims.csv")["id"].tolist() == ["GP-04", "GP-05"]


def test_a_claim_is_judged_by_the_numbers_as_printed_and_entered_once(record):
    record.claim("GP-07", correlation=0.9)
    ledger = record.claim("GP-07", correlation=0.30004)
    assert ledger[["id", "numbers", "verdict"]].to_numpy().tolist() == [["GP-07", "correlation 0.3", "fails"]]


def test_the_ledger_lies_beside_the_notebooks(record, monkeypatch):
    monkeypatch.setattr(paths, "FINISHED", paths.FIGURES)
    record.claim("GP-07", correlation=0.9)
    record.ledger()
    written = pd.read_csv(paths.FIGURES / "digits" / "claims.csv", keep_default_na=False)
    assert written.equals(claims.ledger("digits"))
    assert written["notebook"].value_counts()["97_example"] == 1


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
