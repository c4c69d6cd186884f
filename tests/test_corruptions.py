"""Corruptions against numbers worked out by hand, scipy and the constants of ImageNet-C."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import interpolate
from torch.testing import assert_close

from gpcore.datasets.corruptions import KINDS, SEVERITIES, corrupt

LEVELS = range(1, SEVERITIES + 1)
each_kind = pytest.mark.parametrize("kind", KINDS)


def pictures(batch: int = 2, height: int = 56, width: int = 40, seed: int = 0) -> Tensor:
    """Smooth colours under fine texture, well inside [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 5, 4, generator=generator)
    fine = torch.rand(batch, 3, height, width, generator=generator)
    return 0.1 + 0.6 * interpolate(coarse, (height, width), mode="bilinear") + 0.2 * fine


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.08), (2, 0.12), (3, 0.18), (4, 0.26), (5, 0.38)])
def test_noise_has_the_published_deviation(severity: int, sigma: float) -> None:
    noise = corrupt(torch.full((1, 3, 200, 200), 0.5), "noise", severity)[0] - 0.5
    inside = noise.abs() < 0.5  # not clamped
    normal = torch.distributions.Normal(0.0, sigma)
    assert abs(inside.float().mean() - (1 - 2 * normal.cdf(torch.tensor(-0.5)))) < 0.005
    assert abs(noise.quantile(0.6915) / sigma - 0.5) < 0.02  # half a deviation, whatever is clamped
    assert abs(noise.mean()) < 0.01 * sigma / 0.38 + 0.002
    if severity <= 2:
        assert abs(noise.std() / sigma - 1) < 0.01
    assert not torch.equal(noise[0], noise[1])  # each channel its own


@pytest.mark.parametrize("severity", LEVELS)
def test_contrast_by_hand(severity: int) -> None:
    image = torch.tensor([[[0.2, 0.6]], [[1.0, 0.0]]])[None]  # means 0.4 and 0.5
    left = [0.4, 0.3, 0.2, 0.1, 0.05][severity - 1]
    expected = [[[0.4 - 0.2 * left, 0.4 + 0.2 * left]], [[0.5 + 0.5 * left, 0.5 - 0.5 * left]]]
    assert_close(corrupt(image, "contrast", severity), torch.tensor([expected]), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0), (5, 3.0)])
def test_blur_is_scipys_away_from_borders(severity: int, sigma: float) -> None:
    image = pictures(1, 112, 60).double()  # half of 224 rows
    blurred = corrupt(image, "blur", severity)
    expected = torch.from_numpy(gaussian_filter(image[0].numpy(), (0, sigma, sigma), truncate=8))
    inner = slice(12, -12)  # scipy's kernel ends at 8 sigma, ours at 3: 0.3 % of the weight, centred on the same mean
    assert_close(blurred[0, :, inner, inner], expected[:, inner, inner], atol=1e-3, rtol=0)


@pytest.mark.parametrize("severity", LEVELS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (30, 3), (64, 48)])
def test_blur_leaves_a_constant(severity: int, size: tuple[int, int]) -> None:
    image = torch.full((1, 3, *size), 0.3)
    assert_close(corrupt(image, "blur", severity), image, atol=1e-6, rtol=0)


@pytest.mark.parametrize("severity", LEVELS)
def test_fog_by_hand(severity: int) -> None:
    thickness = [1.5, 2, 2.5, 2.5, 3][severity - 1]
    grey = torch.full((1, 3, 40, 56), 0.5)
    foggy = corrupt(grey, "fog", severity, seed=3)
    field = (foggy * (0.5 + thickness) / 0.5 - 0.5) / thickness
    assert torch.equal(foggy[:, 0], foggy[:, 2])
    assert_close(field.aminmax(), (torch.tensor(0.0), torch.tensor(1.0)), atol=1e-6, rtol=0)
    assert field.diff(dim=-1).abs().mean() < 0.3 * field.std()  # smooth: white noise has 1.13
    image = pictures(1, 40, 56)
    brightest = image.max()
    expected = (image + thickness * field) * brightest / (brightest + thickness)  # the same draw for any image
    assert_close(corrupt(image, "fog", severity, seed=3), expected, atol=1e-6, rtol=0)
    black = torch.zeros(1, 3, 8, 9)
    assert torch.equal(corrupt(black, "fog", severity), black)
    assert corrupt(torch.rand(1, 3, 1, 1), "fog", severity).isfinite().all()


@pytest.mark.parametrize(
    ("severity", "thickness", "expected"),
    [
        (
            1,
            1.5,
            [[0.3820, 0.6619, 0.6444, 0.4440], [0.0105, 0.7466, 0.7278, 0.0687], [0.0732, 0.3961, 0.8153, 0.3480]],
        ),
        (
            5,
            3.0,
            [[0.4298, 0.6294, 0.5631, 0.3710], [0.1279, 0.7399, 0.6148, 0.0884], [0.2082, 0.3912, 0.7261, 0.4988]],
        ),
    ],
)
def test_fogs_field_is_what_it_was(severity: int, thickness: float, expected: list[list[float]]) -> None:
    """Committed results were made under it; every ninth pixel."""
    foggy = corrupt(torch.full((1, 1, 20, 30), 0.5), "fog", severity, seed=7)[0, 0, ::9, ::9]
    assert_close((foggy * (0.5 + thickness) / 0.5 - 0.5) / thickness, torch.tensor(expected), atol=1e-3, rtol=0)


def test_noise_is_torchs_normal_draw() -> None:
    image, generator = torch.full((1, 3, 8, 9), 0.5), torch.Generator().manual_seed(4)
    expected = (0.5 + 0.12 * torch.randn(3, 8, 9, generator=generator)).clamp(0, 1)
    assert_close(corrupt(image, "noise", 2, seed=4)[0], expected)


def test_thick_fog_is_rougher() -> None:
    grey = torch.full((1, 1, 64, 64), 0.5)
    rough = [corrupt(grey, "fog", s).diff(dim=-1).std() / corrupt(grey, "fog", s).std() for s in (2, 3, 4, 5)]
    assert rough == sorted(rough)


@each_kind
@pytest.mark.parametrize("severity", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_type_range_and_determinism(kind: str, severity: int, dtype: torch.dtype) -> None:
    images, state = torch.rand(2, 3, 56, 40).to(dtype), torch.get_rng_state()
    found = images.clone()
    out = corrupt(images, kind, severity, seed=1)
    assert (out.shape, out.dtype) == (images.shape, dtype)
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(out, corrupt(images, kind, severity, seed=1))
    assert torch.equal(out, corrupt(images, kind, severity, seed=2)) is (kind in ("blur", "contrast"))
    assert torch.equal(images, found) and torch.equal(torch.get_rng_state(), state)
    assert corrupt(images[:0], kind, severity).shape == (0, 3, 56, 40)
    assert not torch.equal(out, images)


@each_kind
def test_the_batch_does_not_matter(kind: str) -> None:
    images = pictures(3)
    one, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    together = corrupt(images, kind, 4, seed=one)
    singly = torch.cat([corrupt(image[None], kind, 4, seed=other) for image in images])
    assert torch.equal(together, singly)
    assert torch.equal(one.get_state(), other.get_state())
    assert torch.equal(together[:1], corrupt(images[:1], kind, 4, seed=5))
    twice = corrupt(images[:1].expand(2, -1, -1, -1), kind, 4)
    assert torch.equal(twice[0], twice[1]) is (kind in ("blur", "contrast"))


@pytest.mark.parametrize("kind", ["noise", "blur", "contrast"])  # fog 3 and 4 differ in roughness alone
def test_severity_is_monotone(kind: str) -> None:
    images = pictures()
    change = [(corrupt(images, kind, severity) - images).square().mean().item() for severity in LEVELS]
    assert all(more > less for less, more in pairwise([0, *change]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "snow"}, "kind.*snow.*fog"),
        ({"severity": 0}, "severity.*0.*1 to 5"),
        ({"severity": 6}, "severity.*6"),
        ({"severity": 1.5}, r"severity.*1\.5"),
        ({"images": torch.zeros(3, 4, 5)}, r"images.*3\D+4\D+5"),
        ({"images": torch.zeros(1, 3, 4, 5, dtype=torch.uint8)}, "images.*uint8"),
        ({"images": torch.full((1, 3, 4, 5), 1.01)}, r"images.*\[0, 1\]"),
        ({"images": torch.full((1, 3, 4, 5), -0.01)}, r"images.*\[0, 1\]"),
        ({"images": torch.full((1, 3, 4, 5), torch.nan)}, "images: got NaN"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(**{"images": pictures(), "kind": "noise", "severity": 1, **wrong})
