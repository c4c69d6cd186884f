import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydensecrf import densecrf, utils
from torch import nn

from gpcore.crf import dense_crf

NAN = math.nan


def smooth(channels, height, width, generator):
    coarse = torch.rand(1, channels, 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def array(tensor, dtype):
    return np.array(tensor.numpy(), dtype=dtype, order="C", copy=True)


def constant(module, enum, name):
    """pydensecrf built with Cython 3 holds its constants in enums alone; an older build and conda's, in the module."""
    return getattr(getattr(module, enum, module), name)


def pairwise(normalization):
    return {
        "kernel": constant(densecrf, "KernelType", "DIAG_KERNEL"),
        "normalization": constant(densecrf, "NormalizationType", normalization),
    }


INSIDE, OUTSIDE = SimpleNamespace(KernelType=SimpleNamespace(DIAG_KERNEL=1)), SimpleNamespace(DIAG_KERNEL=1)


@pytest.mark.parametrize("module", [INSIDE, OUTSIDE, SimpleNamespace(**vars(INSIDE), **vars(OUTSIDE)), densecrf])
def test_constants_of_every_build(module):
    assert constant(module, "KernelType", "DIAG_KERNEL") == 1


def scene():
    """A red and a blue half, the truth, and its softmax with one pixel in twelve saying the opposite."""
    truth = torch.arange(32).expand(24, 32).ge(16).long()
    image = torch.stack([0.9 - 0.8 * truth, 0.2 + 0.0 * truth, 0.1 + 0.8 * truth])
    salt = torch.rand(24, 32, generator=torch.Generator().manual_seed(0)) < 1 / 12
    noisy, clean = (nn.functional.one_hot(x, 2).movedim(-1, 0) * 0.6 + 0.2 for x in (truth ^ salt.long(), truth))
    return image, truth, noisy, clean


USUAL = {"gaussian": (3, 3), "bilateral": (80, 13, 10)}


def test_dense_crf_removes_salt_and_keeps_what_is_clean():
    image, truth, noisy, clean = scene()
    assert (noisy.argmax(0) != truth).sum() > 30
    posterior = dense_crf(noisy, image, **USUAL)
    assert posterior.dtype == torch.float32
    assert posterior.shape == noisy.shape
    assert torch.equal(posterior.argmax(0), truth)
    assert (dense_crf(clean, image, **USUAL).gather(0, truth[None]) > 0.99).all()


def test_dense_crf_without_weights_is_the_input():
    probabilities = torch.randn(5, 9, 12).softmax(0)
    still = dense_crf(probabilities, torch.rand(3, 9, 12), gaussian=(3, 0), bilateral=(80, 13, 0))
    assert torch.allclose(still, probabilities, atol=1e-5)


@pytest.mark.parametrize(("steps", "options"), [(1, {"iterations": 1}), (7, {"iterations": 7}), (5, {})])
def test_dense_crf_is_pydensecrf_as_documented(steps, options):
    generator = torch.Generator().manual_seed(2)
    probabilities, image = (6 * smooth(4, 11, 16, generator)[0]).softmax(0), smooth(3, 11, 16, generator)[0]
    probabilities[:, 4, 4:8] = torch.eye(4)  # zeros, whose logarithm is clipped
    theirs = densecrf.DenseCRF2D(16, 11, 4)
    theirs.setUnaryEnergy(utils.unary_from_softmax(probabilities.numpy()))
    kind = pairwise("NORMALIZE_SYMMETRIC")
    theirs.addPairwiseGaussian(sxy=(2, 2), compat=1, **kind)
    rgb = array((image * 255).round().permute(1, 2, 0), np.uint8)
    theirs.addPairwiseBilateral(sxy=(7, 7), srgb=(30, 30, 30), rgbim=rgb, compat=2, **kind)
    expected = torch.from_numpy(np.array(theirs.inference(steps))).view(4, 11, 16)
    ours = dense_crf(probabilities, image, gaussian=(2, 1), bilateral=(7, 30, 2), **options)
    assert torch.allclose(ours, expected, atol=1e-5)
    assert not torch.allclose(ours, probabilities, atol=0.05)


def test_dense_crf_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    image, _, noisy, _ = scene()
    with pytest.raises(ImportError, match=r"pip install pydensecrf2.*C\+\+ compiler.*conda-forge pydensecrf"):
        dense_crf(noisy, image, **USUAL)


def test_dense_crf_at_the_smallest_bandwidths_sees_each_pixel_alone():
    generator = torch.Generator().manual_seed(0)
    probabilities, image = torch.rand(2, 3, 24, 56, generator=generator)
    probabilities = probabilities.softmax(0)
    q = probabilities
    for _ in range(2):
        q = (probabilities.log() + (2 + 1.5) * q).softmax(0)
    alone = dense_crf(probabilities, image, gaussian=(0.01, 2), bilateral=(0.01, 0.2, 1.5), iterations=2)
    assert torch.allclose(alone, q, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": torch.full((2, 4, 6), 0.5)}, r"\[2, 4, 6\] and \[3, 4, 5\], expected K x H x W"),
        ({"image": torch.rand(1, 4, 5)}, r"\[2, 4, 5\] and \[1, 4, 5\]"),
        ({"probabilities": torch.full((2, 4), 0.5), "image": torch.rand(3, 4)}, r"\[2, 4\] and \[3, 4\]"),
        (
            {"probabilities": torch.full((2, 4, 5), 0.5).index_fill(2, torch.tensor(1), 0.45)},
            "probabilities: got sums off by 0.1 .*, expected a softmax over dim 0",
        ),
        (
            {"probabilities": torch.tensor([1.25, -0.25]).view(2, 1, 1).expand(2, 4, 5)},
            "probabilities: .* least .* -0.25",
        ),
        ({"probabilities": torch.full((2, 4, 5), NAN)}, "probabilities: got sums off by nan"),
        ({"image": torch.full((3, 4, 5), 255.0)}, r"image: got torch.float32 in \[255, 255\], expected floats in"),
        ({"image": torch.full((3, 4, 5), -0.1)}, r"image: got torch.float32 in \[-0.1, -0.1\]"),
        ({"image": torch.rand(3, 4, 5).index_fill(2, torch.tensor(3), NAN)}, r"image: .* in \[nan, nan\]"),
        ({"image": torch.zeros(3, 4, 5).byte()}, "image: got torch.uint8"),
        ({"gaussian": (0, 3)}, "gaussian sxy: got 0, expected a number of 0.001125 to"),
        ({"gaussian": (9 / 8010, 3)}, "gaussian sxy: got 0.00112"),
        ({"gaussian": (NAN, 3)}, "gaussian sxy: got nan"),
        ({"bilateral": (-1, 13, 3)}, "bilateral sxy: got -1"),
        ({"bilateral": (9 / 8010, 13, 3)}, "bilateral sxy: got 0.00112"),
        ({"bilateral": (NAN, 13, 3)}, "bilateral sxy: got nan"),
        ({"bilateral": (80, 0.19, 3)}, "bilateral srgb: got 0.19, expected a number of 0.2 to"),
        ({"bilateral": (80, NAN, 3)}, "bilateral srgb: got nan"),
        ({"bilateral": (80, math.inf, 3)}, "bilateral srgb: got inf"),
        ({"gaussian": (3, NAN)}, "gaussian compat: got nan, expected a number of -1e.30 to 1e.30"),
        ({"bilateral": (80, 13, -math.inf)}, "bilateral compat: got -inf"),
        ({"iterations": 0}, "iterations: got 0, expected a whole number of at least 1"),
        ({"iterations": NAN}, "iterations: got nan"),
    ],
)
def test_dense_crf_errors(change, message):
    arguments = {"probabilities": torch.full((2, 4, 5), 0.5), "image": torch.rand(3, 4, 5), **USUAL} | change
    with pytest.raises(ValueError, match=message):
        dense_crf(arguments.pop("probabilities"), arguments.pop("image"), **arguments)
