"""Notebook 13: classifiers guided by the nearest training pictures' labels, and what else these can do (Table 6)."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gpcore import metrics
from gpcore.companion import measure
from gpcore.companion.measure import Classified
from gpcore.companion.report.panels import Panel
from gpcore.companion.studies import Study
from gpcore.companion.tuning import USUAL
from gpcore.neighbours import guided, guided_by_signs, interpolated, nearest, shares, vote
from gpcore.perturb import guide

ALONE, GUIDED = "network alone", "guided, 3 neighbours"
SIGNS, LITERAL = "guided, signs averaged", "guided, signs at the neighbours averaged"


class Tested(NamedTuple):
    """Test pictures, what every method predicts for them, and each one's three neighbours among the training ones."""

    test: Classified
    predicted: dict[str, Tensor]
    labels: Tensor
    neighbours: Tensor


def predictions(study: Study, name: str) -> Tested:
    """What the settings that validation pictures chose, see `tuning.tune_classifier`, predict for the test pictures."""
    tuned, classes = study.tuned(name), len(study.classes)
    usual, network = study.networks[name].features[-2], study.network(name)
    methods = {method: tuned[method] for method in ("guided", "vote", "interpolated")}
    layers = sorted({usual, *(chosen["layer"] for chosen in methods.values())})
    memory, val, test = (measure.classify(study, name, split, layers) for split in ("train", "val", "test"))
    most = max(USUAL, *(chosen["k"] for chosen in methods.values()))
    found = {layer: nearest(memory.features[layer], test.features[layer], most) for layer in layers}
    near = {method: memory.classes[found[c["layer"]][:, : c["k"]]] for method, c in methods.items()}
    three = memory.classes[found[usual][:, :USUAL]]
    labels, alone = shares(three, classes), test.logits.argmax(1)
    itself = one_hot(alone, classes).float()
    same = guided(network, test.pictures, torch.stack([labels, itself]), [tuned["epsilon"]])[0]
    best = shares(near["guided"], classes)[None]
    mixed = interpolated(test.logits, shares(near["interpolated"], classes), methods["interpolated"]["step"])
    predicted = {
        ALONE: alone,
        GUIDED: same[0],
        SIGNS: by_signs(study, network, memory, val, test, usual),
        LITERAL: by_signs(study, network, memory, val, test, usual, there=True),
        "guided, layer and k chosen": guided(network, test.pictures, best, [methods["guided"]["step"]])[0, 0],
        "guided, own prediction": same[1],
        "vote of the neighbours": vote(near["vote"], classes),
        "interpolated with the vote": mixed.argmax(1),
    }
    return Tested(test, predicted, labels, memory.pictures[found[usual][:, :USUAL]])


def by_signs(
    study: Study,
    network: nn.Module,
    memory: Classified,
    val: Classified,
    test: Classified,
    layer: str,
    *,
    there: bool = False,
) -> Tensor:
    """What `guided_by_signs` predicts for the test pictures, with three neighbours in that layer of the network and its
    own epsilon, the best on validation pictures; the gradients are taken at the neighbours if `there`."""

    def tried(split: Classified, epsilons: Sequence[float]) -> Tensor:
        near = nearest(memory.features[layer], split.features[layer], USUAL)
        places = memory.pictures[near] if there else None
        return guided_by_signs(network, split.pictures, memory.classes[near], epsilons, places)

    right = (tried(val, study.epsilons) == val.classes).sum(1).tolist()
    return tried(test, [study.epsilons[right.index(max(right))]])[0]


def disagreement(tested: Tested) -> pd.DataFrame:
    """By how many of a test picture's three neighbours have another class than the network says: pictures, those that
    the network alone gets right (per cent), and those that one step corrects and spoils."""
    alone, after, truth = tested.predicted[ALONE], tested.predicted[GUIDED], tested.test.classes
    others = (USUAL - USUAL * tested.labels.gather(1, alone[:, None])[:, 0]).round().long()
    right, now = (each == truth for each in (alone, after))
    columns = {"neighbours of another class": others, "right": 100 * right.double()}
    columns |= {"corrected": ~right & now, "spoilt": right & ~now}
    rows = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    by = rows.groupby("neighbours of another class")
    return pd.concat([by.size().rename("pictures"), by["right"].mean(), by[["corrected", "spoilt"]].sum()], axis=1)


def error_shares(segmented: tuple[Tensor, Tensor], classified: tuple[Tensor, Tensor]) -> dict[str, metrics.Interval]:
    """The share of the error (per cent) that a step removes: from "segmentation", of what mIoU lacks to 1, by counts
    N x K x K before and after; from "classification", of the wrong pictures, by M pictures being right before and
    after; and the "difference", the two resampled independently."""

    def of_iou(before: Tensor, after: Tensor) -> Tensor:
        return metrics.points(before, after) / (1 - metrics.miou(before))

    def of_pictures(before: Tensor, after: Tensor) -> Tensor:
        return 100 * (after - before) / (len(classified[0]) - before)

    return {
        "segmentation": metrics.bootstrap(of_iou, *segmented),
        "classification": metrics.bootstrap(of_pictures, *classified),
        "difference": metrics.difference(of_iou, segmented, of_pictures, classified),
    }


def changed(tested: Tested, count: int) -> list[int]:
    """The first test pictures that a step toward three neighbours corrects (two thirds of `count`), then spoils."""
    before, after = (tested.predicted[method] == tested.test.classes for method in (ALONE, GUIDED))
    kinds = ((~before & after, count - count // 3), (before & ~after, count // 3))
    return [i for kind, some in kinds for i in kind.nonzero()[:some, 0].tolist()]


def neighbour_panels(study: Study, name: str, tested: Tested, which: Sequence[int]) -> list[list[Panel]]:
    """For each of some test pictures: itself, the step, the picture after it and its neighbours."""
    epsilon, rows = study.epsilon(name), []
    before, after = tested.predicted[ALONE], tested.predicted[GUIDED]
    for i in which:
        x, label = tested.test.pictures[i : i + 1], tested.labels[i : i + 1]
        done = guide(study.network(name), x, epsilon, labels=label)
        said, now, truth = (study.classes[int(k[i])] for k in (before, after, tested.test.classes))
        step = Panel("signed", epsilon * done.signal[0].sign().mean(0), "step", epsilon)
        shown = [x[0], done.images[0], *tested.neighbours[i]]
        first = f"a {truth}, recognised" if said == truth else f"a {truth}, taken for {said}"
        titles = [first, f"now taken for {now}", *["neighbour"] * USUAL]
        pictures = [Panel("image", p.expand(3, -1, -1), t) for p, t in zip(shown, titles, strict=True)]
        rows.append([pictures[0], step, *pictures[1:]])
    return rows
