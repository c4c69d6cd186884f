"""The measurements behind the notebooks on robust networks: what attacks leave of them, what their gradients show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_gradient_magnitude
from torch import Tensor, nn

from gpcore import attacks, metrics, minimal
from gpcore.companion import measure
from gpcore.companion.experiments.attacked_networks import Move, attacked_counts
from gpcore.companion.studies import Attack, Study
from gpcore.perturb import guide, sweep
from gpcore.untouched import untouched

# that of adversarial training
ADVERSARY = {name: value for name, value in vars(Attack()).items() if name != "ratio"}


def compared(study: Study) -> dict[str, str]:
    """The study's networks that Table 1 compares, by the labels they have there: the usual one and the robust ones."""
    robust = {network.label: name for name, network in study.robust.items() if not network.dataset}
    return {"Pre": study.standard, **robust}


def strongest(network: nn.Module, epsilon: float = 0.0, *, restarts: int = 1, void: int = 255, **options: Any) -> Move:
    """PGD from several random starts, of which each image keeps the one that leaves most of its pixels wrong.

    Options are those of `attacks.pgd`; with an epsilon of 0 images stay as they are.
    """
    options |= {"void": void, "seed": torch.Generator().manual_seed(0)}

    def best(x: Tensor, labels: Tensor) -> Tensor:
        if not epsilon:
            return x
        tried = [attacks.pgd(network, x, labels, epsilon, **options).images for _ in range(restarts)]
        if restarts == 1:
            return tried[0]
        wrong = torch.stack([minimal.fooled(network(each), labels, void=void) for each in tried])
        return torch.stack(tried)[wrong.argmax(0), torch.arange(len(x))]

    return best


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
        found |= attacked_counts(study, moves, {label: network}, split, count)
    return found


def defence_rows(counts: Mapping[tuple[str, str], Tensor]) -> pd.DataFrame:
    """Rows network, attack, global accuracy and mIoU (per cent) with the interval of the latter."""
    rows = []
    for (attack, label), matrices in counts.items():
        accuracy = 100 * metrics.accuracy(matrices.sum(0)).item()
        rows.append((label, attack, accuracy, *metrics.score(matrices)))
    return pd.DataFrame(rows, columns=["network", "attack", "accuracy", "miou", "low", "high"])


def loss_rows(
    study: Study, names: Mapping[str, str], steps: Sequence[float], split: str, count: int | None = None
) -> pd.DataFrame:
    """The cross-entropy per pixel after one signed step that raises it: rows network, step (of 255), loss (nats)."""
    rows = []
    for label, name in names.items():
        network, found = study.network(name), []
        for x, y in study.batches(split, count):
            swept = sweep(network, x, [-step / 255 for step in steps], labels=y, bounds=(0.0, 1.0), void=study.void)
            losses = [nn.functional.cross_entropy(z, y, ignore_index=study.void) for _, z in swept]
            found.append(torch.stack(losses) * len(x))
        total = torch.stack(found).sum(0) / len(study.indices(split, count))
        rows += [(label, *pair) for pair in zip(steps, total.tolist(), strict=True)]
    return pd.DataFrame(rows, columns=["network", "step", "loss"])


def undone_rows(
    study: Study, names: Mapping[str, str], epsilons: Sequence[float], split: str, count: int | None = None
) -> pd.DataFrame:
    """Whether a guided step, with the epsilon for clean images, undoes PGD of three steps within each epsilon (of 255):
    rows network, epsilon, mIoU of the attacked images, and the step's gain with its interval."""

    def counts(network: nn.Module, move: Move, own: float) -> Tensor:
        return measure.count(study, lambda x, y: guide(network, move(x, y), own).trajectory, split, count)

    rows = []
    for label, name in names.items():
        network, own = study.network(name), study.epsilon(name)
        for epsilon in epsilons:
            move = strongest(network, epsilon / 255, steps=3, void=study.void)
            before, after = counts(network, move, own)
            rows.append((label, epsilon, 100 * metrics.miou(before.sum(0)).item(), *metrics.gain(before, after)))
    return pd.DataFrame(rows, columns=["network", "epsilon", "attacked", "gain", "low", "high"])


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


def alignment_rows(study: Study, names: Mapping[str, str], split: str, count: int | None = None) -> pd.DataFrame:
    """Every network's gradient beside its robustness: rows network, alignment with the images' `edges` (mean over
    images, with its interval), clean and robust mIoU (per cent; PGD as in adversarial training)."""
    tried: dict[str, dict[str, Any]] = {"standard": {}, "robust": ADVERSARY}
    counts, rows = defence_counts(study, names, tried, split, count), []
    for label, name in names.items():
        network = study.network(name)
        parts = [alignment(network, x, y, edges(x), void=study.void) for x, y in study.batches(split, count)]
        scores = (100 * metrics.miou(counts[attack, label].sum(0)).item() for attack in tried)
        rows.append((label, *metrics.mean(torch.cat(parts)), *scores))
    return pd.DataFrame(rows, columns=["network", "alignment", "low", "high", *tried])
