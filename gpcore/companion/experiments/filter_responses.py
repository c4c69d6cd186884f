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
from gpcore.companion.report.panels import Panel, change_map, photograph
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
    network, epsilon, rows, image = study.network(name), study.epsilon(name), list[tuple[object, ...]](), 0
    for x, _ in study.batches(split, count):
        first, second = (responses(network, each) for each in (x, guide(network, x, epsilon).images))
        change = second["pool5"] - first["pool5"]
        moved, norm = change.mean(1).abs(), change.norm(dim=1)
        best = first["probabilities"].topk(2, 1).values
        contest = adaptive_avg_pool2d(1 - best[:, 0] + best[:, 1], (moved.shape[1], moved.shape[2]))
        for i in range(len(x)):
            found = [spearmanr(each[i].flatten(), contest[i].flatten()).statistic for each in (moved, norm)]
            for layer, f in first.items():
                relative = (second[layer][i] - f[i]).norm() / f[i].norm()
                rows.append((image, layer, relative.item(), *(found if layer == "pool5" else (None, None))))
            image += 1
    return pd.DataFrame(rows, columns=["image", "layer", "change", "competition", "by_norm"])


def changes_by_layer(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The mean relative change in per cent of every layer of some networks' `response_rows`, with its interval over
    images: a line per layer, in order, and network."""
    table = [
        (layer, name, *metrics.mean(100 * torch.tensor(part["change"].to_numpy())), len(part))
        for layer in LAYERS
        for name, each in rows.items()
        if len(part := each[each["layer"] == layer])
    ]
    return pd.DataFrame(table, columns=["layer", "network", "mean", "low", "high", "images"])


def growth(rows: pd.DataFrame) -> dict[str, metrics.Interval]:
    """By how much the relative change in per cent grows from each pool to the next, paired over images."""
    wide = 100 * rows.pivot(index="image", columns="layer", values="change")
    steps = pairwise(POOLS)
    return {f"{a}_to_{b}": metrics.mean(torch.tensor((wide[b] - wide[a]).to_numpy())) for a, b in steps}


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
    the image over the scores to the prediction; and the ranges."""
    network, epsilon = study.network(name), study.epsilon(name)
    out = guide(network, x, epsilon)
    panels, ranges = response_panels(*(responses(network, each) for each in (x, out.images)))
    before, after = (scores[0].argmax(0) for scores in (out.before, out.after))
    images = [photograph(study, each[0], title) for each, title in ((x, "image"), (out.images, "perturbed"))]
    step = Panel("signed", epsilon * out.signal[0].sign().mean(0), "ε sign(g)", abs(epsilon))
    predicted = [Panel("labels", classes, "prediction") for classes in (before, after)]
    changes = Panel("changes", change_map(before, after, truth[0], study.void), "changes")
    scores = (panels[layer] for layer in panels if layer not in POOLS)
    lines = zip([*images, step], *scores, [*predicted, changes], strict=True)
    return [*zip(*(panels[pool] for pool in POOLS), strict=True)], [*lines], ranges
