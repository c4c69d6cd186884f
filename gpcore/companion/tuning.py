"""Choose a network's settings on validation images: its epsilons, and the CRF on its scores."""

import json
from collections.abc import Sequence

import torch
from torchvision.models.feature_extraction import create_feature_extractor

from gpcore import metrics
from gpcore.companion import measure
from gpcore.companion.experiments import knn_classification
from gpcore.companion.studies import Network, Study

LAYER_FACTORS = (0.001, 0.003, 0.01, 0.03)  # of a layer's scale: the epsilons tried there


def tune(chosen: Study, name: str, seed: int = 0) -> dict[str, object]:
    """What does best on validation images: the network's epsilon, and the CRF put on its scores where there is a grid.

    With them the scores (mIoU of 100) over the whole sweep, `val` being the network alone. For a classifier, see
    `knn_classification.choose`.
    """
    planned = chosen.plan(name)
    assert isinstance(planned, Network)
    if planned.features:
        return knn_classification.choose(chosen, name)
    epsilons = list(chosen.epsilons)
    if name not in chosen.networks:  # what resists attacks takes larger steps to move
        epsilons += [epsilons[-1] * factor for factor in (2, 4, 8)]
    base, best, sweep = choose(chosen, name, epsilons, seed=seed)
    found: dict[str, object] = {"epsilon": best, "val": base, "sweep": sweep}
    if seed:
        return found
    if planned.layers:
        _, best, sweep = choose(chosen, name, chosen.epsilons, signal="entropy", count=chosen.images["val"] // 2)
        found["entropy"] = {"epsilon": best, "sweep": sweep}
    for layer in planned.layers:
        epsilons = [float(f"{factor * layer_scale(chosen, name, layer):.2g}") for factor in LAYER_FACTORS]
        _, best, sweep = choose(chosen, name, epsilons, at=layer, count=chosen.images["val"] // 2)
        found[layer] = {"epsilon": best, "sweep": sweep}
    if chosen.crfs and name in chosen.networks:
        counts = measure.crf_grid_counts(chosen, name, "val", chosen.images["val"] // 4)
        scores = (100 * metrics.miou(counts.sum(1))).tolist()
        grid = {json.dumps(crf): round(score, 4) for crf, score in zip(chosen.crfs, scores, strict=True)}
        found |= {"crf": chosen.crfs[scores.index(max(scores))], "grid": grid}
    return found


def choose(
    chosen: Study,
    name: str,
    epsilons: Sequence[float],
    *,
    at: str | None = None,
    signal: str = "ce",
    count: int | None = None,
    seed: int = 0,
) -> tuple[float, float, dict[str, float]]:
    """Validation mIoU of the network alone, the best of `epsilons`, and the mIoU of each."""
    tried = (0.0, *epsilons)
    counts = measure.sweep_counts(chosen, name, "val", tried, at=at, signal=signal, count=count, seed=seed)
    base, *scores = (round(score, 4) for score in (100 * metrics.miou(counts.sum(1))).tolist())
    return base, max(zip(scores, epsilons, strict=True))[1], dict(zip(map(str, epsilons), scores, strict=True))


def layer_scale(chosen: Study, name: str, layer: str) -> float:
    """Root mean square of a layer's activations on a few validation images: the unit of its epsilons."""
    with torch.no_grad():
        network = create_feature_extractor(chosen.network(name), [layer])
        squares = [network(x)[layer].square().mean() for x, _ in chosen.batches("val", 5)]
    return torch.stack(squares).mean().sqrt().item()
