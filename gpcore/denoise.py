"""Conditional denoising autoencoders of label maps, and the iterative inference that climbs their estimated score.

Romero, Drozdzal, Erraqabi, Jégou, Bengio: Image Segmentation by Iterative Inference from Conditional Score Estimation,
arXiv 1705.07450.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpcore.checks import check_images, expect, logits_of
from gpcore.cut import Cut
from gpcore.untouched import untouched

EPSILONS = (0.01, 0.02, 0.05, 0.08, 0.1, 0.5, 1.0)  # the paper's step sizes, and its most steps
STEPS = 50


class DAE(nn.Module):
    """Reconstructs a class map y (B x K x H x W) given features h of its image: the logits of r(y, h), same shape.

    Down, per level: 3x3 convolution, ReLU, 2x2 max pool that rounds up; h is put behind what pool number `join`
    returns. Up, per level: unpooling, each value back to where its pool found it and zeros elsewhere, and a 3x3
    convolution, linear. Without `switches` bilinear upsampling instead; with `skips` each level's activations are added
    to what is unpooled to their size.

    Args:
        classes: K.  features: channels of h, whose size is that of pool number `join`.
        widths: channels of the levels on the way down, by default the paper's; the way up mirrors them.
        scale: what h is divided by, about its root mean square, so that it does not drown y.
        identity: with skips, r starts near the softmax of `identity` y, instead of learning first to repeat y.
    Raises ValueError: `join` is not a level before the last, an h of another size, an identity that nothing carries.
    Source: section 4.3.
    """

    def __init__(
        self,
        classes: int,
        features: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
        join: int = 4,
        switches: bool = True,
        skips: bool = False,
        scale: float = 1.0,
        identity: float = 0.0,
    ) -> None:
        super().__init__()
        expect("join", join, 1 <= join < len(widths), f"a level from 1 to {len(widths) - 1}")
        carried = not identity or (skips and widths[0] >= classes)
        expect("identity", f"skips {skips} and width {widths[0]}", carried, f"skips and {classes} channels")
        self.join, self.switches, self.skips, self.scale = join, switches, skips, scale
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (above, width) in enumerate(zip((classes, *widths), widths, strict=False)):
            down = nn.Conv2d(above + features * (level == join), width, 3, padding=1)
            up = nn.Conv2d(width, above, 3, padding=1)
            nn.init.kaiming_normal_(down.weight, nonlinearity="relu")
            # three quarters of what is unpooled are zeros: twice the weights keep the variance
            below = 0.1 if identity and level < 2 else 1.0  # so that at first it adds little to y
            nn.init.normal_(up.weight, std=below * (2 if switches else 1) / math.sqrt(9 * width))
            if identity and not level:
                _carry(down, up, classes, identity)
            self.down.append(down)
            self.up.append(up)

    def forward(self, y: Tensor, h: Tensor) -> Tensor:
        places, before, x = [], [], y
        for level, conv in enumerate(self.down):
            if level == self.join:
                got, expected = [*h.shape[-2:]], [*x.shape[-2:]]
                expect("h", f"size {got}", got == expected, f"{expected}, that of pool number {self.join}")
                x = torch.cat([x, h / self.scale], 1)
            before.append(conv(x).relu())
            x, found = F.max_pool2d(before[-1], 2, ceil_mode=True, return_indices=True)
            places.append(found)
        for conv, skip, found in zip(reversed(self.up), reversed(before), reversed(places), strict=True):
            size = skip.shape[-2:]
            if self.switches:
                x = F.max_unpool2d(x, found, [2, 2], output_size=size)
            else:
                x = F.interpolate(x, size, mode="bilinear")
            x = conv(x + skip if self.skips else x)
        return x


@torch.no_grad()
def _carry(first: nn.Conv2d, last: nn.Conv2d, classes: int, gain: float) -> None:
    """The first convolution's first channels hold y, and the last one reads them from the skip."""
    each = torch.arange(classes)
    nn.init.zeros_(first.bias)  # type: ignore[arg-type]
    nn.init.zeros_(first.weight[:classes])
    first.weight[each, each, 1, 1] = 1
    last.weight[each, each, 1, 1] += gain


class Inference(NamedTuple):
    """What `iterative_inference` returns: y at the start and after every step, (steps + 1) x B x ...; the steps that
    each example took before it stopped, B; the mean norm of r(y) - y before every step, steps x B."""

    trajectory: Tensor
    used: Tensor
    residuals: Tensor


def one_hot(labels: Tensor, classes: int, void: int) -> Tensor:
    """Labels B x H x W as B x `classes` x H x W in {0, 1}; a void pixel is zero in every class."""
    known = labels != void
    return F.one_hot(labels.where(known, 0), classes).permute(0, 3, 1, 2) * known.unsqueeze(1).float()


def reconstruction_loss(logits: Tensor, labels: Tensor, void: int, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy plus squared error of the softmax (summed over classes), both means over non-void pixels, eq. 5.

    Args:
        logits: B x K x H x W.  labels: B x H x W.
        weight: K class weights, under which both means are taken; a network's own, so that what it was trained not to
            overlook is not overlooked here either.
    """
    known = labels != void
    error = logits.softmax(1) - one_hot(labels, logits.shape[1], void)
    squares, entropy = error.square().sum(1)[known], F.cross_entropy(logits, labels.where(known, -100), weight)
    counted = torch.ones_like(squares) if weight is None else weight[labels[known]]
    return entropy + (counted * squares).sum() / counted.sum()


def iterative_inference(
    reconstruct: Callable[[Tensor], Tensor],
    y: Tensor,
    epsilon: float,
    *,
    steps: int = STEPS,
    tolerance: float = 1e-3,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Inference:
    """y <- y + epsilon (r(y) - y), clipped to `bounds`, eq. 6: a step along the estimated score (sigma^2 in epsilon).

    An example, B x K [x H x W], stops where the mean over its pixels of the norm of r(y) - y falls below `tolerance`,
    and keeps its last value.  Raises ValueError: an epsilon outside (0, 1] or fewer than one step.
    """
    expect("epsilon", epsilon, 0 < epsilon <= 1, "0 < epsilon <= 1")
    expect("steps", steps, steps >= 1, "at least 1")
    trajectory, residuals, residual = [y], [], torch.zeros(len(y), device=y.device)
    running, used = torch.ones(len(y), dtype=torch.bool), torch.zeros(len(y), dtype=torch.long)
    for _ in range(steps):
        if running.any():
            r = reconstruct(y)
            residual = (r - y).square().sum(1).sqrt().reshape(len(y), -1).mean(1)  # norm(dim=1) is slow
            running = running & (residual >= tolerance).cpu()
            used += running
            moved = y.lerp(r, epsilon)
            moved = moved if bounds is None else moved.clamp(*bounds)
            y = torch.where(running.to(y.device).view(-1, *[1] * (y.dim() - 1)), moved, y)
        trajectory.append(y)
        residuals.append(residual)
    return Inference(torch.stack(trajectory), used, torch.stack(residuals))


@untouched
def candidate(model: nn.Module, images: Tensor, at: str | None) -> tuple[Tensor, Tensor]:
    """A segmentation network's softmax y for B x 3 x H x W images and what its module `at` returned, h; eq. 3.

    With `at` None, h is the images themselves. The model is left as found.
    """
    check_images(images)
    cut = Cut(model, images, at)
    with torch.no_grad():
        return logits_of(cut.output if at else cut(cut.place)).softmax(1), cut.place.to(cut.dtype)


def given(dae: nn.Module, h: Tensor) -> Callable[[Tensor], Tensor]:
    """r( . , h): from y to the softmax of what `dae` makes of it under h, in whose precision it runs."""
    # in this layout convolutions take half of the time
    return lambda y: dae(y.to(h).contiguous(memory_format=torch.channels_last), h).to(y).softmax(1)


def refine(
    model: nn.Module, dae: nn.Module, images: Tensor, epsilon: float, *, at: str | None, steps: int = STEPS
) -> Inference:
    """Climbs the score that a DAE estimates from a network's prediction: y <- y + epsilon (r(y, h) - y), eq. 6.

    This is `iterative_inference` with y at first the network's softmax. The network is left as found.

    Args:
        model: returns logits B x K x H x W, in any of the ways that `logits_of` knows.
        dae: maps y, B x K x H x W, and h to the logits of r, such as a trained `DAE`.
        images: B x 3 x H x W in [0, 1].
        epsilon: the share of the way to r that a step goes, above 0 and at most 1.
        at: the module, by the end of its name, whose output is h; None for the images themselves.
        steps: the most that an image takes.

    Returns:
        y at the start and after every step, and how many steps each image took.

    Raises:
        ValueError: names the argument that is off, what came and what was expected.

    Example:
        >>> import torch
        >>> from gpcore.denoise import refine
        >>> class Unsure(torch.nn.Module):  # r is 1/2 for both classes
        ...     def forward(self, y, h):
        ...         return torch.zeros_like(y)
        >>> model = torch.nn.Conv2d(2, 2, 1, bias=False)
        >>> model.weight.data = 500 * torch.eye(2).view(2, 2, 1, 1)  # it is sure of the larger of two channels
        >>> images = torch.tensor([[[[0.75, 0.25]], [[0.25, 0.5]]]])
        >>> out = refine(model, Unsure(), images, 0.5, at=None, steps=2)
        >>> out.trajectory[:, 0, 0].tolist()  # the first class's share: half of the way to 1/2, then half of the rest
        [[[1.0, 0.0]], [[0.75, 0.25]], [[0.625, 0.375]]]
    """
    y, h = candidate(model, images, at)
    with torch.no_grad():
        return iterative_inference(given(dae, h), y, epsilon, steps=steps)
