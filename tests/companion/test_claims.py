"""The criteria on both sides of their thresholds, and the ledger against the entries it collects."""

import math
import re

import pandas as pd
import pytest

from gpcore import paths
from gpcore.companion import studies
from gpcore.companion.report import claims
from gpcore.metrics import Interval

COMMITTED = paths.ROOT / "figures"
ENTRIES = sorted(COMMITTED.glob("*/[0-9][0-9]_*/claims.csv"))
LEDGERS = sorted(COMMITTED.glob("*/claims.csv"))

# id -> cases, each "numbers": verdict; numbers are written as the ledger shows them
CASES = {
    "GP-01": {
        "fcn32s_gain 0.5 [0.1, 1]; fcn8s_gain 0.5 [0.2, 1]": "holds",
        "fcn32s_gain 0.5 [-0.1, 1]; fcn8s_gain 0.5 [0.2, 1]": "undecided",
        "fcn32s_gain -0.5 [-0.9, -0.1]; fcn8s_gain 0.5 [0.2, 1]": "fails",
        "fcn32s_gain -0.5 [-0.9, -0.1]; fcn8s_gain 0.5 [-0.2, 1]": "fails",
    },
    "GP-02": {
        "fcn8s_gain 0.1 [0.01, 0.2]; unet_gain 1 [0.1, 2]": "holds",
        "fcn8s_gain 0.1 [0, 0.2]; unet_gain 1 [0.1, 2]": "undecided",
        "fcn8s_gain -0.1 [-0.3, 0]; unet_gain 1 [0.1, 2]": "undecided",
        "fcn8s_gain 0.1 [0.01, 0.2]; unet_gain -2 [-3, -0.1]": "fails",
        "fcn8s_gain 0 [0, 0]; unet_gain 1 [0.1, 2]": "fails",
    },
    "GP-03": {"fcn8s_ratio 1.01; unet_ratio 2": "holds", "fcn8s_ratio 1; unet_ratio 2": "fails"},
    "GP-04": {
        "corrected_distance 5; base_error_distance 4.9": "holds",
        "corrected_distance 5; base_error_distance 5": "fails",
    },
    "GP-05": {
        "newly_wrong_distance 4.9; corrected_distance 5": "holds",
        "newly_wrong_distance 5; corrected_distance 5": "fails",
    },
    "GP-06": {
        "pool1 0.5; pool2 1.1; pool3 2; pool4 3; pool5 4": "holds",
        "pool1 0.5; pool2 1; pool3 2; pool4 3; pool5 4": "fails",
        "pool1 0.5; pool2 1.1; pool3 3; pool4 2; pool5 4": "fails",
    },
    "GP-07": {"correlation 0.31": "holds", "correlation 0.3": "fails"},
    "GP-08": {
        "truth_gain 3.3; gp_gain 1.1": "holds",
        "truth_gain 3.2; gp_gain 1.1": "fails",
        "truth_gain 3; gp_gain 0.1": "fails",
    },
    "GP-09": {
        "sign_agreement 0.6 [0.51, 0.7]; gain 1 [0.1, 2]": "holds",
        "sign_agreement 0.6 [0.5, 0.7]; gain 1 [0.1, 2]": "fails",
        "sign_agreement 0.6 [0.51, 0.7]; gain -1 [-2, -0.1]": "fails",
        "sign_agreement 0.6 [0.51, 0.7]; gain 0 [-1, 1]": "undecided",
        "sign_agreement 0.6 [0.5, 0.7]; gain 0 [-1, 1]": "fails",
    },
    "GP-10": {
        "first_gain 0.6; best_gain 1": "holds",
        "first_gain 0.59; best_gain 1": "fails",
        "first_gain -0.1; best_gain -0.1": "fails",
    },
    "GP-11": {
        "lowest 0.00216; highest 0.00863": "holds",  # 0.55 / 255 and 2.2 / 255, rounded
        "lowest 0.001; highest 0.0039": "fails",
        "lowest 0; highest 0": "fails",
    },
    "GP-12": {
        "loss 2; gain 1; psnr 40.1": "holds",
        "loss 1.9; gain 1; psnr 40.1": "fails",
        "loss 2; gain 1; psnr 40": "fails",
        "loss 0.1; gain -1; psnr 50": "holds",
        "loss -0.1; gain -1; psnr 50": "fails",
    },
    "GP-13": {"true_class 0.41; rivals 0.2": "holds", "true_class 0.4; rivals 0.2": "fails"},
    "GP-14": {"correlation 0.51": "holds", "correlation 0.5": "fails"},
    "GP-15": {
        "crfrnn_gain 0.5 [0.1, 1]; deeplab_gain 0.5 [0.1, 1]": "holds",
        "crfrnn_gain 0.5 [0.1, 1]; deeplab_gain 0 [-1, 1]": "undecided",
        "crfrnn_gain -1 [-2, -0.1]; deeplab_gain 0.5 [0.1, 1]": "fails",
    },
    "GP-16": {
        "gain 0 [0, 0]": "fails",
        "gain 0.1 [0.01, 0.2]": "holds",
        "gain 0.1 [-0.01, 0.2]": "undecided",
        "gain -0.1 [-0.2, -0.01]": "fails",
    },
    "GP-17": {"improved 18; classes 20": "holds", "improved 17; classes 20": "fails"},
    "GP-18": {
        "pool4_gain 0.85; input_gain 1 [0.1, 2]": "holds",
        "pool4_gain 0.84; input_gain 1 [0.1, 2]": "fails",
        "pool4_gain 0; input_gain -1 [-2, -0.1]": "fails",
        "pool4_gain 1; input_gain 1 [-0.1, 2]": "undecided",
    },
    "GP-19": {"time_ratio 0.7": "holds", "time_ratio 0.71": "fails"},
    "GP-20": {
        "gp_minus_crf 1 [0.1, 2]": "holds",
        "gp_minus_crf 1 [-0.1, 2]": "undecided",
        "gp_minus_crf -1 [-2, -0.1]": "fails",
    },
    "GP-21": {
        "both_minus_crf 1 [0.1, 2]; both_minus_gp 1 [0.1, 2]": "holds",
        "both_minus_crf 1 [0.1, 2]; both_minus_gp 1 [-0.1, 2]": "undecided",
        "both_minus_crf -1 [-2, -0.1]; both_minus_gp 1 [-0.1, 2]": "fails",
        "both_minus_crf 1 [0.1, 2]; both_minus_gp -1 [-2, -0.1]": "fails",
    },
    "GP-22": {
        "margin 0.3 [0.1, 0.5]": "holds",
        "margin 0.3 [-0.1, 0.5]": "undecided",
        "margin -0.3 [-0.5, -0.1]": "fails",
    },
    "GP-23": {"random 0.5; half_width 0.5": "holds", "random 0.51; half_width 0.5": "fails"},
    "GP-24": {
        "uniform_epsilon -0.001; uniform_gain 0.1 [0.01, 0.2]; uniform_rank 3": "holds",
        "uniform_epsilon 0; uniform_gain 0.1 [0.01, 0.2]; uniform_rank 2": "fails",
        "uniform_epsilon -0.001; uniform_gain -1 [-2, -0.1]; uniform_rank 2": "fails",
        "uniform_epsilon -0.001; uniform_gain 0.1 [-0.1, 0.2]": "undecided",
    },
    "GP-25": {
        "matches 10; expected 10; cosine -0.1": "holds",
        "matches 9; expected 10; cosine -0.1": "fails",
        "matches 10; expected 10; cosine 0": "fails",
    },
    "GP-26": {
        "matches 10; expected 10; onehot_top_raised 1; uniform_top_lowered 1": "holds",
        "matches 9; expected 10; onehot_top_raised 1; uniform_top_lowered 1": "fails",
        "matches 10; expected 10; onehot_top_raised 0; uniform_top_lowered 1": "fails",
        "matches 10; expected 10; onehot_top_raised 1; uniform_top_lowered 0": "fails",
    },
    "GP-27": {"error 1e-06; onehot_error 0": "holds", "error 1.01e-06; onehot_error 0": "fails"},
    "GP-28": {
        "gain 0.23; p 0.049": "holds",
        "gain 0.23; p 0.05": "undecided",
        "gain -0.23; p 0.049": "fails",
    },
    "GP-29": {
        "gain 0.23; p 0.049": "holds",
        "gain 0.23; p 0.05": "undecided",
        "gain -0.23; p 0.049": "fails",
    },
    "DAE-01": {"cosine 0.951": "holds", "cosine 0.95": "fails"},
    "DAE-02": {
        "gain 1 [0.1, 2]": "holds",
        "gain 1 [-0.1, 2]": "undecided",
        "gain -1 [-2, -0.1]": "fails",
    },
    "DAE-03": {
        "difference 1 [0.1, 2]": "holds",
        "difference 1 [-0.1, 2]": "undecided",
        "difference -1 [-2, -0.1]": "fails",
    },
    "DAE-04": {
        "over_crf 1 [0.1, 2]; over_context 1 [0.1, 2]; over_crfrnn 1 [0.1, 2]": "holds",
        "over_crf 1 [0.1, 2]; over_context 1 [0.1, 2]; over_crfrnn 1 [-0.1, 2]": "undecided",
        "over_crf 1 [0.1, 2]; over_context -1 [-2, -0.1]; over_crfrnn 1 [-0.1, 2]": "fails",
        "over_crf -1 [-2, -0.1]; over_context 1 [0.1, 2]; over_crfrnn 1 [0.1, 2]": "fails",
    },
    "DAE-05": {
        "difference 1 [0.1, 2]": "holds",
        "difference 1 [-0.1, 2]": "undecided",
        "difference -1 [-2, -0.1]": "fails",
    },
    "DAE-06": {"worst_class 0": "holds", "worst_class -0.01": "fails"},
    "DAE-07": {"pole -0.01": "holds", "pole 0": "fails"},
    "DAE-08": {
        "spread 0.49; in_order 1": "holds",
        "spread 0.5; in_order 1": "fails",
        "spread 0.49; in_order 0": "fails",
    },
    "DAE-09": {"sigma_truth 0.5; sigma_y 0.1": "holds", "sigma_truth 0.5; sigma_y 0.5": "fails"},
    "DAE-10": {
        "difference 1 [0.1, 2]": "holds",
        "difference 1 [-0.1, 2]": "undecided",
        "difference -1 [-2, -0.1]": "fails",
    },
    "DAE-11": {
        "difference 1 [0.1, 2]": "holds",
        "difference 1 [-0.1, 2]": "undecided",
        "difference -1 [-2, -0.1]": "fails",
    },
    "ROB-01": {"standard 50; robust 10": "holds", "standard 50; robust 10.1": "fails"},
    "ROB-02": {"pre 5; rb 10.1": "holds", "pre 5; rb 10": "fails"},
    "ROB-03": {
        "at_over_rb 1 [0.1, 2]": "holds",
        "at_over_rb 1 [-0.1, 2]": "undecided",
        "at_over_rb -1 [-2, -0.1]": "fails",
    },
    "ROB-04": {
        "pre_over_at 1 [0.1, 2]": "holds",
        "pre_over_at 1 [-0.1, 2]": "undecided",
        "pre_over_at -1 [-2, -0.1]": "fails",
    },
    "ROB-05": {
        "bim_over_fgsm 1 [0.1, 2]; pgd_over_bim 1 [0.1, 2]": "holds",
        "bim_over_fgsm 1 [0.1, 2]; pgd_over_bim 1 [-0.1, 2]": "undecided",
        "bim_over_fgsm -1 [-2, -0.1]; pgd_over_bim 1 [-0.1, 2]": "fails",
        "bim_over_fgsm 1 [0.1, 2]; pgd_over_bim -1 [-2, -0.1]": "fails",
    },
    "ROB-06": {"share 25.1": "holds", "share 25": "fails"},
    "ROB-07": {"images 50": "holds", "images 49.9": "fails"},
    "ROB-08": {"data_free 4; noise 2": "holds", "data_free 3.9; noise 2": "fails", "data_free 0; noise 0": "fails"},
    "ROB-09": {
        "at_below_pre 80; high_pre 41; high_at 20": "holds",
        "at_below_pre 79; high_pre 41; high_at 20": "fails",
        "at_below_pre 80; high_pre 40; high_at 20": "fails",
    },
    "ROB-10": {
        "pre_over_rb 1 [0.1, 2]; rb_over_at 1 [0.1, 2]": "holds",
        "pre_over_rb 1 [0.1, 2]; rb_over_at 1 [-0.1, 2]": "undecided",
        "pre_over_rb -1 [-2, -0.1]; rb_over_at 1 [-0.1, 2]": "fails",
        "pre_over_rb 1 [0.1, 2]; rb_over_at -1 [-2, -0.1]": "fails",
    },
    "ROB-11": {"variation 0.251": "holds", "variation 0.25": "fails"},
    "ROB-12": {
        "at_over_chance 1 [0.1, 2]; at_over_pre 1 [0.1, 2]": "holds",
        "at_over_chance 1 [0.1, 2]; at_over_pre 1 [-0.1, 2]": "undecided",
        "at_over_chance -1 [-2, -0.1]; at_over_pre 1 [-0.1, 2]": "fails",
        "at_over_chance 1 [0.1, 2]; at_over_pre -1 [-2, -0.1]": "fails",
    },
    "ROB-13": {"correlation 0.601": "holds", "correlation 0.6": "fails"},
    "LEC-01": {
        "score -3; p 0.0474; nudged 2; p_nudged 0.881": "holds",
        "score -3; p 0.0474; nudged -0.5; p_nudged 0.378": "fails",
    },
    "LEC-02": {
        "by_size 0.5 [0.4, 0.6]": "holds",
        "by_size 0.2 [-0.1, 0.6]": "undecided",
        "by_size -0.2 [-0.3, -0.1]": "fails",
    },
    "LEC-03": {
        "difference 1 [0.1, 2]": "holds",
        "difference 1 [-0.1, 2]": "undecided",
        "difference -1 [-2, -0.1]": "fails",
    },
    "LEC-04": {"share 40 [26, 50]": "holds", "share 40 [24, 50]": "undecided", "share 20 [10, 24]": "fails"},
    "LEC-05": {"share 40 [26, 50]": "holds", "share 40 [24, 50]": "undecided", "share 20 [10, 24]": "fails"},
    "LEC-06": {"share 100 [83, 100]": "holds", "share 60 [36, 81]": "undecided", "share 20 [6, 44]": "fails"},
    "LEC-08": {
        "matches 4; expected 4; peak 1 [0.1, 2]": "holds",
        "matches 4; expected 4; peak 1 [-0.1, 2]": "undecided",
        "matches 3; expected 4; peak 1 [0.1, 2]": "fails",
        "matches 4; expected 4; peak -1 [-2, -0.1]": "fails",
    },
    "LEC-09": {
        "nearest_below_tenth 1 [0.1, 2]; bilinear_below_tenth 1 [0.1, 2]": "holds",
        "nearest_below_tenth 1 [0.1, 2]; bilinear_below_tenth 1 [-0.1, 2]": "undecided",
        "nearest_below_tenth -1 [-2, -0.1]; bilinear_below_tenth 1 [0.1, 2]": "fails",
        "nearest_below_tenth 1 [0.1, 2]; bilinear_below_tenth -1 [-2, -0.1]": "fails",
    },
    "LEC-10": {
        "matches 11; expected 11; same_parameters 1": "holds",
        "matches 10; expected 11; same_parameters 1": "fails",
        "matches 11; expected 11; same_parameters 0": "fails",
    },
    "LEC-12": {"ratio 10.1; lenet_ratio 2": "holds", "ratio 10; lenet_ratio 20": "fails"},
    "LEC-07": {
        "upper_half 0.5 [0.4, 0.6]; all_layers 0.1 [0.05, 0.2]": "holds",
        "upper_half 0.5 [0.4, 0.6]; all_layers 0 [-0.1, 0.1]": "undecided",
        "upper_half 0.5 [0.4, 0.6]; all_layers -0.1 [-0.2, -0.05]": "fails",
    },
    "LEC-14": {
        "gain 0.1 [0.01, 0.2]": "holds",
        "gain 0.1 [-0.01, 0.2]": "undecided",
        "gain -0.1 [-0.2, -0.01]": "fails",
    },
    "LEC-16": {"matches 20; expected 20": "holds", "matches 19; expected 20": "fails"},
    "LEC-17": {
        "smoother 0.3 [0.2, 0.4]; recognised 0.2 [0.1, 0.3]": "holds",
        "smoother 0.3 [0.2, 0.4]; recognised 0.1 [-0.1, 0.3]": "undecided",
        "smoother 0.3 [0.2, 0.4]; recognised -0.2 [-0.3, -0.1]": "fails",
        "smoother -0.3 [-0.4, -0.2]; recognised 0.2 [0.1, 0.3]": "fails",
    },
    "LEC-19": {
        "code_tsne 0.7 [0.6, 0.8]; code_itself 0.4 [0.31, 0.5]; "
        "over_pixels_tsne 0.5 [0.4, 0.6]; over_pixels_itself 0.3 [0.1, 0.4]": "holds",
        "code_tsne 0.7 [0.6, 0.8]; code_itself 0.4 [0.29, 0.5]; "
        "over_pixels_tsne 0.5 [0.4, 0.6]; over_pixels_itself 0.3 [0.1, 0.4]": "undecided",
        "code_tsne 0.7 [0.6, 0.8]; code_itself 0.2 [0.1, 0.29]; "
        "over_pixels_tsne 0.5 [0.4, 0.6]; over_pixels_itself 0.3 [0.1, 0.4]": "fails",
        "code_tsne 0.7 [0.6, 0.8]; code_itself 0.4 [0.31, 0.5]; "
        "over_pixels_tsne 0.1 [-0.1, 0.2]; over_pixels_itself 0.3 [0.1, 0.4]": "undecided",
    },
    "LEC-20": {
        "pool1_over_pixels 5 [4, 6]; pool2_over_pool1 1 [0.1, 2]": "holds",
        "pool1_over_pixels 5 [4, 6]; pool2_over_pool1 1 [-0.1, 2]": "undecided",
        "pool1_over_pixels 5 [4, 6]; pool2_over_pool1 -1 [-2, -0.1]": "fails",
    },
    "LEC-18": {
        "over_chance 0.2 [0.1, 0.3]": "holds",
        "over_chance 0.1 [-0.1, 0.3]": "undecided",
        "over_chance -0.2 [-0.3, -0.1]": "fails",
    },
    "GP-30": {
        "classification 3 [1, 5]; segmentation 6": "holds",
        "classification 3 [1, 5]; segmentation 4": "undecided",
        "classification 3 [1, 5]; segmentation 0.5": "fails",
    },
}


def read(numbers: str) -> dict[str, float | Interval]:
    """What the ledger prints or shows, as numbers again; of old entries a value, an end or a name is missing."""
    found = {}
    for entry in numbers.split("; "):
        name, *parts = re.findall(r"[^ ,\[\]]+", entry)
        found[name] = Interval(*map(float, parts)) if len(parts) == 3 else float(*parts)
    for low in [name for name in found if re.fullmatch(r"(.*_)?low", name)]:
        stem = low.removesuffix("low")
        known = [name for name in (f"{stem}gain", stem[:-1]) if name in found]
        name = known[0] if known else stem[:-1] or next(iter(found))
        ends = found.pop(low), found.pop(f"{stem}high", math.inf)
        found[name] = Interval(found.get(name, ends[0]), *ends)
    return found


def enter(folder, **entries: str) -> None:
    folder.mkdir(parents=True)
    rows = [(f"GP-{key[2:]}", verdict, "correlation 0.4") for key, verdict in entries.items()]
    pd.DataFrame(rows, columns=["id", "verdict", "numbers"]).to_csv(folder / "claims.csv", index=False)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FINISHED", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("identity", "numbers"), [(key, numbers) for key, cases in CASES.items() for numbers in cases])
def test_criteria(identity, numbers):
    assert claims.verdict(identity, read(numbers)) == CASES[identity][numbers]


def test_every_criterion_is_tried_on_both_sides():
    assert set(CASES) == set(claims.CRITERIA)
    assert all({"holds", "fails"} <= set(cases.values()) for cases in CASES.values())


def test_every_claim_is_stated():
    table = pd.read_csv(paths.PAPER / "claims.csv")
    assert table["id"].is_unique and table.notna().all(axis=None)
    assert table["id"].str[:-3].value_counts().to_dict() == {"GP": 30, "DAE": 11, "ROB": 13, "LEC": 20}
    assert set(claims.CRITERIA) <= set(table["id"])


def test_errors():
    with pytest.raises(ValueError, match=r"claim: got 'GP-99', expected one of GP-01 \.\.\. LEC-20"):
        claims.statement("GP-99")
    with pytest.raises(ValueError, match="claim GP-07: got numbers x, but no 'correlation'"):
        claims.verdict("GP-07", {"x": 1.0})
    with pytest.raises(ValueError, match="claim GP-02: got numbers , but no 'gain'"):
        claims.verdict("GP-02", {})
    with pytest.raises(ValueError, match="claim GP-02: got numbers x, one with or without its interval where the crit"):
        claims.verdict("GP-02", {"x": 1.0})
    with pytest.raises(ValueError, match="claim GP-07: got numbers correlation, one with or without its interval"):
        claims.verdict("GP-07", {"correlation": Interval(0.5, 0.4, 0.6)})
    with pytest.raises(ValueError, match="claim GP-16: high is not a number"):
        claims.verdict("GP-16", {"gain": Interval(1.0, 0.5, float("nan"))})
    with pytest.raises(ValueError, match="claim GP-07: correlation is not a number"):
        claims.verdict("GP-07", {"correlation": float("nan")})
    with pytest.raises(ValueError, match=r"claim LEC-13: claims\.CRITERIA has no criterion"):
        claims.verdict("LEC-13", {"x": 1.0})


def test_an_intervals_ends_stand_under_its_name():
    interval = Interval(1.2345, -0.98765, 12.345)
    numbers = claims.rounded({"a_gain": interval, "gain": interval, "margin": interval, "gain_ratio": True})
    assert numbers == {**dict.fromkeys(("a_gain", "gain", "margin"), Interval(1.23, -0.988, 12.3)), "gain_ratio": 1.0}
    assert [*claims.named(numbers).items()] == [
        ("a_gain", 1.23), ("a_low", -0.988), ("a_high", 12.3), ("gain", 1.23), ("low", -0.988), ("high", 12.3),
        ("margin", 1.23), ("margin_low", -0.988), ("margin_high", 12.3), ("gain_ratio", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_committed_verdicts_follow_from_the_numbers_beside_them(path):
    for entry in pd.read_csv(path).itertuples():
        assert claims.verdict(entry.id, read(entry.numbers)) == entry.verdict, entry.id


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.parent.name)
def test_committed_ledgers_are_those_of_the_committed_entries(path):
    ledger = claims.ledger(path.parent.name)
    assert ledger.equals(pd.read_csv(path, dtype=str, keep_default_na=False))


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.parent.name)
def test_every_committed_comparison_shows_the_same_verdicts(path):
    shown = pd.read_csv(path.parent / "99_claims" / "verdicts.csv").set_index(["study", "id"])["verdict"]
    every = claims.ledgers(studies.STUDIES).set_index(["study", "id"])["verdict"]
    assert shown.to_dict() == every.loc[shown.index].to_dict()
    tried = every[every != "not run"].index
    assert tried.isin(shown.index).all()


def test_the_ledger_lists_every_claim_and_says_why_one_is_not_run(finished):
    enter(finished / "digits" / "01_one", gp07="holds")
    enter(finished / "digits" / "02_two", gp14="fails")
    enter(finished / "digits" / ".03_three.old", gp13="fails")  # what a killed run has put aside
    rows = claims.ledger("digits")
    assert rows["id"].tolist() == pd.read_csv(paths.PAPER / "claims.csv")["id"].tolist()
    assert list(rows) == ["id", "claim", "holds when", "verdict", "numbers", "notebook"]
    found = rows.set_index("id")[["verdict", "numbers", "notebook"]].T.to_dict("list")
    assert found["GP-07"] == ["holds", "correlation 0.4", "01_one"]
    assert found["GP-14"] == ["fails", "correlation 0.4", "02_two"]
    assert found["GP-13"] == ["not run", "no notebook has run it on this study", ""]
    assert found["LEC-13"] == ["not run", "its notebook does not exist yet", ""]


def test_no_claim_is_entered_by_two_notebooks(finished):
    enter(finished / "digits" / "01_one", gp07="holds", gp14="holds")
    enter(finished / "digits" / "02_two", gp14="fails")
    with pytest.raises(ValueError, match="ledger of digits: claimed twice: GP-14 by 01_one, GP-14 by 02_two"):
        claims.ledger("digits")


def test_studies_side_by_side_and_their_tally(finished):
    enter(finished / "camvid" / "01_one", gp07="holds", gp14="undecided")
    enter(finished / "digits" / "01_one", gp07="fails")
    rows = claims.ledgers(["digits", "scenes", "camvid"])
    counts = claims.tally(rows, "study")
    assert list(counts) == ["tried", "holds", "fails", "undecided", "not run"]
    assert rows["study"].unique().tolist() == list(counts.index) == ["digits", "camvid"]  # scenes tried none
    assert counts.T.to_dict("list") == {"digits": [1, 0, 1, 0, 73], "camvid": [2, 1, 0, 1, 72]}


def test_compact_folds_intervals_and_keeps_the_rest():
    many = "; ".join(f"number_{i} {i}" for i in range(10))
    numbers = {
        "a_gain 1; a_low 0; a_high 2; b 3": ["a_gain 1 [0, 2]; b 3"],
        "a 0.5; a_low 0.4; gain_low -1; gain_high 1": ["a 0.5; a_low 0.4; gain_low -1; gain_high 1"],
        many: [many[: many.index("; number_6")], many[many.index("number_6") :]],
    }
    for each, lines in numbers.items():
        row = {"id": "GP-02", "claim": "c", "notebook": "06_name", "verdict": "holds", "numbers": each}
        shown = claims.compact(pd.DataFrame([row]))
        assert shown["numbers"].tolist() == lines and {*shown.index} == {("GP-02", "c", "06", "holds")}
