"""Notebook 02: how far from the true boundary a guided step corrects pixels, and makes them newly wrong."""

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from gpcore.companion.measure import changes
from gpcore.companion.studies import Study
from gpcore.perturb import guide


def change_rows(study: Study, name: str, split: str, count: int | None = None) -> pd.DataFrame:
    """How many pixels of each kind of `changes` lie how far from the true boundary: rows image, kind, distance, pixels.

    `distance` is in whole pixels, rounded down; a kind that never occurs in an image has no row there.
    """
    network, epsilon, rows, image = study.network(name), study.epsilon(name), [], 0
    for x, y in study.batches(split, count):
        guided = guide(network, x, epsilon)
        for before, after, truth in zip(guided.before.max(1).indices, guided.after.max(1).indices, y, strict=True):
            distance = boundary_distance(truth)
            for kind, mask in changes(before, after, truth, study.void).items():
                # an image of one class has no boundary: its pixels count as farther than any
                near = distance[mask].nan_to_num(posinf=max(truth.shape)).long()
                values, pixels = near.unique(return_counts=True)
                rows += [(image, kind, d, n) for d, n in zip(values.tolist(), pixels.tolist(), strict=True)]
            image += 1
    return pd.DataFrame(rows, columns=["image", "kind", "distance", "pixels"])


def boundary_distance(labels: Tensor) -> Tensor:
    """Distance in pixels of each pixel's centre to the nearest pixel of another label (void counts as a label)."""
    array = labels.numpy()
    distance = np.full(array.shape, np.inf)
    for value in np.unique(array):
        inside = array == value
        if not inside.all():
            distance[inside] = distance_transform_edt(inside)[inside]
    return torch.from_numpy(distance)
