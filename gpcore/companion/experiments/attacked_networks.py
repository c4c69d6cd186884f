"""The measurements behind the notebooks on attacks: how large they are, what they cost a network, where they carry."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gpcore import attacks, metrics, minimal
from gpcore.companion import keeping, measure
from gpcore.companion.measure import Answer
from gpcore.companion.report.panels import Panel
from gpcore.companion.studies import Study
from gpcore.companion.weights import info

Move = Callable[[Tensor, Tensor], Tensor]  # from images and their labels to attacked images
Trained = tuple[str, int]  # a study's network and the seed of its training


def strongest(network: nn.Module, epsilon: float = 0.0, *, restarts: int = 1, void: int = 255, **options: Any) -> Move:
    """PGD from several random starts, of which each image keeps the one that leaves most of its pixels wrong.

    Options are those of `attacks.pgd`; with an epsilon of 0 images stay as they are.
    """
    options |= {"void": void, "seed": torch.Generator().manual_seed(0)}

    def best(x: Tensor, labels: Tensor) -> Tensor:
        if not epsilon:
            return x
        x, labels = x.repeat(restarts, 1, 1, 1), labels.repeat(restarts, 1, 1)
        tried = attacks.pgd(network, x, labels, epsilon, **options).images
        wrong = minimal.fooled(network(tried), labels, void=void).view(restarts, -1)
        found: Tensor = tried.unflatten(0, (restarts, -1))[wrong.argmax(0), torch.arange(wrong.shape[1])]
        return found

    return best


def random_signs(epsilon: float) -> Move:
    """Epsilon up or down in every value, at random: what any change of that size costs, whatever its direction."""
    draw = torch.Generator().manual_seed(0)
    return lambda x, labels: (x + epsilon * torch.randn(x.shape, generator=draw).sign()).clamp(0, 1)


def told(study: Study, trained: Trained, *options: Mapping[str, Any]) -> str:
    """A network with the hash of its weights, and settings of attacks, in words: the name under which counts are kept.

    So that those of a network that was trained anew are not mistaken for its own.
    """
    hashes = "".join(info(study.stored_as(*trained))["files"].values())
    settings = [" ".join(f"{name}={value}" for name, value in sorted(each.items())) for each in options]
    return f"{trained[0]} seed{trained[1]} {hashes[:8]} {', '.join(settings)}"


def attacked_counts(
    study: Study,
    moves: Mapping[Any, Move],
    answers: Mapping[str, Answer],
    split: str,
    count: int | None = None,
    *,
    keep: str = "",
) -> dict[tuple[Any, str], Tensor]:
    """Confusion counts N x K x K of every answer to the images that every attack makes, by (attack, answer).

    One image at a time, of which the first alone is attacked anew where counts are kept; see `measure.count`.
    """

    def every(x: Tensor, labels: Tensor) -> Iterable[Tensor]:
        for move in moves.values():
            moved = move(x, labels)
            yield from (answer(moved) for answer in answers.values())

    study = dataclasses.replace(study, batch=1)
    counts = measure.count(study, every, split, count, keep=keep and f"attacked {keep}", chaotic=True)
    return dict(zip(product(moves, answers), counts, strict=True))


def transfer_counts(
    study: Study,
    makers: Mapping[str, Trained],
    judges: Mapping[str, Trained],
    split: str,
    count: int | None = None,
    **options: Any,
) -> dict[tuple[str, str], Tensor]:
    """Confusion counts N x K x K of every judge on images that were attacked on every maker, by (maker, judge).

    The attack is `strongest`, which the options are for; both are told by labels.
    """
    shown = {label: study.network(*each) for label, each in judges.items()}
    to, found = " ".join(told(study, each) for each in judges.values()), dict[tuple[str, str], Tensor]()
    for label, each in makers.items():
        move = strongest(study.network(*each), void=study.void, **options)
        found |= attacked_counts(
            study, {label: move}, shown, split, count, keep=f"{told(study, each, options)} to {to}"
        )
    return found


def budget_rows(counts: Mapping[tuple[tuple[str, float], str], Tensor]) -> pd.DataFrame:
    """What attacks leave of a network, from its `attacked_counts` by attack and epsilon (of 255): rows attack, epsilon,
    miou with its interval, and the success in per cent, images of which at least half the pixels err."""
    rows = []
    for ((attack, epsilon), _), matrices in counts.items():
        success = (metrics.accuracy(matrices) <= 0.5).double().mean().item()
        rows.append((attack, epsilon, *metrics.score(matrices), 100 * success))
    return pd.DataFrame(rows, columns=["attack", "epsilon", "miou", "low", "high", "success"])


def share(alone: Tensor, own: Tensor, others: Sequence[Tensor]) -> metrics.Interval:
    """What others' examples cost a network, on average, of what its own cost it, in per cent of mIoU points.

    From its N x K x K counts on the images as they are, attacked on itself, and attacked on each of the others.
    """

    def of(alone: Tensor, own: Tensor, *others: Tensor) -> Tensor:
        return 100 * torch.stack([metrics.points(each, alone) for each in others]).mean(0) / metrics.points(own, alone)

    return metrics.bootstrap(of, alone, own, *others)


def transfer_rows(alone: Tensor, own: str, counts: Mapping[str, Tensor]) -> pd.DataFrame:
    """What examples made on several networks cost one: rows maker, attacked (mIoU), the drop with its interval, and
    `share`, whose own maker is `own`; from the judge's counts on images as they are and by maker."""
    rows = []
    for maker, attacked in counts.items():
        score = 100 * metrics.miou(attacked.sum(0)).item()
        rows.append((maker, score, *metrics.gain(attacked, alone), *share(alone, counts[own], [attacked])))
    return pd.DataFrame(rows, columns=["maker", "attacked", "drop", "low", "high", "share", "share_low", "share_high"])


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


def kept(study: Study, name: str, find: Callable[[], Tensor]) -> Tensor:
    """What `find` finds, in half precision, read from data/counts where it was kept under that name.

    For what takes minutes to find and proves itself wherever it is applied, such as a universal perturbation.
    """
    file = keeping.file(study, name)
    if file.is_file():
        return keeping.read(file).float()
    found = find().half()
    keeping.keep(file, found)
    return found.float()


def pushed(network: nn.Module, perturbation: Tensor) -> Answer:
    """The network's answer to images that a C x H x W perturbation has moved, in [0, 1]."""
    return lambda x: network((x + perturbation).clamp(0, 1))


def fooled(network: nn.Module, images: Tensor, perturbations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whether each perturbation C x H x W has a network answer N images otherwise than before: N of 0 and 1 each.

    A classifier does where it names another class, a segmentation network where half of an image's pixels get one.
    """
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        before = network(images).argmax(1)
        for name, each in perturbations.items():
            changed = minimal.fooled(pushed(network, each)(images), before, void=-1)
            found[name] = (changed >= 0.5).double()
    return found
