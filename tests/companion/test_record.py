import dataclasses
import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from PIL import Image

from gpcore import paths
from gpcore.companion import weights
from gpcore.companion.report import Record, claims, paper
from gpcore.companion.studies import CAMVID, DIGITS, STUDIES
from gpcore.metrics import Interval


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    return Record("97_example", DIGITS, steps=3)


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
    with Image.open(record.folder / "line.png") as drawn:
        assert drawn.size == (1280, 960)  # 6.4 x 4.8 inches


def test_provenance_names_what_was_used(record):
    text = (record.folder / "provenance.json").read_text()
    found = json.loads(text)
    assert text == json.dumps(found, indent=1, sort_keys=True) + "\n"
    assert (found["notebook"], found["study"], found["parameters"]) == ("97_example", "digits", {"steps": 3})
    assert found["images"] == DIGITS.images and found["weights"] == found["epsilon"] == {}
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    refiner = "fcn8s-context"
    Record("97_example", CAMVID, weights=["unet", refiner], network="fcn8s", networks=["fcn16s"])
    found = json.loads((paths.FIGURES / "camvid" / "97_example" / "provenance.json").read_text())
    assert found["epsilon"] == {"unet": CAMVID.epsilon("unet")}
    stored = {name: weights.info(f"camvid/{name}-seed0")["files"] for name in ("unet", refiner)}
    assert found["weights"] == stored and {len(sha256) for sha256 in stored["unet"].values()} == {64}
    assert found["parameters"] == {"network": "fcn8s", "networks": ["fcn16s"]}  # which tell no weights
    handwriting = STUDIES["handwriting"]
    Record("97_example", handwriting, weights=[("classifier", 0), ("half-b", 2)])
    found = json.loads((paths.FIGURES / "handwriting" / "97_example" / "provenance.json").read_text())
    assert found["weights"] == {
        "classifier": weights.info("handwriting/classifier-seed0")["files"],
        "half-b, seed 2": weights.info("handwriting/half-b-seed2")["files"],
    }
    assert found["epsilon"] == {"classifier": handwriting.epsilon("classifier")}


def test_a_record_sets_the_style_of_figures_and_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    with plt.rc_context(), pd.option_context("display.max_colwidth", 10):
        plt.rcdefaults()
        Record("97_example", DIGITS)
        assert (plt.rcParams["image.interpolation"], plt.rcParams["pdf.fonttype"]) == ("nearest", 42)
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"][:2] == ["#0072B2", "#D55E00"]
        assert pd.get_option("display.max_colwidth") is None


def test_claims_follow_their_criterion(record):
    record.claim("GP-04", corrected_minus_error=Interval(2.0, 1.0, 3.0))
    ledger = record.claim("GP-19", time_ratio=0.8)
    assert ledger["verdict"].tolist() == ["holds", "fails"]
    assert ledger["numbers"].tolist() == [
        "corrected_minus_error 2; corrected_minus_error_low 1; corrected_minus_error_high 3", "time_ratio 0.8",
    ]  # fmt: skip
    assert pd.read_csv(record.folder / "claims.csv").equals(ledger)
    said = paper("claims").set_index("id").loc[["GP-04", "GP-19"]]
    assert ledger["claim"].tolist() == said["statement"].tolist()
    assert ledger["holds when"].tolist() == said["criterion"].tolist()


def test_a_claim_is_judged_by_the_numbers_as_printed_and_entered_once(record):
    record.claim("GP-19", time_ratio=0.1)
    ledger = record.claim("GP-19", time_ratio=0.7004)
    assert ledger[["id", "numbers", "verdict"]].to_numpy().tolist() == [["GP-19", "time_ratio 0.7", "holds"]]


def test_a_claim_over_few_images_is_not_run(record):
    ledger = record.claim("GP-16", gain=Interval(1.0, 0.5, 2.0), images=19)
    assert ledger[["numbers", "verdict"]].to_numpy().tolist() == [
        ["gain 1; low 0.5; high 2; images 19; (too few images)", "not run"],
    ]  # fmt: skip


def test_of_a_video_blocks_of_frames_are_counted(record):
    """Of 233 frames in videos of 62 and 171 there are 25 blocks of ten, of eighteen evenly spaced ones eighteen."""
    record.study = dataclasses.replace(record.study, sequences={"test": (62, 171)})
    gain = Interval(1.0, 0.5, 2.0)
    for images, verdict in ((233, "holds"), (60, "holds"), (18, "not run")):
        ledger = record.claim("GP-16", gain=gain, images=images)
        assert ledger["verdict"].tolist() == [verdict]
    assert ledger["numbers"].tolist() == ["gain 1; low 0.5; high 2; images 18; (too few blocks of frames: 18)"]


def test_an_interval_is_entered_with_its_ends_as_printed(record):
    ledger = record.claim("GP-16", gain=Interval(0.5, 0.00049999, 1.0), epsilon=0.0020001)
    assert ledger[["numbers", "verdict"]].to_numpy().tolist() == [
        ["gain 0.5; low 0.0005; high 1; epsilon 0.002", "holds"],
    ]  # fmt: skip


def test_the_ledger_lies_beside_the_notebooks(record, monkeypatch):
    monkeypatch.setattr(paths, "FINISHED", paths.FIGURES)
    record.claim("GP-19", time_ratio=0.5)
    record.ledger()
    written = pd.read_csv(paths.FIGURES / "digits" / "claims.csv", keep_default_na=False)
    assert written.equals(claims.ledger("digits"))
    assert written["notebook"].value_counts()["97_example"] == 1


def test_rows_are_read_that_were_written_else_those_of_the_last_whole_run(record, tmp_path, monkeypatch):
    finished = tmp_path / "finished" / record.study.name / record.folder.name
    finished.mkdir(parents=True)
    (finished / "rows.csv").write_text("a\n1\n")
    monkeypatch.setattr(paths, "FINISHED", tmp_path / "finished")
    assert record.read("rows")["a"].tolist() == [1]
    record.rows("rows", pd.DataFrame({"a": [2]}))
    assert record.read("rows")["a"].tolist() == [2]
