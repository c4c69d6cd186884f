"""One patch under the loupe: how the scores of a 3 x 3 neighbourhood at `score_fr` move with epsilon (figure 6)."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, one_hot, pad

from gpcore import metrics
from gpcore.companion.measure import changes
from gpcore.companion.report.panels import change_map
from gpcore.companion.studies import Study
from gpcore.networks.vgg import cropped
from gpcore.perturb import guide, sweep

CELL = 32  # pixels of the image to a cell of score_fr, each way
FACTORS = tuple(i / 2 for i in range(-8, 9))  # epsilons, as multiples of the tuned one
RANKS = 5


class Place(NamedTuple):
    """The centre of a 3 x 3 neighbourhood: test scene, row and column in score_fr, all counted from 0."""

    scene: int
    row: int
    column: int


class Measured(NamedTuple):
    """One guided step over N images: their numbers, corrected pixels in each cell (N x h x w), the class predicted at
    score_fr (N x h x w) and the change of its scores (N x K x h x w), and the sums of `rank_sums`, image by image."""

    scenes: list[int]
    corrected: Tensor
    predicted: Tensor
    moved: Tensor
    ranks: pd.DataFrame


class Swept(NamedTuple):
    """One scene: image and gradient there (3 x H x W), the step's `change_map` (H x W), the cells' true classes (h x w)
    and the scores at score_fr (E x K x h x w) for `factors` times the tuned `epsilon`."""

    image: Tensor
    gradient: Tensor
    change: Tensor
    truth: Tensor
    epsilon: float
    factors: tuple[float, ...]
    scores: Tensor


@contextlib.contextmanager
def watch(network: nn.Module) -> Iterator[list[Tensor]]:
    """A list that takes in the B x K x h x w scores at `score_fr` of every forward pass made inside the block.
    Raises ValueError where the network has no such layer."""
    layer = dict(network.named_children()).get("score_fr")
    if layer is None:
        raise ValueError(f"network: got a {type(network).__name__}, expected one with a layer score_fr: an FCN")
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    try:
        yield seen
    finally:
        handle.remove()


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
    """The eight neighbours of every inner cell, row by row: ... x h x w to ... x 8 x (h - 2) x (w - 2)."""
    height, width = maps.shape[-2:]
    neighbourhood((height, width), 1, 1)  # refuses maps without an inner cell
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return torch.stack([maps[..., y : y + height - 2, x : x + width - 2] for y, x in shifts], -3)


def cell_sums(maps: Tensor) -> Tensor:
    """Sums over each cell's 32 x 32 pixels, fewer at the lower and right border: ... x H x W to ... x h x w."""
    height, width = maps.shape[-2:]
    whole = pad(maps, (0, -width % CELL, 0, -height % CELL))
    sums: Tensor = whole.unflatten(-1, (-1, CELL)).unflatten(-3, (-1, CELL)).sum((-3, -1))
    return sums


def cell_labels(labels: Tensor, classes: int, void: int) -> Tensor:
    """The most frequent label of each cell of an H x W map: h x w; void where a cell holds nothing else."""
    known = labels != void
    counts = cell_sums((one_hot(labels * known, classes) * known[..., None]).movedim(-1, 0))
    return counts.argmax(0).where(counts.sum(0) > 0, void)


def most_corrected(measured: Measured) -> Place:
    """The rule for the patch to show: the inner cell with the most corrected pixels, the first of equals."""
    inner = measured.corrected[:, 1:-1, 1:-1]
    image, row, column = torch.unravel_index(inner.argmax(), inner.shape)
    return Place(measured.scenes[int(image)], int(row) + 1, int(column) + 1)


def rank_sums(before: Tensor, after: Tensor, truth: Tensor) -> Tensor:
    """Score changes of P pixels, added up: per line their sum, the sum of their sizes and the number of pixels, 6 x 3.

    From scores P x K before and after. Line 0 is the true class, of `truth` (P); line r the class on rank r of the
    scores before, without pixels where it is the true one.
    """
    ranked = before.topk(min(RANKS, before.shape[1]), 1).indices
    classes = torch.cat([truth[:, None], ranked], 1)
    counted = (classes != truth[:, None]).double()
    counted[:, 0] = 1.0
    change = (after - before).double().gather(1, classes) * counted
    return torch.stack([change.sum(0), change.abs().sum(0), counted.sum(0)], 1)


def neighbour_correlations(moved: Tensor, around: Tensor | None = None) -> Tensor:
    """How alike the score changes of neighbouring cells are: N x K x h x w to N x 8 x (h - 2) x (w - 2), in [-1, 1].

    For every inner cell, Pearson's correlation over the K classes between its score changes and those of each of its
    eight neighbours, taken from the maps `around` where given. A cell whose scores all change equally has no direction
    and counts as 0.
    """
    maps = [each.double() for each in (moved, moved if around is None else around)]
    centre, others = (normalize(each - each.mean(1, keepdim=True)) for each in maps)
    return (centre[..., None, 1:-1, 1:-1] * neighbours(others)).sum(1)


def measure(study: Study, name: str, split: str, count: int | None = None) -> Measured:
    """One guided step with the tuned epsilon on every image of a split.

    `ranks` holds `rank_sums` over corrected pixels: image, scores, rank, change, size, pixels. Scores are read twice,
    at the network's output and at score_fr, interpolated to the image as FCN-32s does.
    """
    network, epsilon = study.network(name), study.epsilon(name)
    corrected: list[Tensor] = []
    predicted, moved, rows = [], [], []
    for x, y in study.batches(split, count):
        with watch(network) as seen:
            guided = guide(network, x, epsilon)
        fixed = changes(guided.before.argmax(1), guided.after.argmax(1), y, study.void)["corrected"]
        coarse = [cropped(interpolate(s, scale_factor=CELL, mode="bilinear"), y) for s in seen]
        for i, mask in enumerate(fixed):
            for scores, (before, after) in {"output": guided.trajectory, "score_fr": coarse}.items():
                sums = rank_sums(before[i, :, mask].T, after[i, :, mask].T, y[i, mask])
                rows += [(len(corrected), scores, rank, *line) for rank, line in enumerate(sums.tolist())]
            corrected.append(cell_sums(mask.long()))
        predicted.append(seen[0].argmax(1))
        moved.append(seen[1] - seen[0])
    ranks = pd.DataFrame(rows, columns=["image", "scores", "rank", "change", "size", "pixels"])
    scenes = study.data(split, count).indices  # type: ignore[attr-defined]  # it is a Subset
    return Measured(scenes, torch.stack(corrected), torch.cat(predicted), torch.cat(moved), ranks)


def _mean(sums: Tensor, counts: Tensor) -> metrics.Interval:
    """The mean of what N images' sums and counts add up, with its interval over images."""
    return metrics.bootstrap(lambda s, c: s.sum() / c.sum(), sums, counts)


def rank_table(measured: Measured) -> pd.DataFrame:
    """Mean score change of a corrected pixel's true class and of its rivals by rank, with its interval over images.

    Rows scores, class, change, low, high, size (the mean of its absolute value) and pixels.
    """
    table = []
    for (scores, rank), part in measured.ranks.groupby(["scores", "rank"]):
        change, size, pixels = (torch.tensor(part[c].to_numpy()) for c in ("change", "size", "pixels"))
        name = f"rival, rank {rank}" if rank else "true class"
        table.append((scores, name, *_mean(change, pixels), (size.sum() / pixels.sum()).item(), int(pixels.sum())))
    return pd.DataFrame(table, columns=["scores", "class", "change", "low", "high", "size", "pixels"])


def correlation_table(measured: Measured) -> pd.DataFrame:
    """Mean of `neighbour_correlations` with its interval over images: rows cells, correlation, low, high, pairs.

    Beside all pairs of neighbours, those predicted as one class and those not; for comparison, cells in the same
    places of the next image.
    """
    own = neighbour_correlations(measured.moved)
    alien = neighbour_correlations(measured.moved, measured.moved.roll(1, 0))
    same = neighbours(measured.predicted) == measured.predicted[:, None, 1:-1, 1:-1]
    every = torch.ones_like(same)
    kinds = {
        "all eight neighbours": (own, every),
        "neighbours of the same predicted class": (own, same),
        "neighbours of another": (own, ~same),
        "the same eight places in another image": (alien, every),
    }
    table = []
    for cells, (values, counted) in kinds.items():
        sums, pairs = (values * counted).sum((1, 2, 3)), counted.sum((1, 2, 3))
        table.append((cells, *_mean(sums, pairs), int(pairs.sum())))
    return pd.DataFrame(table, columns=["cells", "correlation", "low", "high", "pairs"])


def sweep_scene(study: Study, name: str, scene: int, factors: Sequence[float] = FACTORS) -> Swept:
    """The scores at score_fr of one test scene for every multiple of the tuned epsilon, 0 among them."""
    network, epsilon = study.network(name), study.epsilon(name)
    x, y = study.scene(scene)
    guided = guide(network, x, epsilon)
    change = change_map(guided.before[0].argmax(0), guided.after[0].argmax(0), y[0], study.void)
    with watch(network) as seen:
        for _ in sweep(network, x, [factor * epsilon for factor in factors]):
            pass
    truth = cell_labels(y[0], len(study.classes), study.void)
    scores = torch.cat(seen[1:])  # the first pass is the prediction that gives the direction
    return Swept(x[0], guided.signal[0], change, truth, epsilon, tuple(factors), scores)


def score_rows(study: Study, swept: Swept, place: Place) -> pd.DataFrame:
    """The nine cells' scores, of the five classes that score highest in any of them before the step.

    Rows scene, row, column, true (the cell's class), factor, epsilon, predicted (there, at score_fr), class, score.
    """
    y, x = neighbourhood(swept.truth.shape, place.row, place.column)
    nine = swept.scores[..., y, x]
    top = nine[swept.factors.index(0.0)].amax((1, 2)).topk(min(RANKS, nine.shape[1])).indices.sort().values
    names, rows = dict(enumerate(study.classes)), []
    for i, j in itertools.product(range(3), range(3)):
        cell = (place.scene, place.row + i - 1, place.column + j - 1)
        true = names.get(int(swept.truth[y, x][i, j]), "void")
        for factor, scores in zip(swept.factors, nine[..., i, j], strict=True):
            step = (true, factor, factor * swept.epsilon, names[int(scores.argmax())])
            rows += [(*cell, *step, names[k], scores[k].item()) for k in top.tolist()]
    columns = ["scene", "row", "column", "true", "factor", "epsilon", "predicted", "class", "score"]
    return pd.DataFrame(rows, columns=columns)
