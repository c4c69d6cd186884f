"""A two-dimensional density whose score is known, and what a denoising autoencoder learns of it (notebook 20)."""

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from gpcore.companion.report.panels import OKABE_ITO, PAGE

Function = Callable[[Tensor], Tensor]  # of points, N x 2 to N x 2


class Mixture(NamedTuple):
    """Equally likely round Gaussians in the plane: their means, M x 2, and their common standard deviation."""

    means: Tensor
    deviation: float

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points drawn from the density: count x 2."""
        drawn = torch.randint(len(self.means), (count,), generator=generator)
        return self.means[drawn] + self.deviation * torch.randn(count, 2, generator=generator)

    def score(self, points: Tensor, noise: float = 0.0) -> Tensor:
        """The gradient of the log density at N x 2 points; with `noise`, of the density blurred by a Gaussian."""
        variance = self.deviation**2 + noise**2
        offsets = self.means - points.unsqueeze(1)
        weights = (-offsets.square().sum(2) / (2 * variance)).softmax(1)
        return (weights.unsqueeze(2) * offsets).sum(1) / variance


def learn(density: Mixture, sigma: float, *, samples: int = 5000, iterations: int = 200, seed: int = 0) -> Function:
    """The denoiser r: two hidden layers of 32 tanh units, fitted by L-BFGS to map points under Gaussian noise of
    standard deviation `sigma` to the points themselves."""
    generator = torch.Generator().manual_seed(seed)
    clean = density.sample(samples, generator).double()
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.double)
    network = MLPRegressor(
        hidden_layer_sizes=(32, 32), activation="tanh", solver="lbfgs", alpha=0.0, tol=1e-7,
        max_iter=iterations, random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are a budget
        network.fit(noisy.numpy(), clean.numpy())
    return lambda points: torch.from_numpy(network.predict(points.double().numpy())).to(points)


def agreement(density: Mixture, scores: Mapping[float, Function], *, seed: int = 1) -> pd.DataFrame:
    """How well the score learned under each sigma agrees with the density's and with that of the density it blurs.

    Rows sigma, scores, cosine and ratio of norms, of whole fields over 5,000 points from the blurred density.
    """
    rows = []
    for sigma, score in scores.items():
        generator = torch.Generator().manual_seed(seed)
        points = density.sample(5000, generator)
        points = points + sigma * torch.randn(points.shape, generator=generator)
        learned, blurred, own = score(points), density.score(points, sigma), density.score(points)
        pairs = {"learned, with the density's": (learned, own), "learned, with the blurred one's": (learned, blurred)}
        for name, (a, b) in {**pairs, "blurred one's with the density's": (blurred, own)}.items():
            cosine = torch.cosine_similarity(a.flatten(), b.flatten(), 0).item()
            rows.append((sigma, name, cosine, (a.norm() / b.norm()).item()))
    return pd.DataFrame(rows, columns=["sigma", "scores", "cosine", "ratio"])


def over_examples(density: Mixture, learned: Mapping[int, Mapping[float, Function]]) -> pd.DataFrame:
    """The `agreement` with the density's own score, by the number of examples that scores were learned from: rows
    examples, sigma, cosine, ratio."""
    parts = {number: agreement(density, scores) for number, scores in learned.items()}
    rows = pd.concat(parts, names=["examples"]).reset_index("examples")
    return rows[rows["scores"] == "learned, with the density's"].drop(columns="scores").reset_index(drop=True)


def field(grid: Tensor, **scores: Tensor) -> pd.DataFrame:
    """Scores at the N x 2 points of a grid as rows: x, y, u, v, kind."""
    parts = {kind: pd.DataFrame(torch.cat([grid, score], 1), columns=[*"xyuv"]) for kind, score in scores.items()}
    return pd.concat([part.assign(kind=kind) for kind, part in parts.items()])


def field_figure(field: pd.DataFrame, paths: Tensor) -> Figure:
    """Two scores, rows of `field`, as arrows on one scale, and (steps + 1) x P x 2 paths of points to their dots."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.85), sharex=True, sharey=True, layout="constrained")
    scale = 8 * np.hypot(field["u"], field["v"]).max()
    for ax, (kind, part), colour in zip(axes, field.groupby("kind", sort=False), OKABE_ITO, strict=False):
        ax.quiver(part["x"], part["y"], part["u"], part["v"], color=colour, scale=scale, width=0.006)
        ax.set_title(f"{kind} score")
    axes[2].plot(*paths.movedim(2, 0), color="#9A9A9A", linewidth=0.7)
    axes[2].plot(*paths[-1].T, ".", color=OKABE_ITO[1], markersize=4)
    axes[2].set_title("iterative inference")
    angles = np.linspace(0, 2 * np.pi, 200)
    for ax in axes:
        ax.plot(np.cos(angles), np.sin(angles), color="black", linewidth=0.5, linestyle=":")
        ax.set(aspect="equal", xlabel="$y_1$")
    axes[0].set_ylabel("$y_2$")
    return figure
