"""CRF-RNN: the mean field of a fully connected CRF as a trainable layer on a network (Zheng et al., ICCV 2015)."""

import math
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpcore.checks import expect
from gpcore.crf import LARGEST, SMALLEST

LARGEST_GRID = 16_000  # pixels: the bilateral kernel then takes 1 GB per image


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
        for name, value in {"classes": classes, "stride": stride, "iterations": iterations}.items():
            expect(name, value, isinstance(value, Integral) and value >= 1, "a whole number of at least 1")
        for name, width in {"alpha": alpha, "beta": beta, "gamma": gamma}.items():
            expect(name, width, SMALLEST <= width <= LARGEST, f"a number of {SMALLEST:g} to {LARGEST:g}")
        self.network, self.stride, self.iterations = network, stride, iterations
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.spatial = nn.Parameter(3 * torch.eye(classes))
        self.bilateral = nn.Parameter(5 * torch.eye(classes))
        self.compatibility = nn.Parameter(-torch.eye(classes))

    def forward(self, images: Tensor) -> Tensor:
        # First, so that a cut inside the network, which runs again what comes after it, keeps the kernels.
        kernels = _kernels(images, self.stride, self.alpha, self.beta, self.gamma)
        return self.mean_field(self.network(images), kernels)

    def mean_field(self, logits: Tensor, kernels: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """U + m for logits U, B x K x H x W, under the kernels of their images."""
        rows, columns, gaussian = kernels
        unary = _pool(logits, self.stride)
        found, expected = [*unary.shape], [len(gaussian), len(self.spatial), len(rows), len(columns)]
        expect("network", f"logits {found} on the grid", found == expected, f"{expected}")
        message = torch.zeros_like(unary)
        for _ in range(self.iterations):
            q = (unary + message).softmax(1)
            near = (rows @ q @ columns.mT).flatten(2)
            alike = q.flatten(2) @ gaussian.mT
            message = (-self.compatibility @ (self.spatial @ near + self.bilateral @ alike)).view_as(unary)
        if self.stride > 1:
            message = F.interpolate(message, scale_factor=self.stride, mode="bilinear")
        return logits + message[..., : logits.shape[-2], : logits.shape[-1]]


class MeanField(CRFRNN):
    """The same layer behind a finished network, as `gpcore.denoise` puts a DAE there: from its softmax y and the images
    to logits."""

    def __init__(self, classes: int, **options: float) -> None:
        super().__init__(nn.Identity(), classes, **options)  # type: ignore[arg-type]

    def forward(self, y: Tensor, images: Tensor) -> Tensor:  # type: ignore[override]
        kernels = _kernels(images, self.stride, self.alpha, self.beta, self.gamma)
        return self.mean_field(y.clamp_min(1e-6).log(), kernels)


def _kernels(images: Tensor, stride: int, alpha: float, beta: float, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians on the grid whose rows sum to one: the spatial one in factors h x h and w x w, bilateral B x N x N."""
    with torch.no_grad():
        grid = _pool(images, stride)
        height, width = grid.shape[-2:]
        least, size = stride, height * width
        while math.prod(-(-extent // least) for extent in images.shape[-2:]) > LARGEST_GRID:
            least += 1
        found = f"{stride}, a grid of {height} x {width} = {size} pixels, whose kernel takes {4e-9 * size**2:.1f} GB"
        expect("stride", f"{found} per image", least == stride, f"at most {LARGEST_GRID} pixels: use stride={least}")
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


def _pool(x: Tensor, stride: int) -> Tensor:
    return F.avg_pool2d(x, stride, ceil_mode=True) if stride > 1 else x
