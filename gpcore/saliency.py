"""Where in an image a unit's activation comes from: gradients by three rules, occlusion, and what GrabCut makes of it.

A thin use of captum and OpenCV, which `pip install gpcore[saliency]` brings.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gpcore.checks import check_images, expect, logits_of
from gpcore.cut import activations
from gpcore.progress import progress

Read = Callable[[Tensor], Tensor]  # of what a module returns: B numbers, one of each image
RULES = {"gradient": "Saliency", "deconvnet": "Deconvolution", "guided": "GuidedBackprop"}  # captum's names


class _Reader(nn.Module):
    """B numbers that `read` finds in what the network, or its module `at`, returns."""

    def __init__(self, network: nn.Module, read: Read, at: str) -> None:
        super().__init__()
        self.network, self.read, self.at = network, read, at

    def forward(self, images: Tensor) -> Tensor:
        return self.read(activations(self.network, images, self.at))


def attribute(network: nn.Module, images: Tensor, read: Read, *, rule: str = "gradient", at: str = "") -> Tensor:
    """What B x C x H x W images contribute to `read`'s number of each: B x C x H x W, sent back by a rule for ReLUs.

    With f what enters a ReLU and R what comes back to its output, it sends on (f > 0) R by the "gradient", (R > 0) R by
    the "deconvnet" and (f > 0) (R > 0) R, "guided". `read` is given the logits, or what the module `at` returns: see
    `log_probability`, `score` and `unit`. ReLUs are found as modules `nn.ReLU`, not in place; hooks lie on the network
    meanwhile.  Raises ValueError: images, unknown rule; AttributeError: no module `at`.
    Source: Zeiler and Fergus 2014; Simonyan et al. 2014; Springenberg et al., Striving for Simplicity, 2015, fig. 1.
    """
    from captum import attr

    check_images(images)
    expect("rule", repr(rule), rule in RULES, f"one of {', '.join(RULES)}")
    method = getattr(attr, RULES[rule])(_Reader(network, read, at))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks|Input Tensor", UserWarning)
        found: Tensor = method.attribute(images.detach().clone(), **({"abs": False} if rule == "gradient" else {}))
    return found.detach()


def log_probability(classes: Sequence[int]) -> Read:
    """The log of the probability of any of some classes, from B x K logits."""
    return lambda logits: logits[:, list(classes)].logsumexp(1) - logits.logsumexp(1)


def score(cls: int) -> Read:
    """The score of a class before the softmax, from B x K logits."""
    return lambda logits: logits[:, cls]


def unit(channel: int, place: tuple[int, int] | None = None) -> Read:
    """A unit of B x C x h x w activations: of a channel at (row, column), or where each image excites it most."""
    if place is None:
        return lambda h: h[:, channel].flatten(1).amax(1)
    return lambda h: h[:, channel, place[0], place[1]]


def magnitude(attribution: Tensor) -> Tensor:
    """M = max_c |w|, B x H x W of B x C x H x W: how much a pixel matters, whichever its colour (Simonyan et al.)."""
    return attribution.abs().amax(1)


def occlusion(
    network: nn.Module, image: Tensor, classes: Sequence[int], size: int, stride: int, *, value: float = 0.0
) -> Tensor:
    """The probability of any of some classes while a square of `value` hides this or that of a C x H x W image.

    Rows x columns: at [r, c] the square's upper left corner is at (r, c) x stride; it is `size` pixels wide and always
    within the image.  Raises ValueError: size or stride that do not fit.
    Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 4.2.
    """
    check_images(image[None])
    height, width = image.shape[-2:]
    expect("size", size, 1 <= size <= min(height, width), f"1 to {min(height, width)}")
    expect("stride", stride, stride >= 1, "at least 1")
    rows, columns = (range(0, n - size + 1, stride) for n in (height, width))
    places = [(y, x) for y in rows for x in columns]
    found = []
    with torch.inference_mode():
        for start in progress(range(0, len(places), 16), desc="occlusion"):
            batch = image.repeat(len(places[start : start + 16]), 1, 1, 1)
            for each, (y, x) in zip(batch, places[start : start + 16], strict=True):
                each[:, y : y + size, x : x + size] = value
            found.append(logits_of(network(batch)).softmax(1)[:, list(classes)].sum(1))
    return torch.cat(found).view(len(rows), len(columns)).clone()


def grabcut(image: Tensor, saliency: Tensor, *, steps: int = 5, seed: int = 0) -> Tensor:
    """The object, H x W bool, that GrabCut cuts out of a 3 x H x W image in [0, 1] when H x W saliency seeds it.

    The object's colours come from the most salient 5 % of the pixels, the ground's from the least salient 30 %; what
    lies between may be either.
    Source: Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2014, section 3.2.
    """
    import cv2
    import numpy as np

    check_images(image[None])
    expect("saliency", f"shape {[*saliency.shape]}", saliency.shape == image.shape[1:], f"{[*image.shape[1:]]}")
    mask = np.full(saliency.shape, cv2.GC_PR_BGD, np.uint8)
    mask[(saliency <= saliency.quantile(0.3)).numpy()] = cv2.GC_BGD
    mask[(saliency >= saliency.quantile(0.95)).numpy()] = cv2.GC_FGD
    pixels = np.ascontiguousarray((255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy())
    cv2.setRNGSeed(seed)
    models = np.zeros((1, 65)), np.zeros((1, 65))  # of the ground and of the object: room that it works in
    cut, *_ = cv2.grabCut(pixels, mask, (0, 0, 0, 0), *models, steps, cv2.GC_INIT_WITH_MASK)
    return torch.from_numpy((cut == cv2.GC_FGD) | (cut == cv2.GC_PR_FGD))
