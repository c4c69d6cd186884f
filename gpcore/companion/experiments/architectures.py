"""Notebook 06: what other trainings gain, and several networks' predictions side by side."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from gpcore import metrics
from gpcore.companion import spread
from gpcore.companion.report.panels import Panel, net_panel
from gpcore.companion.studies import LABELS, Study
from gpcore.perturb import guide

COLUMNS = ["network", "seed", "base", "gain", "low", "high", "images"]


def trainings(study: Study, measured: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]]) -> pd.DataFrame:
    """The first training of every network, from its `measure.guided_counts` over a whole split, and those from other
    seeds that `spread` measured, on the same images, network by network."""
    rows = []
    for name, (counts, pixels) in measured.items():
        part = counts[:, spread.evenly(counts.shape[1])]
        images = min(spread.IMAGES, len(pixels["corrected"]))
        rows.append((name, 0, 100 * metrics.miou(part[0].sum(0)).item(), *metrics.gain(*part), images))
    first, known = pd.DataFrame(rows, columns=COLUMNS), spread.rows(study)
    others = known[(known["seed"] > 0) & known["network"].isin(measured)]
    found = pd.concat([first, others[COLUMNS]]) if len(others) else first
    order = {name: place for place, name in enumerate(measured)}
    return found.sort_values(["network", "seed"], key=lambda c: c.map(order) if c.name == "network" else c)


def net_pixels(
    measured: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]], units: Tensor | None = None
) -> pd.DataFrame:
    """For each network's `measure.guided_counts`: pixels per image corrected, newly wrong, and the first less the
    second with its interval over images or their units."""
    rows = []
    for name, (_, pixels) in measured.items():
        corrected, wrong = (pixels[kind].double() for kind in ("corrected", "newly_wrong"))
        rows.append(
            (name, corrected.mean().item(), wrong.mean().item(), *metrics.mean(corrected - wrong, units), len(wrong))
        )
    return pd.DataFrame(rows, columns=["network", "corrected", "newly wrong", "net", "low", "high", "images"])


def net_of(pixels: Mapping[str, Tensor]) -> Tensor:
    """Pixels corrected minus newly wrong of each image, N, from the second part of `measure.guided_counts`."""
    return pixels["corrected"] - pixels["newly_wrong"]


def net_rows(nets: Mapping[str, Tensor]) -> pd.DataFrame:
    """Those numbers as a table: a row for each image, a column for each network."""
    return pd.DataFrame({name: values.tolist() for name, values in nets.items()}).rename_axis("image").reset_index()


def extremes(values: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Where the `count` largest values stand, the largest first, and the smallest, the smallest first; of equals the
    first."""
    return values.argsort(descending=True, stable=True)[:count].tolist(), values.argsort(stable=True)[:count].tolist()


def side_by_side(study: Study, names: Sequence[str], scenes: Sequence[int]) -> list[list[Panel]]:
    """Three rows of panels for each test scene, a column for each network: its prediction, that after one guided step,
    and the changes with their net number of pixels; image and truth in front where they are ours."""
    rows, networks = list[list[Panel]](), {name: study.network(name) for name in names}
    for scene in scenes:
        x, truth = study.scene(scene)
        columns = []
        if study.shown:
            blank = Panel("image", torch.ones_like(x[0]))
            columns.append([Panel("image", x[0], f"scene {scene}"), Panel("labels", truth[0], "truth"), blank])
        for name, network in networks.items():
            before, after = (scores[0].argmax(0) for scores in guide(network, x, study.epsilon(name)).trajectory)
            shown = [Panel("labels", before, LABELS[name]), Panel("labels", after, "after one step")]
            columns.append([*shown, net_panel(before, after, truth[0], study.void)])
        rows += [list(row) for row in zip(*columns, strict=True)]
    return rows
