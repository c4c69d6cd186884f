"""The measurements behind the notebooks on refining a prediction: DAEs, the context module, CRFs, and guided steps."""

import functools
from collections.abc import Callable, Mapping
from itertools import product
from typing import TypeVar

import pandas as pd
from torch import Tensor

from gpcore import denoise, metrics
from gpcore.companion import cost
from gpcore.companion.cost import ALONE
from gpcore.companion.measure import Answer, count, inference_counts, with_crf
from gpcore.companion.studies.study import Study
from gpcore.perturb import guide

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


def methods(study: Study, network: str) -> dict[str, Answer]:
    """Ways to refine one network's prediction: the CRF, CRF-RNN where the study has one on that network, and every
    refiner under its own name. They share the passes of the network through the images that they are asked for last."""
    crf = study.tuned(network)["crf"]
    # tensors are told apart by identity, so that a hit is the same batch and not an equal one
    seen = functools.lru_cache(maxsize=3)(functools.partial(denoise.candidate, study.network(network)))
    every: dict[str, Answer] = {
        ALONE: lambda x: seen(x, None)[0],
        CRF: lambda x: with_crf(seen(x, None)[0].log(), x, crf),
    }
    if network == "fcn8s":
        every[CRF_RNN] = study.network("crfrnn")
    own = (name for name, refiner in study.refiners.items() if refiner.network == network)
    return every | {name: refined(study, name, seen) for name in own}


def table_one(study: Study, network: str, every: Mapping[str, T]) -> dict[str, T]:
    """Of something for each of `methods`, Table 1's rows under its names: of the DAEs those that validation images
    chose."""
    daes = {DAE_TRUTH: best_dae(study, network, "truth"), DAE_Y: best_dae(study, network, "y")}
    rows = {ALONE: ALONE, CRF: CRF, CONTEXT: f"{network}-context", CRF_RNN: CRF_RNN, **daes}
    return {row: every[name] for row, name in rows.items() if name in every}


def combinations(study: Study, network: str) -> dict[str, Answer]:
    """Guided perturbation, DAE(y) and the CRF alone and together, each with the settings that were chosen for it alone.

    "GP toward DAE(y)" takes the label of the guided step from the DAE's last y instead of the network's prediction.
    """
    alone, tuned, name = study.network(network), study.tuned(network), best_dae(study, network, "y")
    dae = refined(study, name)

    def step(x: Tensor, labels: str | Tensor = "onehot") -> Tensor:
        return guide(alone, x, tuned["epsilon"], labels=labels).images

    def crf(scores: Callable[[Tensor], Tensor]) -> Answer:
        return lambda x: with_crf(scores(x), x, tuned["crf"])

    return {
        ALONE: alone,
        "GP": lambda x: alone(step(x)),
        "DAE(y)": dae,
        "GP, then DAE(y)": lambda x: dae(step(x)),
        "GP toward DAE(y)": lambda x: alone(step(x, dae(x))),
        "GP toward DAE(y), then DAE(y)": lambda x: dae(step(x, dae(x))),
        "CRF": crf(alone),
        "GP, then CRF": crf(lambda x: alone(step(x))),
        "DAE(y), then CRF": crf(lambda x: dae(x).clamp_min(1e-6).log()),
    }


def iteration_rows(study: Study, network: str, split: str, images: int | None = None) -> pd.DataFrame:
    """Figure 4: mIoU after every iteration of DAE(y) with the paper's step sizes, and of the CRF after some."""
    name, some = best_dae(study, network, "y"), (1, 2, 3, 5, 10, 20, 50)
    found = inference_counts(study, name, split, denoise.EPSILONS, denoise.STEPS, images)
    alone, tuned = study.network(network), study.tuned(network)["crf"]
    crfs = [tuned | {"iterations": iterations} for iterations in some]
    crf = count(study, lambda x, y: (with_crf(z, x, crf) for z in [alone(x)] for crf in crfs), split, images)
    keys = [*product([f"ε {epsilon:g}" for epsilon in denoise.EPSILONS], range(denoise.STEPS + 1))]
    keys += product(["CRF"], (0, *some))
    counts = zip(keys, [*found.flatten(0, 1), found[0, 0], *crf], strict=True)
    rows = [(*key, 100 * metrics.miou(each.sum(0)).item()) for key, each in counts]
    return pd.DataFrame(rows, columns=["label", "iteration", "miou"])


def cost_rows(study: Study, network: str, split: str, steps: int, images: int | None = None) -> pd.DataFrame:
    """mIoU gain after each of `steps` steps of guided perturbation, renewed, and of DAE(y) with several step sizes,
    with what they cost by then in plain passes: rows method, steps, cost, gain, low, high."""
    name, rows = best_dae(study, network, "y"), []
    alone, module, refiner = study.network(network), study.network(name), study.refiners[name]

    def after(n: int) -> dict[str, Answer]:
        return {
            f"GP {n}": lambda x: guide(alone, x, study.epsilon(network), steps=n).after,
            f"DAE {n}": lambda x: denoise.refine(alone, module, x, 1.0, at=refiner.at, steps=n).trajectory[-1],
        }

    x, _ = next(study.batches(split, 1))
    passes = cost.relative({ALONE: alone, **after(1), **after(2)}, x)
    sizes = sorted({study.tuned(name)["epsilon"], 0.1, 0.5, 1.0})
    inference = inference_counts(study, name, split, sizes, steps, images)
    epsilon = study.epsilon(network)
    guided = count(study, lambda x, y: guide(alone, x, epsilon, steps=steps).trajectory, split, images)
    measured = [("GP", "GP", guided)]
    measured += [(f"DAE(y), ε {epsilon:g}", "DAE", found) for epsilon, found in zip(sizes, inference, strict=True)]
    for method, kind, found in measured:
        first, each = passes[f"{kind} 1"], passes[f"{kind} 2"] - passes[f"{kind} 1"]
        for step, counts in enumerate(found):
            spent = first + (step - 1) * each if step else 1.0
            rows.append((method, step, spent, *metrics.gain(found[0], counts)))
    return pd.DataFrame(rows, columns=["method", "steps", "cost", "gain", "low", "high"])
