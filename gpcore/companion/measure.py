"""From a study's images to confusion counts: one loop, and the answers that several notebooks put into it."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from gpcore import denoise, metrics
from gpcore.companion import keeping
from gpcore.companion.studies import POOLS, Study
from gpcore.crf import dense_crf
from gpcore.perturb import guide, sweep
from gpcore.untouched import hooked

OFTEN = 60  # seconds after which what is measured so far is kept
T = TypeVar("T")
Answer = Callable[[Tensor], Tensor]  # from images B x 3 x H x W to scores B x K x H x W
Values = Callable[[Tensor, Tensor], Tensor]  # from images and their labels to A x B x ...
Answers = Callable[[Tensor, Tensor], Iterable[Tensor]]  # from images and their labels B x H x W to several such scores


def count_pixels(study: Study, scores: Tensor, labels: Tensor) -> Tensor:
    """Confusion counts of a batch: B x K x K from scores B x K x h x w, or classes B x h x w, and labels B x h x w."""
    pairs = zip(scores.max(1).indices if scores.dim() == 4 else scores, labels, strict=True)
    return torch.stack([metrics.confusion(p, t, len(study.classes), study.void) for p, t in pairs])


def collect(
    study: Study,
    values: Values,
    split: str,
    images: int | None = None,
    *,
    keep: str = "",
    agree: keeping.Agree = keeping.classes_agree,
) -> Tensor:
    """What `values` says of the N images of a split, A x N x ..., batch by batch; nothing keeps a graph meanwhile.

    What was measured once under the name `keep` is read from data/counts, if the first batch, which is always measured
    anew, agrees with what is kept there; else everything is measured anew. The runner's --record keeps it, and of long
    measurements what there is every minute, from which an interrupted one goes on. Where the images are not to be had,
    what is kept is taken as it is.
    """
    total = len(study.indices(split, images))
    file = keeping.file(study, f"{keep} {split} {total}") if keep else None
    if file and file.is_file() and not study.present:
        return keeping.read(file)
    parts, seen, done, saved = list[Tensor](), 0, 0, time.monotonic()
    with torch.no_grad():
        for x, y in study.batches(split, images):
            seen += len(x)
            if seen <= done:
                continue  # an interrupted measurement has them
            parts.append(values(x, y))
            if file and len(parts) == 1 and (known := keeping.known(file, parts[0], agree)) is not None:
                parts, done = [known], known.shape[1]
                if done >= total:
                    return known
            if file and seen < total and time.monotonic() - saved > OFTEN:
                keeping.keep(keeping.part(file), torch.cat(parts, 1))
                saved = time.monotonic()
    found = torch.cat(parts, 1)
    if file:
        keeping.keep(file, found)
    return found


def count(
    study: Study,
    answers: Answers,
    split: str,
    images: int | None = None,
    *,
    keep: str = "",
    chaotic: bool = False,
    frames: bool = False,
) -> Tensor:
    """Confusion counts of each of A answers to a split's images, A x N x K x K: of every image, but of a video, unless
    its `frames` are asked for, summed over the units that a bootstrap may resample; see `Study.units`.

    `keep` is that of `collect`. Where small differences between machines grow, as in strong attacks, `chaotic` has them
    agree in how many pixels are right only.
    """

    def counted(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([count_pixels(study, scores, y) for scores in answers(x, y)])

    agree = keeping.right_agree if chaotic else keeping.classes_agree
    found = collect(study, counted, split, images, keep=keep, agree=agree)
    return found if frames else by_unit(study, split, found, 1)


def by_unit(study: Study, split: str, values: Tensor, dim: int = 0) -> Tensor:
    """Values of a split's N images, the dimension `dim`, summed over the units of `Study.units`."""
    units = study.units(split, values.shape[dim])
    return metrics.per_unit(values.movedim(dim, 0), units).movedim(0, dim)


def answer_counts(
    study: Study,
    answers: Mapping[str, Answer],
    split: str,
    images: int | None = None,
    change: Answer = lambda x: x,
    *,
    keep: str = "",
) -> dict[str, Tensor]:
    """Confusion counts N x K x K of each of some ways to answer a batch, which `change` may alter before; see `count`
    for `keep`."""

    def changed(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        return (answer(z) for z in [change(x)] for answer in answers.values())

    return dict(zip(answers, count(study, changed, split, images, keep=keep), strict=True))


def guided_counts(
    study: Study,
    name: str,
    split: str,
    *,
    epsilon: float | None = None,
    images: int | None = None,
    seed: int = 0,
    frames: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Confusion counts before and after one guided step, 2 x N x K x K as those of `count`, and the pixels "corrected"
    and "newly_wrong" of every image, each N, frames of a video too.  `epsilon` is the network's own unless given;
    `seed` that of the network's training."""
    network = study.network(name, seed)
    own = study.epsilon(name, seed) if epsilon is None else epsilon

    def step(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        before, after = (scores.max(1).indices for scores in guide(network, x, own).trajectory)
        return before, after, torch.where(before == y, after, before)  # the last is right where both are

    keep = f"guided {name} seed{seed} {own:g}"
    before, after, both = count(study, step, split, images, keep=keep, frames=True)
    right_before, right_after, kept = (each.diagonal(dim1=1, dim2=2).sum(1) for each in (before, after, both))
    changed = {"corrected": right_after - kept, "newly_wrong": right_before - kept}
    counts = torch.stack([before, after])
    return counts if frames else by_unit(study, split, counts, 1), changed


def sweep_counts(
    study: Study,
    name: str,
    split: str,
    epsilons: Sequence[float],
    *,
    labels: str = "onehot",
    images: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Confusion counts as `count`'s after one guided step, for each epsilon (0 is the network alone): E x N x K x K.

    `labels` is a strategy of `guide`, or "truth" for the ideal direction; other options are `sweep`'s; `seed` is that
    of the network's training.
    """
    network, options = study.network(name, seed), {"void": study.void} | options
    told = [f"{option}={value}" for option, value in sorted(options.items())]
    steps = " ".join(f"{epsilon:g}" for epsilon in epsilons)

    def swept(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        found = sweep(network, x, epsilons, labels=y if labels == "truth" else labels, **options)
        return (scores for _, scores in found)

    return count(study, swept, split, images, keep=f"sweep {name} seed{seed} {labels} {' '.join(told)} {steps}")


def inference_counts(
    study: Study, name: str, split: str, epsilons: Sequence[float], steps: int, images: int | None = None
) -> Tensor:
    """Confusion counts of a refiner's iterative inference, by step size and before the first and after every step:
    E x (steps + 1) x N x K x K."""
    refiner = study.refiners[name]
    network, module = study.network(refiner.network), study.network(name)

    def answers(x: Tensor, labels: Tensor) -> Iterable[Tensor]:
        y, h = denoise.candidate(network, x, refiner.at)
        for epsilon in epsilons:
            yield from denoise.iterative_inference(denoise.given(module, h), y, epsilon, steps=steps).trajectory

    keep = f"inference {name} {' '.join(f'{epsilon:g}' for epsilon in epsilons)} {steps}"
    return torch.stack(count(study, answers, split, images, keep=keep).split(steps + 1))


def extract(network: nn.Module, images: Tensor, layers: Iterable[str] = POOLS) -> dict[str, Tensor]:
    """What a network's modules of these names return for a batch, without gradients: B x C x h x w each."""
    found: dict[str, Tensor] = {}
    with torch.no_grad(), contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(hooked(network.get_submodule(layer), functools.partial(found.__setitem__, layer)))
        network(images)
    return found


class Classified(NamedTuple):
    """A classifier on a whole split: pictures N x C x H x W, classes N, logits N x K, activations N x D by layer."""

    pictures: Tensor
    classes: Tensor
    logits: Tensor
    features: dict[str, Tensor]


def classify(study: Study, name: str, split: str, layers: Sequence[str]) -> Classified:
    """Runs a study's classifier, an `nn.Sequential`, on a split and keeps what some of its `layers` return."""
    network, parts = study.network(name), []
    for pictures, classes in study.batches(split):
        x, seen = pictures, dict[str, Tensor]()
        with torch.no_grad():
            for layer, module in network.named_children():
                seen[layer] = x = module(x)
        parts.append((pictures, classes, x, *(seen[layer].flatten(1) for layer in layers)))
    pictures, classes, logits, *features = map(torch.cat, zip(*parts, strict=True))
    return Classified(pictures, classes, logits, dict(zip(layers, features, strict=True)))


def with_crf(scores: Tensor, images: Tensor, crf: Mapping[str, Any]) -> Tensor:
    """What `dense_crf` makes of a batch's logits B x K x H x W under their images."""
    return torch.stack([dense_crf(p, x, **crf) for p, x in zip(scores.softmax(1), images, strict=True)])


def once(answer: Callable[..., T]) -> Callable[..., T]:
    """`answer`, remembering what it said of the last three batches: told apart by identity, not by what they hold."""
    return functools.lru_cache(maxsize=3)(answer)


def changes(before: Tensor, after: Tensor, truth: Tensor, void: int) -> dict[str, Tensor]:
    """Boolean maps of base errors, of the errors corrected and of pixels newly wrong; void is never counted."""
    known, was, now = truth != void, before == truth, after == truth
    return {"base error": known & ~was, "corrected": known & ~was & now, "newly wrong": known & was & ~now}
