"""When a guided step helps, and why: a survey of settings, and interventions on the step's label and pixels.

Notebook 14's hypothesis: a step is a vote. An image pixel lies in the receptive fields of many output pixels, whose
signals add up before the sign is taken; the few that name another class than those around them are outvoted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.measure import label
from torch import Tensor, nn

from gpcore import metrics
from gpcore.choose import islands
from gpcore.companion import measure
from gpcore.companion.report.tables import signed
from gpcore.companion.studies import Study
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide

GAIN, CHANGE = ["gain", "low", "high"], ["change", "change_low", "change_high"]  # columns of `effects`

# What is predicted of the gain beside the plain step's, 1 higher, -1 lower, 0 nothing; and of the step its "labels",
# made of images, base logits and truth, and its pixels' "weight", made of base logits.
Intervention = tuple[int, Mapping[str, Callable[..., Tensor]]]


class Setting(NamedTuple):
    """A network as a guided step meets it: what is varied, its epsilon, and the corruption of the images, if any."""

    kind: str
    network: nn.Module
    epsilon: float
    corruption: tuple[str, int] = ("", 0)


class Adjusted(nn.Module):
    """`model`, its logits changed by a function."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.model(images))


def surrounded(labels: Tensor) -> Tensor:
    """The labels with every island given the class of the nearest pixel outside of islands."""
    result = labels.clone()
    for image, island in zip(result, islands(labels), strict=True):
        if island.any() and not island.all():
            nearest = ndimage.distance_transform_edt(island, return_distances=False, return_indices=True)
            image.copy_(image[tuple(torch.from_numpy(nearest))])
    return result


def voted(labels: Tensor, ground: int | None = None) -> Tensor:
    """B x H x W labels after a vote: in every 4-connected region of all classes but `ground`, an object, each pixel
    takes the most frequent one.  Without a ground, islands take the class around them."""
    if ground is None:
        return surrounded(labels)
    result = labels.clone()
    for image in result:
        regions = label(image.numpy() != ground, connectivity=1)  # type: ignore[no-untyped-call]
        flat, own = torch.from_numpy(regions.ravel()).long(), image.flatten()
        classes = int(own.max()) + 1
        votes = torch.bincount(flat * classes + own, minlength=(int(flat.max()) + 1) * classes).view(-1, classes)
        winner = votes.argmax(1)
        winner[0] = ground  # region 0 is the ground itself
        image.copy_(winner[flat].view_as(image))
    return result


def outvoted(labels: Tensor, ground: int | None = None) -> Tensor:
    """Where a vote among the pixels of an object, see `voted`, changes B x H x W labels: the same shape."""
    return voted(labels, ground) != labels


def heights(labels: Tensor, ground: int | None, void: int) -> Tensor:
    """How high, in pixels, the 4-connected region of one class is that each of B x H x W true labels lies in: the same
    shape; 0 on the ground and on void."""
    result = torch.zeros_like(labels)
    for tall, image in zip(result, labels, strict=True):
        apart = image.masked_fill(image == void, -1 if ground is None else ground).numpy()
        regions = label(apart, connectivity=1, background=-1 if ground is None else ground)  # type: ignore[no-untyped-call]
        extents = [0, *(rows.stop - rows.start for rows, _ in ndimage.find_objects(regions))]
        tall.copy_(torch.tensor(extents)[torch.from_numpy(regions).long()])
    return result


def marked(mask: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Classes that are wrong exactly where `mask` is true: their confusion counts tell `how_many` pixels it has."""
    return (labels + mask.long()) % classes


def how_many(counts: Tensor) -> Tensor:
    """Known pixels under the mask of `marked`: ... from ... x K x K counts."""
    return counts.sum((-2, -1)) - counts.diagonal(dim1=-2, dim2=-1).sum(-1)


def cover(logits: Tensor, labels: Tensor) -> Tensor:
    """For every pixel of B x H x W labels, how many of its image's are predicted as that class: the same shape."""
    counts = torch.stack([image.flatten().bincount(minlength=logits.shape[1]) for image in logits.max(1).indices])
    return counts.gather(1, labels.flatten(1)).view_as(labels)


def survey(
    study: Study, tried: Mapping[str, Setting], split: str, count: int, ground: int | None = None
) -> pd.DataFrame:
    """Per setting: base mIoU, gain with its interval, and what may explain it.

    In per cent: `unsure`, pixels whose class had a probability below .9 before the step; `outvoted`, of the pixels of
    predicted objects; `changed`, pixels; of these `to_frequent`, those that went to the class which covers more of the
    image, and `from_outvoted`.
    """
    rows = []
    for setting, (kind, network, epsilon, corruption) in tried.items():
        generator = torch.Generator().manual_seed(0)

        def answers(clean: Tensor, y: Tensor) -> Iterable[Tensor]:
            x = corrupt(clean, *corruption, seed=generator) if all(corruption) else clean  # noqa: B023
            done = guide(network, x, epsilon)  # noqa: B023
            was, now = (z.max(1).indices for z in done.trajectory)
            few, changed = outvoted(was, ground), was != now
            frequent = cover(done.before, now) > cover(done.before, was)
            objects = torch.ones_like(changed) if ground is None else was != ground
            unsure = done.before.softmax(1).amax(1) < 0.9
            masks = (unsure, objects, few, changed, changed & frequent, changed & few)
            return [was, now, *(marked(mask, y, len(study.classes)) for mask in masks)]

        counts = measure.count(study, answers, split, count, keep=f"survey {setting} {epsilon:g}")
        unsure, objects, few, changed, *parts = (int(each) for each in how_many(counts[2:]).sum(1))
        base, known = 100 * metrics.miou(counts[0].sum(0)), int(counts[0].sum())
        shares = (unsure / known, few / max(objects, 1), changed / known, *(part / max(changed, 1) for part in parts))
        rows.append((setting, kind, base.item(), *metrics.gain(*counts[:2]), *(100 * share for share in shares)))
    columns = ["setting", "kind", "base", *GAIN, "unsure", "outvoted", "changed", "to_frequent", "from_outvoted"]
    return pd.DataFrame(rows, columns=columns)


def rank_correlations(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Spearman's rank correlation of the gain with other columns of `survey`, with p of a test against none."""
    found = {column: [*spearmanr(rows[column], rows["gain"])] for column in columns}
    return pd.DataFrame(found, index=["rank correlation", "p"]).T


def intervene(
    study: Study,
    name: str,
    tried: Mapping[str, Intervention],
    split: str,
    count: int | None = None,
    ground: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Confusion counts N x K x K of the network alone and after one step under each intervention; with them, per
    intervention, how many of the outvoted pixels of the base prediction it gave another class, in per cent."""
    network, epsilon = study.network(name), study.epsilon(name)

    def answers(x: Tensor, y: Tensor) -> Iterable[Tensor]:
        before = network(x)
        was = before.max(1).indices
        few = outvoted(was, ground)
        yield from (was, marked(few, y, len(study.classes)))
        for _, options in tried.values():
            labels: Any = options["labels"](x, before, y) if "labels" in options else "onehot"
            weight = options.get("weight")
            after = guide(network, x, epsilon, labels=labels, weight=weight, void=study.void).after.max(1).indices
            yield from (after, marked(few & (after != was), y, len(study.classes)))

    told = f"interventions {name} {epsilon:g} {' '.join(tried)}"
    counts, masks = measure.count(study, answers, split, count, keep=told).unflatten(0, (-1, 2)).unbind(1)
    every, *gone = how_many(masks).sum(1).double()
    erased = {kind: float(100 * each / every) for kind, each in zip(tried, gone, strict=True)}  # NaN where none is
    return dict(zip(["network alone", *tried], counts, strict=True)), erased


def effects(
    counts: Mapping[str, Tensor], erased: Mapping[str, float], tried: Mapping[str, Intervention]
) -> pd.DataFrame:
    """Per intervention: its gain, how far that lies above that of "every pixel", with intervals, the share of the
    outvoted pixels that it changed in per cent, and what was predicted."""
    alone, plain = counts["network alone"], counts["every pixel"]
    rows = []
    for kind, (predicted, _) in tried.items():
        gain, change = (metrics.gain(before, counts[kind]) for before in (alone, plain))
        rows.append((kind, *gain, *change, erased[kind], predicted))
    return pd.DataFrame(rows, columns=["intervention", *GAIN, *CHANGE, "outvoted_changed", "predicted"])


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
        "outvoted changed (%)": table["outvoted_changed"].round(1),
        "predicted": table["predicted"].map({1: "higher", -1: "lower", 0: "–"}),
        "went": went,
    }
    return pd.DataFrame(columns)
