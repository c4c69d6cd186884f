"""The measurements behind the notebooks on robust networks: what attacks leave of them, what their gradients show."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_gradient_magnitude
from torch import Tensor, nn

from gpcore import attacks, metrics
from gpcore.companion import keeping, measure
from gpcore.companion.experiments.attacked_networks import attacked_counts, strongest, told
from gpcore.companion.measure import Answer
from gpcore.companion.studies import Attack, Study
from gpcore.metrics import Interval
from gpcore.perturb import guide, sweep
from gpcore.untouched import untouched

# that of adversarial training
ADVERSARY = {name: value for name, value in vars(Attack()).items() if name != "ratio"}


def compared(study: Study) -> dict[str, str]:
    """The study's networks that Table 1 compares, by the labels they have there: the usual one and the robust ones."""
    robust = {network.label: name for name, network in study.robust.items() if not network.dataset}
    return {"Pre": study.standard, **robust}


def defence_counts(
    study: Study, names: Mapping[str, str], tried: Mapping[str, Mapping[str, Any]], split: str, count: int | None = None
) -> dict[tuple[str, str], Tensor]:
    """Confusion counts N x K x K of networks, by (attack, label): each attacked by itself as `strongest` is told.

    `names` maps labels to the study's networks; `tried` maps attacks to arguments of `strongest`.
    """
    found: dict[tuple[str, str], Tensor] = {}
    for label, name in names.items():
        network = study.network(name)
        moves = {attack: strongest(network, void=study.void, **options) for attack, options in tried.items()}
        keep = told(study, (name, 0), *tried.values())
        found |= attacked_counts(study, moves, {label: network}, split, count, keep=keep)
    return found


def defence_rows(counts: Mapping[tuple[str, str], Tensor]) -> pd.DataFrame:
    """Rows network, attack, global accuracy and mIoU (per cent) with the interval of the latter."""
    rows = []
    for (attack, label), matrices in counts.items():
        accuracy = 100 * metrics.accuracy(matrices.sum(0)).item()
        rows.append((label, attack, accuracy, *metrics.score(matrices)))
    return pd.DataFrame(rows, columns=["network", "attack", "accuracy", "miou", "low", "high"])


def marks(counts: Mapping[tuple[str, str], Tensor], label: str, other: str = "Pre") -> dict[str, Interval]:
    """What a network pays and what it gets, from `defence_counts` of the attacks "standard" and "robust": by how many
    points of mIoU it lies below the other on clean images, and how many times the other's it keeps under attack."""
    attacked = (counts["robust", label], counts["robust", other])
    times = metrics.bootstrap(lambda ours, theirs: metrics.miou(ours) / metrics.miou(theirs), *attacked)
    return {"points": metrics.gain(counts["standard", label], counts["standard", other]), "times": times}


def loss_rows(
    study: Study, names: Mapping[str, str], steps: Sequence[float], split: str, count: int | None = None
) -> pd.DataFrame:
    """The cross-entropy per pixel after one signed step that raises it, mean over images: rows network, step (of 255),
    loss (nats) with its interval."""
    rows = []

    def losses(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        swept = sweep(network, x, [-step / 255 for step in steps], labels=y, bounds=(0.0, 1.0), void=study.void)
        every = [nn.functional.cross_entropy(z, y, ignore_index=study.void, reduction="none") for _, z in swept]
        return torch.stack(every).sum((2, 3)) / (y != study.void).sum((1, 2))

    for label, name in names.items():
        keep = f"{told(study, (name, 0))} losses {' '.join(f'{step:g}' for step in steps)}"
        values = functools.partial(losses, study.network(name))
        found = measure.collect(study, values, split, count, keep=keep, agree=keeping.values_agree)
        units = study.units(split, count)
        rows += [(label, step, *metrics.mean(each, units)) for step, each in zip(steps, found, strict=True)]
    return pd.DataFrame(rows, columns=["network", "step", "loss", "low", "high"])


def undone_rows(
    study: Study, names: Mapping[str, str], epsilons: Sequence[float], split: str, count: int | None = None
) -> pd.DataFrame:
    """Whether a guided step, with the epsilon for clean images, undoes PGD of three steps within each epsilon (of 255):
    rows network, epsilon, mIoU of the attacked images, and the step's gain with its interval."""
    rows = []
    for label, name in names.items():
        network, own = study.network(name), study.epsilon(name)
        answers: dict[str, Answer] = {"before": network, "after": _guided(network, own)}
        for epsilon in epsilons:
            options: dict[str, Any] = {"epsilon": epsilon / 255, "steps": 3}
            move = {epsilon: strongest(network, void=study.void, **options)}
            keep = f"{told(study, (name, 0), options)} guided {own:g}"
            before, after = attacked_counts(study, move, answers, split, count, keep=keep).values()
            rows.append((label, epsilon, 100 * metrics.miou(before.sum(0)).item(), *metrics.gain(before, after)))
    return pd.DataFrame(rows, columns=["network", "epsilon", "attacked", "gain", "low", "high"])


def _guided(network: nn.Module, epsilon: float) -> Answer:
    return lambda x: guide(network, x, epsilon).after


def edges(images: Tensor) -> Tensor:
    """The magnitude, B x H x W, of the gradient of B x C x H x W images' mean channel, at a scale of one pixel."""
    grey = images.mean(1).double().numpy()
    return torch.from_numpy(np.stack([gaussian_gradient_magnitude(each, 1) for each in grey]))


@untouched
def gradient_size(model: nn.Module, images: Tensor, labels: Tensor, *, void: int = 255) -> Tensor:
    """The gradient of each image's cross-entropy, its largest absolute value over channels: B x H x W."""
    return attacks.cross_entropy(model, labels, void=void)(images)[1].abs().amax(1)


def alignment(network: nn.Module, images: Tensor, labels: Tensor, reference: Tensor, *, void: int = 255) -> Tensor:
    """The correlation over pixels of each image's `gradient_size` with a reference map B x H x W: B."""
    pair = (each.flatten(1).double() for each in (gradient_size(network, images, labels, void=void), reference))
    found, wanted = (each - each.mean(1, keepdim=True) for each in pair)
    return torch.cosine_similarity(found, wanted)


def alignments(study: Study, names: Mapping[str, str], split: str, count: int | None = None) -> dict[str, Tensor]:
    """The `alignment` of every network's gradients with the images' `edges`, N each, by label."""

    def aligned(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return alignment(network, x, y, edges(x), void=study.void)[None]

    found = {}
    for label, name in names.items():
        values, keep = functools.partial(aligned, study.network(name)), f"alignment {told(study, (name, 0))}"
        (found[label],) = measure.collect(study, values, split, count, keep=keep, agree=keeping.values_agree)
    return found


def alignment_rows(
    aligned: Mapping[str, Tensor], counts: Mapping[tuple[str, str], Tensor], units: Tensor | None = None
) -> pd.DataFrame:
    """Every network's alignment, mean over images with its interval, beside its mIoU as it is and attacked (per cent),
    from `defence_counts`: rows network, alignment, low, high, and one column for each attack."""
    tried = list(dict.fromkeys(attack for attack, _ in counts))
    rows = []
    for label, each in aligned.items():
        scores = (100 * metrics.miou(counts[attack, label].sum(0)).item() for attack in tried)
        rows.append((label, *metrics.mean(each, units), *scores))
    return pd.DataFrame(rows, columns=["network", "alignment", "low", "high", *tried])


def rank_correlation(aligned: Sequence[Tensor], counts: Sequence[Tensor], units: Tensor | None = None) -> Interval:
    """Spearman's correlation over M networks of their alignment, N each, with their mIoU from N x K x K counts.

    The interval is over images, on which both are measured: the networks stay the same.
    """

    def spearman(total: Tensor, *matrices: Tensor) -> Tensor:
        both = torch.stack([total, metrics.miou(torch.stack(matrices, -3))])
        first, second = both.argsort(-1).argsort(-1).double() - (len(counts) - 1) / 2  # ranks about their mean
        return torch.cosine_similarity(first, second, -1)

    return metrics.bootstrap(spearman, metrics.per_unit(torch.stack([*aligned], 1), units), *counts)
