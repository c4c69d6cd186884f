"""The claims ledger: what each claim says, when it holds, the verdict that follows from numbers, and all of them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from gpcore import paths
from gpcore.metrics import Interval

Numbers = Mapping[str, Any]  # by name, each a plain number or an Interval
Outcome = bool | None  # None is undecided
VERDICTS: dict[Outcome, str] = {True: "holds", False: "fails", None: "undecided"}


def _all(*outcomes: Outcome) -> Outcome:
    """False where one is, else undecided where one is."""
    return False if False in outcomes else None if None in outcomes else True


def _sign(low: float, high: float) -> Outcome:
    """Whether a quantity is above zero, by the ends of its interval: undecided where that covers zero."""
    return True if low > 0 else False if high < 0 or low == high else None


def _above_zero(n: Numbers, *names: str) -> Outcome:
    """Whether each n[name] > 0, by its interval; there must be some."""
    if not names:
        raise KeyError("gain")
    return _all(*(_sign(n[name].low, n[name].high) for name in names))


def _reaches(value: float, factor: float, other: float) -> bool:
    """Whether value >= factor x other; 3.3 reaches 3 x 1.1, which in binary is a little more."""
    return value >= factor * other - 1e-12


def _mcnemar(n: Numbers) -> Outcome:
    """Whether more is corrected than spoilt: undecided where the test does not tell."""
    return None if n["p"] >= 0.05 else n["gain"] > 0


# The criteria of data/paper/claims.csv as functions of the numbers that notebooks report; a claim whose notebook is
# not written yet has none. Gains are in points of mIoU.
CRITERIA: dict[str, Callable[[Numbers], Outcome]] = {
    "GP-01": lambda n: _above_zero(n, "fcn32s_gain", "fcn8s_gain"),
    "GP-02": lambda n: _above_zero(n, *n),
    "GP-03": lambda n: min(n.values()) > 1,
    "GP-04": lambda n: n["corrected_distance"] > n["base_error_distance"],
    "GP-05": lambda n: n["newly_wrong_distance"] < n["corrected_distance"],
    "GP-06": lambda n: n["pool1"] < n["pool2"] < n["pool3"] < n["pool4"] < n["pool5"] and n["pool2"] > 1,  # per cent
    "GP-07": lambda n: n["correlation"] > 0.3,
    "GP-08": lambda n: _reaches(n["truth_gain"], 3, n["gp_gain"]) and n["truth_gain"] > 3,
    "GP-09": lambda n: _all(n["sign_agreement"].low > 0.5, _above_zero(n, "gain")),
    "GP-10": lambda n: n["best_gain"] > 0 and _reaches(n["first_gain"], 0.6, n["best_gain"]),
    # the ends of the range where epsilon gains; 3.96: a factor of 4 whose two ends were rounded to three digits
    "GP-11": lambda n: n["lowest"] > 0 and _reaches(n["highest"], 3.96, n["lowest"]),
    "GP-12": lambda n: n["loss"] > 0 and _reaches(n["loss"], 2, n["gain"]) and n["psnr"] > 40,
    "GP-13": lambda n: n["true_class"] > 2 * n["rivals"],
    "GP-14": lambda n: n["correlation"] > 0.5,
    "GP-15": lambda n: _above_zero(n, "crfrnn_gain", "deeplab_gain"),
    "GP-16": lambda n: _above_zero(n, "gain"),
    "GP-17": lambda n: _reaches(n["improved"], 0.9, n["classes"]),
    "GP-18": lambda n: _all(_above_zero(n, "input_gain"), _reaches(n["pool4_gain"], 0.85, n["input_gain"].value)),
    "GP-19": lambda n: n["time_ratio"] <= 0.7,
    "GP-20": lambda n: _above_zero(n, "gp_minus_crf"),
    "GP-21": lambda n: _above_zero(n, "both_minus_crf", "both_minus_gp"),
    "GP-22": lambda n: _above_zero(n, "margin"),  # of one-hot's best over the best of the others
    "GP-23": lambda n: n["random"] <= n["half_width"],
    "GP-24": lambda n: _all(n["uniform_epsilon"] < 0, _above_zero(n, "uniform_gain")),
    "GP-25": lambda n: n["matches"] == n["expected"] and n["cosine"] < 0,
    "GP-26": lambda n: n["matches"] == n["expected"] and n["onehot_top_raised"] == 1 == n["uniform_top_lowered"],
    "GP-27": lambda n: n["error"] <= 1e-6,
    "GP-28": _mcnemar,
    "GP-29": _mcnemar,
    "GP-30": lambda n: _sign(n["segmentation"] - n["classification"].high, n["segmentation"] - n["classification"].low),
    "DAE-01": lambda n: n["cosine"] > 0.95,
    "DAE-02": lambda n: _above_zero(n, "gain"),
    "DAE-03": lambda n: _above_zero(n, "difference"),
    "DAE-04": lambda n: _above_zero(n, "over_crf", "over_context", "over_crfrnn"),
    "DAE-05": lambda n: _above_zero(n, "difference"),
    "DAE-06": lambda n: n["worst_class"] >= 0,
    "DAE-07": lambda n: n["pole"] < 0,
    "DAE-08": lambda n: n["spread"] < 0.5 and n["in_order"] == 1,
    "DAE-09": lambda n: n["sigma_truth"] > n["sigma_y"],
    "DAE-10": lambda n: _above_zero(n, "difference"),
    "DAE-11": lambda n: _above_zero(n, "difference"),
    "ROB-01": lambda n: n["robust"] <= 0.2 * n["standard"],
    "ROB-02": lambda n: n["rb"] > 2 * n["pre"],
    "ROB-03": lambda n: _above_zero(n, "at_over_rb"),
    "ROB-04": lambda n: _above_zero(n, "pre_over_at"),
    "ROB-05": lambda n: _above_zero(n, "bim_over_fgsm", "pgd_over_bim"),
    "ROB-06": lambda n: n["share"] > 25,  # per cent of the white-box drop
    "ROB-07": lambda n: n["images"] >= 50,
    "ROB-08": lambda n: _reaches(n["data_free"], 2, n["noise"]) and n["data_free"] > 0,
    "ROB-09": lambda n: _all(n["at_below_pre"] >= 80, n["high_pre"] > 2 * n["high_at"]),  # per cent
    "ROB-10": lambda n: _above_zero(n, "pre_over_rb", "rb_over_at"),
    "ROB-11": lambda n: n["variation"] > 0.25,
    "ROB-12": lambda n: _above_zero(n, "at_over_chance", "at_over_pre"),
    "ROB-13": lambda n: n["correlation"] > 0.6,
    "LEC-01": lambda n: (n["score"], n["nudged"], n["p"], n["p_nudged"]) == (-3, 2, 0.0474, 0.881),
    "LEC-02": lambda n: _above_zero(n, "by_size"),  # halvings of the nudge per doubling of the dimensions
    "LEC-03": lambda n: _above_zero(n, "difference"),
    "LEC-04": lambda n: _sign(n["share"].low - 25, n["share"].high - 25),  # per cent of the white-box drop
    "LEC-05": lambda n: _sign(n["share"].low - 25, n["share"].high - 25),
    "LEC-06": lambda n: _sign(n["share"].low - 50, n["share"].high - 50),  # per cent of the images that get there
    "LEC-07": lambda n: _above_zero(n, "upper_half", "all_layers"),  # guided minus gradient, by what is shuffled
    "LEC-08": lambda n: _all(n["matches"] == n["expected"], _above_zero(n, "peak")),
    # what is left of a checkerboard is no peak when it lies below a tenth of what transposed convolutions draw
    "LEC-09": lambda n: _above_zero(n, "nearest_below_tenth", "bilinear_below_tenth"),
    "LEC-10": lambda n: n["matches"] == n["expected"] and n["same_parameters"] == 1,
    "LEC-12": lambda n: n["ratio"] > 10,  # of a network that labels every pixel
    "LEC-14": lambda n: _above_zero(n, "gain"),
    "LEC-16": lambda n: n["matches"] == n["expected"],
    "LEC-17": lambda n: _above_zero(n, "smoother", "recognised"),
    "LEC-18": lambda n: _above_zero(n, "over_chance"),
    "LEC-19": lambda n: _all(
        *(_sign(n[f"code_{at}"].low - 0.3, n[f"code_{at}"].high - 0.3) for at in ("tsne", "itself")),
        _above_zero(n, "over_pixels_tsne", "over_pixels_itself"),
    ),
    "LEC-20": lambda n: _above_zero(n, *n),
}


def statement(identity: str) -> dict[str, str]:
    """The claim's statement and criterion.  Raises ValueError for an unknown id."""
    table = pd.read_csv(paths.PAPER / "claims.csv").set_index("id")
    if identity not in table.index:
        raise ValueError(f"claim: got {identity!r}, expected one of {table.index[0]} ... {table.index[-1]}")
    return {str(key): str(value) for key, value in table.loc[identity].items()}


def rounded(numbers: Numbers) -> Numbers:
    """The numbers to three digits, as they are printed."""
    return {
        name: Interval(*(float(f"{part:.3g}") for part in n)) if isinstance(n, Interval) else float(f"{n:.3g}")
        for name, n in numbers.items()
    }


def named(numbers: Numbers) -> dict[str, float]:
    """The numbers as the ledger prints them: the ends of `margin` as margin_low, margin_high; of `a_gain` as a_low."""
    found: dict[str, float] = {}
    for name, number in numbers.items():
        stem = f"{name}_".removesuffix("gain_")
        parts = number if isinstance(number, Interval) else [number]
        found |= zip((name, f"{stem}low", f"{stem}high"), parts, strict=False)
    return found


def verdict(identity: str, numbers: Numbers) -> str:
    """ "holds", "fails" or "undecided", by the claim's criterion.

    Raises ValueError where a number is missing or none, or comes without its interval, or with one that is not asked.
    """
    if identity not in CRITERIA:
        raise ValueError(f"claim {identity}: claims.CRITERIA has no criterion for it yet")
    if missing := [name for name, value in named(numbers).items() if value != value]:
        raise ValueError(f"claim {identity}: {', '.join(missing)} is not a number")
    got = f"claim {identity}: got numbers {', '.join(numbers)}"
    try:
        return VERDICTS[CRITERIA[identity](numbers)]
    except KeyError as name:
        raise ValueError(f"{got}, but no {name}") from name
    except (AttributeError, TypeError) as unlike:
        raise ValueError(f"{got}, one with or without its interval where the criterion expects the other") from unlike


def ledger(study: str) -> pd.DataFrame:
    """Every claim in order: id, claim, holds when, verdict on this study, numbers, notebook.

    Reads the claims.csv of notebooks that ran to their end, not $GPCORE_FIGURES, where others may be running still or
    have failed.  Raises ValueError where two notebooks enter the same claim.
    """
    parts = [pd.DataFrame(columns=["id", "verdict", "numbers", "notebook"], dtype=str)]
    for path in sorted((paths.FINISHED / study).glob("[0-9][0-9]_*/claims.csv")):
        parts.append(pd.read_csv(path, usecols=["id", "verdict", "numbers"]).assign(notebook=path.parent.name))
    entered = pd.concat(parts)
    twice = entered[entered["id"].duplicated(keep=False)].sort_values("id")
    if len(twice):
        raise ValueError(f"ledger of {study}: claimed twice: {', '.join(twice['id'] + ' by ' + twice['notebook'])}")
    rows = pd.read_csv(paths.PAPER / "claims.csv").merge(entered, on="id", how="left")
    why = {True: "no notebook has run it on this study", False: "its notebook does not exist yet"}
    rows["numbers"] = rows["numbers"].fillna(rows["id"].isin(list(CRITERIA)).map(why))
    rows = rows.fillna({"verdict": "not run", "notebook": ""})
    return rows.rename(columns={"statement": "claim", "criterion": "holds when"})


def ledgers(studies: Iterable[str]) -> pd.DataFrame:
    """The ledgers of those studies on which a claim was tried, with a column `study`."""
    every = [ledger(name).assign(study=name) for name in studies]
    return pd.concat([rows for rows in every if rows["verdict"].isin(list(VERDICTS.values())).any()])


def compact(rows: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows for display: the notebook's number, intervals as [low, high], numbers in lines of some 60 letters."""
    folded = rows["numbers"].str.replace(
        r"(\w+(?<!low) [^;]+); \w*low ([^;]+); \w*high ([^;]+)", r"\1 [\2, \3]", regex=True
    )
    lines = folded.map(lambda numbers: re.findall(r"[^; ].{0,60}[^;]*", numbers))
    shown = rows.assign(notebook=rows["notebook"].str[:2], numbers=lines).explode("numbers")
    return shown.set_index(["id", "claim", "notebook", "verdict"])[["numbers"]]


def tally(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """How many ledger rows were tried, hold, fail, are undecided or not run, for each value of the column `by`."""
    counts = pd.crosstab(rows[by], rows["verdict"]).reindex(rows[by].unique())
    counts = counts.reindex(columns=[*VERDICTS.values(), "not run"], fill_value=0).rename_axis(columns=None)
    counts.insert(0, "tried", counts[list(VERDICTS.values())].sum(axis=1))
    return counts
