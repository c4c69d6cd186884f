import pytest
import torch

from gpcore.companion.experiments import denoising_score
from gpcore.companion.experiments.denoising_score import Mixture


def test_score_is_the_gradient_of_the_log_density():
    """Against autograd on torch's own mixture of Gaussians, of the density and of one blurred by noise."""
    means = torch.tensor([[0.0, 1.0], [0.5, -0.3], [-1.0, 0.2]])
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for noise in (0.0, 0.7):
        spread = torch.full((3, 2), (0.4**2 + noise**2) ** 0.5)
        parts = torch.distributions.Independent(torch.distributions.Normal(means, spread), 1)
        density = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(3)), parts)
        (expected,) = torch.autograd.grad(density.log_prob(points).sum(), points)
        assert torch.allclose(Mixture(means, 0.4).score(points.detach(), noise), expected, atol=1e-4)


def test_samples_have_the_densitys_moments():
    """The second moment of a ring of radius 1 and standard deviation .2 is 1 + 2 x .04."""
    torch.testing.assert_close(denoising_score.ring().means[[0, 3, 6]], torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
    points, again = (
        denoising_score.ring(deviation=0.2).sample(20_000, torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert torch.equal(points, again)
    assert points.mean(0).abs().max() < 0.02
    assert points.square().sum(1).mean().item() == pytest.approx(1.08, abs=0.02)


def test_denoiser_of_one_gaussian_learns_its_exact_score():
    """For a Gaussian of variance s the best r is linear, (r(y) - y) / sigma^2 = -y / (s + sigma^2)."""
    density = Mixture(torch.zeros(1, 2), 1.0)
    learned = denoising_score.learn(density, 2.0, iterations=60)
    points = torch.tensor([[0.5, 0.0], [-1.0, 0.5], [0.0, 1.0], [1.0, 1.0]])
    assert (learned.score(points) + points / 5).abs().max() < 0.03


def test_learning_is_a_function_of_its_seed():
    points = torch.tensor([[0.5, 0.0], [-1.0, 0.5]])
    found = [
        denoising_score.learn(denoising_score.ring(), 0.3, samples=50, iterations=3, seed=seed).score(points)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_agreement_of_an_exact_denoiser_is_full():
    """Of one that points there at twice the length too; the points are the density's, blurred by sigma."""
    seen = []

    class Exact(denoising_score.Denoiser):
        def reconstruct(self, points):
            seen.append(points)
            return points + 2 * self.sigma**2 * density.score(points, self.sigma)

    density = denoising_score.ring()
    rows, again = (denoising_score.agreement(density, [Exact(None, 0.3)], count=5000) for _ in range(2))
    assert rows.equals(again)
    own, blurred = (density.score(seen[0], noise) for noise in (0.0, 0.3))
    assert seen[0].square().sum(1).mean().item() == pytest.approx(1 + 2 * (0.2**2 + 0.3**2), abs=0.04)
    cosine, ratio = (
        torch.cosine_similarity(own.flatten(), blurred.flatten(), 0).item(),
        (blurred.norm() / own.norm()).item(),
    )
    assert rows.to_numpy().tolist() == [
        [0.3, "learned, with the density's", pytest.approx(cosine), pytest.approx(2 * ratio)],
        [0.3, "learned, with the blurred one's", pytest.approx(1), pytest.approx(2)],
        [0.3, "blurred one's with the density's", pytest.approx(cosine), pytest.approx(ratio)],
    ]
    assert cosine < 0.99 and ratio < 0.9


def test_climbing_ends_where_the_score_vanishes():
    """Half steps of the exact denoiser of one Gaussian at the origin take a quarter of every point's distance to it."""

    class Exact(denoising_score.Denoiser):
        def reconstruct(self, points):
            return points / 2

    rows = denoising_score.climb(Exact(None, 1.0), epsilon=0.5, steps=3, extent=1.0, points=3)
    assert len(rows) == 4 * 9
    last = rows[rows["step"] == 3].set_index("point")
    assert last.loc[0, ["x", "y"]].tolist() == [-27 / 64, -27 / 64]
    assert last.loc[5, ["x", "y"]].tolist() == [0, 27 / 64]
    assert rows[rows["step"] == 0][["x", "y"]].to_numpy().tolist() == [[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1)]
    field = denoising_score.field(Mixture(torch.zeros(1, 2), 1.0), Exact(None, 2.0), extent=1.0, points=3)
    first = field[(field["x"] == -1) & (field["y"] == 1)].set_index("kind")[["u", "v"]]
    assert first.loc["learned"].tolist() == [0.125, -0.125]  # half the way, over sigma squared
    assert first.loc["true"].tolist() == pytest.approx([0.2, -0.2])
