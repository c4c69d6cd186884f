"""Notebook 02: how far from the true boundary a guided step corrects pixels, and makes them newly wrong."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from gpcore import metrics
from gpcore.companion.measure import changes
from gpcore.companion.report import tables
from gpcore.companion.studies import Study
from gpcore.perturb import guide


def change_rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """How many pixels of each kind of `changes` lie how far from the true boundary: rows image, kind, distance, pixels
    and, of these, on_objects: those whose true class is not "ground".

    `distance` is in whole pixels, rounded down; a kind that never occurs in an image has no row there.
    """
    network, epsilon, image, parts = study.network(name), study.epsilon(name), 0, list[pd.DataFrame]()
    ground = study.classes.index("ground") if "ground" in study.classes else -1
    for x, y in study.batches(split, count):
        guided = guide(network, x, epsilon)
        for before, after, truth in zip(guided.before.max(1).indices, guided.after.max(1).indices, y, strict=True):
            # an image of one class has no boundary: its pixels count as farther than any
            near = boundary_distance(truth).nan_to_num(posinf=max(truth.shape)).long()
            for kind, mask in changes(before, after, truth, study.void).items():
                pixels = pd.DataFrame({"distance": near[mask].numpy(), "on_objects": (truth[mask] != ground).numpy()})
                found = pixels.groupby("distance")["on_objects"].agg(pixels="size", on_objects="sum").reset_index()
                parts.append(found.assign(image=image, kind=kind))
            image += 1
    return pd.concat(parts)[["image", "kind", "distance", "pixels", "on_objects"]].reset_index(drop=True)


def boundary_distance(labels: Tensor) -> Tensor:
    """Distance in pixels of each pixel's centre to the nearest pixel of another label (void counts as a label)."""
    array = labels.numpy()
    distance = np.full(array.shape, np.inf)
    for value in np.unique(array):
        inside = array == value
        if not inside.all():
            distance[inside] = distance_transform_edt(inside)[inside]
    return torch.from_numpy(distance)


def object_shares(rows: pd.DataFrame) -> dict[str, metrics.Interval]:
    """Per cent of each kind's pixels that lie on objects, with its interval over images."""
    found = {}
    for kind, part in rows.groupby("kind", sort=False):
        sums = part.groupby("image")[["on_objects", "pixels"]].sum().reindex(rows["image"].unique(), fill_value=0)
        objects, pixels = (torch.tensor(sums[column].to_numpy()) for column in ("on_objects", "pixels"))
        found[str(kind)] = metrics.bootstrap(lambda a, b: 100 * a / b, objects, pixels)
    return found


def summary(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """For each network's `change_rows`: pixels of every kind, their median distance with its interval, and the per cent
    of them on objects with theirs."""
    parts = {name: tables.distance_medians(each) for name, each in rows.items()}
    found = pd.concat(parts, names=["network"]).reset_index("network").reset_index(drop=True)
    objects = [share for each in rows.values() for share in object_shares(each).values()]
    return found.join(pd.DataFrame(objects, columns=["on objects (%)", "objects low", "objects high"]))


def differences(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """By how much a corrected pixel's median distance exceeds that of all base errors, and of pixels newly wrong, in
    each network's `change_rows`."""
    table = [
        (name, f"corrected − {other}", *tables.distance_difference(each, "corrected", other))
        for name, each in rows.items()
        for other in ("base error", "newly wrong")
    ]
    return pd.DataFrame(table, columns=["network", "difference", "median", "low", "high"])
