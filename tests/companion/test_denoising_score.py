import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import defined_in

from gpcore.companion.experiments import denoising_score
from gpcore.companion.experiments.denoising_score import Mixture

NOTEBOOK = defined_in("20_denoising_score", "score_of", "angles", "ring")
RING, score_of = NOTEBOOK["ring"], NOTEBOOK["score_of"]


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
    torch.testing.assert_close(RING.means[[0, 3, 6]], torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
    points, again = (RING.sample(20_000, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(points, again)
    assert points.mean(0).abs().max() < 0.02
    assert points.square().sum(1).mean().item() == pytest.approx(1.08, abs=0.02)


def test_denoiser_of_one_gaussian_learns_its_exact_score():
    """For a Gaussian of variance s the best r is linear, (r(y) - y) / sigma^2 = -y / (s + sigma^2)."""
    density = Mixture(torch.zeros(1, 2), 1.0)
    learned = score_of(denoising_score.learn(density, 2.0, iterations=60), 2.0)
    points = torch.tensor([[0.5, 0.0], [-1.0, 0.5], [0.0, 1.0], [1.0, 1.0]])
    assert (learned(points) + points / 5).abs().max() < 0.03


def test_learning_is_a_function_of_its_seed():
    points = torch.tensor([[0.5, 0.0], [-1.0, 0.5]])
    found = [denoising_score.learn(RING, 0.3, samples=50, iterations=3, seed=seed)(points) for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_agreement_of_an_exact_denoiser_is_full():
    """Of one that points there at twice the length too; the points are the density's, blurred by sigma."""
    seen = []

    def denoise(points):
        seen.append(points)
        return points + 2 * 0.3**2 * RING.score(points, 0.3)

    exact = {0.3: score_of(denoise, 0.3)}
    rows, again = (denoising_score.agreement(RING, exact) for _ in range(2))
    assert rows.equals(again)
    own, blurred = (RING.score(seen[0], noise) for noise in (0.0, 0.3))
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


def test_the_field_has_a_row_per_point_and_score():
    """Half the way to the origin, over sigma squared; and the score of one Gaussian there under that noise."""
    points = torch.tensor([[-1.0, 1.0], [0.0, 2.0]])
    learned, true = score_of(lambda y: y / 2, 2.0)(points), Mixture(torch.zeros(1, 2), 1.0).score(points, 2.0)
    rows = denoising_score.field(points, learned=learned, true=true)
    assert rows.columns.tolist() == ["x", "y", "u", "v", "kind"]
    assert rows["kind"].tolist() == ["learned"] * 2 + ["true"] * 2
    expected = [[-1, 1, 0.125, -0.125], [0, 2, 0, -0.25], [-1, 1, 0.2, -0.2], [0, 2, 0, -0.4]]
    assert rows[["x", "y", "u", "v"]].to_numpy() == pytest.approx(np.array(expected))


def test_figure_draws_both_fields_and_every_path_to_its_end():
    field = pd.DataFrame(
        {"kind": ["learned"] * 2 + ["true"] * 2, "x": [0, 1, 0, 1], "y": 0.0, "u": [1, 2, 3, 4], "v": 0}
    )
    paths = torch.tensor([[[0.0, 0], [1, 0]], [[2, 1], [3, 1]]])
    learned, true, climbed = denoising_score.field_figure(field, paths).axes
    arrows = [ax.collections[0] for ax in (learned, true)]
    assert [list(quiver.U) for quiver in arrows] == [[1, 2], [3, 4]]
    assert arrows[0].scale == arrows[1].scale
    assert climbed.lines[1].get_xdata().tolist() == [1, 3]
    assert climbed.lines[2].get_xdata().tolist() == [2, 3]  # the ends
    plt.close(learned.figure)


def test_agreement_over_examples_is_that_with_the_densitys_own_score():
    ring = denoising_score.Mixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
    learned = {10: {0.1: ring.score, 0.3: ring.score}, 20: {0.1: lambda p: -ring.score(p)}}
    rows = denoising_score.over_examples(ring, learned)
    assert rows[["examples", "sigma"]].to_numpy().tolist() == [[10, 0.1], [10, 0.3], [20, 0.1]]
    assert rows["cosine"].tolist() == pytest.approx([1, 1, -1])
