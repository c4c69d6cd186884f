"""A two-dimensional density whose score is known, and what a denoising autoencoder learns of it (notebook 20)."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from gpcore.denoise import iterative_inference


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


def ring(count: int = 12, deviation: float = 0.2) -> Mixture:
    """Gaussians around the unit circle, so close that they make one closed curve."""
    angles = torch.arange(count) * (2 * math.pi / count)
    return Mixture(torch.stack([angles.cos(), angles.sin()], 1), deviation)


class Denoiser(NamedTuple):
    """A perceptron trained to take Gaussian noise of standard deviation `sigma` out again, r."""

    network: MLPRegressor
    sigma: float

    def reconstruct(self, points: Tensor) -> Tensor:
        """r(y) for N x 2 points."""
        found: np.ndarray = self.network.predict(points.double().numpy())
        return torch.from_numpy(found).to(points)

    def score(self, points: Tensor) -> Tensor:
        """(r(y) - y) / sigma^2, eq. 1."""
        return (self.reconstruct(points) - points) / self.sigma**2


def learn(density: Mixture, sigma: float, *, samples: int = 5000, iterations: int = 200, seed: int = 0) -> Denoiser:
    """Fits two hidden layers of 32 tanh units to pairs of a noisy point and the point itself, by L-BFGS."""
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
    return Denoiser(network, sigma)


def agreement(density: Mixture, denoisers: Sequence[Denoiser], *, count: int = 5000, seed: int = 1) -> pd.DataFrame:
    """How well each denoiser's score agrees with the density's own and with that of the density blurred by its noise.

    Rows sigma, density, cosine and ratio of norms, of whole fields over points from the blurred density; "exact" is the
    blurred density's score beside the density's.
    """
    rows = []
    for denoiser in denoisers:
        generator = torch.Generator().manual_seed(seed)
        points = density.sample(count, generator)
        points = points + denoiser.sigma * torch.randn(points.shape, generator=generator)
        learned, blurred, own = denoiser.score(points), density.score(points, denoiser.sigma), density.score(points)
        pairs = {"learned, with the density's": (learned, own), "learned, with the blurred one's": (learned, blurred)}
        for name, (a, b) in {**pairs, "blurred one's with the density's": (blurred, own)}.items():
            cosine = torch.cosine_similarity(a.flatten(), b.flatten(), 0).item()
            rows.append((denoiser.sigma, name, cosine, (a.norm() / b.norm()).item()))
    return pd.DataFrame(rows, columns=["sigma", "scores", "cosine", "ratio"])


def field(density: Mixture, denoiser: Denoiser, *, extent: float = 1.6, points: int = 15) -> pd.DataFrame:
    """The learned score, and the density's blurred by the same noise, on a square grid: rows kind, x, y, u, v."""
    axis = torch.linspace(-extent, extent, points)
    grid = torch.cartesian_prod(axis, axis)
    scores = {"learned": denoiser.score(grid), "true": density.score(grid, denoiser.sigma)}
    parts = [
        pd.DataFrame(torch.cat([grid, score], 1).numpy(), columns=["x", "y", "u", "v"]).assign(kind=kind)
        for kind, score in scores.items()
    ]
    return pd.concat(parts)


def climb(denoiser: Denoiser, *, epsilon: float, steps: int, extent: float = 1.6, points: int = 7) -> pd.DataFrame:
    """Where iterative inference, eq. 6, takes a square grid of points: rows point, step, x, y."""
    axis = torch.linspace(-extent, extent, points)
    start = torch.cartesian_prod(axis, axis)
    trajectory = iterative_inference(denoiser.reconstruct, start, epsilon, steps=steps, bounds=None).trajectory
    index = pd.MultiIndex.from_product([range(steps + 1), range(len(start))], names=["step", "point"])
    return pd.DataFrame(trajectory.flatten(0, 1).numpy(), index=index, columns=["x", "y"]).reset_index()
