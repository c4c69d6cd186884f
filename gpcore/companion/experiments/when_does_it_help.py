"""When a guided step helps, and why: a survey of settings, and interventions on the step's label and pixels.

Notebook 14's hypothesis: a step is a vote. An image pixel lies in the receptive fields of many output pixels, whose
signals add up before the sign is taken; small islands of one class inside another are outvoted and erased.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.measure import label
from torch import Tensor, nn

from gpcore import metrics
from gpcore.companion import measure
from gpcore.companion.measure import count_pixels
from gpcore.companion.report.tables import signed
from gpcore.companion.studies import Study
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide

GAIN, CHANGE = ["gain", "low", "high"], ["change", "change_low", "change_high"]  # columns of `effects`

# What is predicted of the gain beside the plain step's, 1 higher, -1 lower, 0 nothing; and of the step its "labels",
# made of images, base logits and truth, and its pixels' "weight", made of base logits.
Intervention = tuple[int, Mapping[str, Callable[..., Tensor]]]


class Setting(NamedTuple):
    """A network as a guided step meets it: what is varied, its epsilon, and the severity of noise on the images."""

    kind: str
    network: nn.Module
    epsilon: float
    noise: int = 0


class Adjusted(nn.Module):
    """`model`, its logits changed by a function."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.model(images))


def islands(labels: Tensor) -> Tensor:
    """Where B x H x W labels form 4-connected regions of one class smaller than 1/200 of the image: the same shape."""
    small = []
    for image in labels.numpy():
        regions = label(image, connectivity=1, background=-1)  # type: ignore[no-untyped-call]
        small.append(np.bincount(regions.ravel())[regions] < regions.size / 200)
    return torch.from_numpy(np.stack(small))


def surrounded(labels: Tensor) -> Tensor:
    """The labels with every island given the class of the nearest pixel outside of islands."""
    result = labels.clone()
    for image, island in zip(result, islands(labels), strict=True):
        if island.any() and not island.all():
            nearest = ndimage.distance_transform_edt(island, return_distances=False, return_indices=True)
            image.copy_(image[tuple(torch.from_numpy(nearest))])
    return result


def cover(logits: Tensor, labels: Tensor) -> Tensor:
    """For every pixel of B x H x W labels, how many of its image's are predicted as that class: the same shape."""
    counts = torch.stack([image.flatten().bincount(minlength=logits.shape[1]) for image in logits.max(1).indices])
    return counts.gather(1, labels.flatten(1)).view_as(labels)


def survey(study: Study, tried: Mapping[str, Setting], split: str, count: int) -> pd.DataFrame:
    """Per setting: base mIoU, gain with its interval, and what may explain it.

    `entropy` is the mean over pixels before the step (nats); `to_frequent` the share of changed pixels that go to the
    class which covers more of the image; `from_islands` the share that lay in islands (per cent).
    """
    rows = []
    for setting, (kind, network, epsilon, noise) in tried.items():
        counts, sums, generator = [], torch.zeros(5).double(), torch.Generator().manual_seed(0)
        for clean, y in study.batches(split, count):
            x = corrupt(clean, "noise", noise, seed=generator) if noise else clean
            done = guide(network, x, epsilon)
            counts.append(torch.stack([count_pixels(study, z, y) for z in done.trajectory]))
            was, now = (z.max(1).indices for z in done.trajectory)
            log_y = done.before.log_softmax(1)
            entropy = -(log_y.exp() * log_y)
            changed = was != now
            frequent = cover(done.before, now) > cover(done.before, was)
            parts = (entropy, torch.ones_like(was), changed, frequent, changed & islands(was))
            sums += torch.stack([part.double().sum() for part in parts])
        before, after = torch.cat(counts, 1)
        entropy, pixels, changed, *shares = sums
        explained = (entropy / pixels, 100 * changed / pixels, *(100 * part / changed.clamp_min(1) for part in shares))
        base, gain = 100 * metrics.miou(before.sum(0)), metrics.gain(before, after)
        rows.append((setting, kind, base.item(), *gain, *(each.item() for each in explained)))
    columns = ["setting", "kind", "base", *GAIN, "entropy", "changed", "to_frequent", "from_islands"]
    return pd.DataFrame(rows, columns=columns)


def rank_correlations(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Spearman's rank correlation of the gain with other columns of `survey`, with p of a test against none."""
    found = {column: [*spearmanr(rows[column], rows["gain"])] for column in columns}
    return pd.DataFrame(found, index=["rank correlation", "p"]).T


def intervene(
    study: Study, name: str, tried: Mapping[str, Intervention], split: str, count: int | None = None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Confusion counts N x K x K of the network alone and after one step under each intervention; with them, per
    intervention, how many of the pixels of the base prediction's islands it gave another class, in per cent."""
    network, epsilon = study.network(name), study.epsilon(name)
    erased = Counter[str]()

    def answers(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        yield (before := network(x))
        island = islands(before.max(1).indices)
        erased["every"] += int(island.sum())
        for kind, (_, options) in tried.items():
            labels: Any = options["labels"](x, before, y) if "labels" in options else "onehot"
            weight = options.get("weight")
            yield (after := guide(network, x, epsilon, labels=labels, weight=weight, void=study.void).after)
            erased[kind] += int((island & (after.max(1).indices != before.max(1).indices)).sum())

    counts = dict(zip(["network alone", *tried], measure.count(study, answers, split, count), strict=True))
    shares = 100 * pd.Series(erased) / erased["every"]  # NaN where there are no islands
    return counts, dict(shares.drop("every"))


def effects(
    counts: Mapping[str, Tensor], erased: Mapping[str, float], tried: Mapping[str, Intervention]
) -> pd.DataFrame:
    """Per intervention: its gain, how far that lies above that of "every pixel", with intervals, the share of the
    islands that it erased in per cent, and what was predicted."""
    alone, plain = counts["network alone"], counts["every pixel"]
    rows = []
    for kind, (predicted, _) in tried.items():
        gain, change = (metrics.gain(before, counts[kind]) for before in (alone, plain))
        rows.append((kind, *gain, *change, erased[kind], predicted))
    return pd.DataFrame(rows, columns=["intervention", *GAIN, *CHANGE, "islands_erased", "predicted"])


def effects_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`effects` for display: the gain, its change beside the plain step's, and whether that went as predicted."""
    table = rows.set_index("intervention")
    gain, change = (signed(table[each]) for each in (GAIN, CHANGE))
    went = [
        ("–" if not p else "undecided" if low * high <= 0 else "as predicted" if p * low > 0 else "the other way")
        for p, low, high in table[["predicted", *CHANGE[1:]]].itertuples(index=False)
    ]
    columns = {
        "gain [95 %]": gain,
        "beside the plain step": change,
        "islands erased (%)": table["islands_erased"].round(1),
        "predicted": table["predicted"].map({1: "higher", -1: "lower", 0: "–"}),
        "went": went,
    }
    return pd.DataFrame(columns)
