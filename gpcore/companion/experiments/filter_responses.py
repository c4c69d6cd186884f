"""How the responses of a network's pool layers change under a guided perturbation."""

from collections.abc import Mapping

import pandas as pd
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from gpcore.companion.measure import extract
from gpcore.companion.report.panels import Panel
from gpcore.companion.studies import POOLS, Study
from gpcore.perturb import guide


def response_rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """Per image and pool layer: relative change ||f(x_per) - f(x)|| / ||f(x)||; at the last pool also `competition`,
    the rank correlation between the size of the mean response's change and 1 - (top1 - top2) of the prediction."""
    network, epsilon, rows = study.network(name), study.epsilon(name), []
    for x, _ in study.batches(split, count):
        guided = guide(network, x, epsilon)
        first, second = extract(network, x), extract(network, guided.images)
        moved = (second["pool5"] - first["pool5"]).mean(1).abs()
        best = guided.before.softmax(1).topk(2, 1).values
        contest = adaptive_avg_pool2d(1 - best[:, 0] + best[:, 1], (moved.shape[1], moved.shape[2]))
        for i in range(len(x)):
            competition = {"pool5": spearmanr(moved[i].flatten(), contest[i].flatten()).statistic}
            for layer in POOLS:
                change = (second[layer][i] - first[layer][i]).norm() / first[layer][i].norm()
                rows.append((layer, change.item(), competition.get(layer)))
    return pd.DataFrame(rows, columns=["layer", "change", "competition"])


def response_panels(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], size: tuple[int, int]
) -> tuple[list[tuple[Panel, ...]], pd.DataFrame]:
    """Channel-mean responses of one image before, after and their difference, upsampled to `size`, and their ranges."""
    columns, ranges = [], []
    for layer in first:
        means = (f[layer].mean(1, keepdim=True) for f in (first, second))
        before, after = (interpolate(mean, size, mode="bilinear")[0, 0] for mean in means)
        limits = [picture.abs().max().item() for picture in (before, after, after - before)]
        pair = (Panel("size", picture, layer, limits[0]) for picture in (before, after))
        columns.append([*pair, Panel("signed", after - before, "Δ")])
        ranges.append((layer, *limits))
    lines = [*zip(*columns, strict=True)]
    return lines, pd.DataFrame(ranges, columns=["layer", "max_before", "max_after", "max_difference"])
