"""The measurements behind the notebooks on attacks: how large they are, what they cost a network, where they carry."""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gpcore import attacks, metrics, minimal
from gpcore.attacks import Descent
from gpcore.companion import measure
from gpcore.companion.measure import Answer, count_pixels
from gpcore.companion.report.panels import Panel, photograph
from gpcore.companion.studies.study import Study
from gpcore.minimal import Adversarial

Move = Callable[[Tensor, Tensor], Tensor]  # from images and their labels to attacked images
NOISE = "random signs"
STEPS = 10  # of BIM and PGD


def mover(attack: Callable[..., Descent | Adversarial], network: nn.Module, *arguments: float, **options: Any) -> Move:
    """An attack of `attacks` or `minimal` on a network, as its further arguments and options tell it."""
    return lambda x, labels: attack(network, x, labels, *arguments, **options).images


def bounded(network: nn.Module, epsilon: float, *, void: int = 255) -> dict[str, Move]:
    """Ways to move every value of an image by up to epsilon: random signs, FGSM, and BIM and PGD with equal steps."""
    generator = torch.Generator().manual_seed(0)
    return {
        NOISE: lambda x, y: (x + epsilon * torch.randn(x.shape, generator=generator).sign()).clamp(0, 1),
        "FGSM": mover(attacks.fgsm, network, epsilon, void=void),
        "BIM": mover(attacks.bim, network, epsilon, steps=STEPS, void=void),
        "PGD": mover(attacks.pgd, network, epsilon, steps=STEPS, void=void, seed=generator),
    }


def single(network: nn.Module, epsilon: float, target: int, *, void: int = 255) -> dict[str, Move]:
    """Every attack on single images: those `bounded` by epsilon; PGD in l2, with the norm that random signs have, and
    toward one class everywhere; and the smallest changes by which half of the pixels err, DeepFool's and L-BFGS's."""

    def l2(x: Tensor, labels: Tensor) -> Tensor:
        norm = epsilon * math.sqrt(x[0].numel())
        return attacks.pgd(network, x, labels, norm, steps=STEPS, norm="l2", void=void).images

    toward = mover(attacks.pgd, network, epsilon, targeted=True, void=void)
    return bounded(network, epsilon, void=void) | {
        "PGD, l2": l2,
        "PGD, targeted": lambda x, labels: toward(x, torch.full_like(labels, target)),
        "DeepFool": mover(minimal.deepfool, network, candidates=3, void=void),
        "L-BFGS": mover(minimal.lbfgs, network, iterations=20, void=void),
    }


def attacked_counts(
    study: Study, moves: Mapping[str, Move], answers: Mapping[str, Answer], split: str, count: int | None = None
) -> dict[tuple[str, str], Tensor]:
    """Confusion counts N x K x K of every answer to the images that every attack makes, by (attack, answer)."""

    def every(x: Tensor, labels: Tensor) -> Iterable[Tensor]:
        for attack in moves.values():
            with torch.enable_grad():
                moved = attack(x, labels)
            yield from (answer(moved) for answer in answers.values())

    return dict(zip(product(moves, answers), measure.count(study, every, split, count), strict=True))


def budget_rows(counts: Mapping[float, Mapping[tuple[str, str], Tensor]]) -> pd.DataFrame:
    """What attacks leave of a network, from its `attacked_counts` at each epsilon (of 255): rows attack, epsilon, miou,
    and the success in per cent, images of which at least half the pixels err."""
    rows = []
    for epsilon, found in counts.items():
        for (attack, _), matrices in found.items():
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
        {name: each.weight.detach().flatten() for name, each in network.named_modules() if isinstance(each, nn.Conv2d)}
        for network in (first, second)
    )
    common = [name for name in one if name in other and one[name].shape == other[name].shape]
    if not common:
        return math.nan
    a, b = (torch.cat([weights[name] for name in common]).double() for weights in (one, other))
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


def scene_panels(study: Study, network: nn.Module, attacked: Mapping[str, Tensor], image: Tensor) -> list[list[Panel]]:
    """An image C x H x W, the first of those attacked, under every attack, two to a row: as attacked, the perturbation
    x 10, the prediction."""
    panels = list[Panel]()
    for attack, moved in attacked.items():
        with torch.no_grad():
            predicted = network(moved[:1])[0].argmax(0)
        change = Panel("image", 0.5 + 10 * (moved[0] - image), "perturbation × 10")
        panels += [photograph(study, moved[0], attack), change, Panel("labels", predicted, "prediction")]
    return [panels[start : start + 6] for start in range(0, len(panels), 6)]


def universal_rows(
    study: Study, name: str, perturbations: Mapping[str, Tensor], split: str, count: int | None = None
) -> pd.DataFrame:
    """How often perturbations C x H x W fool a network: rows perturbation, images of which half the prediction changes,
    pixels that change, both in per cent, and mIoU."""
    network, rows = study.network(name), []
    x, labels = (torch.cat(parts) for parts in zip(*study.batches(split, count), strict=True))
    with torch.no_grad():
        before = network(x).argmax(1)
        for each, perturbation in perturbations.items():
            after = network((x + perturbation).clamp(0, 1))
            changed = (after.argmax(1) != before).flatten(1).double().mean(1)
            miou = metrics.miou(count_pixels(study, after, labels).sum(0))
            images = (changed >= 0.5).double().mean()
            rows.append((each, *(100 * value for value in (images.item(), changed.mean().item(), miou.item()))))
    return pd.DataFrame(rows, columns=["perturbation", "images", "pixels", "miou"])


def universal_panel(name: str, perturbation: Tensor) -> Panel:
    """A perturbation C x H x W as a picture, its largest value black or white."""
    return Panel("image", 0.5 + perturbation / (2 * perturbation.abs().max()), name)
