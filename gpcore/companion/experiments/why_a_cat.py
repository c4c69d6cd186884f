"""Maps of what moved a network, what is left of them when its weights are shuffled, and what cancels on the way."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gpcore import metrics, saliency
from gpcore.companion.report.explorer import Explorer
from gpcore.companion.report.panels import OKABE_ITO, PAGE, Panel, credited
from gpcore.companion.studies import Study
from gpcore.datasets import photographs
from gpcore.progress import progress

Shuffle = Callable[[nn.Module, torch.Generator], None]
Stops = Mapping[str, Sequence[str]]  # layers by the name of the stop that follows them
ORANGE = OKABE_ITO[1]


def own_class(network: nn.Module, images: Tensor) -> saliency.Read:
    """Reads the log-probability of the class that the network holds most likely for each image, found beforehand."""
    with torch.no_grad():
        top = network(images).argmax(1, keepdim=True)
    return lambda logits: logits.log_softmax(1).gather(1, top)[:, 0]


def tinted(attribution: Tensor, title: str = "", *, colours: bool = True) -> Panel:
    """3 x H x W contributions around grey, where there is none; the largest .5 % at the ends, in 32 steps of each
    colour, which is as fine as print. Without `colours` their sum over these."""
    w = attribution if colours else attribution.sum(0, keepdim=True).expand(3, -1, -1)
    values = 0.5 + w / (2 * w.abs().flatten().quantile(0.995).clamp(min=1e-30))
    return Panel("image", (31 * values.clamp(0, 1)).round() / 31, title)


def coloured(values: Tensor, high: float, colours: str = "viridis") -> Tensor:
    """H x W values from 0 to `high` in the colours of one of matplotlib's maps: 3 x H x W."""
    codes = (31 * (values / high).clamp(0, 1)).round() / 31
    return torch.from_numpy(plt.get_cmap(colours)(codes.numpy())[..., :3]).permute(2, 0, 1).float()


def cut_out(image: Tensor, mask: Tensor) -> Tensor:
    """3 x H x W: what an H x W mask cuts out of the image, on a ground that is almost white."""
    return torch.where(mask, image, 0.88 + 0.12 * image.mean(0))


def heat(image: Tensor, left: Tensor, size: int, stride: int) -> Tensor:
    """The probabilities of `saliency.occlusion` in colours, dark where little is left, over the image in grey.

    A place stands at the middle of its square; towards the edge of the image goes on what is nearest.
    """
    inner = interpolate(left[None, None], scale_factor=float(stride), mode="nearest")[0, 0]
    margin = (size - stride) // 2
    rest = [n - m - margin for n, m in zip(image.shape[1:], inner.shape, strict=True)]
    padded = nn.functional.pad(inner[None, None], (margin, rest[1], margin, rest[0]), mode="replicate")[0, 0]
    return 0.35 * image.mean(0) + 0.65 * coloured(padded, 1.0)


def lowest(left: Tensor) -> tuple[int, int]:
    """(row, column) of the least of h x w values."""
    return divmod(int(left.argmin()), left.shape[1])


def frames(figure: Figure, places: Sequence[tuple[int, int]], size: int, stride: int) -> None:
    """Frames occluders at places (row, column) of `saliency.occlusion`: in the last column of a grid of as many rows,
    else in every panel of its last row."""
    columns = figure.axes[0].get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    last = figure.axes[-len(places) :] if columns == len(places) else figure.axes[columns - 1 :: columns]
    for axes, (row, column) in zip(last, places, strict=True):
        for colour, width in (("white", 2.0), (ORANGE, 1.0)):
            corner = (column * stride - 0.5, row * stride - 0.5)
            axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=colour, linewidth=width))


def told(figure: Figure, texts: Sequence[str]) -> None:
    """A text in small letters below every panel of a grid, row by row."""
    for axes, text in zip(figure.axes, texts, strict=True):
        axes.set_xlabel(text, fontsize=6, labelpad=1.5)


def blurred(maps: Tensor, deviation: float = 3.0) -> Tensor:
    """B x H x W maps under a Gaussian of that standard deviation, in pixels."""
    return torch.from_numpy(gaussian_filter(maps.numpy(), (0, deviation, deviation)))


def cascade(network: nn.Module, stops: Stops, shuffle: Shuffle, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """The network itself as "trained"; then, at every stop, one copy of it in which all layers named so far, one after
    the other, were shuffled."""
    yield "trained", network
    changed, draw = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for stop, layers in progress(stops.items(), desc="cascade"):
        for layer in layers:
            shuffle(changed.get_submodule(layer), draw)
        yield stop, changed


def ranks(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of the magnitudes of B x C x H x W attributions, image by image."""
    pairs = zip(saliency.magnitude(first), saliency.magnitude(second), strict=True)
    return torch.tensor([float(spearmanr(a.flatten(), b.flatten()).statistic) for a, b in pairs])


def cascade_rows(network: nn.Module, images: Tensor, stops: Stops, shuffle: Shuffle) -> pd.DataFrame:
    """How each rule's map of each image's own class ranks with the trained network's at every stop of a cascade.

    Columns rule, stop, image, rank. `stops` names the layers that are shuffled on the way to each from the one before.
    """
    read, own, rows = own_class(network, images), dict[str, Tensor](), []
    for stop, state in cascade(network, stops, shuffle):
        for rule in saliency.RULES:
            found = saliency.attribute(state, images, read, rule=rule)
            rows += [(rule, stop, i, rank) for i, rank in enumerate(ranks(own.setdefault(rule, found), found).tolist())]
    return pd.DataFrame(rows, columns=["rule", "stop", "image", "rank"])


def cascade_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over images of every rule and stop of `cascade_rows` with its interval, columns rule, stop, mean, ..."""
    table = [
        (*key, *metrics.mean(torch.tensor(part["rank"].to_numpy())))
        for key, part in rows.groupby(["rule", "stop"], sort=False)
    ]
    return pd.DataFrame(table, columns=["rule", "stop", "mean", "low", "high"])


def above_gradient(rows: pd.DataFrame, rule: str, stop: str) -> metrics.Interval:
    """By how much a rule's ranks exceed the gradient's at a stop of `cascade_rows`, paired over the images."""
    wide = rows[rows["stop"] == stop].pivot(index="image", columns="rule", values="rank")
    return metrics.mean(torch.tensor((wide[rule] - wide["gradient"]).to_numpy()))


def cascade_panels(
    network: nn.Module, stops: Stops, shuffle: Shuffle, shown: Sequence[tuple[str, str]]
) -> tuple[list[list[Panel]], pd.DataFrame]:
    """A row of maps for each (photograph, rule), one at each stop; and rows of photograph, rule, stop, rank."""
    panels, own, rows = [list[Panel]() for _ in shown], dict[int, Tensor](), []
    for stop, state in cascade(network, stops, shuffle):
        for i, (name, rule) in enumerate(shown):
            read = saliency.log_probability(photographs.classes(name))
            found = saliency.attribute(state, photographs.photograph(name)[None], read, rule=rule)
            rows.append((name, rule, stop, ranks(own.setdefault(i, found), found).item()))
            panels[i].append(tinted(found[0], "" if i else stop, colours=False))
    return panels, pd.DataFrame(rows, columns=["photograph", "rule", "stop", "rank"])


@contextlib.contextmanager
def relus(network: nn.Module, rule: str) -> Iterator[None]:
    """Meanwhile the network's ReLUs send back by the "gradient" or, "guided", only what is positive of it."""
    found = [m for m in network.modules() if isinstance(m, nn.ReLU) and rule == "guided"]
    hooks = [m.register_full_backward_hook(_positive) for m in found]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _positive(module: nn.Module, into: Any, out: Any) -> Any:
    return (into[0].clamp(min=0),)


def tiles(height: int, width: int, count: int = 4) -> Tensor:
    """The places of a height x width map in count x count parts: count^2 x height x width of zeros and ones."""
    rows, columns = (torch.arange(n) * count // n for n in (height, width))
    return nn.functional.one_hot(rows[:, None] * count + columns, count * count).permute(2, 0, 1).float()


def contributions(network: nn.Module, images: Tensor, at: str, rule: str) -> Tensor:
    """What each part of the places of a module's map sends back to the input: 16 x B x C x H x W.

    The signal that comes back to the module from each image's log-probability of its own class is cut into `tiles`;
    each goes on to the input alone. By the rule "gradient" they add up to the gradient.
    """
    kept, leaf = list[Tensor](), images.clone().requires_grad_()
    read = own_class(network, images)
    hook = network.get_submodule(at).register_forward_hook(lambda *call: kept.append(call[-1]))
    with relus(network, rule):
        total = read(network(leaf)).sum()
        hook.remove()
        (signal,) = torch.autograd.grad(total, kept[0], retain_graph=True)
        parts = [
            torch.autograd.grad(kept[0], leaf, signal * part, retain_graph=True)[0]
            for part in progress(tiles(signal.shape[2], signal.shape[3]), desc=f"{rule}, {at}")
        ]
    return torch.stack(parts)


def left_over(parts: Tensor, seed: int | None = None) -> Tensor:
    """What share of P x B x C x H x W contributions is left when they are added: sum |sum_p g_p| over sum |g_p|, B.

    With a seed every part has a random sign first.
    """
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        parts = parts * torch.randn(len(parts), parts.shape[1], 1, 1, 1, generator=draw).sign()
    return parts.sum(0).abs().sum((1, 2, 3)) / parts.abs().sum((0, 2, 3, 4))


def left_rows(network: nn.Module, images: Tensor, modules: Mapping[str, str]) -> pd.DataFrame:
    """What is `left_over` of every image's parts, at some modules (by label): columns places, kind, image, left."""
    found = []
    for label, at in modules.items():
        gradient = contributions(network, images, at, "gradient")
        kinds = {"gradient": left_over(gradient), "random signs": left_over(gradient, 0)}
        kinds["guided"] = left_over(contributions(network, images, at, "guided"))
        found += [(label, kind, i, each) for kind, left in kinds.items() for i, each in enumerate(left.tolist())]
    return pd.DataFrame(found, columns=["places", "kind", "image", "left"])


def left_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over images of `left_rows` with their intervals: columns places, kind, left, low, high."""
    groups = rows.groupby(["places", "kind"], sort=False)["left"]
    table = [(*key, *metrics.mean(torch.tensor(part.to_numpy()))) for key, part in groups]
    return pd.DataFrame(table, columns=["places", "kind", "left", "low", "high"])


def digits(task: Study, count: int) -> tuple[Tensor, Tensor]:
    """The first test pictures of a study of digits, N x 1 x 28 x 28, and their classes."""
    x, y = (torch.cat(part) for part in zip(*task.batches("test", count), strict=True))
    return x, y


def explore_occluder(network: nn.Module, names: Sequence[str], **start: int) -> Explorer:
    """A square that the reader moves over a photograph, and what the network says of what is left."""

    def draw(photograph: str, row: int, column: int, size: int) -> Figure:
        image, classes = photographs.photograph(photograph), photographs.classes(photograph)
        hidden = image.clone()
        hidden[:, row : row + size, column : column + size] = 0
        with torch.no_grad():
            before, after = network(torch.stack([image, hidden])).softmax(1)
        return _occluder_figure(photograph, hidden, classes, before, after)

    steps = range(0, 209, 16)
    sizes = range(16, 113, 16)
    return Explorer(
        draw,
        photograph=(list(names), names[0]),
        row=(steps, start["row"]),
        column=(steps, start["column"]),
        size=(sizes, start["size"]),
    )


def _occluder_figure(name: str, hidden: Tensor, classes: Sequence[int], before: Tensor, after: Tensor) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(0.8 * PAGE, 2.1), layout="constrained", width_ratios=(1, 1.6))
    left.imshow(hidden.permute(1, 2, 0))
    left.set(title=f"p({_among(classes)}) = {float(after[classes].sum()):.2f}", xticks=[], yticks=[])
    left.grid(False)
    top = after.topk(5).indices.tolist()
    for offset, p, colour, label in ((-0.2, before, "#BBBBBB", "whole"), (0.2, after, OKABE_ITO[0], "with the square")):
        right.barh([i + offset for i in range(5)], p[top], 0.38, color=colour, label=label)
    right.set(yticks=range(5), yticklabels=[photographs.categories()[k] for k in top], xlim=(0, 1), xlabel="p")
    right.invert_yaxis()
    right.legend(loc="lower right")
    return credited(figure, [name])


@functools.cache
def _spelt(classes: tuple[int, ...]) -> str:
    return " or ".join(photographs.categories()[k] for k in classes)


def _among(classes: Sequence[int]) -> str:
    return "a cat" if len(classes) == 3 else _spelt(tuple(classes))
