"""Notebook 42: codes of pictures, that is activations of one layer; maps of them, and what can be read from them."""

import copy
import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from torch import Tensor, nn

from gpcore import metrics
from gpcore.companion.measure import extract

PENALTIES = (0.01, 0.1)  # C of the probes, of which the validation pictures choose; large is weak


def codes(network: nn.Module, pictures: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """The pixels of N x C x H x W pictures, and what each layer makes of them: N x D each."""
    found = extract(network, pictures, layers)
    return {"pixels": pictures.flatten(1), **{at: found[at].flatten(1) for at in layers}}


def tsne(points: Tensor, seed: int = 0) -> Tensor:
    """N x 2 places of N x D points by t-SNE as scikit-learn sets it: perplexity 30, begun from two main components.

    Half its usual steps: more of them pull the same groups a little further apart.
    """
    return torch.from_numpy(TSNE(max_iter=500, random_state=seed, init="pca").fit_transform(points.numpy()))


def silhouettes(points: Tensor, classes: Tensor) -> Tensor:
    """(b - a) / max(a, b) of each of N x D points: a its mean distance to its class, b to the nearest other: N."""
    return torch.from_numpy(silhouette_samples(points.numpy(), classes.numpy())).double()


def silhouette_rows(named: Mapping[tuple[str, str], Tensor]) -> pd.DataFrame:
    """The mean of N silhouettes with its interval over pictures, by space and what is placed in it."""
    rows = [(*name, *metrics.mean(values), len(values)) for name, values in named.items()]
    return pd.DataFrame(rows, columns=["space", "codes", "silhouette", "low", "high", "pictures"])


Split = tuple[Tensor, Tensor]  # codes N x D and classes N


def probe(train: Split, val: Split, test: Split) -> tuple[Tensor, float]:
    """Which of N test codes a linear classifier, learnt from training codes, gets right, N of 0 and 1; and its C.

    Multinomial logistic regression on codes divided by their standard deviation; of PENALTIES the one that is right
    most often on validation codes, of equals the first.
    """
    scale = train[0].std()

    def right(model: LogisticRegression, codes: Tensor, classes: Tensor) -> Tensor:
        return torch.from_numpy(model.predict((codes / scale).numpy())) == classes

    learnt = (train[0] / scale).numpy(), train[1].numpy()
    models = [LogisticRegression(C=penalty, tol=1e-3, max_iter=500).fit(*learnt) for penalty in PENALTIES]
    best = max(range(len(models)), key=lambda i: int(right(models[i], *val).sum()))
    return right(models[best], *test).double(), PENALTIES[best]


def probe_rows(
    networks: Mapping[str, nn.Module], layers: Sequence[str], splits: Mapping[str, Split]
) -> tuple[pd.DataFrame, dict[str, dict[str, Tensor]]]:
    """Accuracy in per cent of probes on the pixels and each layer of some networks, with its interval over test
    pictures: rows network, layer, C, accuracy, low, high; and which each gets right, by network and layer.

    `splits`: pictures and classes of "train", "val", "test"."""
    rows, hits = list[tuple[object, ...]](), {name: dict[str, Tensor]() for name in networks}
    for name, network in networks.items():
        exact = copy.deepcopy(network).double()  # in which machines agree
        coded = {split: codes(exact, pictures.double(), layers) for split, (pictures, _) in splits.items()}
        for at in ("pixels", *layers):
            parts = ((coded[split][at], splits[split][1]) for split in ("train", "val", "test"))
            known = next(iter(hits.values())).get(at) if at == "pixels" else None
            hits[name][at], penalty = probe(*parts) if known is None else (known, rows[0][2])
            rows.append((name, at, penalty, *metrics.mean(100 * hits[name][at])))
    return pd.DataFrame(rows, columns=["network", "layer", "C", "accuracy", "low", "high"]), hits


def steps(hits: Mapping[str, Tensor]) -> dict[str, metrics.Interval]:
    """By how many points each layer's probe is above that of the layer before it, on the same pictures."""
    names = list(hits)
    pairs = itertools.pairwise(names)
    return {f"{b}_over_{a}": metrics.mean(100 * (hits[b] - hits[a])) for a, b in pairs}


def on_grid(points: Tensor, rows: int, columns: int) -> Tensor:
    """The cell, row x columns + column, of each of N = rows x columns points of a plane, such that the sum of squared
    distances is least; both are stretched to the unit square by the points' ranks."""
    ranks = points.argsort(0).argsort(0).double() / (len(points) - 1)
    y, x = torch.meshgrid(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns), indexing="ij")
    cells = torch.stack([x.flatten(), y.flatten()], 1).double()
    _, cell = linear_sum_assignment(torch.cdist(ranks, cells).square().numpy())
    return torch.from_numpy(cell)


def main_plane(points: Tensor) -> Tensor:
    """N x 2 coordinates of N x D points along the two main components of their directions from the mean."""
    unit = torch.nn.functional.normalize(points.double() - points.double().mean(0))
    u, s, _ = torch.linalg.svd(unit - unit.mean(0), full_matrices=False)
    plane: Tensor = u[:, :2] * s[:2]
    return plane
