"""How a network's responses, from its first pool on to its class probabilities, change under a guided perturbation."""

import contextlib
import functools
from collections.abc import Mapping
from itertools import pairwise

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from gpcore import metrics
from gpcore.companion import keeping, measure
from gpcore.companion.report import tables
from gpcore.companion.report.panels import Panel, change_map
from gpcore.companion.studies import POOLS, Study
from gpcore.networks.fcn import FCN
from gpcore.networks.vgg import cropped
from gpcore.perturb import guide
from gpcore.untouched import hooked

SCORES = ("score_fr", "score_pool4", "score_pool3")  # the sums so far, where the network adds the last two
LAYERS = (*POOLS, *SCORES, "probabilities")
_TITLES = {"score_pool4": "+ pool4", "score_pool3": "+ pool3", "probabilities": "largest y"}  # where room is small


def responses(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What the LAYERS that a network has return for a batch, B x C x h x w each, in order.

    Raises ValueError where it is no FCN.
    """
    if not isinstance(network, FCN):
        raise ValueError(f"network: got a {type(network).__name__}, expected one with score maps: an FCN")
    found: dict[str, Tensor] = {}
    with torch.no_grad(), contextlib.ExitStack() as hooks:
        for pool in POOLS:
            hooks.enter_context(hooked(network.get_submodule(pool), functools.partial(found.__setitem__, pool)))
        scores = network.scores(images)
        found |= zip(SCORES, scores, strict=False)
        return found | {"probabilities": cropped(network.upscore(scores[-1]), images).softmax(1)}


def response_rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """Per image and layer: relative change ||f(x_per) - f(x)|| / ||f(x)||; at the last pool also `competition`, the
    rank correlation over its cells between the size of the mean response's change and 1 - (top1 - top2) of the
    prediction, and `by_norm`, that of the norm of the change over the channels."""
    network, epsilon = study.network(name), study.epsilon(name)
    layers = [*responses(network, torch.zeros(1, 3, 64, 64))]

    def values(x: Tensor, y: Tensor) -> Tensor:  # a line for each layer, then the two correlations
        first, second = (responses(network, each) for each in (x, guide(network, x, epsilon).images))
        change = second["pool5"] - first["pool5"]
        best = first["probabilities"].topk(2, 1).values
        contest = adaptive_avg_pool2d(1 - best[:, 0] + best[:, 1], (change.shape[2], change.shape[3]))
        lines = [(second[layer] - f).flatten(1).norm(dim=1) / f.flatten(1).norm(dim=1) for layer, f in first.items()]
        for size in (change.mean(1).abs(), change.norm(dim=1)):
            pairs = zip(size, contest, strict=True)
            lines.append(torch.tensor([spearmanr(a.flatten(), b.flatten()).statistic for a, b in pairs]))
        return torch.stack(lines)

    keep = f"responses {name} {epsilon:g}"
    found = measure.collect(study, values, split, count, keep=keep, agree=keeping.values_agree).double().numpy()
    parts = [pd.DataFrame({"layer": layer, "change": each}) for layer, each in zip(layers, found[:-2], strict=True)]
    last = POOLS.index("pool5")
    parts[last] = parts[last].assign(competition=found[-2], by_norm=found[-1])
    rows = pd.concat(parts).rename_axis("image").reset_index().sort_values("image", kind="stable", ignore_index=True)
    return tables.with_units(rows, study.units(split, count))


def changes_by_layer(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The mean relative change in per cent of every layer of some networks' `response_rows`, with its interval over
    images: a line per layer, in order, and network."""
    table = [
        (layer, name, *tables.mean(part, "change", scale=100), len(part))
        for layer in LAYERS
        for name, each in rows.items()
        if len(part := each[each["layer"] == layer])
    ]
    return pd.DataFrame(table, columns=["layer", "network", "mean", "low", "high", "images"])


def growth(rows: pd.DataFrame) -> dict[str, metrics.Interval]:
    """By how much the relative change in per cent grows from each pool to the next, paired over images."""
    steps = pairwise(POOLS)
    return {f"{a}_to_{b}": tables.paired_mean(rows, "layer", "change", b, a, scale=100) for a, b in steps}


def response_panels(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> tuple[dict[str, list[Panel]], pd.DataFrame]:
    """One image's responses before, after and their difference by layer, each cell as it is, and their ranges.

    A cell shows the mean over a pool's channels, and the largest of the scores or probabilities.
    """
    columns, ranges = dict[str, list[Panel]](), []
    for layer in first:
        maps = (f[layer].mean(1) if layer in POOLS else f[layer].amax(1) for f in (first, second))
        before, after = (each[0] for each in maps)
        limits = [picture.abs().max().item() for picture in (before, after, after - before)]
        pair = (Panel("size", picture, _TITLES.get(layer, layer), max(limits[:2])) for picture in (before, after))
        columns[layer] = [*pair, Panel("signed", after - before, "Δ")]
        ranges.append((layer, *limits))
    return columns, pd.DataFrame(ranges, columns=["layer", "max_before", "max_after", "max_difference"])


def scene_panels(
    study: Study, name: str, x: Tensor, truth: Tensor
) -> tuple[list[tuple[Panel, ...]], list[tuple[Panel, ...]], pd.DataFrame]:
    """Lines of panels before a network's step on one scene, after it, and of what differs: first the pools, then from
    the image, where it is shown, over the scores to the prediction; and the ranges."""
    network, epsilon = study.network(name), study.epsilon(name)
    out = guide(network, x, epsilon)
    panels, ranges = response_panels(*(responses(network, each) for each in (x, out.images)))
    before, after = (scores[0].argmax(0) for scores in (out.before, out.after))
    images = [Panel("image", x[0], "image"), Panel("image", out.images[0], "perturbed")]
    images.append(Panel("signed", epsilon * out.signal[0].sign().mean(0), "ε sign(g)", abs(epsilon)))
    predicted = [Panel("labels", classes, "prediction") for classes in (before, after)]
    changes = Panel("changes", change_map(before, after, truth[0], study.void), "changes")
    scores = (panels[layer] for layer in panels if layer not in POOLS)
    first = [images] if study.shown else []
    lines = zip(*first, *scores, [*predicted, changes], strict=True)
    return [*zip(*(panels[pool] for pool in POOLS), strict=True)], [*lines], ranges
