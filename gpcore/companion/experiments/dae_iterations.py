"""Notebook 22: the prediction after every iteration of a DAE and of a CRF (Figure 4)."""

from itertools import product

import pandas as pd

from gpcore import denoise, metrics
from gpcore.companion.experiments.dae_table import best_dae
from gpcore.companion.measure import count, inference_counts, with_crf
from gpcore.companion.studies import Study


def iteration_rows(study: Study, network: str, split: str, images: int | None = None) -> pd.DataFrame:
    """mIoU after every iteration of DAE(y) with the paper's step sizes, and of the CRF after some."""
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
