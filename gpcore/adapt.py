"""What else a test image can be given for the price of a guided step: a mean over views, or entropy minimisation."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad
from torch.nn.modules.batchnorm import _BatchNorm

from gpcore.checks import expect, logits_of
from gpcore.cut import Cut
from gpcore.untouched import untouched


@dataclass(frozen=True, kw_only=True)
class View:
    """A change of B x C x H x W images that can be undone in what the model answers; fields apply in this order.

    `shift` moves the picture right and down by so many pixels (left and up if negative), what comes in is reflected;
    `flip` swaps left and right; `turn` is by degrees against the clock about the middle, what comes in is reflected;
    `scale` resizes. Both last are bilinear.
    """

    shift: int = 0
    flip: bool = False
    turn: float = 0.0
    scale: float = 1.0

    def apply(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.shift:
            border, start = abs(self.shift), abs(self.shift) - self.shift
            images = pad(images, [border] * 4, mode="reflect")[..., start : start + height, start : start + width]
        if self.flip:
            images = images.flip(-1)
        if self.turn:
            images = turned(images, self.turn, "reflection")
        size = max(1, round(self.scale * height)), max(1, round(self.scale * width))
        return images if size == (height, width) else interpolate(images, size, mode="bilinear")

    def undo(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Log-probabilities B x K or B x K x `size` in the original frame, -inf where the view does not see it."""
        if logits.dim() == 2:
            return logits.log_softmax(1)
        if logits.shape[2:] != tuple(size):
            logits = interpolate(logits, (size[0], size[1]), mode="bilinear")
        if self.turn:
            seen = turned(torch.ones_like(logits[:1, :1]), -self.turn, "zeros") > 1 - 1e-4
            logits = turned(logits, -self.turn, "border").log_softmax(1).masked_fill(~seen, -math.inf)
        else:
            logits = logits.log_softmax(1)
        logits = logits.flip(-1) if self.flip else logits
        return pad(logits, [-self.shift, self.shift] * 2, value=-math.inf)


def turned(maps: Tensor, degrees: float, beyond: str) -> Tensor:
    """B x C x H x W maps turned against the clock about their middle, bilinearly; `beyond` pads as in `grid_sample`."""
    height, width = maps.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = maps.new_tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]])  # of unit squares
    grid = affine_grid(turn.expand(len(maps), 2, 3), [*maps.shape], align_corners=False)
    return grid_sample(maps, grid, padding_mode=beyond, align_corners=False)


VIEWS = {
    "flip": (View(), View(flip=True)),
    "scale": (View(), View(scale=0.8), View(scale=1.25)),
    "shift": (View(), View(shift=4), View(shift=-4)),
}


@untouched
def augmented(model: nn.Module, images: Tensor, views: str | Sequence[View]) -> Tensor:
    """Test-time augmentation: the log of the mean over views of the softmax, of the shape of the model's logits.

    `views` is a name in VIEWS or View()s, the first of them unchanged; a pixel's mean is over the views that see it.
    Images B x C x H x W, logits B x K or B x K x h x w; the model runs in the mode it is in and is left as found.
    Raises ValueError: views that are off, too far a shift, or a shift where the logits' size is not the images'.
    Source: Krizhevsky et al., NIPS 2012, section 4.1.
    """
    expect("views", repr(views), not isinstance(views, str) or views in VIEWS, f"one of {', '.join(VIEWS)}")
    views = VIEWS[views] if isinstance(views, str) else views
    furthest = max((abs(view.shift) for view in views), default=0)
    right = views and views[0] == View() and all(0 < view.scale < math.inf for view in views)
    expect("views", [*views], right, "View() first and every scale finite and > 0")
    extent = [*images.shape[-2:]]
    expect("views", f"a shift by {furthest}", furthest < min(extent), f"less than the images' {extent}")
    seen: list[Tensor] = []
    size: Sequence[int] = ()
    cut = Cut(model, images)
    with torch.no_grad():
        for view in views:
            logits = logits_of(cut(view.apply(images)))
            size = size or logits.shape[2:]
            fits = not furthest or not size or [*size] == extent
            expect("views", f"a shift and logits of size {[*size]}", fits, f"the images' {extent} for it")
            seen.append(view.undo(logits, size))
        # every view that sees a pixel adds one to its sum over classes: normalising divides by their number
        return torch.stack(seen).logsumexp(0).log_softmax(1)


class Tent(nn.Module):
    """Test-time entropy minimisation: each call answers, then takes one step of Adam on the answer's mean entropy.

    Works on a deep copy of `model`. Batch-norm layers normalise by the test batch in every mode; their scale and shift
    are all that is learned, at `rate`; 0 is re-normalisation alone. Steps carry on from call to call until `reset`.
    Takes B x C x H x W images; returns logits B x K or B x K x h x w from before the step, detached.
    Raises ValueError: a model without such layers, a rate that is negative or not finite.
    Source: Wang et al., Tent, ICLR 2021, section 3 (online).
    """

    def __init__(self, model: nn.Module, *, rate: float = 1e-3) -> None:
        super().__init__()
        expect("rate", rate, 0 <= rate < math.inf, "a finite number, at least 0")
        self.model, self.rate = copy.deepcopy(model).requires_grad_(False), rate
        self.affine: list[nn.Parameter] = []
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                # without running statistics a layer takes the batch's, in eval mode too
                module.track_running_stats, module.running_mean, module.running_var = False, None, None
                self.affine += module.requires_grad_().parameters()
        expect("model", "no batch-norm layer with scale and shift", self.affine, "one to adapt")
        self.start = copy.deepcopy(self.model.state_dict())
        self.reset()

    def reset(self) -> None:
        """Forgets all steps."""
        self.model.load_state_dict(self.start)
        self.optimizer = torch.optim.Adam(self.affine, self.rate)

    def forward(self, images: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.set_grad_enabled(self.rate > 0):
            logits = logits_of(self.model(images.detach().clone()))
            if self.rate > 0:
                log_y = logits.log_softmax(1)
                self.optimizer.zero_grad()
                (-(log_y.exp() * log_y).sum(1).mean()).backward()
                self.optimizer.step()
        return logits.detach()
