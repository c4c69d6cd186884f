"""Notebook 13: classifiers guided by the nearest training pictures' labels, and what else these can do (Table 6)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gpcore.companion import measure
from gpcore.companion.measure import Classified
from gpcore.companion.report.panels import Panel
from gpcore.companion.studies import Study
from gpcore.companion.tuning import USUAL
from gpcore.neighbours import guided, guided_by_signs, interpolated, nearest, shares, vote
from gpcore.perturb import guide

ALONE, GUIDED = "network alone", "guided, 3 neighbours"


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
    memory, test = (measure.classify(study, name, split, layers) for split in ("train", "test"))
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
        "guided, signs averaged": guided_by_signs(network, test.pictures, three, tuned["epsilon"]),
        "guided, layer and k chosen": guided(network, test.pictures, best, [methods["guided"]["step"]])[0, 0],
        "guided, own prediction": same[1],
        "vote of the neighbours": vote(near["vote"], classes),
        "interpolated with the vote": mixed.argmax(1),
    }
    return Tested(test, predicted, labels, memory.pictures[found[usual][:, :USUAL]])


def changed(tested: Tested, count: int) -> list[int]:
    """The first test pictures that a step toward three neighbours corrects (two thirds of `count`), then spoils."""
    before, after = (tested.predicted[method] == tested.test.classes for method in (ALONE, GUIDED))
    kinds = ((~before & after, count - count // 3), (before & ~after, count // 3))
    return [i for kind, some in kinds for i in kind.nonzero()[:some, 0].tolist()]


def neighbour_panels(study: Study, name: str, tested: Tested, which: Sequence[int]) -> list[list[Panel]]:
    """For each of some test pictures: itself, the step, the picture after it and its neighbours.

    Where the study's pictures may not be shown, the steps alone, three to a row.
    """
    epsilon, rows, steps = study.epsilon(name), [], []
    before, after = tested.predicted[ALONE], tested.predicted[GUIDED]
    for i in which:
        x, label = tested.test.pictures[i : i + 1], tested.labels[i : i + 1]
        done = guide(study.network(name), x, epsilon, labels=label)
        said, now, truth = (study.classes[int(k[i])] for k in (before, after, tested.test.classes))
        step = epsilon * done.signal[0].sign().mean(0)
        steps.append(Panel("signed", step, f"{truth}: {said} → {now}", epsilon))
        shown = [x[0], done.images[0], *tested.neighbours[i]]
        titles = [f"a {truth}, taken for {said}", f"now for {now}", *["neighbour"] * USUAL]
        pictures = [Panel("image", p.expand(3, -1, -1), t) for p, t in zip(shown, titles, strict=True)]
        rows.append([pictures[0], steps[-1]._replace(title="step"), *pictures[1:]])
    return rows if study.photographs else [steps[i : i + 3] for i in range(0, len(steps), 3)]
