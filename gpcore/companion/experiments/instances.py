"""Notebook 46: objects found by Mask R-CNN and by connected components, matched with the true ones, and scored."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor, nn

from gpcore import metrics, paths
from gpcore.companion import weights
from gpcore.companion.studies import Data, Study
from gpcore.datasets import scenes
from gpcore.datasets.kept import Kept
from gpcore.networks.maskrcnn import maskrcnn_small, tight_boxes

STORE = "maskrcnn"
SPLITS = {"train": 16_000, "val": 150, "test": 300}
METHODS = ("Mask R-CNN", "components of FCN-8s")
NEIGHBOURS = ("alone", "touches others", "touches its own class")
RECALLS = torch.from_numpy(np.linspace(0, 1, 101))  # at which COCO reads off precision
Objects = dict[str, Tensor]  # boxes N x 4, labels N, masks N x H x W, bool, and scores N of those that were found


def dataset(split: str) -> Data:
    """The study's scenes, and of each pixel the object that it belongs to."""
    made = scenes.Instances(split, SPLITS[split])
    return Kept(made, paths.DATA / "checkpoints" / "scenes-instances.bin") if split == "train" else made


def stored_as(study: Study, seed: int = 0) -> str:
    """The name under which the detector's weights are kept in the store."""
    return f"{study.name}/{STORE}-seed{seed}"


def untrained(study: Study, seed: int = 0) -> nn.Module:
    """Mask R-CNN on the study's FCN-8s, its heads untrained."""
    return maskrcnn_small(study.network("fcn8s", seed), len(study.classes))  # type: ignore[arg-type]  # an FCN


def detector(study: Study, seed: int = 0) -> nn.Module:
    """The trained Mask R-CNN in evaluation mode."""
    network = untrained(study, seed)
    network.load_state_dict(weights.load(stored_as(study, seed)))
    return network.eval()


def detected(network: nn.Module, image: Tensor) -> Objects:
    """What Mask R-CNN finds in a 3 x H x W image."""
    with torch.inference_mode():
        found: Objects = network([image])[0]
    return found | {"masks": found["masks"][:, 0] > 0.5}


def components(scores: Tensor, least: int) -> Objects:
    """The objects in a semantic network's K x H x W logits: every class's connected regions of `least` pixels or more.

    A region's score is the mean probability of its class in it. The ground, class 0, is no object.
    """
    probabilities, predicted = scores.softmax(0), scores.argmax(0)
    found: list[tuple[int, float, Tensor]] = []
    for label in range(1, len(scores)):
        regions, count = ndimage.label((predicted == label).numpy())
        masks = [torch.from_numpy(regions == number) for number in range(1, count + 1)]
        found += [(label, float(probabilities[label][m].mean()), m) for m in masks if m.sum() >= least]
    labels, certain = (torch.tensor([each[i] for each in found]) for i in (0, 1))
    every = torch.stack([each[2] for each in found]) if found else torch.zeros(0, *predicted.shape, dtype=torch.bool)
    return {"boxes": tight_boxes(every), "labels": labels.long(), "scores": certain, "masks": every}


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every two of N and M masks, N x H x W and M x H x W: N x M."""
    a, b = first.flatten(1).double(), second.flatten(1).double()
    both = a @ b.T
    return both / (a.sum(1)[:, None] + b.sum(1) - both)


def hits(found: Objects, truth: Objects, least: float = 0.5) -> Tensor:
    """Which true object each of N found ones hits, or -1.

    As COCO has it: in the order of their scores, each takes among those of its class that are still free the one with
    the highest mask IoU, if that is at `least`.
    """
    overlap = overlaps(found["masks"], truth["masks"]) * (found["labels"][:, None] == truth["labels"])
    taken = torch.full((len(overlap),), -1)
    for i in found["scores"].argsort(descending=True, stable=True).tolist():
        if len(truth["labels"]) and overlap[i].max() >= least:
            taken[i] = overlap[i].argmax()
            overlap[:, taken[i]] = 0
    return taken


def found_rows(found: Sequence[Objects], truth: Sequence[Objects]) -> pd.DataFrame:
    """A row for every object found: image, label, score, and the number of the true object that it hits, or -1."""
    rows = list[tuple[int, int, float, int]]()
    for i, (each, true) in enumerate(zip(found, truth, strict=True)):
        parts = (part.tolist() for part in (each["labels"], each["scores"], hits(each, true)))
        rows += [(i, *row) for row in zip(*parts, strict=True)]
    return pd.DataFrame(rows, columns=["image", "label", "score", "hits"])


def true_rows(truth: Sequence[Objects]) -> pd.DataFrame:
    """A row for every true object: image, its number there, label, height in pixels, and which of NEIGHBOURS it is."""
    rows = []
    for i, each in enumerate(truth):
        heights, near = each["boxes"][:, 3] - each["boxes"][:, 1], _touching(each["masks"])
        same = each["labels"][:, None] == each["labels"]
        kinds = near.any(1).long() + (near & same).any(1)
        for j, (label, height, kind) in enumerate(zip(each["labels"], heights, kinds, strict=True)):
            rows.append((i, j, int(label), int(height), NEIGHBOURS[int(kind)]))
    found = pd.DataFrame(rows, columns=["image", "number", "label", "height", "neighbour"])
    return found.assign(neighbour=pd.Categorical(found["neighbour"], NEIGHBOURS))


def _touching(masks: Tensor) -> Tensor:
    """Which of N masks, N x H x W, touch one another, corners included: N x N, no mask itself."""
    wide = nn.functional.max_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0]
    return (wide.flatten(1) @ masks.flatten(1).float().T > 0) & ~torch.eye(len(masks), dtype=torch.bool)


def class_ap(found: pd.DataFrame, truth: pd.DataFrame, label: int, times: Tensor) -> Tensor:
    """Average precision of a class at the IoU of `found_rows`, in per cent: ... of ... x N.

    `times` says how often each of N images counts; a class that none of them shows gives NaN. Precision is made
    monotonous and read off at 101 recalls, as COCO's (pycocotools).
    """
    each = found[found["label"] == label].sort_values("score", ascending=False, kind="stable")
    counts = times[..., [*each["image"]]]
    right = (counts * torch.tensor((each["hits"] >= 0).to_numpy())).cumsum(-1)
    total = times[..., [*truth.loc[truth["label"] == label, "image"]]].sum(-1, keepdim=True)
    precision = right / counts.cumsum(-1).clamp(min=1)
    reached = nn.functional.pad(precision.flip(-1).cummax(-1).values.flip(-1), (0, 1))  # 0 beyond the last recall
    levels = RECALLS.expand(*total.shape[:-1], -1).contiguous()
    read = reached.gather(-1, torch.searchsorted((right / total.clamp(min=1)).contiguous(), levels))
    return torch.where(total[..., 0] > 0, 100 * read.mean(-1), torch.nan)


def mean_ap(found: pd.DataFrame, truth: pd.DataFrame, times: Tensor) -> Tensor:
    """The mean of `class_ap` over the classes that occur."""
    aps = [class_ap(found, truth, int(label), times) for label in sorted(truth["label"].unique())]
    return torch.stack(aps).nanmean(0)


def class_rows(found: Mapping[str, pd.DataFrame], truth: pd.DataFrame, study: Study, images: int) -> pd.DataFrame:
    """AP50 of every class by each method with its interval over images: rows method, class, objects, ap, low, high."""
    rows, once = [], torch.eye(images)  # an image's sample is how often it counts
    for method, each in found.items():
        for label, objects in truth["label"].value_counts().sort_index().items():
            interval = metrics.bootstrap(lambda times, k=label, f=each: class_ap(f, truth, k, times), once)
            rows.append((method, study.classes[int(str(label))], objects, *interval))
    return pd.DataFrame(rows, columns=["method", "class", "objects", "ap", "low", "high"])


def summary(found: Sequence[Objects], truth: Sequence[Objects]) -> dict[str, float]:
    """Torchmetrics' COCO averages in per cent: AP of boxes and masks over IoU .5 to .95, of masks at .5 and at .75."""
    from torchmetrics.detection import MeanAveragePrecision  # a second that few need to wait

    metric = MeanAveragePrecision(iou_type=("bbox", "segm"), rec_thresholds=RECALLS.tolist())
    metric.update([*found], [*truth])
    values, names = metric.compute(), {"box AP": "bbox_map", "mask AP": "segm_map"}
    names |= {"mask AP50": "segm_map_50", "mask AP75": "segm_map_75"}
    return {name: 100 * values[key].item() for name, key in names.items()}


def best_score(found: pd.DataFrame, truth: pd.DataFrame) -> tuple[float, float]:
    """From which score on to believe what is found: where the harmonic mean of precision and recall, F1, is highest;
    and that F1 in per cent."""
    each = found.sort_values("score", ascending=False, ignore_index=True)
    f1 = 200 * (each["hits"] >= 0).cumsum() / (each.index + 1 + len(truth))
    return float(each["score"].iloc[int(f1.argmax())]), float(f1.max())


def recall_rows(found: Mapping[str, pd.DataFrame], truth: pd.DataFrame, by: str, images: int) -> pd.DataFrame:
    """The share of true objects that each method hits, by a column of `true_rows`, with its interval over images.

    Rows method, `by`, objects, share in per cent, low, high.
    """
    rows = []
    for method, each in found.items():
        hit = truth.merge(each[["image", "hits"]], "left", left_on=["image", "number"], right_on=["image", "hits"])
        for group, part in hit.groupby(by, observed=True):
            every, right = (torch.zeros(images, dtype=torch.double) for _ in range(2))
            places = torch.tensor(part["image"].to_numpy())
            every.index_add_(0, places, torch.ones_like(every)[places])
            right.index_add_(0, places, torch.tensor(part["hits"].notna().to_numpy()).double())
            share = metrics.bootstrap(lambda a, b: 100 * a / b, right, every)
            rows.append((method, str(group), len(part), *share))
    return pd.DataFrame(rows, columns=["method", by, "objects", "share", "low", "high"])


def believed(found: Objects, score: float) -> Objects:
    """Of what was found that which has at least that score."""
    sure = found["scores"] >= score
    return {name: part[sure] for name, part in found.items()}


def errors(found: pd.DataFrame, truth: pd.DataFrame, score: float, images: int) -> pd.Series:
    """Of each image the true objects that nothing of at least that score hits, and what of such score hits none."""
    sure = found[found["score"] >= score]
    parts = (sure["image"], truth["image"], sure.loc[sure["hits"] >= 0, "image"])
    believed, true, right = (part.value_counts().reindex(range(images), fill_value=0) for part in parts)
    return believed + true - 2 * right


def telling_scenes(errors: Mapping[str, pd.Series], truth: pd.DataFrame) -> dict[str, int]:
    """Scenes to look at, those that there are, each the first of its kind: what it shows and its number."""
    ours, theirs = (errors[method] for method in METHODS)
    pair = (truth["neighbour"] == NEIGHBOURS[2]).groupby(truth["image"]).any().reindex(ours.index, fill_value=False)
    many = truth["image"].value_counts().reindex(ours.index, fill_value=0)
    kinds = {
        "one class, touching:\nno error": pair & (ours == 0),
        "one class, touching:\nan error": pair & (ours > 0),
        "many objects:\nno error": (many == many[ours == 0].max()) & (ours == 0),
        "only components\nmake no error": (ours > 0) & (theirs == 0),
        "most errors": ours == ours.max(),
    }
    told = dict[str, int]()
    for name, where in kinds.items():
        fresh = [int(i) for i in where.index[where] if i not in told.values()]
        told |= {name: fresh[0]} if fresh else {}
    return told
