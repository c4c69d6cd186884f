"""Fully connected conditional random fields on one image, by pydensecrf."""

from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from gpcore.checks import expect

SMALLEST = 0.2  # bandwidth in pixels or colour levels, at which no neighbour counts (e^-12.5)
LARGEST = 1e30  # of bandwidths and weights: their sums are finite in single precision


def dense_crf(
    probabilities: Tensor,
    image: Tensor,
    *,
    gaussian: tuple[float, float],
    bilateral: tuple[float, float, float],
    iterations: int = 5,
) -> Tensor:
    """Posterior of pydensecrf's fully connected CRF on one image, with its default (symmetric) normalisation.

    probabilities: K x H x W, a softmax; image: 3 x H x W in [0, 1]; gaussian = (sxy, compat) and
    bilateral = (sxy, srgb, compat), with sxy in pixels and srgb in 0..255. The unary is -log of the probabilities,
    clipped at 1e-5 as in pydensecrf's `unary_from_softmax`. Returns K x H x W float32.
    Raises ValueError for shapes or values that are off, among them sxy below (H + W) / 8000 and srgb below 0.2, where
    pydensecrf's lattice overflows; ImportError without pydensecrf.
    Source: Kraehenbuehl & Koltun, NeurIPS 2011.
    """
    shapes = f"shapes {[*probabilities.shape]} and {[*image.shape]}"
    fit = probabilities.dim() == 3 and image.shape == (3, *probabilities.shape[1:])
    expect("probabilities, image", shapes, fit, "K x H x W and 3 x H x W of one size")
    off, least = (probabilities.sum(0) - 1).abs().max(), probabilities.min()
    found = f"sums off by {off:.3g} and a least value of {least:.3g}"
    expect("probabilities", found, off < 1e-3 and least >= 0, "a softmax over dim 0")
    found = f"{image.dtype} in [{image.min():g}, {image.max():g}]"
    inside = image.is_floating_point() and image.min() >= 0 and image.max() <= 1  # NaN is neither
    expect("image", found, inside, "floats in [0, 1]")
    # Else pydensecrf crashes or answers NaN: its lattice has 16-bit coordinates, up to 3.5 (H + W) / sxy + 870 / srgb.
    narrow = sum(image.shape[1:]) / 8000
    for name, value, smallest in (
        ("gaussian sxy", gaussian[0], narrow),
        ("bilateral sxy", bilateral[0], narrow),
        ("bilateral srgb", bilateral[1], SMALLEST),
        ("gaussian compat", gaussian[1], -LARGEST),
        ("bilateral compat", bilateral[2], -LARGEST),
    ):
        expect(name, value, smallest <= value <= LARGEST, f"a number of {smallest:g} to {LARGEST:g}")
    whole = isinstance(iterations, Integral) and iterations >= 1
    expect("iterations", iterations, whole, "a whole number of at least 1")
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise ImportError(
            "dense_crf needs pydensecrf: `pip install pydensecrf2` (builds with a C++ compiler), "
            "or `conda install -c conda-forge pydensecrf`"
        ) from error
    classes, height, width = probabilities.shape
    # pydensecrf takes nothing but writable, contiguous arrays of exactly these types.
    unary = -np.log(probabilities.detach().cpu().double().reshape(classes, -1).clamp(1e-5, 1).numpy())
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.array(unary, dtype=np.float32, order="C", copy=True))
    crf.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
    rgb = np.array((image.detach().cpu().permute(1, 2, 0) * 255).round().numpy(), dtype=np.uint8, order="C", copy=True)
    crf.addPairwiseBilateral(sxy=bilateral[0], srgb=bilateral[1], rgbim=rgb, compat=bilateral[2])
    posterior = np.array(crf.inference(iterations), dtype=np.float32)
    return torch.from_numpy(posterior).view(classes, height, width).to(probabilities.device)
