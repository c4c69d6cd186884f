"""The measurements behind the notebooks: loops over a study's images that end in counts or rows."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gpcore import metrics
from gpcore.adapt import VIEWS, Tent, augmented
from gpcore.crf import dense_crf
from gpcore.datasets.corruptions import corrupt
from gpcore.figures import Panel, change_map
from gpcore.gradient import logit_signal, pseudo_labels
from gpcore.perturb import guide, sweep
from gpcore.study import Study

Answer = Callable[[Tensor], Tensor]  # from images B x 3 x H x W to scores B x K x H x W


def count_pixels(study: Study, logits: Tensor, labels: Tensor) -> Tensor:
    """Confusion counts of a batch: B x K x K from logits B x K x h x w and labels B x h x w."""
    pairs = zip(logits.max(1).indices, labels, strict=True)
    return torch.stack([metrics.confusion(p, t, len(study.classes), study.void) for p, t in pairs])


def _labels(strategy: str, truth: Tensor) -> str | Tensor:
    return truth if strategy == "truth" else strategy


def base_counts(study: Study, name: str, split: str, count: int | None = None) -> Tensor:
    """Confusion counts of the network alone: N x K x K."""
    network = study.network(name)
    with torch.no_grad():
        return torch.cat([count_pixels(study, network(x), y) for x, y in study.batches(split, count)])


def answer_counts(
    study: Study,
    answers: Mapping[str, Answer],
    split: str,
    count: int | None = None,
    change: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Confusion counts N x K x K of each of some ways to answer a batch, which `change`, if any, alters before."""
    found: dict[str, list[Tensor]] = {name: [] for name in answers}
    for clean, labels in study.batches(split, count):
        x = change(clean) if change else clean
        for name, answer in answers.items():
            with torch.no_grad():
                found[name].append(count_pixels(study, answer(x), labels))
    return {name: torch.cat(parts) for name, parts in found.items()}


def sweep_counts(
    study: Study,
    name: str,
    split: str,
    epsilons: Sequence[float],
    *,
    labels: str = "onehot",
    signal: str = "ce",
    at: str | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Confusion counts after one guided step, for each epsilon (0 is the network alone): E x N x K x K.

    `labels` is a strategy of `guide`, or "truth" for the ideal direction; `signal` as there; `at` a module
    instead of the input; `seed` that of the network's training.
    """
    network, counts = study.network(name, seed), []
    for x, y in study.batches(split, count):
        swept = sweep(network, x, epsilons, labels=_labels(labels, y), signal=signal, at=at, void=study.void)
        counts.append(torch.stack([count_pixels(study, logits, y) for _, logits in swept]))
    return torch.cat(counts, 1)


def guided_counts(
    study: Study,
    name: str,
    split: str,
    *,
    epsilon: float | None = None,
    count: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, pd.DataFrame]:
    """Confusion counts before and after one guided step, 2 x N x K x K, and per image the pixels corrected and newly
    wrong.  `epsilon` is the network's own unless given."""
    network, counts, rows = study.network(name, seed), [], []
    epsilon = study.epsilon(name, seed) if epsilon is None else epsilon
    for x, y in study.batches(split, count):
        guided = guide(network, x, epsilon)
        counts.append(torch.stack([count_pixels(study, logits, y) for logits in guided.trajectory]))
        kinds = changes(guided.before.max(1).indices, guided.after.max(1).indices, y, study.void)
        pixels = (kinds[kind].flatten(1).sum(1).tolist() for kind in ("corrected", "newly wrong"))
        rows += list(zip(*pixels, strict=True))
    return torch.cat(counts, 1), pd.DataFrame(rows, columns=["corrected", "newly_wrong"])


def with_crf(scores: Tensor, images: Tensor, crf: Mapping[str, Any]) -> Tensor:
    """What `dense_crf` makes of a batch's logits B x K x H x W under their images."""
    return torch.stack([dense_crf(p, x, **crf) for p, x in zip(scores.softmax(1), images, strict=True)])


def crf_grid_counts(study: Study, name: str, split: str, count: int | None = None) -> Tensor:
    """Confusion counts under every DenseCRF of the study's grid: S x N x K x K."""
    network, counts = study.network(name), []
    for x, y in study.batches(split, count):
        with torch.no_grad():
            scores = network(x)
        counts.append(torch.stack([count_pixels(study, with_crf(scores, x, crf), y) for crf in study.crfs]))
    return torch.cat(counts, 1)


def crf_counts(study: Study, name: str, split: str, count: int | None = None) -> Tensor:
    """Confusion counts of the network alone, with its DenseCRF, guided, and guided with that CRF: 4 x N x K x K."""
    network, tuned, counts = study.network(name), study.tuned(name), []
    for x, y in study.batches(split, count):
        guided = guide(network, x, tuned["epsilon"])
        pairs = ((scores, with_crf(scores, x, tuned["crf"])) for scores in guided.trajectory)
        counts.append(torch.stack([count_pixels(study, scores, y) for pair in pairs for scores in pair]))
    return torch.cat(counts, 1)


def iteration_counts(
    study: Study, name: str, split: str, steps: int, *, renew: bool, count: int | None = None
) -> Tensor:
    """Confusion counts before the first step and after each of `steps`: (steps + 1) x N x K x K."""
    network, epsilon, counts = study.network(name), study.epsilon(name), []
    for x, y in study.batches(split, count):
        guided = guide(network, x, epsilon, steps=steps, renew=renew)
        counts.append(torch.stack([count_pixels(study, logits, y) for logits in guided.trajectory]))
    return torch.cat(counts, 1)


def methods(study: Study, name: str) -> dict[str, Answer]:
    """What a user could do with a test batch, each a function from B x C x H x W images to logits.

    The epsilons were chosen on validation images. TENT, for networks with batch norm, goes on learning from call to
    call; "batch statistics" is its first half.
    """
    network, tuned = study.network(name), study.tuned(name)
    chosen: dict[str, Answer] = {
        "network alone": network,
        "guided step": lambda x: guide(network, x, tuned["epsilon"]).after,
        "entropy step": lambda x: guide(network, x, tuned["entropy"]["epsilon"], signal="entropy").after,
        **{f"mean over {views}s": functools.partial(augmented, network, views=views) for views in VIEWS},
    }
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        chosen |= {"batch statistics": Tent(network, rate=0.0), "TENT": Tent(network)}
    return chosen


def method_counts(
    study: Study, name: str, conditions: Sequence[tuple[str, int]], split: str, count: int, only: Sequence[str] = ()
) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Confusion counts N x K x K of each of `methods` in each condition: a kind of corruption, a severity or 0.

    `only` names the methods that are run, in that order; default all.
    """
    found = {}
    for kind, severity in conditions:
        every, generator = methods(study, name), torch.Generator().manual_seed(0)
        change = functools.partial(corrupt, kind=kind, severity=severity, seed=generator) if severity else None
        found[kind, severity] = answer_counts(study, {m: every[m] for m in only or every}, split, count, change)
    return found


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


def change_panels(study: Study, name: str, scenes: Sequence[int], epsilon: float | None = None) -> list[list[Panel]]:
    """For each test scene: the prediction before and after and the map of changes, after image and truth where ours."""
    network = study.network(name)
    epsilon = study.epsilon(name) if epsilon is None else epsilon
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


def seed_rows(study: Study, count: int | None = None) -> pd.DataFrame:
    """Base mIoU and gain on test images of every network that was trained with more than one seed, seed by seed."""
    rows = []
    for name, trainings in study.seeds.items():
        for seed in range(trainings):
            counts, _ = guided_counts(study, name, "test", count=count, seed=seed)
            base, guided = (100 * metrics.miou(counts.sum(1))).tolist()
            rows.append((name, seed, study.epsilon(name, seed), base, guided - base))
    return pd.DataFrame(rows, columns=["network", "seed", "epsilon", "base", "gain"])


def toy_rows(published: pd.DataFrame) -> pd.DataFrame:
    """Figure 9's printed columns y, l and signal beside eq. (5) computed from y and l; printed digits are truncated."""
    rows = published.copy()
    for _, part in rows.groupby(["case", "label"]):
        y, label = (torch.tensor(part[column].to_numpy())[None] for column in ("y", "l"))
        rows.loc[part.index, "eq. (5)"] = logit_signal(y.log(), label, "eq5")[0].numpy()
    rows["match"] = (rows["eq. (5)"] - rows["signal"]).abs() < 1e-3 * (1 - 1e-6)
    return rows


def eq5_errors(draws: int = 1000, classes: int = 5) -> dict[str, float]:
    """Largest difference between eq. (5) and autograd's gradient of l . y over random logits, per kind of label."""
    logits = torch.randn(draws, classes, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    errors = {}
    for kind in ("onehot", "top2", "uniform"):
        target = pseudo_labels(logits, kind)
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((target * leaf.softmax(1)).sum(), leaf)
        errors[kind] = (gradient - logit_signal(logits, target, "eq5")).abs().max().item()
    return errors
