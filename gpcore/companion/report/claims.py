"""The claims ledger: what each claim says, the verdict that follows from its numbers, all of them and their history."""

import re
from collections.abc import Iterable
from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpcore import paths
from gpcore.companion.report.criteria import CRITERIA, Numbers, Outcome
from gpcore.metrics import Interval

VERDICTS: dict[bool | None, str] = {True: "holds", False: "fails", None: "undecided"}
FEWEST = 20  # an interval over fewer images is none


class Judged(NamedTuple):
    """A claim's verdict, "not run" with the reason why, and its p where an interval or a test has decided it."""

    verdict: str
    why: str = ""
    p: float | None = None


def statement(identity: str) -> dict[str, str]:
    """The claim's statement and criterion.  Raises ValueError for an unknown id."""
    table = pd.read_csv(paths.PAPER / "claims.csv").set_index("id")
    if identity not in table.index:
        raise ValueError(f"claim: got {identity!r}, expected one of {table.index[0]} ... {table.index[-1]}")
    return {str(key): str(value) for key, value in table.loc[identity].items()}


def rounded(numbers: Numbers) -> Numbers:
    """The numbers to three digits, as they are printed; counts stay whole."""
    return {
        name: Interval(*(float(f"{part:.3g}") for part in n))
        if isinstance(n, Interval)
        else float(n if isinstance(n, Integral) else f"{n:.3g}")
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


def printed(numbers: Numbers, why: str = "") -> str:
    """The numbers in the ledger's words, with why they give no verdict: "gain 1; low -1; high 3; (too few images)"."""
    return "; ".join([f"{name} {value:g}" for name, value in named(numbers).items()] + [f"({why})"] * bool(why))


def folded(numbers: str) -> str:
    """Numbers in the ledger's words with their intervals as [low, high]."""
    return re.sub(r"(\w+(?<!low) [^;]+); \w*low ([^;]+); \w*high ([^;]+)", r"\1 [\2, \3]", numbers)


def read(numbers: str) -> Numbers:
    """Numbers from the ledger's words, folded or not: what `printed` was given."""
    found: dict[str, float | Interval] = {}
    for entry in folded(numbers).split("; "):
        name, *parts = re.findall(r"[^ ,\[\]]+", entry)
        if not name.startswith("("):  # why they give no verdict
            found[name] = Interval(*map(float, parts)) if len(parts) == 3 else float(*parts)
    return found


def judged(identity: str, numbers: Numbers, units: int | None = None) -> Judged:
    """The claim's verdict by its criterion; none over fewer than 20 `images`, which any claim may name, or than 20
    `units` where these are what is resampled.

    Raises ValueError where a number is missing or none, or comes without its interval, or with one that is not asked.
    """
    if identity not in CRITERIA:
        raise ValueError(f"claim {identity}: criteria.CRITERIA has no criterion for it yet")
    if missing := [name for name, value in named(numbers).items() if value != value]:
        raise ValueError(f"claim {identity}: {', '.join(missing)} is not a number")
    got = f"claim {identity}: got numbers {', '.join(numbers)}"
    try:
        found = CRITERIA[identity]({name: n for name, n in numbers.items() if name != "images"})
        if (numbers.get("images", FEWEST) if units is None else units) < FEWEST:
            return Judged("not run", "too few images" if units is None else f"too few blocks of frames: {units}")
    except KeyError as name:
        raise ValueError(f"{got}, but no {name}") from name
    except (AttributeError, TypeError) as unlike:
        raise ValueError(f"{got}, one with or without its interval where the criterion expects the other") from unlike
    if isinstance(found, str):
        return Judged("not run", found)
    met, p = found if isinstance(found, Outcome) else Outcome(found)
    return Judged(VERDICTS[met], p=p)


def verdict(identity: str, numbers: Numbers) -> str:
    """ "holds", "fails", "undecided" or "not run", as `judged`."""
    return judged(identity, numbers).verdict


def _history(study: str) -> dict[str, str]:
    """What earlier editions of the claims said on this study, by id: "first edition: holds (gain 1 [0.5, 1.5])"."""
    rows = pd.read_csv(paths.PAPER / "history.csv", dtype=str)
    rows = rows[rows["study"] == study]
    said = rows["reason"] + ": " + rows["verdict"] + " (" + rows["numbers"].map(folded) + ")"
    return {str(identity): " | ".join(each) for identity, each in said.groupby(rows["id"])}


def ledger(study: str) -> pd.DataFrame:
    """Every claim in order: id, claim, holds when, verdict on this study, numbers, notebook, history.

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
    said = _history(study)
    rows["history"] = [said.get(identity, "") for identity in rows["id"]]
    why = {True: "no notebook has run it on this study", False: "its notebook does not exist yet"}
    reasons = rows["id"].isin(list(CRITERIA)).map(why)
    reasons[rows["history"] != ""] = "judged by the first edition, see history"
    rows["numbers"] = rows["numbers"].fillna(reasons)
    rows = rows.fillna({"verdict": "not run", "notebook": ""})
    return rows.rename(columns={"statement": "claim", "criterion": "holds when"})


def ledgers(studies: Iterable[str]) -> pd.DataFrame:
    """The ledgers of those studies on which a claim was tried, with a column `study`."""
    every = [ledger(name).assign(study=name) for name in studies]
    return pd.concat([rows for rows in every if rows["verdict"].isin(list(VERDICTS.values())).any()])


def survives(rows: pd.DataFrame, level: float = 0.05) -> pd.Series:
    """Whether each verdict of ledger rows survives Holm's correction over all of them that have a p.

    In order from the smallest of m, a p must not exceed level / m, the next level / (m - 1), ..., until one does.
    """
    found = [
        None if row.verdict == "not run" else judged(str(row.id), read(str(row.numbers))).p for row in rows.itertuples()
    ]
    p = pd.Series(found, rows.index, dtype=float).dropna().sort_values()
    kept = (p <= level / np.arange(len(p), 0, -1)).cummin()
    return kept.reindex(rows.index, fill_value=True)


def marked(rows: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows with "holds *" and "fails *" where the verdict does not survive Holm's correction."""
    star = rows["verdict"].isin(["holds", "fails"]) & ~survives(rows)
    return rows.assign(verdict=rows["verdict"] + star.map({True: " *", False: ""}))


def changed(rows: pd.DataFrame) -> pd.DataFrame:
    """Those ledger rows whose verdict is not the last one in their history."""
    last = rows["history"].str.extract(r".*: ([a-z ]+) \(", expand=False)
    return rows[last.notna() & (last != rows["verdict"])]


def compact(rows: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows for display: the notebook's number, intervals as [low, high], numbers in lines of some 60 letters."""
    lines = rows["numbers"].map(lambda numbers: re.findall(r"[^; ].{0,60}[^;]*", folded(numbers)))
    shown = rows.assign(notebook=rows["notebook"].str[:2], numbers=lines).explode("numbers")
    return shown.set_index(["id", "claim", "holds when", "notebook", "verdict"])[["numbers"]]


def tally(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """How many ledger rows were tried, hold, fail, are undecided or not run, for each value of the column `by`."""
    counts = pd.crosstab(rows[by], rows["verdict"]).reindex(rows[by].unique())
    counts = counts.reindex(columns=[*VERDICTS.values(), "not run"], fill_value=0).rename_axis(columns=None)
    counts.insert(0, "tried", counts[list(VERDICTS.values())].sum(axis=1))
    return counts
