"""The one way to refuse an argument, and what many functions expect of theirs."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

MEANT = "If that is meant, check=False keeps this silent."


def expect(name: str, got: object, holds: object, expected: str) -> None:
    """Raises ValueError unless what was expected of an argument holds."""
    if not holds:
        raise ValueError(f"{name}: got {got}, expected {expected}")


def check_images(images: Tensor) -> tuple[float, float]:
    """The least and the largest value of finite floats B x C x H x W, inf and -inf of none.  Raises ValueError."""
    found = f"{images.dtype} of shape {[*images.shape]}" if isinstance(images, Tensor) else type(images).__name__
    right = isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4
    expect("images", found, right, "floats B x C x H x W")
    low, high = (value.item() for value in images.aminmax()) if images.numel() else (math.inf, -math.inf)
    expect("images", "NaN or infinite values", high - low < math.inf, "finite ones")
    return low, high


def check_classes(labels: Tensor) -> None:
    """Raises ValueError unless these are integers."""
    kind = labels.dtype if isinstance(labels, Tensor) else None
    right = kind and kind != torch.bool and torch.can_cast(kind, torch.int64)
    expect("labels", kind or type(labels).__name__, right, "integer classes")


def warn_of_units(images: Tensor, logits: Tensor) -> Literal[False]:
    """Warns of images far outside [0, 1] and of probabilities in the place of logits: seldom meant, but no errors."""
    low, high = check_images(images)
    if low < -0.5 or high > 1.5:
        seen = "bytes" if high > 15 else "normalised images"
        found = f"images: got values as of {seen}, expected [0, 1]; epsilon is in their units."
        warnings.warn(f"{found} {MEANT}", stacklevel=2)
    if logits.numel() and logits.min() >= 0:
        binary = logits.shape[1] == 2 and not logits[:, 0].any()
        if logits.max() <= 1 if binary else (logits.sum(1) - 1).abs().max() < 1e-2:
            found = "model: its outputs look like probabilities, expected logits, before the softmax or sigmoid."
            warnings.warn(f"{found} {MEANT}", stacklevel=2)
    return False


def logits_of(output: Any) -> Tensor:
    """Logits B x K or B x K x h x w, in single precision or better; one channel z becomes [0, z], which is binary.

    They are a model's output, its "out" or "logits" (key or attribute), or the first of a tuple or list.
    Raises ValueError: anything else, or logits that are not finite.
    """
    logits = getattr(output, "logits", output)
    if isinstance(output, Mapping):
        logits = output.get("out", output.get("logits"))
    elif isinstance(logits, tuple | list):
        logits = logits[0] if logits else None
    found = f"{logits.dtype} of shape {[*logits.shape]}" if isinstance(logits, Tensor) else type(output).__name__
    right = isinstance(logits, Tensor) and logits.is_floating_point() and logits.dim() in (2, 4)
    expected = 'float logits B x K or B x K x h x w, alone, as "out" or "logits", or first in a tuple'
    expect("model", f"an output of {found}", right, expected)
    logits = single(logits)
    expect("model", "logits with NaN or infinite values", finite(logits.detach()), "finite ones")
    return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], 1)


def finite(tensor: Tensor) -> bool:
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())  # a sum is soon told, but may overflow


def single(tensor: Tensor) -> Tensor:
    """In single precision at least, in which perturbations far below one are still exact."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
