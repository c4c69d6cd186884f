"""Notebook 24: what iterative inference and guided perturbation cost and gain, step by step."""

import pandas as pd

from gpcore import denoise, metrics
from gpcore.companion import cost
from gpcore.companion.cost import ALONE
from gpcore.companion.experiments.dae_table import best_dae
from gpcore.companion.measure import Answer, count, inference_counts
from gpcore.companion.studies import Study
from gpcore.perturb import guide


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

    x, _ = study.sample(1)
    passes = cost.relative({ALONE: alone, **after(1), **after(2)}, x)
    sizes = sorted({study.tuned(name)["epsilon"], 0.1, 0.5, 1.0})
    inference = inference_counts(study, name, split, sizes, steps, images)
    epsilon = study.epsilon(network)
    kept = f"renewed {network} {epsilon:g} {steps}"
    guided = count(study, lambda x, y: guide(alone, x, epsilon, steps=steps).trajectory, split, images, keep=kept)
    measured = [("GP", "GP", guided)]
    measured += [(f"DAE(y), ε {epsilon:g}", "DAE", found) for epsilon, found in zip(sizes, inference, strict=True)]
    for method, kind, found in measured:
        first, each = passes[f"{kind} 1"], passes[f"{kind} 2"] - passes[f"{kind} 1"]
        for step, counts in enumerate(found):
            spent = first + (step - 1) * each if step else 1.0
            rows.append((method, step, spent, *metrics.gain(found[0], counts)))
    return pd.DataFrame(rows, columns=["method", "steps", "cost", "gain", "low", "high"])
