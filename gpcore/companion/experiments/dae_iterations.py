"""Notebook 22: the prediction after every iteration of a DAE and of a CRF (Figure 4)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from gpcore import denoise, metrics
from gpcore.companion.experiments.dae_table import best_dae
from gpcore.companion.measure import count, with_crf
from gpcore.companion.studies import Study

Counts = Mapping[str, tuple[list[int], Tensor]]  # by method: iterations, and counts I x N x K x K after each
CRF = "CRF"
SOME = (1, 2, 3, 5, 10, 20, 50)  # iterations of the CRF
FURTHER = 2.5  # whole steps: they lead to an r that stays where it is, but for exp(-2.5) of the way


def iterations(epsilon: float) -> int:
    """The paper's fifty, or as many as add up to FURTHER whole steps."""
    return max(denoise.STEPS, math.ceil(FURTHER / epsilon))


def iteration_counts(study: Study, network: str, split: str, images: int | None = None) -> Counts:
    """Confusion counts after every iteration of DAE(y) with the paper's step sizes, and of the CRF after SOME."""
    name = best_dae(study, network, "y")
    few = replace(study, batch=min(2, study.batch))  # of what is kept so many images are measured anew
    refiner, alone, module = study.refiners[name], study.network(network), study.network(name)
    crfs = [study.tuned(network)["crf"] | {"iterations": number} for number in SOME]

    def answers(x: Tensor, labels: Tensor) -> Iterator[Tensor]:
        start, h = denoise.candidate(alone, x, refiner.at)
        for epsilon in denoise.EPSILONS:
            y, left = start, iterations(epsilon)
            yield y
            while left:  # by tens, so that memory holds
                found = denoise.iterative_inference(denoise.given(module, h), y, epsilon, steps=min(left, 10))
                yield from found.trajectory[1:]
                y, left = found.trajectory[-1], left - len(found.residuals)
        yield from (with_crf(start.log(), x, crf) for crf in crfs)

    counts = count(few, answers, split, images, keep=f"iterations {name} {study.tuned(network)['crf']}")
    *each, crf = counts.split([*(1 + iterations(epsilon) for epsilon in denoise.EPSILONS), len(SOME)])
    found = {f"ε {e:g}": ([*range(len(c))], c) for e, c in zip(denoise.EPSILONS, each, strict=True)}
    return found | {CRF: ([0, *SOME], torch.cat([counts[:1], crf]))}


def curve_rows(counts: Counts) -> pd.DataFrame:
    """Rows label, iteration, miou (per cent)."""
    rows = []
    for label, (numbers, each) in counts.items():
        rows += [(label, *pair) for pair in zip(numbers, (100 * metrics.miou(each.sum(1))).tolist(), strict=True)]
    return pd.DataFrame(rows, columns=["label", "iteration", "miou"])


def maxima(rows: pd.DataFrame) -> pd.DataFrame:
    """The first of every curve's highest points, and whether the curve has `arrived`: falls or stays after it."""
    best = rows.loc[rows.groupby("label", sort=False)["miou"].idxmax()].set_index("label")
    return best.assign(arrived=best["iteration"] < rows.groupby("label", sort=False)["iteration"].max())


def spread(counts: Counts) -> metrics.Interval:
    """The highest less the lowest of the step sizes' maxima over iterations, in points, with its interval."""
    every = [each for label, (_, each) in counts.items() if label != CRF]

    def apart(*resampled: Tensor) -> Tensor:
        best = torch.stack([(100 * metrics.miou(each)).amax(-1) for each in resampled])
        return best.amax(0) - best.amin(0)

    return metrics.bootstrap(apart, *(each.movedim(1, 0) for each in every))
