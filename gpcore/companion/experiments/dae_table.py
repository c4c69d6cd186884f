"""Notebooks 21 to 24: ways to refine a finished prediction: DAEs, the context module, CRFs."""

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

import pandas as pd
from torch import Tensor

from gpcore import denoise
from gpcore.companion.cost import ALONE
from gpcore.companion.measure import Answer, once, with_crf
from gpcore.companion.studies import Study

T = TypeVar("T")
Seen = Callable[[Tensor, str | None], tuple[Tensor, Tensor]]  # from images and the name of h's module to y and h
CRF, CONTEXT, CRF_RNN, DAE_TRUTH, DAE_Y = "+CRF", "+context module", "+CRF-RNN", "+DAE(ytrue)", "+DAE(y)"


def tuned_rows(study: Study, network: str) -> pd.DataFrame:
    """Every refiner of a network: its noise, its step size and steps, and its validation mIoU beside the network's."""
    rows = []
    for name, refiner in study.refiners.items():
        if refiner.network == network:
            tuned = study.tuned(name)
            rows.append((name, refiner.at, refiner.sigma, *(tuned[k] for k in ("epsilon", "steps", "val", "miou"))))
    return pd.DataFrame(rows, columns=["refiner", "h", "sigma", "epsilon", "steps", "alone", "refined"])


def best_dae(study: Study, network: str, source: str) -> str:
    """Of a network's DAEs trained on "y" or "truth", the one that does best on validation images."""
    names = [name for name in study.refiners if name.startswith(f"{network}-dae-{source}-")]
    return max(names, key=lambda name: study.tuned(name)["miou"])


def subject(study: Study) -> str:
    """Whose DAE(y) to look at: the paper's FCN-8s where it gains a point on validation images, else the network that
    gains most."""

    def gain(network: str) -> float:
        tuned = study.tuned(best_dae(study, network, "y"))
        return float(tuned["miou"] - tuned["val"])

    most = max(dict.fromkeys(refiner.network for refiner in study.refiners.values()), key=gain)
    return "fcn8s" if gain("fcn8s") >= 1 else most


def refined(study: Study, name: str, seen: Seen | None = None) -> Answer:
    """What a refiner with its own step size and steps makes of images, from its network's `seen`(images, at)."""
    refiner, tuned, module = study.refiners[name], study.tuned(name), study.network(name)
    seen = seen or functools.partial(denoise.candidate, study.network(refiner.network))

    def answer(x: Tensor) -> Tensor:
        y, h = seen(x, refiner.at)
        inferred = denoise.iterative_inference(denoise.given(module, h), y, tuned["epsilon"], steps=tuned["steps"])
        return inferred.trajectory[-1]

    return answer


def refinements(study: Study, network: str) -> dict[str, Answer]:
    """Ways to refine one network's prediction: the CRF, CRF-RNN where the study has one on that network, and every
    refiner under its own name. They share the passes of the network through the images that they are asked for last."""
    crf = study.tuned(network)["crf"]
    seen = once(functools.partial(denoise.candidate, study.network(network)))
    every: dict[str, Answer] = {
        ALONE: lambda x: seen(x, None)[0],
        CRF: lambda x: with_crf(seen(x, None)[0].log(), x, crf),
    }
    if network == "fcn8s":
        every[CRF_RNN] = study.network("crfrnn")
    own = (name for name, refiner in study.refiners.items() if refiner.network == network)
    return every | {name: refined(study, name, seen) for name in own}


def table_one(study: Study, network: str, every: Mapping[str, T]) -> dict[str, T]:
    """Of something for each of `refinements`, Table 1's rows under its names: of the DAEs those that validation images
    chose."""
    daes = {DAE_TRUTH: best_dae(study, network, "truth"), DAE_Y: best_dae(study, network, "y")}
    rows = {ALONE: ALONE, CRF: CRF, CONTEXT: f"{network}-context", CRF_RNN: CRF_RNN, **daes}
    return {row: every[name] for row, name in rows.items() if name in every}
