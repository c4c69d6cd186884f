"""One patch under the loupe: how the scores of a 3 x 3 neighbourhood at `score_fr` move with epsilon (figure 6)."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, normalize, one_hot

from gpcore import metrics
from gpcore.companion import keeping, measure
from gpcore.companion.measure import changes
from gpcore.companion.report import tables
from gpcore.companion.studies import Study
from gpcore.networks.fcn import FCN
from gpcore.networks.vgg import cropped
from gpcore.perturb import Guided, guide

CELL = 32  # pixels of the image to a cell of score_fr, each way
FACTORS = tuple(i / 2 for i in range(-8, 9))  # epsilons, as multiples of the tuned one
RANKS = 5


class Place(NamedTuple):
    """The centre of a 3 x 3 neighbourhood: test scene, row and column in score_fr, all counted from 0."""

    scene: int
    row: int
    column: int


class Stepped(NamedTuple):
    """One guided step on N images, seen at `score_fr`: the pixels corrected in each cell and its most frequent label,
    the class predicted there before and after (N x h x w each), and the change of the scores (N x K x h x w)."""

    corrected: Tensor
    truth: Tensor
    before: Tensor
    after: Tensor
    moved: Tensor


def coarse_scores(network: nn.Module, images: Tensor) -> Tensor:
    """The scores at `score_fr`: B x K x h x w.  Raises ValueError where the network has no such layer."""
    if not isinstance(network, FCN):
        raise ValueError(f"network: got a {type(network).__name__}, expected one with a layer score_fr: an FCN")
    with torch.no_grad():
        return network.scores(images)[0]


def neighbourhood(size: Sequence[int], row: int, column: int) -> tuple[slice, slice]:
    """Rows and columns of the 3 x 3 cells around a cell of an h x w map.  Raises ValueError where they leave it."""
    height, width = size
    if not (0 < row < height - 1 and 0 < column < width - 1):
        raise ValueError(
            f"row, column: got {row}, {column}, expected 1 to {height - 2}, 1 to {width - 2}: "
            f"nine cells around it must lie inside the map of {height} x {width}"
        )
    return slice(row - 1, row + 2), slice(column - 1, column + 2)


def neighbours(maps: Tensor) -> Tensor:
    """The eight neighbours of every inner cell, row by row: ... x h x w to ... x (h - 2) x (w - 2) x 8."""
    neighbourhood(maps.shape[-2:], 1, 1)  # refuses maps without an inner cell
    nine = maps.unfold(-2, 3, 1).unfold(-2, 3, 1).flatten(-2)
    return torch.cat([nine[..., :4], nine[..., 5:]], -1)


def cell_sums(maps: Tensor) -> Tensor:
    """Sums over each cell's 32 x 32 pixels, fewer at the lower and right border: N x H x W to N x h x w."""
    return avg_pool2d(maps.float(), CELL, ceil_mode=True, divisor_override=1)


def cell_labels(labels: Tensor, classes: int, void: int) -> Tensor:
    """The most frequent label of each cell of an H x W map: h x w; void where a cell holds nothing else."""
    counts = cell_sums(one_hot(labels.where(labels != void, classes), classes + 1).movedim(-1, 0))[:-1]
    return counts.argmax(0).where(counts.sum(0) > 0, void)


def rank_sums(before: Tensor, after: Tensor, truth: Tensor) -> Tensor:
    """Changes of P pixels' scores (P x K before and after) as 6 x 3: per line their sum, that of their sizes, and how
    many they are. Line 0 is the true class; line r the class on rank r before, without pixels where it is the true one.
    """
    ranked = before.topk(min(RANKS, before.shape[1]), 1).indices
    classes = torch.cat([truth[:, None], ranked], 1)
    counted = (classes != truth[:, None]).double()
    counted[:, 0] = 1.0
    change = (after - before).double().gather(1, classes) * counted
    return torch.stack([change.sum(0), change.abs().sum(0), counted.sum(0)], 1)


def neighbour_correlations(moved: Tensor, around: Tensor) -> Tensor:
    """Pearson's correlation over the K classes of every inner cell with each of its eight neighbours in `around`: two
    N x K x h x w to N x (h - 2) x (w - 2) x 8. A cell whose scores all change equally has no direction: 0."""
    centre, others = (normalize(maps - maps.mean(1, keepdim=True)) for maps in (moved.double(), around.double()))
    return (centre[..., 1:-1, 1:-1, None] * neighbours(others)).sum(1)


def step_split(study: Study, name: str, split: str, count: int | None = None) -> tuple[Stepped, pd.DataFrame]:
    """One guided step with the tuned epsilon on the N images of a split, and rows of `rank_sums` over the corrected
    pixels: image, scores, rank, change, size, pixels.

    The rows' scores are read twice: at the network's output, and at score_fr, interpolated as FCN-32s does.
    """
    network, epsilon, classes = study.network(name), study.epsilon(name), len(study.classes)

    def values(x: Tensor, y: Tensor) -> Tensor:  # of each image one line, 1 x B x D: how many cells, maps, sums
        guided = guide(network, x, epsilon)
        fixed = changes(guided.before.max(1).indices, guided.after.max(1).indices, y, study.void)["corrected"]
        first, second = (coarse_scores(network, images) for images in (x, guided.images))
        truth = torch.stack([cell_labels(labels, classes, study.void) for labels in y])
        was, now = (scores.max(1).indices for scores in (first, second))
        coarse = [cropped(interpolate(z, scale_factor=CELL, mode="bilinear"), y) for z in (first, second)]
        sums = [
            torch.stack([rank_sums(b[:, m].T, a[:, m].T, t[m]) for b, a, m, t in zip(*z, fixed, y, strict=True)])
            for z in (guided.trajectory, coarse)
        ]
        cells = torch.tensor(was.shape[1:]).expand(len(x), -1)
        parts = [cells, cell_sums(fixed), truth, was, now, second - first, *sums]
        return torch.cat([part.flatten(1).to(second.dtype) for part in parts], 1)[None]

    keep = f"patches {name} {epsilon:g}"
    (lines,) = measure.collect(study, values, split, count, keep=keep, agree=keeping.values_agree)
    shape = lines[0, :2].long().tolist()
    ranks = 1 + min(RANKS, classes)
    sizes = [math.prod(shape)] * 4 + [classes * math.prod(shape), 2 * ranks * 3]
    _, *maps, moved, sums = lines.split([2, *sizes], 1)
    corrected, truth, was, now = (each.unflatten(1, shape) for each in maps)
    kinds, columns = ("output", "score_fr"), ["image", "scores", "rank", "change", "size", "pixels"]
    keys = itertools.product(range(len(lines)), kinds, range(ranks))
    rows = [(*key, *line) for key, line in zip(keys, sums.unflatten(1, (-1, 3)).flatten(0, 1).tolist(), strict=True)]
    found = tables.with_units(pd.DataFrame(rows, columns=columns), study.units(split, count))
    moved = moved.unflatten(1, (classes, *shape))
    return Stepped(corrected, truth.long(), was.long(), now.long(), moved), found


def _mean(sums: Tensor, counts: Tensor) -> metrics.Interval:
    """The mean of what N images' or units' sums and counts add up, with its interval."""
    return metrics.bootstrap(lambda s, c: s / c, sums, counts)


def rank_table(ranks: pd.DataFrame) -> pd.DataFrame:
    """Mean score change of a corrected pixel's true class and of its rivals by rank, with its interval over images,
    from the rows of `step_split`; `size` is the mean of its absolute value."""
    table = []
    for (scores, rank), part in ranks.groupby(["scores", "rank"]):
        sums = part.groupby(tables.unit(part))[["change", "size", "pixels"]].sum()
        change, size, pixels = torch.tensor(sums.to_numpy(dtype=float)).T
        name = f"rival, rank {rank}" if rank else "true class"
        table.append((scores, name, *_mean(change, pixels), (size.sum() / pixels.sum()).item(), int(pixels.sum())))
    return pd.DataFrame(table, columns=["scores", "class", "change", "low", "high", "size", "pixels"])


def least_ratio(ranks: pd.DataFrame, value: str = "change") -> metrics.Interval:
    """The true class's mean change over the absolute value of a rival's, for the rank at which it is least, with its
    interval over images; from the rows of `step_split` for one kind of scores, or `value` "size" of them."""
    each = ranks.groupby([tables.unit(ranks), "rank"])[[value, "pixels"]].sum().unstack()
    sums, pixels = (torch.tensor(each[column].to_numpy(dtype=float)) for column in (value, "pixels"))

    def least(total: Tensor, count: Tensor) -> Tensor:
        mean = total / count  # none where no pixel has a rival of that rank
        return (mean[..., :1] / mean[..., 1:].abs()).nan_to_num(nan=torch.inf).amin(-1)

    return metrics.bootstrap(least, sums, pixels)


def correlation_table(moved: Tensor, predicted: Tensor, units: Tensor | None = None) -> pd.DataFrame:
    """Mean of `neighbour_correlations` with its interval over images: of all pairs of neighbours, of those predicted as
    one class and those not; for comparison, of cells in the same places of an image half the split away, and by how
    much the first exceeds that on the same images."""
    own, alien = (neighbour_correlations(moved, around) for around in (moved, moved.roll(len(moved) // 2, 0)))
    same = neighbours(predicted) == predicted[:, 1:-1, 1:-1, None]
    kinds = {
        "all eight neighbours": (own, same | ~same),
        "neighbours of the same predicted class": (own, same),
        "neighbours of another": (own, ~same),
        "the same eight places in another image": (alien, same | ~same),
        "all eight − those in another image": (own - alien, same | ~same),
    }
    table = []
    for cells, (values, counted) in kinds.items():
        sums, pairs = (metrics.per_unit(each.sum((1, 2, 3)), units) for each in (values * counted, counted))
        table.append((cells, *_mean(sums, pairs), int(pairs.sum())))
    return pd.DataFrame(table, columns=["cells", "correlation", "low", "high", "pairs"])


def sweep_scene(study: Study, name: str, scene: int, factors: Sequence[float] = FACTORS) -> tuple[Guided, Tensor]:
    """One guided step on a test scene, and the scores at score_fr for `factors` times its epsilon: E x K x h x w."""
    network, epsilon = study.network(name), study.epsilon(name)
    x, _ = study.scene(scene)
    guided = guide(network, x, epsilon)
    moved = (x + factor * epsilon * guided.signal.sign() for factor in factors)
    return guided, torch.cat([coarse_scores(network, images) for images in moved])


def score_rows(study: Study, name: str, place: Place, scores: Tensor) -> pd.DataFrame:
    """The nine cells' scores of `sweep_scene`, of five classes: those on top in the centre before and after the tuned
    step, then those that score highest in any of the nine before.

    Rows scene, row, column, true (the cell's class), factor, epsilon, predicted (there, at score_fr), class, score.
    """
    epsilon, (_, labels) = study.epsilon(name), study.scene(place.scene)
    y, x = neighbourhood(scores.shape[2:], place.row, place.column)
    nine, truth = scores[..., y, x], cell_labels(labels[0], len(study.classes), study.void)[y, x]
    best = nine[FACTORS.index(0)].amax((1, 2))
    best[nine[[FACTORS.index(0), FACTORS.index(1)], :, 1, 1].argmax(1)] = torch.inf
    top = best.topk(min(RANKS, len(best))).indices.sort().values.tolist()
    names, rows = {study.void: "void", **dict(enumerate(study.classes))}, []
    for i, j in itertools.product(range(3), range(3)):
        cell = (place.scene, place.row + i - 1, place.column + j - 1, names[int(truth[i, j])])
        for factor, there in zip(FACTORS, nine[..., i, j], strict=True):
            step = (factor, factor * epsilon, names[int(there.argmax())])
            rows += [(*cell, *step, names[k], there[k].item()) for k in top]
    columns = ["scene", "row", "column", "true", "factor", "epsilon", "predicted", "class", "score"]
    return pd.DataFrame(rows, columns=columns)


def reading(study: Study, place: Place, scores: Tensor) -> pd.DataFrame:
    """The nine cells before and after the tuned step, from `sweep_scene`'s scores; a row for each.

    Columns row, column, true (class), before and after (class on top), rival (the best other class before), the changes
    of their scores, that of the true one by the opposite step, and by how much the true class leads the best other one
    before and after: below 0 it is not on top.
    """
    (_, labels), (y, x) = study.scene(place.scene), neighbourhood(scores.shape[2:], place.row, place.column)
    truth, names, rows = cell_labels(labels[0], len(study.classes), study.void), {study.void: "void"}, []
    names |= dict(enumerate(study.classes))
    for i, j in itertools.product(range(y.start, y.stop), range(x.start, x.stop)):
        true, three = int(truth[i, j]), torch.stack([scores[FACTORS.index(factor), :, i, j] for factor in (0, 1, -1)])
        tops = [names[k] for k in three[:2].argmax(1).tolist()]
        if true == study.void:
            rows.append((i, j, "void", *tops, "", *[math.nan] * 5))
            continue
        others = three.index_fill(1, torch.tensor(true), -torch.inf)
        rival, (_, moved, back) = int(others[0].argmax()), three - three[0]
        leads = (three[:2, true] - others[:2].amax(1)).tolist()
        changed = (moved[true].item(), moved[rival].item(), back[true].item())
        rows.append((i, j, names[true], *tops, names[rival], *changed, *leads))
    numbers = ["true_change", "rival_change", "true_back", "lead", "lead_after"]
    return pd.DataFrame(rows, columns=["row", "column", "true", "before", "after", "rival", *numbers])
