"""How the responses of a network's layers change under a guided perturbation."""

from collections.abc import Sequence

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torchvision.models.feature_extraction import create_feature_extractor

from gpcore.companion.report.panels import Panel
from gpcore.companion.studies import POOLS, Study
from gpcore.perturb import guide


def extract(network: nn.Module, images: Tensor, layers: Sequence[str] = POOLS) -> dict[str, Tensor]:
    """Activations at the named layers: B x C x h x w each."""
    with torch.no_grad():
        extracted: dict[str, Tensor] = create_feature_extractor(network, list(layers))(images)
    return extracted


def rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """Per image and pool layer: relative change ||f(x_per) - f(x)|| / ||f(x)||; at the last pool also `competition`,
    the rank correlation between the size of the mean response's change and 1 - (top1 - top2) of the prediction."""
    network, epsilon, found = study.network(name), study.epsilon(name), []
    for x, _ in study.batches(split, count):
        guided = guide(network, x, epsilon)
        first, second = extract(network, x), extract(network, guided.images)
        best = guided.before.softmax(1).topk(2, 1).values
        height, width = first["pool5"].shape[-2:]
        contest = adaptive_avg_pool2d((1 - best[:, 0] + best[:, 1])[:, None], (height, width))
        for i in range(len(x)):
            moved = (second["pool5"][i] - first["pool5"][i]).mean(0).abs()
            competition = spearmanr(moved.flatten(), contest[i].flatten()).statistic
            for layer in POOLS:
                change = (second[layer][i] - first[layer][i]).norm() / first[layer][i].norm()
                found.append((layer, change.item(), competition if layer == "pool5" else None))
    return pd.DataFrame(found, columns=["layer", "change", "competition"])


def panels(
    first: dict[str, Tensor], second: dict[str, Tensor], size: tuple[int, int]
) -> tuple[list[list[Panel]], pd.DataFrame]:
    """Channel-mean responses of one image before, after and their difference, upsampled to `size`, and their ranges."""
    lines: list[list[Panel]] = [[], [], []]
    summary = []
    for layer in first:
        before, after = (
            interpolate(f[layer].mean(1, keepdim=True), size, mode="bilinear")[0, 0] for f in (first, second)
        )
        limit = before.abs().max().item()
        lines[0].append(Panel("size", before, layer, limit))
        lines[1].append(Panel("size", after, layer, limit))
        lines[2].append(Panel("signed", after - before, "Δ"))
        summary.append((layer, limit, after.abs().max().item(), (after - before).abs().max().item()))
    return lines, pd.DataFrame(summary, columns=["layer", "max_before", "max_after", "max_difference"])
