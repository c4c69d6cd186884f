"""Notebook 06: what other trainings gain, and several networks' predictions side by side."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from gpcore import metrics
from gpcore.companion import spread
from gpcore.companion.report.panels import Panel, change_map
from gpcore.companion.studies import LABELS, Study
from gpcore.perturb import guide

COLUMNS = ["network", "seed", "epsilon", "base", "guided", "gain", "low", "high", "images"]


def trainings(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The first training of every network, from `tables.gain_rows`, and those from other seeds that `spread` measured,
    network by network."""
    first, known = rows.assign(seed=0)[COLUMNS], spread.rows(study)
    others = known[(known["seed"] > 0) & known["network"].isin(rows["network"])]
    found = pd.concat([first, others[COLUMNS]]) if len(others) else first
    order = {name: place for place, name in enumerate(rows["network"])}
    return found.sort_values(["network", "seed"], key=lambda c: c.map(order) if c.name == "network" else c)


def net_pixels(measured: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]]) -> pd.DataFrame:
    """For each network's `measure.guided_counts`: pixels per image corrected, newly wrong, and the first less the
    second with its interval."""
    rows = []
    for name, (_, pixels) in measured.items():
        corrected, wrong = (pixels[kind].double() for kind in ("corrected", "newly_wrong"))
        rows.append((name, corrected.mean().item(), wrong.mean().item(), *metrics.mean(corrected - wrong), len(wrong)))
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
        if study.photographs:
            blank = Panel("image", torch.ones_like(x[0]))
            columns.append([Panel("image", x[0], f"scene {scene}"), Panel("labels", truth[0], "truth"), blank])
        for name, network in networks.items():
            before, after = (scores[0].argmax(0) for scores in guide(network, x, study.epsilon(name)).trajectory)
            known = truth[0] != study.void
            net = int(((after == truth[0]) & known).sum() - ((before == truth[0]) & known).sum())
            changes = Panel("changes", change_map(before, after, truth[0], study.void), f"net {net:+d} px")
            columns.append([Panel("labels", before, LABELS[name]), Panel("labels", after, "after one step"), changes])
        rows += [list(row) for row in zip(*columns, strict=True)]
    return rows
