"""Notebook 15: what else a test batch can be given for the price of a guided step, on clean and corrupted images."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gpcore.adapt import VIEWS, Tent, augmented
from gpcore.companion.measure import Answer, answer_counts
from gpcore.companion.studies import Study
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide


def alternatives(study: Study, name: str) -> dict[str, Answer]:
    """What a user could do with a test batch, each a function from B x C x H x W images to logits.

    The epsilons were chosen on validation images. TENT, for networks with batch norm, goes on learning from call to
    call; "batch statistics" is its first half.
    """
    network, tuned = study.network(name), study.tuned(name)
    chosen: dict[str, Answer] = {
        "network alone": network,
        "guided step": lambda x: guide(network, x, tuned["epsilon"]).after,
        "entropy step": lambda x: guide(network, x, tuned["entropy"]["epsilon"], signal="entropy").after,
        **{f"mean over {views}s": functools.partial(augmented, network, views=views) for views in VIEWS},
    }
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        chosen |= {"batch statistics": Tent(network, rate=0.0), "TENT": Tent(network)}
    return chosen


def method_counts(
    study: Study, name: str, conditions: Sequence[tuple[str, int]], split: str, count: int, only: Sequence[str] = ()
) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Confusion counts N x K x K of each of `alternatives` in each condition: a kind of corruption, a severity or 0.

    `only` names the methods that are run, in that order; default all.
    """
    found = {}
    for kind, severity in conditions:
        every, generator = alternatives(study, name), torch.Generator().manual_seed(0)
        change = functools.partial(corrupt, kind=kind, severity=severity, seed=generator) if severity else _same
        found[kind, severity] = answer_counts(study, {m: every[m] for m in only or every}, split, count, change)
    return found


def _same(images: Tensor) -> Tensor:
    return images
