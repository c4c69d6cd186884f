"""The claims ledger: what each claim says, when it holds, and the verdict that follows from measured numbers."""

from collections.abc import Callable, Mapping

import pandas as pd

from gpcore import paths

Numbers = Mapping[str, float]


def _above_zero(numbers: Numbers, *networks: str) -> bool | None:
    """True where every network's gain has its interval above zero, False where one's lies below, else undecided."""
    if all(numbers[f"{name}_low"] > 0 for name in networks):
        return True
    return False if any(numbers[f"{name}_high"] < 0 for name in networks) else None


# The criteria of data/paper/claims.csv as functions of the numbers that notebooks report; None is undecided.
CRITERIA: dict[str, Callable[[Numbers], bool | None]] = {
    "GP-01": lambda n: _above_zero(n, "fcn32s", "fcn8s"),
    "GP-03": lambda n: min(n["fcn32s_ratio"], n["fcn16s_ratio"], n["fcn8s_ratio"]) > 1,
    "GP-04": lambda n: n["corrected_distance"] > n["base_error_distance"],
    "GP-05": lambda n: n["newly_wrong_distance"] < n["corrected_distance"],
    "GP-06": lambda n: (
        n["pool1"] < n["pool2"] < n["pool3"] < n["pool4"] < n["pool5"] and n["pool2"] > 1  # per cent
    ),
    "GP-07": lambda n: n["correlation"] > 0.3,
    "GP-08": lambda n: n["truth_gain"] >= 3 * n["gp_gain"] and n["truth_gain"] > 3,
    "GP-09": lambda n: n["sign_agreement_low"] > 0.5 and n["gain_low"] > 0,
    "GP-10": lambda n: n["best_gain"] > 0 and n["first_gain"] >= 0.6 * n["best_gain"],
}


def statement(identity: str) -> dict[str, str]:
    """The claim's statement and criterion.  Raises ValueError for an unknown id."""
    table = pd.read_csv(paths.PAPER / "claims.csv").set_index("id")
    if identity not in table.index:
        raise ValueError(f"claim: got {identity!r}, expected one of {table.index[0]} ... {table.index[-1]}")
    return {str(key): str(value) for key, value in table.loc[identity].items()}


def verdict(identity: str, numbers: Numbers) -> str:
    """ "holds", "fails" or "undecided", by the claim's criterion.  Raises ValueError where a number is missing."""
    try:
        outcome = CRITERIA[identity](numbers)
    except KeyError as missing:
        raise ValueError(f"claim {identity}: got numbers {', '.join(numbers)}, but no {missing}") from missing
    return {True: "holds", False: "fails", None: "undecided"}[outcome]
