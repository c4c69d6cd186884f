"""Notebook 02: how far from the true boundary a guided step corrects pixels, and makes them newly wrong."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from gpcore import metrics
from gpcore.companion import keeping, measure
from gpcore.companion.measure import changes
from gpcore.companion.report import tables
from gpcore.companion.studies import Study
from gpcore.perturb import guide

KINDS = ("base error", "corrected", "newly wrong")  # of `changes`


def change_rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """How many pixels of each kind of `changes` lie how far from the true boundary: rows image, kind, distance, pixels
    and, of these, on_objects: those whose true class is not "ground".

    `distance` is in whole pixels, rounded down; a kind that never occurs in an image has no row there.
    """
    network, epsilon = study.network(name), study.epsilon(name)
    ground = study.classes.index("ground") if "ground" in study.classes else -1

    def values(x: Tensor, y: Tensor) -> Tensor:  # 3 x B x D x 2
        before, after = (scores.max(1).indices for scores in guide(network, x, epsilon).trajectory)
        # an image of one class has no boundary: its pixels count as farther than any
        far = max(y.shape[1:])
        near = torch.stack([boundary_distance(truth) for truth in y]).nan_to_num(posinf=far).long()
        place = torch.arange(len(y)).view(-1, 1, 1) * (far + 1) + near
        found = []
        for mask in changes(before, after, y, study.void).values():
            pixels = [place[each].bincount(minlength=len(y) * (far + 1)) for each in (mask, mask & (y != ground))]
            found.append(torch.stack([each.view(len(y), far + 1) for each in pixels], -1))
        return torch.stack(found)

    keep = f"distances {name} {epsilon:g}"
    found = measure.collect(study, values, split, count, keep=keep, agree=keeping.values_agree)
    kind, image, distance = found[..., 0].nonzero(as_tuple=True)
    pixels, on_objects = found[kind, image, distance].T
    columns = {"image": image, "kind": kind, "distance": distance, "pixels": pixels, "on_objects": on_objects}
    rows = pd.DataFrame({column: each.numpy() for column, each in columns.items()})
    rows = rows.sort_values(["image", "kind", "distance"], ignore_index=True)
    return tables.with_units(rows.assign(kind=np.array(KINDS)[rows["kind"]]), study.units(split, count))


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
    found, of = {}, tables.unit(rows)
    for kind, part in rows.groupby("kind", sort=False):
        sums = part.groupby(of)[["on_objects", "pixels"]].sum().reindex(rows[of].unique(), fill_value=0)
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
