"""Notebook 23: true regions that a segmentation misses, and those that a refined one brings back or loses."""

from collections.abc import Mapping

import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor

from gpcore.companion.measure import Answer
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


def region_rows(study: Study, methods: Mapping[str, Answer], split: str, images: int | None = None) -> pd.DataFrame:
    """`region_changes` of every image under each of some methods, the first being what is before."""
    found, image = [], 0
    for x, labels in study.batches(split, images):
        with torch.no_grad():
            (_, before), *others = [(name, answer(x).argmax(1)) for name, answer in methods.items()]
        for i, truth in enumerate(labels):
            for name, after in others:
                found.append({"image": image, "method": name, **region_changes(before[i], after[i], truth, study.void)})
            image += 1
    return pd.DataFrame(found)
