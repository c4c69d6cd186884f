"""Notebook 43 drawn: maps around grey, what is left under an occluder, cut-outs, shuffled networks, a moving square."""

import functools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gpcore import saliency
from gpcore.companion.experiments.why_a_cat import Shuffle, Stops, cascade, ranks
from gpcore.companion.report.explorer import Explorer
from gpcore.companion.report.panels import OKABE_ITO, PAGE, Panel, credited, visible
from gpcore.datasets import photographs

ORANGE = OKABE_ITO[1]


def tinted(attribution: Tensor, title: str = "", *, colours: bool = True) -> Panel:
    """3 x H x W contributions around grey, where there is none; the largest .5 % at the ends, in 32 steps of each
    colour, which is as fine as print. Without `colours` their sum over these."""
    w = attribution if colours else attribution.sum(0, keepdim=True).expand(3, -1, -1)
    return Panel("image", (31 * visible(w[None])[0]).round() / 31, title)


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
