"""Notebooks 21 and 23: the pipelines drawn, and the true regions that a segmentation misses and a refined one finds."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from scipy import ndimage
from torch import Tensor

from gpcore.companion.keeping import values_agree
from gpcore.companion.measure import Answer, collect, count_pixels
from gpcore.companion.report import tables
from gpcore.companion.report.panels import PAGE, Panel, colour_handles, net_panel, node, show
from gpcore.companion.studies import Study

MISSED, FOUND = 0.1, 0.5  # of a true region: it is absent below the one, and recovered from the other
REGION = 50  # pixels that such a region has at least


def region_changes(before: Tensor, after: Tensor, truth: Tensor, void: int) -> dict[str, int]:
    """Of the 4-connected true regions of an image (H x W) with at least REGION pixels: how many are `absent` before
    (less than a tenth right), how many of these `recovered` after (at least half right), and how many are `lost`, at
    least half right before and less than a tenth after."""
    found = {"absent": 0, "recovered": 0, "lost": 0}
    for value in truth[truth != void].unique().tolist():
        labelled, number = ndimage.label((truth == value).numpy())
        for region in range(1, number + 1):
            mask = torch.from_numpy(labelled == region)
            if mask.sum() >= REGION:
                was, now = ((p[mask] == value).double().mean().item() for p in (before, after))
                found["absent"] += was < MISSED
                found["recovered"] += was < MISSED and now >= FOUND
                found["lost"] += was >= FOUND and now < MISSED
    return found


def region_rows(
    study: Study, methods: Mapping[str, Answer], split: str, images: int | None = None, *, keep: str = ""
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """`region_changes` of every image under each of some methods, the first being what is before; and the confusion
    counts N x K x K of all of them."""
    columns = ["absent", "recovered", "lost"]

    def values(x: Tensor, labels: Tensor) -> Tensor:  # M x B x (K K + 3)
        predicted = [answer(x).argmax(1) for answer in methods.values()]
        found = []
        for after in predicted:
            maps = zip(predicted[0], after, labels, strict=True)
            changes = [region_changes(*each, study.void) for each in maps]
            lines = torch.tensor([[each[column] for column in columns] for each in changes])
            found.append(torch.cat([count_pixels(study, after, labels).flatten(1), lines], 1))
        return torch.stack(found)

    every = collect(study, values, split, images, keep=keep, agree=values_agree)
    counts, regions = every[..., :-3].unflatten(-1, (len(study.classes), -1)), every[..., -3:].numpy()
    named = dict(zip(methods, regions, strict=True))
    parts = [pd.DataFrame(each, columns=columns).assign(method=name) for name, each in named.items()]
    rows = pd.concat(parts[1:]).rename_axis("image").reset_index().sort_values("image", kind="stable")
    rows = rows[["image", "method", *columns]].reset_index(drop=True)
    return tables.with_units(rows, study.units(split, images)), dict(zip(methods, counts, strict=True))


def blend(study: Study, y: Tensor, title: str) -> Panel:
    """A class map K x H x W as the study's colours, mixed by its values: grey where it cannot decide."""
    colours = torch.tensor(study.colours) / 255
    return Panel("image", torch.einsum("khw,kc->chw", y, colours), title)


def pipelines(study: Study, rows: Mapping[str, Sequence[tuple[Panel, str]]]) -> Figure:
    """Rows of panels under their titles, joined by arrows; the text beside a panel says what leads from it to the next,
    "" that nothing does."""
    widest = max(map(len, rows.values()))
    figure = plt.figure(figsize=(PAGE, 1.32 * len(rows) + 0.3))
    cell, line = 1 / widest, 0.93 / len(rows)
    for number, (title, row) in enumerate(rows.items()):
        bottom = 1 - (number + 1) * line
        figure.text(0.005, bottom + 0.9 * line, title, weight="bold")
        for column, (panel, text) in enumerate(row):
            left, middle = column * cell, bottom + 0.36 * line
            show(figure.add_axes((left + 0.005, bottom, 0.72 * cell, 0.72 * line)), panel, study)
            if text:
                ends = ((left + 0.75 * cell, middle), (left + 0.99 * cell, middle))
                figure.add_artist(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=8, color="black"))
                figure.text(left + 0.87 * cell, middle + 0.03, text, ha="center", va="bottom", fontsize=6)
    handles = colour_handles(study, ["labels"])
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), columnspacing=0.8, handlelength=1.2)
    return figure


def stages(
    study: Study, image: Panel, truth: Tensor, h: Tensor, steps: Tensor, learnt: Mapping[str, Tensor]
) -> dict[str, Sequence[tuple[Panel, str]]]:
    """What `pipelines` draws as the paper's figures 1 and 2: training by "y" and by "ytrue", each of them given as the
    map, the corrupted map and what r makes of it, 3 x K x H x W; and inference by its steps, (steps + 1) x K x H x W.
    """
    true, last = node(study, Panel("labels", truth, "truth")), len(steps) - 1

    def corrupted(source: str) -> list[tuple[Panel, str]]:
        clean, noisy, back = (
            blend(study, *pair) for pair in zip(learnt[source], (source, "ỹ", "r(ỹ, h)"), strict=True)
        )
        return [(clean, "+ noise"), (noisy, "DAE, h"), (back, "loss"), (true, "")]

    features = Panel("size", h.square().mean(0).sqrt(), "h")
    shown = [(blend(study, steps[n], f"y after {n}"), "r − y") for n in (0, last // 2, last)]
    changes = net_panel(steps[0].argmax(0), steps[-1].argmax(0), truth, study.void)
    return {
        "Figure 1(a): training DAE(y)": [(image, "network"), *corrupted("y")],
        "Figure 1(b): training DAE(ytrue)": [(features, ""), *corrupted("ytrue")],
        "Figure 2: inference": [(image, "network"), *shown[:2], (shown[2][0], "beside y"), (changes, "")],
    }
