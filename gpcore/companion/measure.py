"""The measurements behind the notebooks: loops over a study's images that end in counts or rows."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gpcore import metrics
from gpcore.adapt import VIEWS, Tent, augmented
from gpcore.companion.report.panels import Panel, change_map
from gpcore.companion.studies import Study
from gpcore.crf import dense_crf
from gpcore.datasets.corruptions import corrupt
from gpcore.gradient import logit_signal, pseudo_labels
from gpcore.perturb import guide, sweep

Answer = Callable[[Tensor], Tensor]  # from images B x 3 x H x W to scores B x K x H x W
Answers = Callable[[Tensor, Tensor], Iterable[Tensor]]  # from images and their labels B x H x W to several such scores


def count_pixels(study: Study, logits: Tensor, labels: Tensor) -> Tensor:
    """Confusion counts of a batch: B x K x K from logits B x K x h x w and labels B x h x w."""
    pairs = zip(logits.max(1).indices, labels, strict=True)
    return torch.stack([metrics.confusion(p, t, len(study.classes), study.void) for p, t in pairs])


def tally(study: Study, answers: Answers, split: str, count: int | None = None) -> Tensor:
    """Confusion counts of each of A answers to a split's images, A x N x K x K; nothing keeps a graph meanwhile."""
    with torch.no_grad():
        parts = [[count_pixels(study, scores, y) for scores in answers(x, y)] for x, y in study.batches(split, count)]
    return torch.stack([torch.cat(each) for each in zip(*parts, strict=True)])


def base_counts(study: Study, name: str, split: str, count: int | None = None) -> Tensor:
    """Confusion counts of the network alone: N x K x K."""
    network = study.network(name)
    return tally(study, lambda x, y: [network(x)], split, count)[0]


def answer_counts(
    study: Study,
    answers: Mapping[str, Answer],
    split: str,
    count: int | None = None,
    change: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Confusion counts N x K x K of each of some ways to answer a batch, which `change`, if any, alters before."""
    changed = change or (lambda x: x)
    found = tally(study, lambda x, y: (answer(z) for z in [changed(x)] for answer in answers.values()), split, count)
    return dict(zip(answers, found, strict=True))


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
    network = study.network(name, seed)

    def swept(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        label = y if labels == "truth" else labels
        return (z for _, z in sweep(network, x, epsilons, labels=label, signal=signal, at=at, void=study.void))

    return tally(study, swept, split, count)


def guided_counts(
    study: Study, name: str, split: str, *, epsilon: float | None = None, count: int | None = None, seed: int = 0
) -> tuple[Tensor, pd.DataFrame]:
    """Confusion counts before and after one guided step, 2 x N x K x K, and per image the pixels corrected and newly
    wrong.  `epsilon` is the network's own unless given."""
    network, rows = study.network(name, seed), list[tuple[int, ...]]()
    own = study.epsilon(name, seed) if epsilon is None else epsilon

    def step(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        trajectory = guide(network, x, own).trajectory
        was, now = (logits.max(1).indices for logits in trajectory)
        kinds = changes(was, now, y, study.void)
        pixels = (kinds[kind].flatten(1).sum(1).tolist() for kind in ("corrected", "newly wrong"))
        rows.extend(zip(*pixels, strict=True))
        return trajectory

    return tally(study, step, split, count), pd.DataFrame(rows, columns=["corrected", "newly_wrong"])


def with_crf(scores: Tensor, images: Tensor, crf: Mapping[str, Any]) -> Tensor:
    """What `dense_crf` makes of a batch's logits B x K x H x W under their images."""
    return torch.stack([dense_crf(p, x, **crf) for p, x in zip(scores.softmax(1), images, strict=True)])


def crf_grid_counts(study: Study, name: str, split: str, count: int | None = None) -> Tensor:
    """Confusion counts under every DenseCRF of the study's grid: S x N x K x K."""
    network = study.network(name)
    return tally(study, lambda x, y: (with_crf(z, x, crf) for z in [network(x)] for crf in study.crfs), split, count)


def crf_counts(study: Study, name: str, split: str, count: int | None = None) -> Tensor:
    """Confusion counts of the network alone, with its DenseCRF, guided, and guided with that CRF: 4 x N x K x K."""
    network, tuned = study.network(name), study.tuned(name)

    def answers(x: Tensor, labels: Tensor) -> Iterable[Tensor]:
        for scores in guide(network, x, tuned["epsilon"]).trajectory:
            yield from (scores, with_crf(scores, x, tuned["crf"]))

    return tally(study, answers, split, count)


def iteration_counts(
    study: Study, name: str, split: str, steps: int, *, renew: bool, count: int | None = None
) -> Tensor:
    """Confusion counts before the first step and after each of `steps`: (steps + 1) x N x K x K."""
    network, epsilon = study.network(name), study.epsilon(name)
    return tally(study, lambda x, y: guide(network, x, epsilon, steps=steps, renew=renew).trajectory, split, count)


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


def prediction_panels(
    study: Study, scenes: Sequence[int], titles: Iterable[str], answers: Answers, *, image: bool = False
) -> list[list[Panel]]:
    """For each test scene the prediction of the first answer, then of every other its own and the map of changes; the
    truth in front where it is ours, and if wanted the image before it."""
    rows: list[list[Panel]] = []
    for scene in scenes:
        x, truth = study.scene(scene)
        with torch.no_grad():
            named = zip(answers(x, truth), titles, strict=True)
            before, *others = (Panel("labels", scores[0].argmax(0), title) for scores, title in named)
        ours = [Panel("image", x[0], "image")] * image + [Panel("labels", truth[0], "truth")]
        row = [*ours, before] if study.photographs else [before]
        for after in others:
            row += [after, Panel("changes", change_map(before.data, after.data, truth[0], study.void), "changes")]
        rows.append([panel if not rows else panel._replace(title="") for panel in row])
    return rows


def change_panels(study: Study, name: str, scenes: Sequence[int], epsilon: float | None = None) -> list[list[Panel]]:
    """For each test scene: the prediction before and after and the map of changes, after image and truth where ours."""
    network, own = study.network(name), study.epsilon(name) if epsilon is None else epsilon
    titles = ("prediction", "after one step")
    return prediction_panels(study, scenes, titles, lambda x, y: guide(network, x, own).trajectory, image=True)


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
