"""Notebook 41: the features of the lectures' assignment, each switched on alone, over several trainings.

    python -m gpcore.companion.experiments.unet_assignment parity --seeds 0 1 2

goes on where it stopped. Counts of every training stay in data/counts/STUDY, the weights of seed 0 alone.
"""

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from timeit import repeat

import pandas as pd
import torch
from torch import Tensor, nn

from gpcore import metrics
from gpcore.adapt import VIEWS, View, augmented
from gpcore.companion import keeping, measure, spread, studies, training
from gpcore.companion.cost import PeakMemory, operations_of
from gpcore.companion.experiments.corrected_pixels import boundary_distance
from gpcore.companion.report import tables
from gpcore.companion.studies import LABELS, Study
from gpcore.networks.assignment import Recurrent
from gpcore.networks.unet import UNet, unpool

ALONE = "one look"
BANDS = (1, 2, 3, 5, 9)  # pixels from the nearest outline, from which a band goes to the next


def views(study: Study) -> dict[str, Sequence[View]]:
    """For each augmentation of this study the views that are its counterpart at test time, and all of them together."""
    turns = (View(), View(turn=10), View(turn=-10))
    found: dict[str, Sequence[View]] = {
        "turns": turns,
        "shifts": (View(), View(shift=2), View(shift=-2)),
        "scales": VIEWS["scale"],
    }
    if "flip" in study.networks:
        found["flips"] = VIEWS["flip"]
    every = [view for each in found.values() for view in each[1:]]
    return found | {"all views": (View(), *every)}


def answers(study: Study, name: str, network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What is counted of a training: the network's logits for B x 3 x H x W images; of a recurrent one, those of every
    pass; of those that test-time augmentation is tried on, the means over each of `views`."""
    if isinstance(network, Recurrent):
        return {f"pass {number}": scores for number, scores in enumerate(network.supervised(x), 1)}
    tried = views(study) if name in ("plain", "all") else {}
    return {ALONE: network(x)} | {view: augmented(network, x, each) for view, each in tried.items()}


def counts(study: Study, name: str, seed: int = 0) -> dict[str, Tensor]:
    """Confusion counts N x K x K of each of `answers` to the test images, of one training.

    Seed 0's are measured anew if its first images do not answer as they did; other seeds' are as they were kept.
    Raises ValueError: neither counts nor weights of another seed.
    """
    network = study.plan(name).build(len(study.classes)).eval()
    names = [*answers(study, name, network, torch.zeros(1, 3, 64, 64))]
    if seed and (file := _kept(study, name, seed)).is_file():
        return dict(zip(names, measure.by_unit(study, "test", keeping.read(file), 1), strict=True))
    trained = study.network(name, seed)

    def answer(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        return answers(study, name, trained, x).values()

    return dict(zip(names, measure.count(study, answer, "test", keep=_name(name, seed)), strict=True))


def _name(name: str, seed: int) -> str:
    return f"assignment {name} seed{seed}"


def _kept(study: Study, name: str, seed: int) -> Path:
    return keeping.file(study, f"{_name(name, seed)} test {study.images['test']}")


def every_count(study: Study, seeds: Sequence[int]) -> dict[str, Tensor]:
    """`counts` of all networks and trainings, U x S x K x K over units of the bootstrap and seeds, under the network's
    name, followed by ", pass 1" or ", turns" where it answers in several ways."""
    found = {}
    for name in study.networks:
        parts = [counts(study, name, seed) for seed in seeds]
        for answer in parts[0]:
            label = name if answer == ALONE else f"{name}, {answer}"
            found[label] = torch.stack([part[answer] for part in parts], 1)
    return found


def features(study: Study) -> dict[str, tuple[str, str]]:
    """What each feature is measured by: the answers of `every_count` without it and with it."""
    recurrent = [f"recurrent, pass {number}" for number in (1, 2, 3)]
    found = {LABELS[name]: ("plain", name) for name in study.networks if name not in ("plain", "recurrent")}
    found |= {"three passes": ("plain", recurrent[2])}
    found |= {"… second over first": (recurrent[0], recurrent[1]), "… third over second": (recurrent[1], recurrent[2])}
    return found | {f"mean over {view}": ("plain", f"plain, {view}") for view in views(study)}


def gain(before: Tensor, after: Tensor) -> metrics.Interval:
    """The mean over trainings of mIoU after minus before, of U x S x K x K counts, with its interval over units."""
    return metrics.bootstrap(lambda a, b: metrics.points(a, b).mean(-1), before, after)


def gain_rows(every: Mapping[str, Tensor], pairs: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """For named pairs (before, after) of `every_count`: mIoU after, and its gain with the interval, means over
    trainings, and the least and the greatest gain of a single training."""
    rows = []
    for feature, (before, after) in pairs.items():
        a, b = every[before], every[after]
        single = metrics.points(a.sum(0), b.sum(0))
        miou = 100 * metrics.miou(b.sum(0)).mean().item()
        rows.append((feature, after, miou, *gain(a, b), *(float(each) for each in single.aminmax())))
    return pd.DataFrame(rows, columns=["feature", "answer", "miou", *tables.GAIN, "least", "most"])


def cost_rows(study: Study) -> pd.DataFrame:
    """Per network: parameters (1e3), floating-point operations of an image (1e6), and the most memory alive at one time
    in a training step on a batch of 16 (1e6 bytes); of the means over views the operations alone."""
    rows, (images, labels) = [], study.sample(16, "val")
    for name in study.networks:
        network = study.network(name)
        operations = operations_of(network, images[:1]) / 1e6
        with PeakMemory() as memory:
            _loss(study, network.train(), images, labels).backward()
        parameters = sum(p.numel() for p in network.parameters() if p.grad is not None)
        rows.append((name, parameters / 1e3, operations, memory.peak / 1e6))
    plain = study.network("plain")
    for view, each in views(study).items():
        operations = operations_of(partial(augmented, plain, views=each), images[:1]) / 1e6
        rows.append((f"plain, {view}", math.nan, operations, math.nan))
    return pd.DataFrame(rows, columns=["network", "parameters", "mflop", "megabytes"])


def beside_costs(rows: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """`gain_rows` beside the columns of a table by network or answer, once where several rows have one answer."""
    return rows.assign(network=rows["answer"].mask(rows["answer"].duplicated())).join(costs, on="network")


def timing_rows(study: Study, repeats: int = 9) -> pd.DataFrame:
    """Milliseconds per image of a training step on a batch of 16, as the recipes have it, without reading the batch:
    the best of three in a row, medians over rounds in which every network has its turn; torch's current threads."""
    batch, steps = study.sample(16, "val"), {}
    for name in study.networks:
        network = study.network(name).train().to(memory_format=torch.channels_last)
        steps[name] = partial(_timed, study, network, *batch)
    best = partial(repeat, number=1, repeat=3)
    rounds = [{name: 1000 / 16 * min(best(step)) for name, step in steps.items()} for _ in range(repeats)]
    return pd.DataFrame(rounds).median().rename_axis("network").rename("milliseconds").reset_index()


def _loss(study: Study, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return training.network_loss(network, None, None, study.void, images, labels)


def _timed(study: Study, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = _loss(study, network, images, labels)
    loss.backward()


def outline_rows(study: Study, names: Iterable[str], count: int) -> pd.DataFrame:
    """Per network (seed 0) and band of `BANDS` around the true outlines: per cent of its pixels that are wrong, with
    the interval over test images; rows network, band, wrong, low, high."""
    networks, edges = {name: study.network(name) for name in names}, torch.tensor(BANDS)

    def values(x: Tensor, y: Tensor) -> Tensor:  # networks x B x bands x 2
        far = torch.stack([boundary_distance(each) for each in y])
        bands = torch.bucketize(far, edges.to(far), right=True) - 1
        there = torch.stack([(bands == band) & (y != study.void) for band in range(len(BANDS))], 1)
        wrong = [there & (network(x).argmax(1) != y)[:, None] for network in networks.values()]
        return torch.stack([torch.stack([each, there], -1).sum((2, 3)) for each in wrong])

    keep = f"outlines {' '.join(networks)} {' '.join(f'{edge:g}' for edge in BANDS)}"
    found = measure.collect(study, values, "test", count, keep=keep, agree=keeping.values_agree)
    rows = []
    for name, parts in zip(networks, found, strict=True):
        pairs = measure.by_unit(study, "test", parts)
        for band in range(len(BANDS)):
            share = metrics.bootstrap(lambda s: 100 * s[..., 0] / s[..., 1], pairs[:, band])
            rows.append((LABELS[name], band, *share))
    return pd.DataFrame(rows, columns=["network", "band", "wrong", "low", "high"])


def restored_counts(study: Study, name: str, count: int) -> tuple[int, int]:
    """`restored` over test images."""
    network = study.network(name)
    assert isinstance(network, UNet)

    def values(x: Tensor, y: Tensor) -> Tensor:
        return torch.tensor([restored(network, image[None]) for image in x]).T

    keep = f"restored {name}"
    found, expected = measure.collect(study, values, "test", count, keep=keep, agree=keeping.values_agree).sum(1)
    return int(found), int(expected)


def restored(network: UNet, images: Tensor) -> tuple[int, int]:
    """How many maxima of a network's four pools stand at their places again, alone there, when its own switches unpool
    them, and how many there are."""
    found = expected = 0
    with torch.no_grad():
        for before, pooled in list(zip(*network.features(images), strict=True))[:4]:
            back = unpool(pooled, before)
            found += int(((back == before) & (back > 0)).sum()) - int(((back != 0) & (back != before)).sum())
            expected += int((pooled > 0).sum())
    return found, expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("parity", "streets"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    study = studies.get(args.study)

    def missing(name: str, seed: int) -> bool:
        return not _kept(study, name, seed).is_file()

    for name, seed in spread.trained(study, args.seeds, missing):
        counts(study, name, seed)


if __name__ == "__main__":
    main()
