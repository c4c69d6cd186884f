"""The measurements behind the notebooks on attacks: how large they are, what they cost a network, where they carry."""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gpcore import metrics, minimal
from gpcore.companion import measure
from gpcore.companion.measure import Answer, count_pixels
from gpcore.companion.report.panels import Panel
from gpcore.companion.studies import Study

Move = Callable[[Tensor, Tensor], Tensor]  # from images and their labels to attacked images


def attacked_counts(
    study: Study, moves: Mapping[Any, Move], answers: Mapping[str, Answer], split: str, count: int | None = None
) -> dict[tuple[Any, str], Tensor]:
    """Confusion counts N x K x K of every answer to the images that every attack makes, by (attack, answer)."""

    def every(x: Tensor, labels: Tensor) -> Iterable[Tensor]:
        for move in moves.values():
            moved = move(x, labels)
            yield from (answer(moved) for answer in answers.values())

    return dict(zip(product(moves, answers), measure.count(study, every, split, count), strict=True))


def budget_rows(counts: Mapping[tuple[tuple[str, float], str], Tensor]) -> pd.DataFrame:
    """What attacks leave of a network, from its `attacked_counts` by attack and epsilon (of 255): rows attack, epsilon,
    miou, and the success in per cent, images of which at least half the pixels err."""
    rows = []
    for ((attack, epsilon), _), matrices in counts.items():
        success = (metrics.accuracy(matrices) <= 0.5).double().mean().item()
        rows.append((attack, epsilon, 100 * metrics.miou(matrices.sum(0)).item(), 100 * success))
    return pd.DataFrame(rows, columns=["attack", "epsilon", "miou", "success"])


def transfer_rows(
    study: Study, move: Move, answers: Mapping[str, Answer], split: str, count: int | None = None
) -> pd.DataFrame:
    """What images that were attacked on one network cost every network: rows network, alone, attacked (mIoU), and the
    drop with its interval."""
    moves = {"alone": lambda x, labels: x, "attacked": move}
    counts, rows = attacked_counts(study, moves, answers, split, count), []
    for name in answers:
        alone, attacked = (counts[each, name] for each in moves)
        scores = (100 * metrics.miou(each.sum(0)).item() for each in (alone, attacked))
        rows.append((name, *scores, *metrics.gain(attacked, alone)))
    return pd.DataFrame(rows, columns=["network", "alone", "attacked", "drop", "low", "high"])


def kinship(first: nn.Module, second: nn.Module) -> float:
    """The cosine between the convolutions that two networks have under the same names and in the same shapes; NaN
    where there are none.  Trainings from one seed start such layers with the same weights."""
    one, other = (
        {name: each.weight.detach().double() for name, each in network.named_modules() if isinstance(each, nn.Conv2d)}
        for network in (first, second)
    )
    common = [name for name in one if name in other and one[name].shape == other[name].shape]
    if not common:
        return math.nan
    a, b = (torch.cat([weights[name].flatten() for name in common]) for weights in (one, other))
    return torch.cosine_similarity(a, b, 0).item()


def size_rows(
    network: nn.Module, attacked: Mapping[str, Tensor], images: Tensor, labels: Tensor, *, void: int = 255
) -> pd.DataFrame:
    """How large attacks' perturbations are, and the pixels that err after them: rows attack, linf (of 255), l2, psnr
    (dB), wrong (per cent), the means over images."""
    rows = []
    for attack, moved in attacked.items():
        with torch.no_grad():
            wrong = minimal.fooled(network(moved), labels, void=void)
        delta = (moved - images).flatten(1)
        psnr = -10 * delta.square().mean(1).log10()
        values = (255 * delta.abs().amax(1), delta.norm(dim=1), psnr, 100 * wrong)
        rows.append((attack, *(each.double().mean().item() for each in values)))
    return pd.DataFrame(rows, columns=["attack", "linf", "l2", "psnr", "wrong"])


def scene_panels(network: nn.Module, attacked: Mapping[str, Tensor], image: Tensor) -> list[list[Panel]]:
    """One image, 1 x C x H x W, under every attack, two to a row: as attacked, the change x 10, the prediction."""
    panels = list[Panel]()
    for attack, moved in attacked.items():
        with torch.no_grad():
            predicted = network(moved)[0].argmax(0)
        change = Panel("image", 0.5 + 10 * (moved - image)[0], "perturbation × 10")
        panels += [Panel("image", moved[0], attack), change, Panel("labels", predicted, "prediction")]
    return [panels[start : start + 6] for start in range(0, len(panels), 6)]


def universal_rows(
    study: Study, network: nn.Module, perturbations: Mapping[str, Tensor], split: str, count: int | None = None
) -> pd.DataFrame:
    """How often perturbations C x H x W fool a network: rows perturbation, images of which half the prediction changes,
    pixels that change, both in per cent, and mIoU."""
    x, labels = (torch.cat(parts) for parts in zip(*study.batches(split, count), strict=True))
    rows = []
    with torch.no_grad():
        before = network(x).max(1).indices
        for name, perturbation in perturbations.items():
            after = network((x + perturbation).clamp(0, 1))
            changed = (after.max(1).indices != before).flatten(1).double().mean(1)
            miou = metrics.miou(count_pixels(study, after, labels).sum(0))
            shares = ((changed >= 0.5).double().mean(), changed.mean(), miou)
            rows.append((name, *(100 * share.item() for share in shares)))
    return pd.DataFrame(rows, columns=["perturbation", "images", "pixels", "miou"])
