"""When a claim holds: the criteria of data/paper/claims.csv as functions of the numbers that notebooks report."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpcore.metrics import Interval

Numbers = Mapping[str, Any]  # by name, each a plain number or an Interval


class Outcome(NamedTuple):
    """Whether a condition is met, None where that is undecided, and the two-sided p of an interval that decides it."""

    met: bool | None
    p: float | None = None  # plain numbers have none


def _all(*conditions: Outcome | bool) -> Outcome:
    """Not met where one is not, else undecided where one is; with the largest p of those that make it so."""
    every = [each if isinstance(each, Outcome) else Outcome(bool(each)) for each in conditions]
    met = (
        False if any(each.met is False for each in every) else None if any(each.met is None for each in every) else True
    )
    chances = [each.p for each in every if each.met is met]
    if met is False and None in chances:  # a plain number fails it, whatever the intervals
        return Outcome(met)
    return Outcome(met, max((p for p in chances if p is not None), default=None))


def _above(number: Interval, least: float = 0.0) -> Outcome:
    """Whether a quantity is above `least`: met by its whole interval, not met by any of it, or undecided.

    The p is the normal approximation's; an interval without width leaves nothing to chance.
    """
    value, low, high = number
    error = (high - low) / 2 / 1.96
    p = math.erfc(abs(value - least) / error / math.sqrt(2)) if error else 0.0
    return Outcome(True if low > least else False if high <= least else None, p)


def _below(number: Interval, most: float) -> Outcome:
    """Whether a quantity is below `most`, as `_above` has it."""
    value, low, high = number
    return _above(Interval(-value, -high, -low), -most)


def _above_zero(n: Numbers, *names: str) -> Outcome:
    """Whether each n[name] > 0, by its interval; there must be some."""
    if not names:
        raise KeyError("gain")
    return _all(*(_above(n[name]) for name in names))


def _not_above_zero(number: Interval) -> Outcome:
    """Not met where the whole interval is above zero. To cover zero is enough, so that no p belongs to it."""
    value = _above(number)
    return Outcome(False, value.p) if value.met else Outcome(True)


def _reaches(value: float, factor: float, other: float) -> bool:
    """Whether value >= factor x other; 3.3 reaches 3 x 1.1, which in binary is a little more."""
    return value >= factor * other - 1e-12


def _mcnemar(n: Numbers) -> Outcome:
    """Whether more is corrected than spoilt: undecided where the test does not tell."""
    return Outcome(None if n["p"] >= 0.05 else n["gain"] > 0, n["p"])


def _first_iteration(n: Numbers) -> Outcome | str:
    """Whether iteration 1 has its share of the best gain, on a network that gains by it."""
    share = _above_zero(n, "first_minus_share")  # gain of iteration 1 - .6 x the best
    return share if _above_zero(n, "gain").met else "GP-01 does not hold for this network"


def _range(n: Numbers) -> Outcome:
    """Whether gains span a factor of 4 in epsilon: surely, possibly or not at all, by the intervals of all tried."""
    sure, possible = (_reaches(n[name], 3.96, 1) for name in ("sure_factor", "possible_factor"))  # of rounded ends
    return Outcome(sure or (None if possible else False))


# What a criterion gives in place of an outcome is why its claim is not run. A claim whose notebook is not written yet
# has none. Gains are in points of mIoU; numbers that a criterion does not name are shown beside those that it judges.
CRITERIA: dict[str, Callable[[Numbers], Outcome | bool | str]] = {
    "GP-01": lambda n: _above_zero(n, "fcn32s_gain", "fcn8s_gain"),
    "GP-02": lambda n: _above_zero(n, *n),
    "GP-03": lambda n: _above_zero(n, *n),  # pixels per image, corrected - newly wrong
    "GP-04": lambda n: _above_zero(n, "corrected_minus_error"),
    "GP-05": lambda n: _above_zero(n, "corrected_minus_wrong"),
    "GP-06": lambda n: _all(
        _above(n["pool2"], 1),  # per cent
        _above_zero(n, "pool1_to_pool2", "pool2_to_pool3", "pool3_to_pool4", "pool4_to_pool5"),
    ),
    "GP-07": lambda n: _above(n["correlation"], 0.3),
    "GP-08": lambda n: _all(_above(n["truth_gain"], 3), _above_zero(n, "truth_minus_three_gp")),
    "GP-09": lambda n: _all(_above(n["sign_agreement"], 0.5), _above_zero(n, "fcn32s_gain", "fcn8s_gain")),
    "GP-10": _first_iteration,
    "GP-11": _range,
    "GP-12": lambda n: _all(_above_zero(n, "loss_minus_two_gains"), n["psnr"] > 40),
    "GP-13": lambda n: _above(n["ratio"], 2),  # the least over the rivals
    "GP-14": lambda n: _all(_above(n["correlation"], 0.5), _above_zero(n, "over_unrelated")),
    "GP-15": lambda n: _above_zero(n, "crfrnn_gain", "deeplab_gain"),
    "GP-16": lambda n: _above_zero(n, "gain"),
    "GP-17": lambda n: _all(_reaches(n["improved"], 0.9, n["classes"]), n["surely_lose"] == 0),
    "GP-18": lambda n: _above_zero(n, "input_gain", "pool4_minus_share"),  # pool4's gain - .85 x the input's
    "GP-19": lambda n: n["time_ratio"] <= 0.7,
    "GP-20": lambda n: _above_zero(n, "gp_minus_crf"),
    "GP-21": lambda n: _above_zero(n, "both_minus_crf", "both_minus_gp"),
    "GP-22": lambda n: _above_zero(n, "over_top2", "over_uniform", "over_random", "over_random_image"),
    "GP-23": lambda n: _all(
        _above_zero(n, "over_random", "over_random_image"),
        *(_not_above_zero(n[name]) for name in ("random_gain", "random_image_gain")),
    ),
    "GP-24": lambda n: _all(
        n["uniform_epsilon"] < 0, _above_zero(n, "uniform_gain", "over_top2", "over_random", "over_random_image")
    ),
    # the top class rises and falls as claimed where the printed numbers match
    "GP-25": lambda n: n["matches"] == n["expected"] and n["cosine"] < 0,
    "GP-26": lambda n: n["matches"] == n["expected"] and n["onehot_top_raised"] == 1 == n["uniform_top_lowered"],
    "GP-27": lambda n: n["error"] <= 1e-6,
    "GP-28": _mcnemar,
    "GP-29": _mcnemar,
    "GP-30": lambda n: _above_zero(n, "difference"),  # segmentation - classification, shares of the error
    "DAE-01": lambda n: n["cosine"] > 0.95,
    "DAE-02": lambda n: _above_zero(n, "gain"),
    "DAE-03": lambda n: _above_zero(n, "difference"),
    "DAE-04": lambda n: _above_zero(n, "over_crf", "over_context", "over_crfrnn"),
    "DAE-05": lambda n: _above_zero(n, "difference"),  # of the base with the lower mIoU, minus that of the higher
    "DAE-06": lambda n: _all(n["surely_lose"] == 0, n["worst_class"] >= -0.1),
    "DAE-07": lambda n: _above_zero(n, "pole_loss"),
    "DAE-08": lambda n: _all(_below(n["spread"], 0.5), n["in_order"] == 1),
    "DAE-09": lambda n: _all(n["sigma_truth"] > n["sigma_y"], min(n["tried_truth"], n["tried_y"]) >= 4),
    "DAE-10": lambda n: _above_zero(n, "difference"),
    "DAE-11": lambda n: _above_zero(n, "difference"),
    "ROB-01": lambda n: _above_zero(n, "share_minus_robust"),  # .2 x the standard mIoU - the robust one
    "ROB-02": lambda n: _above_zero(n, "rb_minus_twice_pre"),
    "ROB-03": lambda n: _above_zero(n, "at_over_rb"),
    "ROB-04": lambda n: _above_zero(n, "pre_over_at"),
    "ROB-05": lambda n: _above_zero(n, "bim_over_fgsm", "pgd_over_bim"),
    "ROB-06": lambda n: _above(n["share"], 25),  # per cent of the white-box drop
    "ROB-07": lambda n: _all(_above(n["answers"], 50), _above_zero(n, "drop_minus_half_pgd")),  # per cent; points
    "ROB-08": lambda n: _above_zero(n, "answers_minus_twice_random", "drop_minus_twice_random"),
    "ROB-09": lambda n: _all(
        _above(n["inside"], 90),  # per cent of the squared change, the least of all networks
        _above(n["at_below_pre"], 80),  # per cent of the images
        _above_zero(n, "high_pre_minus_twice_at"),
    ),
    "ROB-10": lambda n: _all(*(_above(n[name], 1) for name in ("pre_over_rb", "rb_over_at"))),  # grey levels
    "ROB-11": lambda n: _above(n["variation"], 0.25),  # the mean over scenes
    "ROB-12": lambda n: _above_zero(n, "at_over_chance", "at_over_pre"),
    "ROB-13": lambda n: _above(n["correlation"], 0.6),
    "LEC-01": lambda n: (n["score"], n["nudged"], n["p"], n["p_nudged"]) == (-3, 2, 0.0474, 0.881),
    "LEC-02": lambda n: _above_zero(n, "by_size"),  # halvings of the nudge per doubling of the dimensions
    "LEC-03": lambda n: _above_zero(n, "difference"),
    "LEC-04": lambda n: _above(n["share"], 25),  # per cent of the white-box drop
    "LEC-05": lambda n: _above(n["share"], 25),
    "LEC-06": lambda n: _above(n["share"], 50),  # per cent of the images that get there
    "LEC-07": lambda n: _above_zero(n, "upper_half", "all_layers"),  # guided minus gradient, by what is shuffled
    "LEC-08": lambda n: _all(n["matches"] == n["expected"], _above_zero(n, "peak")),
    # what is left of a checkerboard is no peak when it lies below a tenth of what transposed convolutions draw
    "LEC-09": lambda n: _above_zero(n, "nearest_below_tenth", "bilinear_below_tenth"),
    "LEC-10": lambda n: n["matches"] == n["expected"] and n["same_parameters"] == 1,
    "LEC-11": lambda n: _all(_above_zero(n, "gain"), n["time_ratio"] > 1),  # "at a cost"
    "LEC-12": lambda n: n["ratio"] > 10,  # of a network that labels every pixel
    "LEC-13": lambda n: _above_zero(n, "second_over_first"),
    "LEC-14": lambda n: _above_zero(n, "gain"),
    "LEC-15": lambda n: _above_zero(n, "with_over_without"),
    "LEC-16": lambda n: n["matches"] == n["expected"],
    "LEC-17": lambda n: _above_zero(n, "smoother", "recognised"),
    "LEC-18": lambda n: _above_zero(n, "over_chance"),
    "LEC-19": lambda n: _all(
        *(_above(n[f"code_{at}"], 0.3) for at in ("tsne", "itself")),
        _above_zero(n, "over_pixels_tsne", "over_pixels_itself"),
    ),
    "LEC-20": lambda n: _above_zero(n, *n),
}
