"""Why a guided step helps: interventions on its label and on the pixels that take part.

Notebook 14's hypothesis: a step is a vote. An image pixel lies in the receptive fields of many output pixels, whose
signals add up before the sign is taken; small islands of one class inside another are outvoted and erased.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor, nn

from gpcore import metrics
from gpcore.adapt import augmented
from gpcore.companion import measure
from gpcore.companion.report.tables import points
from gpcore.companion.studies import Study
from gpcore.perturb import guide

SHARE = 200  # an island covers less than one part in 200 of the image
CONFIDENT = 0.9
GAIN, CHANGE = ["gain", "low", "high"], ["change", "change_low", "change_high"]  # columns of `effects`


class Case(NamedTuple):
    """What an intervention may use: the network, images B x C x H x W, base logits and truth (B x H x W)."""

    network: nn.Module
    images: Tensor
    logits: Tensor
    truth: Tensor


class Intervention(NamedTuple):
    """The label and the pixels' weights of a step, and what the hypothesis says of its gain beside the plain step's:
    1 higher, -1 lower, 0 nothing."""

    predicted: int
    labels: Callable[[Case], str | Tensor] = lambda case: "onehot"
    weight: Callable[[Tensor], Tensor] | None = None


def islands(labels: Tensor) -> Tensor:
    """Where B x H x W labels form 4-connected regions of one class smaller than 1/200 of the image: the same shape."""
    found = np.zeros(labels.shape, bool)
    for image, mask in zip(labels.numpy(), found, strict=True):
        for value in np.unique(image):
            regions, _ = ndimage.label(image == value)
            small = np.bincount(regions.ravel()) < image.size / SHARE
            small[0] = False  # the other classes
            mask |= small[regions]
    return torch.from_numpy(found)


def surrounded(labels: Tensor) -> Tensor:
    """The labels with every island given the class of the nearest pixel outside of islands."""
    result = labels.clone()
    for image, island in zip(result, islands(labels), strict=True):
        if island.any() and not island.all():
            nearest = ndimage.distance_transform_edt(island, return_distances=False, return_indices=True)
            image.copy_(image[tuple(torch.from_numpy(nearest))])
    return result


def balance(logits: Tensor) -> Tensor:
    """One over the share of the image that each pixel's predicted class covers, of mean 1 per image."""
    predicted = logits.argmax(1)
    factors = torch.stack([1.0 / image.flatten().bincount(minlength=logits.shape[1])[image] for image in predicted])
    return (factors / factors.mean((1, 2), keepdim=True)).unsqueeze(1)


def mended(share: float) -> Callable[[Case], Tensor]:
    """Labels that are the prediction with a random `share` of its wrong pixels put right."""

    def labels(case: Case) -> Tensor:
        drawn = torch.rand(case.truth.shape, generator=torch.Generator().manual_seed(0))
        return torch.where(drawn < share, case.truth, case.logits.argmax(1))

    return labels


def _confidence(logits: Tensor) -> Tensor:
    return logits.softmax(1).amax(1, keepdim=True)


def _islands(logits: Tensor) -> Tensor:
    return islands(logits.argmax(1)).unsqueeze(1).float()


INTERVENTIONS: Mapping[str, Intervention] = {
    "every pixel": Intervention(0),
    "islands silent": Intervention(1, weight=lambda z: 1 - _islands(z)),
    "islands alone": Intervention(-1, weight=_islands),
    "islands relabelled": Intervention(1, lambda case: surrounded(case.logits.argmax(1))),
    "classes balanced": Intervention(-1, weight=balance),
    "confident alone": Intervention(0, weight=lambda z: (_confidence(z) >= CONFIDENT).float()),
    "uncertain alone": Intervention(0, weight=lambda z: (_confidence(z) < CONFIDENT).float()),
    "label of shifted views": Intervention(1, lambda case: augmented(case.network, case.images, "shift").argmax(1)),
    **{f"{share:.0%} of errors mended": Intervention(1, mended(share)) for share in (0.1, 0.25, 0.5, 1.0)},
}


def intervene(study: Study, name: str, split: str, count: int | None = None) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Confusion counts N x K x K of the network alone and after one step under each of INTERVENTIONS.

    With them, per intervention and image, the pixels of the base prediction's islands and those of them that the step
    gave another class.
    """
    network, epsilon = study.network(name), study.epsilon(name)
    rows = list[tuple[str, int, int]]()

    def answers(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        yield (before := network(x))
        island = islands(before.argmax(1))
        for kind, (_, labels, weight) in INTERVENTIONS.items():
            label = labels(Case(network, x, before, y))
            yield (after := guide(network, x, epsilon, labels=label, weight=weight, void=study.void).after)
            erased = (island & (after.argmax(1) != before.argmax(1))).sum((1, 2))
            rows.extend((kind, *pair) for pair in zip(island.sum((1, 2)).tolist(), erased.tolist(), strict=True))

    counts = dict(zip(["network alone", *INTERVENTIONS], measure.count(study, answers, split, count), strict=True))
    return counts, pd.DataFrame(rows, columns=["intervention", "islands", "erased"])


def effects(counts: Mapping[str, Tensor], erased: pd.DataFrame) -> pd.DataFrame:
    """Per intervention: its gain, how far that lies above the plain step's, with intervals, and what was predicted.

    `islands_erased` is the share of the islands' pixels that change class, in per cent.
    """
    alone, plain = counts["network alone"], counts["every pixel"]
    share = 100 * erased.groupby("intervention")["erased"].sum() / erased.groupby("intervention")["islands"].sum()
    rows = []
    for kind, (predicted, *_) in INTERVENTIONS.items():
        gain, change = metrics.gain(alone, counts[kind]), metrics.gain(plain, counts[kind])
        rows.append((kind, *gain, *change, share[kind], predicted))
    return pd.DataFrame(rows, columns=["intervention", *GAIN, *CHANGE, "islands_erased", "predicted"])


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """`effects` for display: the gain, its change beside the plain step's, and whether that went as predicted."""
    went = [
        ("–" if not p else "undecided" if low * high <= 0 else "as predicted" if p * low > 0 else "the other way")
        for p, low, high in rows[["predicted", *CHANGE[1:]]].itertuples(index=False)
    ]
    gains, beside = ([points(*row) for row in rows[each].itertuples(index=False)] for each in (GAIN, CHANGE))
    columns = {
        "intervention": rows["intervention"],
        "gain [95 %]": gains,
        "beside the plain step": beside,
        "islands erased (%)": rows["islands_erased"].round(1),
        "predicted": rows["predicted"].map({1: "higher", -1: "lower", 0: "–"}),
        "went": went,
    }
    return pd.DataFrame(columns).set_index("intervention")
