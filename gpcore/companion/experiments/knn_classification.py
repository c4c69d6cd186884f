"""Guided perturbation of classifiers: the label comes from the nearest training pictures in feature space.

Sankaranarayanan, Jain, Lim: Guided Perturbations, ICCV 2017, sections 3.1 and 4.2, table 6.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from gpcore.companion.report.panels import Panel
from gpcore.companion.studies import Study
from gpcore.perturb import guide, sweep

WEIGHTS = tuple(i / 10 for i in range(1, 10))  # of the neighbours in an interpolation
USUAL = 3  # neighbours in the paper
ALONE, GUIDED = "network alone", "guided, 3 neighbours"


class Measured(NamedTuple):
    """A classifier on a whole split: pictures N x C x H x W, classes N, logits N x K, activations N x D by layer."""

    pictures: Tensor
    classes: Tensor
    logits: Tensor
    features: dict[str, Tensor]


def measure(study: Study, name: str, split: str, layers: Sequence[str]) -> Measured:
    """Runs a study's classifier on a split and keeps the activations of `layers`, one row per picture."""
    network = study.network(name)
    output = [*dict(network.named_children())][-1]
    extract = create_feature_extractor(network, [*{*layers, output}])
    parts = []
    for x, y in study.batches(split):
        with torch.no_grad():
            found = extract(x)
        parts.append((x, y, found[output], *(found[layer].flatten(1) for layer in layers)))
    pictures, classes, logits, *features = map(torch.cat, zip(*parts, strict=True))
    return Measured(pictures, classes, logits, dict(zip(layers, features, strict=True)))


def nearest(memory: Tensor, queries: Tensor, count: int) -> Tensor:
    """Rows of `memory` (M x D) nearest to each of `queries` (Q x D) by Euclidean distance, nearest first: Q x count."""
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(memory.numpy())
    found: Tensor = torch.from_numpy(search.kneighbors(queries.numpy(), return_distance=False))
    return found


def shares(classes: Tensor, count: int) -> Tensor:
    """The label distribution of Q x k neighbours' classes with equal weights: Q x `count`."""
    return nn.functional.one_hot(classes, count).float().mean(1)


def vote(classes: Tensor, count: int) -> Tensor:
    """The most frequent of Q x k neighbours' classes, nearest first; of equally frequent ones the nearest's: Q."""
    votes = nn.functional.one_hot(classes, count).sum(1)
    return classes.gather(1, votes.gather(1, classes).argmax(1, keepdim=True))[:, 0]


def interpolated(logits: Tensor, distribution: Tensor, weight: float) -> Tensor:
    """(1 - weight) softmax(logits) + weight * distribution, as Khandelwal et al., ICLR 2020."""
    return (1 - weight) * logits.softmax(1) + weight * distribution


def guided(network: nn.Module, pictures: Tensor, labels: Tensor, epsilons: Sequence[float]) -> Tensor:
    """Classes predicted after one step toward each of S label distributions (S x N x K), by each epsilon: E x S x N.

    The gradient for neighbours' averaged label is the average of their gradients. What occurs several times, and most
    neighbours agree, is run once.
    """
    count = labels.shape[1]
    index = torch.arange(count, dtype=labels.dtype).expand(len(labels), count).unsqueeze(-1)
    rows, places = torch.cat([index, labels], -1).flatten(0, 1).unique(dim=0, return_inverse=True)
    predicted = []
    for part in rows.split(500):
        swept = sweep(network, pictures[part[:, 0].long()], epsilons, labels=part[:, 1:])
        predicted.append(torch.stack([logits.argmax(1) for _, logits in swept]))
    every: Tensor = torch.cat(predicted, 1)[:, places].unflatten(1, (len(labels), count))
    return every


def guided_by_signs(network: nn.Module, pictures: Tensor, classes: Tensor, epsilon: float) -> Tensor:
    """Classes predicted as the paper's formula is printed, x + epsilon mean_i sign(g_i) over neighbours i, of the
    `classes` N x k: N."""
    predicted = []
    for x, near in zip(pictures.split(500), classes.split(500), strict=True):
        signs = [guide(network, x, 0.0, labels=column).signal.sign() for column in near.unbind(1)]
        with torch.no_grad():
            predicted.append(network(x + epsilon * torch.stack(signs).mean(0)).argmax(1))
    return torch.cat(predicted)


def choose(study: Study, name: str, counts: Sequence[int] = range(1, 11)) -> dict[str, Any]:
    """What does best on validation pictures, of all `features` layers of the network and k in `counts`.

    "guided" is one guided step with its epsilon as `step`, "vote" the neighbours alone, "interpolated" has its weight
    as `step`. `epsilon` is the best for the paper's setting, three neighbours in the last layer before the scores.
    `grid` holds validation accuracies (of 100) by method and layer, for each k at its best step. Of equals, the first.
    """
    layers, classes = study.networks[name].features, len(study.classes)
    memory, val = (measure(study, name, split, layers) for split in ("train", "val"))
    found = {layer: nearest(memory.features[layer], val.features[layer], max(counts)) for layer in layers}
    near = {(layer, k): memory.classes[found[layer][:, :k]] for layer in layers for k in counts}
    labels = torch.stack([shares(each, classes) for each in near.values()])
    methods: dict[str, tuple[Sequence[float], Tensor]] = {
        "guided": (study.epsilons, guided(study.network(name), val.pictures, labels, study.epsilons)),
        "vote": ((0.0,), torch.stack([vote(each, classes) for each in near.values()])[None]),
        "interpolated": (WEIGHTS, torch.stack([interpolated(val.logits, labels, w).argmax(-1) for w in WEIGHTS])),
    }
    rows = [
        (method, *setting, step, accuracy)
        for method, (steps, predicted) in methods.items()
        for step, row in zip(steps, _accuracy(predicted, val.classes).tolist(), strict=True)
        for setting, accuracy in zip(near, row, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["method", "layer", "k", "step", "accuracy"]).set_index("method").round(4)
    best = frame.groupby(["method", "layer", "k"])["accuracy"].max()
    usual = frame.loc["guided"].query("layer == @layers[-2] and k == @USUAL").nlargest(1, "accuracy")
    return {
        "val": _accuracy(val.logits.argmax(1), val.classes).item(),
        "epsilon": usual["step"].item(),
        "grid": {method: {layer: best[method, layer].tolist() for layer in layers} for method in methods},
        **{method: frame.loc[[method]].nlargest(1, "accuracy").to_dict("records")[0] for method in methods},
    }


class Tested(NamedTuple):
    """Test pictures, what every method predicts for them, and each one's three neighbours among the training ones."""

    test: Measured
    predicted: dict[str, Tensor]
    labels: Tensor
    neighbours: Tensor


def predictions(study: Study, name: str) -> Tested:
    """What the settings that validation pictures chose, see `choose`, predict for the test pictures."""
    tuned, classes = study.tuned(name), len(study.classes)
    usual, network = study.networks[name].features[-2], study.network(name)
    methods = {method: tuned[method] for method in ("guided", "vote", "interpolated")}
    layers = sorted({usual, *(chosen["layer"] for chosen in methods.values())})
    memory, test = (measure(study, name, split, layers) for split in ("train", "test"))
    most = max(USUAL, *(chosen["k"] for chosen in methods.values()))
    found = {layer: nearest(memory.features[layer], test.features[layer], most) for layer in layers}
    near = {method: memory.classes[found[c["layer"]][:, : c["k"]]] for method, c in methods.items()}
    three = memory.classes[found[usual][:, :USUAL]]
    labels, alone = shares(three, classes), test.logits.argmax(1)
    itself = nn.functional.one_hot(alone, classes).float()
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


def panels(study: Study, name: str, tested: Tested, which: Sequence[int]) -> list[list[Panel]]:
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


def _accuracy(predicted: Tensor, truth: Tensor) -> Tensor:
    return 100 * (predicted == truth).double().mean(-1)
