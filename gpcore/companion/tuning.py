"""All that is chosen on validation images: epsilons, CRFs, a refiner's steps, a classifier's neighbours.

    python -m gpcore.companion.tuning camvid --only fcn8s unet

chooses anew for networks and refiners that are trained, after a study's grids or images have changed.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpcore import metrics, neighbours
from gpcore.companion import measure, studies, weights
from gpcore.companion.studies import Network, Refiner, Study

LAYER_FACTORS = (0.003, 0.01, 0.03, 0.1, 0.3)  # of a layer's scale: the epsilons tried there
MIXES = tuple(i / 10 for i in range(1, 10))  # of the neighbours in an interpolation
USUAL = 3  # neighbours in the paper


def tune(chosen: Study, name: str, seed: int = 0) -> dict[str, object]:
    """What does best on validation images: the network's epsilon, and the CRF put on its scores where there is a grid.

    With them the scores (mIoU of 100) over the whole sweep, `val` being the network alone; that only where the study
    tries no epsilons. For a classifier, see `tune_classifier`.
    """
    planned = chosen.plan(name)
    assert isinstance(planned, Network)
    if planned.features:
        return tune_classifier(chosen, name)
    if not chosen.epsilons:
        counts = measure.answer_counts(chosen, {name: chosen.network(name, seed)}, "val")
        return {"val": round(100 * metrics.miou(counts[name].sum(0)).item(), 4)}
    epsilons = list(chosen.epsilons)
    if name not in chosen.networks:  # what resists attacks takes larger steps to move
        epsilons += [epsilons[-1] * factor for factor in (2, 4, 8)]
    base, best, sweep = choose(chosen, name, epsilons, seed=seed)
    found: dict[str, object] = {"epsilon": best, "val": base, "sweep": sweep}
    if seed:
        return found
    if planned.layers:
        _, best, sweep = choose(chosen, name, chosen.epsilons, signal="entropy")
        found["entropy"] = {"epsilon": best, "sweep": sweep}
    for layer in planned.layers:
        epsilons = [float(f"{factor * layer_scale(chosen, name, layer):.2g}") for factor in LAYER_FACTORS]
        _, best, sweep = choose(chosen, name, epsilons, at=layer)
        found[layer] = {"epsilon": best, "sweep": sweep}
    if chosen.crfs and name in chosen.networks:
        grid = crf_grid(chosen, name)
        found |= {"crf": json.loads(max(grid, key=lambda crf: grid[crf])), "grid": grid}
    return found


def crf_grid(chosen: Study, name: str, rounds: Sequence[tuple[int, int]] = ((5, 6), (1, 6))) -> dict[str, float]:
    """Validation mIoU of CRFs on a network's scores, by their settings as JSON: all of the study's grid on every fifth
    validation image, then the best six on all of them, of which alone the scores are returned."""
    network, grid = chosen.network(name), list(chosen.crfs)

    def answers(x: Tensor, y: Tensor) -> Iterator[Tensor]:
        scores = network(x)
        return (measure.with_crf(scores, x, crf) for crf in grid)

    for every, kept in rounds:
        told = " ".join(f"{value:g}" for crf in grid for kernel in crf.values() for value in kernel)
        counts = measure.count(chosen, answers, "val", chosen.images["val"] // every, keep=f"crfs {name} {told}")
        scores = (100 * metrics.miou(counts.sum(1))).tolist()
        ranked = sorted(zip(scores, range(len(grid)), strict=True), key=lambda pair: -pair[0])[:kept]
        found = {json.dumps(grid[i]): round(score, 4) for score, i in ranked}
        grid = [grid[i] for _, i in ranked]
    return found


def choose(
    chosen: Study, name: str, epsilons: Sequence[float], **options: Any
) -> tuple[float, float, dict[str, float]]:
    """Validation mIoU of the network alone, the best of `epsilons`, and the mIoU of each; options are those of
    `measure.sweep_counts`."""
    counts = measure.sweep_counts(chosen, name, "val", (0.0, *epsilons), **options)
    base, *scores = (round(score, 4) for score in (100 * metrics.miou(counts.sum(1))).tolist())
    return base, max(zip(scores, epsilons, strict=True))[1], dict(zip(map(str, epsilons), scores, strict=True))


def layer_scale(chosen: Study, name: str, layer: str) -> float:
    """Root mean square of a layer's activations on a few validation images: the unit of its epsilons."""
    network = chosen.network(name)
    squares = [measure.extract(network, x, [layer])[layer].square().mean() for x, _ in chosen.batches("val", 5)]
    return torch.stack(squares).mean().sqrt().item()


def tune_refiner(study: Study, name: str) -> dict[str, Any]:
    """The step size and number of steps with the highest mIoU on validation images; of equals the first.

    `val` is the mIoU of the network alone, `sweep` the best of every step size.
    """
    refiner = study.refiners[name]
    counts = measure.inference_counts(study, name, "val", refiner.epsilons, refiner.steps, refiner.val)
    scores = 100 * metrics.miou(counts.sum(2))
    found = [
        {"epsilon": epsilon, "steps": int(row[1:].argmax()) + 1, "miou": round(row[1:].max().item(), 4)}
        for epsilon, row in zip(refiner.epsilons, scores, strict=True)
    ]
    return {"val": round(scores[0, 0].item(), 4), **max(found, key=lambda row: row["miou"]), "sweep": found}


def tune_classifier(study: Study, name: str, counts: Sequence[int] = range(1, 11)) -> dict[str, Any]:
    """What does best on validation pictures, of all `features` layers of the network and k in `counts`.

    "guided" is one guided step with its epsilon as `step`, "vote" the neighbours alone, "interpolated" has its weight
    as `step`. `epsilon` is the best for the paper's setting, three neighbours in the last layer before the scores.
    `grid` holds validation accuracies (of 100) by method and layer, for each k at its best step. Of equals, the first.
    """
    layers, classes = study.networks[name].features, len(study.classes)
    memory, val = (measure.classify(study, name, split, layers) for split in ("train", "val"))
    found = {layer: neighbours.nearest(memory.features[layer], val.features[layer], max(counts)) for layer in layers}
    near = {(layer, k): memory.classes[found[layer][:, :k]] for layer in layers for k in counts}
    labels = torch.stack([neighbours.shares(each, classes) for each in near.values()])
    votes = torch.stack([neighbours.vote(each, classes) for each in near.values()])
    mixed = [neighbours.interpolated(val.logits, labels, weight).argmax(-1) for weight in MIXES]
    predicted = {
        "guided": (study.epsilons, neighbours.guided(study.network(name), val.pictures, labels, study.epsilons)),
        "vote": ((0.0,), votes[None]),
        "interpolated": (MIXES, torch.stack(mixed)),
    }
    tuned: dict[str, Any] = {"val": _accuracy(val.logits.argmax(1), val.classes).item(), "grid": {}}
    for method, (steps, classes_found) in predicted.items():
        scores = _accuracy(classes_found, val.classes).round(decimals=4)  # steps x (layers x counts)
        best = scores.amax(0).unflatten(0, (len(layers), len(counts))).tolist()
        tuned["grid"][method] = dict(zip(layers, best, strict=True))
        rows = [
            {"layer": layer, "k": k, "step": step, "accuracy": accuracy}
            for step, row in zip(steps, scores.tolist(), strict=True)
            for (layer, k), accuracy in zip(near, row, strict=True)
        ]
        tuned[method] = max(rows, key=lambda row: row["accuracy"])
        if method == "guided":
            usual = [row for row in rows if row["layer"] == layers[-2] and row["k"] == USUAL]
            tuned["epsilon"] = max(usual, key=lambda row: row["accuracy"])["step"]
    return tuned


def _accuracy(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return 100 * (predicted == truth).double().mean(-1)


def again(study: Study, name: str) -> None:
    """Chooses for a trained network or refiner once more, and writes that beside its weights."""
    chosen = (tune_refiner if isinstance(study.plan(name), Refiner) else tune)(study, name)
    stored = study.stored_as(name)
    weights.update(stored, networks=weights.info(stored)["networks"] | {name: chosen})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=studies.STUDIES)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="networks or refiners; default: all")
    args = parser.parse_args()
    study = studies.get(args.study)
    for name in args.only or (*study.networks, *study.robust, *study.refiners):
        again(study, name)


if __name__ == "__main__":
    main()
