"""The measurements behind the notebooks: loops over a study's images that end in counts or rows."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torchvision.models.feature_extraction import create_feature_extractor

from gpcore import metrics
from gpcore.figures import Panel, change_map
from gpcore.perturb import guide, sweep
from gpcore.studies import Study

POOLS = ("pool1", "pool2", "pool3", "pool4", "pool5")


def _counts(study: Study, logits: Tensor, labels: Tensor) -> Tensor:
    pairs = zip(logits.argmax(1), labels, strict=True)
    return torch.stack([metrics.confusion(p, t, len(study.classes), study.void) for p, t in pairs])


def _labels(strategy: str, truth: Tensor) -> str | Tensor:
    return truth if strategy == "truth" else strategy


def base_counts(study: Study, name: str, split: str, count: int | None = None) -> Tensor:
    """Confusion counts of the network alone: N x K x K."""
    network = study.network(name)
    with torch.no_grad():
        return torch.cat([_counts(study, network(x), y) for x, y in study.batches(split, count)])


def sweep_counts(
    study: Study, name: str, split: str, epsilons: Sequence[float], *, labels: str = "onehot", count: int | None = None
) -> Tensor:
    """Confusion counts after one guided step, for each epsilon (0 is the network alone): E x N x K x K.

    `labels` is a strategy of `guide`, or "truth" for the ideal direction.
    """
    network, counts = study.network(name), []
    for x, y in study.batches(split, count):
        swept = sweep(network, x, epsilons, labels=_labels(labels, y), void=study.void)
        counts.append(torch.stack([_counts(study, logits, y) for _, logits in swept]))
    return torch.cat(counts, 1)


def iteration_counts(
    study: Study, name: str, split: str, steps: int, *, renew: bool, count: int | None = None
) -> Tensor:
    """Confusion counts before the first step and after each of `steps`: (steps + 1) x N x K x K."""
    network, epsilon, counts = study.network(name), study.epsilon(name), []
    for x, y in study.batches(split, count):
        guided = guide(network, x, epsilon, steps=steps, renew=renew)
        counts.append(torch.stack([_counts(study, logits, y) for logits in guided.trajectory]))
    return torch.cat(counts, 1)


def changes(before: Tensor, after: Tensor, truth: Tensor, void: int) -> dict[str, Tensor]:
    """Boolean maps of base errors, of the errors corrected and of pixels newly wrong; void is never counted."""
    known, was, now = truth != void, before == truth, after == truth
    return {"base error": known & ~was, "corrected": known & ~was & now, "newly wrong": known & was & ~now}


def change_rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """How many pixels of each kind of `changes` lie how far from the true boundary: rows image, kind, distance, pixels.

    `distance` is in whole pixels, rounded down; a kind that never occurs in an image has no row there.
    """
    network, epsilon, rows, image = study.network(name), study.epsilon(name), [], 0
    for x, y in study.batches(split, count):
        guided = guide(network, x, epsilon)
        for before, after, truth in zip(guided.before.argmax(1), guided.after.argmax(1), y, strict=True):
            distance = metrics.boundary_distance(truth)
            for kind, mask in changes(before, after, truth, study.void).items():
                # an image of one class has no boundary: its pixels count as farther than any
                near = distance[mask].nan_to_num(posinf=max(truth.shape)).long()
                values, pixels = near.unique(return_counts=True)
                rows += [(image, kind, d, n) for d, n in zip(values.tolist(), pixels.tolist(), strict=True)]
            image += 1
    return pd.DataFrame(rows, columns=["image", "kind", "distance", "pixels"])


def direction_rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """Per image, how near the predicted direction is to the ideal one: rows cosine, sign agreement in [0, 1]."""
    network, rows = study.network(name), []
    for x, y in study.batches(split, count):
        predicted, ideal = (guide(network, x, 0.0, labels=labels, void=study.void).signal for labels in ("onehot", y))
        for p, t in zip(predicted.flatten(1), ideal.flatten(1), strict=True):
            agreement = (p.sign() == t.sign()).double().mean()
            rows.append((torch.cosine_similarity(p, t, 0).item(), agreement.item()))
    return pd.DataFrame(rows, columns=["cosine", "sign_agreement"])


def responses(network: nn.Module, images: Tensor, layers: Sequence[str] = POOLS) -> dict[str, Tensor]:
    """Activations at the named layers: B x C x h x w each."""
    with torch.no_grad():
        extracted: dict[str, Tensor] = create_feature_extractor(network, list(layers))(images)
    return extracted


def response_rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """Per image and pool layer: relative change ||f(x_per) - f(x)|| / ||f(x)||; at the last pool also `competition`,
    the rank correlation between the size of the mean response's change and 1 - (top1 - top2) of the prediction."""
    network, epsilon, rows = study.network(name), study.epsilon(name), []
    for x, _ in study.batches(split, count):
        guided = guide(network, x, epsilon)
        first, second = responses(network, x), responses(network, guided.images)
        best = guided.before.softmax(1).topk(2, 1).values
        height, width = first["pool5"].shape[-2:]
        contest = adaptive_avg_pool2d((1 - best[:, 0] + best[:, 1])[:, None], (height, width))
        for i in range(len(x)):
            moved = (second["pool5"][i] - first["pool5"][i]).mean(0).abs()
            competition = spearmanr(moved.flatten(), contest[i].flatten()).statistic
            for layer in POOLS:
                change = (second[layer][i] - first[layer][i]).norm() / first[layer][i].norm()
                rows.append((layer, change.item(), competition if layer == "pool5" else None))
    return pd.DataFrame(rows, columns=["layer", "change", "competition"])


def gain_rows(study: Study, split: str, names: Sequence[str], count: int | None = None) -> Iterator[dict[str, object]]:
    """For each network, base and guided mIoU, the gain with its interval, and pixels corrected and newly wrong."""
    for name in names:
        network, epsilon = study.network(name), study.epsilon(name)
        counts, corrected, broken = [], 0, 0
        for x, y in study.batches(split, count):
            guided = guide(network, x, epsilon)
            counts.append(torch.stack([_counts(study, logits, y) for logits in guided.trajectory]))
            kinds = changes(guided.before.argmax(1), guided.after.argmax(1), y, study.void)
            corrected += int(kinds["corrected"].sum())
            broken += int(kinds["newly wrong"].sum())
        before, after = torch.cat(counts, 1)
        yield {
            "network": name,
            "epsilon": epsilon,
            "base": 100 * metrics.miou(before.sum(0)).item(),
            "guided": 100 * metrics.miou(after.sum(0)).item(),
            **dict(zip(("gain", "low", "high"), metrics.gain(before, after), strict=True)),
            "base_accuracy": 100 * metrics.accuracy(before.sum(0)).item(),
            "guided_accuracy": 100 * metrics.accuracy(after.sum(0)).item(),
            "corrected": corrected,
            "newly_wrong": broken,
            "images": len(before),
        }


def response_panels(
    first: dict[str, Tensor], second: dict[str, Tensor], size: tuple[int, int]
) -> tuple[list[list[Panel]], pd.DataFrame]:
    """Channel-mean responses of one image before, after and their difference, upsampled to `size`, and their ranges."""
    rows: list[list[Panel]] = [[], [], []]
    summary = []
    for layer in first:
        before, after = (
            interpolate(f[layer].mean(1, keepdim=True), size, mode="bilinear")[0, 0] for f in (first, second)
        )
        limit = before.abs().max().item()
        rows[0].append(Panel("size", before, layer, limit))
        rows[1].append(Panel("size", after, layer, limit))
        rows[2].append(Panel("signed", after - before, "Δ"))
        summary.append((layer, limit, after.abs().max().item(), (after - before).abs().max().item()))
    return rows, pd.DataFrame(summary, columns=["layer", "max_before", "max_after", "max_difference"])


def change_panels(study: Study, name: str, scenes: Sequence[int]) -> list[list[Panel]]:
    """For each test scene: the prediction before and after and the map of changes, after image and truth where ours."""
    network, epsilon = study.network(name), study.epsilon(name)
    rows: list[list[Panel]] = []
    for scene in scenes:
        x, y = study.scene(scene)
        guided = guide(network, x, epsilon)
        before, after = guided.before[0].argmax(0), guided.after[0].argmax(0)
        panels = [
            Panel("labels", before, "prediction"),
            Panel("labels", after, "after one step"),
            Panel("changes", change_map(before, after, y[0], study.void), "changes"),
        ]
        if study.photographs:
            panels = [Panel("image", x[0], "image"), Panel("labels", y[0], "truth"), *panels]
        rows.append([panel if not rows else panel._replace(title="") for panel in panels])
    return rows
