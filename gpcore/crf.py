"""Fully connected conditional random fields: pydensecrf's on one image, and CRF-RNN as a trainable layer."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_GRID = 16_000  # pixels: the bilateral kernel then takes 1 GB per image
SMALLEST = 0.2  # bandwidth in pixels or colour levels, at which no neighbour counts (e^-12.5)
LARGEST = 1e30  # of bandwidths and weights: their sums are finite in single precision

Kernels = tuple[Tensor, Tensor, Tensor]  # rows h x h, columns w x w, bilateral B x N x N; each row sums to one


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
    if probabilities.dim() != 3 or image.shape != (3, *probabilities.shape[1:]):
        found = f"{[*probabilities.shape]} and {[*image.shape]}"
        raise ValueError(f"probabilities, image: got shapes {found}, expected K x H x W and 3 x H x W of one size")
    off, least = (probabilities.sum(0) - 1).abs().max(), probabilities.min()
    if not (off < 1e-3 and least >= 0):
        found = f"sums off by {off:.3g} and a least value of {least:.3g}"
        raise ValueError(f"probabilities: got {found}, expected a softmax over dim 0")
    if not image.is_floating_point() or not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
        raise ValueError(f"image: got {image.dtype} in [{image.min():g}, {image.max():g}], expected floats in [0, 1]")
    # Else pydensecrf crashes or answers NaN: its lattice has 16-bit coordinates, up to 3.5 (H + W) / sxy + 870 / srgb.
    _within(sum(image.shape[1:]) / 8000, **{"gaussian sxy": gaussian[0], "bilateral sxy": bilateral[0]})
    _within(SMALLEST, **{"bilateral srgb": bilateral[1]})
    _within(-LARGEST, **{"gaussian compat": gaussian[1], "bilateral compat": bilateral[2]})
    _whole(iterations=iterations)
    densecrf = _densecrf()
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


class CRFRNN(nn.Module):
    """Mean field of a fully connected CRF on a network's logits U, `iterations` steps, trained with the network.

    Q = softmax(U + m), m = -mu (W_s G_s Q + W_b G_b Q), at first m = 0; G_s, G_b: Gaussians whose rows sum to one,
    evaluated exactly, self included; `spatial` W_s = 3 I, `bilateral` W_b = 5 I, `compatibility` mu = -I at the start,
    so agreement adds to a logit. alpha, gamma: bandwidths in image pixels; beta: colour, 0..255. With `stride` > 1,
    m lives on a grid of average-pooled U and image and is upsampled bilinearly; stride 1 is plain mean field.
    `network`, like this module, maps B x 3 x H x W in [0, 1] to B x K x H x W logits. G_b takes 4 N^2 bytes per image
    for N grid pixels. It carries no gradient: the image is reached through the network's logits only, as in the
    original layer. Raises ValueError above 16,000 grid pixels, below a bandwidth of 0.2, or for sizes that do not fit.
    Source: Zheng et al., ICCV 2015, section 4.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        *,
        stride: int = 1,
        iterations: int = 5,
        alpha: float = 160.0,
        beta: float = 3.0,
        gamma: float = 3.0,
    ) -> None:
        super().__init__()
        _whole(classes=classes, stride=stride, iterations=iterations)
        _within(SMALLEST, alpha=alpha, beta=beta, gamma=gamma)
        self.network, self.stride, self.iterations = network, stride, iterations
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.spatial = nn.Parameter(3 * torch.eye(classes))
        self.bilateral = nn.Parameter(5 * torch.eye(classes))
        self.compatibility = nn.Parameter(-torch.eye(classes))

    def forward(self, images: Tensor) -> Tensor:
        # First, so that a cut inside the network, which runs again what comes after it, keeps the kernels.
        kernels = _kernels(images, self.stride, self.alpha, self.beta, self.gamma)
        logits = self.network(images)
        weights = self.spatial, self.bilateral, self.compatibility
        return _mean_field(logits, kernels, weights, self.stride, self.iterations)


def _kernels(images: Tensor, stride: int, alpha: float, beta: float, gamma: float) -> Kernels:
    """Row-normalised Gaussians on the grid: the spatial one as its two separable factors, the bilateral one dense."""
    with torch.no_grad():
        grid = _pool(images, stride)
        height, width = grid.shape[-2:]
        if (size := height * width) > LARGEST_GRID:
            least = stride
            while math.prod(-(-extent // least) for extent in images.shape[-2:]) > LARGEST_GRID:
                least += 1
            raise ValueError(
                f"stride: got {stride}, a grid of {height} x {width} = {size} pixels, whose kernel takes "
                f"{4e-9 * size**2:.1f} GB per image; expected at most {LARGEST_GRID} pixels: use stride={least}"
            )
        y, x = torch.arange(height).to(grid), torch.arange(width).to(grid)
        rows, columns = (torch.softmax(-((p[:, None] - p) * stride / gamma).square() / 2, 1) for p in (y, x))
        place = torch.stack(torch.meshgrid(y, x, indexing="ij")) * stride / alpha
        features = torch.cat([place.expand(len(grid), -1, -1, -1), grid * 255 / beta], 1).flatten(2).mT
        features = features - features.mean(1, keepdim=True)  # small numbers lose less in the expanded square
        half = features.square().sum(2) / 2
        bilateral = torch.baddbmm(half[:, None], features, features.mT, beta=-1).sub_(half[:, :, None])
        # Below e^-60 nothing counts, but denormal numbers would make every product slow.
        bilateral = bilateral.clamp_(-60, 0).exp_()
        return rows, columns, bilateral.div_(bilateral.sum(2, keepdim=True))


def _mean_field(logits: Tensor, kernels: Kernels, weights: Sequence[Tensor], stride: int, iterations: int) -> Tensor:
    rows, columns, gaussian = kernels
    spatial, bilateral, compatibility = weights
    unary = _pool(logits, stride)
    if [*unary.shape] != (expected := [len(gaussian), len(spatial), len(rows), len(columns)]):
        raise ValueError(f"network: its logits are {[*unary.shape]} on the grid, expected {expected}")
    message = torch.zeros_like(unary)
    for _ in range(iterations):
        q = (unary + message).softmax(1)
        near = (rows @ q @ columns.mT).flatten(2)
        alike = q.flatten(2) @ gaussian.mT
        message = (-compatibility @ (spatial @ near + bilateral @ alike)).view_as(unary)
    if stride > 1:
        message = F.interpolate(message, scale_factor=stride, mode="bilinear")
    return logits + message[..., : logits.shape[-2], : logits.shape[-1]]


def _pool(x: Tensor, stride: int) -> Tensor:
    return F.avg_pool2d(x, stride, ceil_mode=True) if stride > 1 else x


def _densecrf() -> Any:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise ImportError(
            "dense_crf needs pydensecrf: `pip install pydensecrf2` (builds with a C++ compiler), "
            "or `conda install -c conda-forge pydensecrf`"
        ) from error
    return densecrf


def _whole(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}: got {value}, expected a whole number of at least 1")


def _within(least: float, **values: float) -> None:
    for name, value in values.items():
        if not least <= value <= LARGEST:
            raise ValueError(f"{name}: got {value}, expected a number of {least:g} to {LARGEST:g}")
