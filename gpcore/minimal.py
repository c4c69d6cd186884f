"""The smallest changes of images that make a network err: DeepFool and L-BFGS."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from gpcore.attacks import Bounds, check_bounds, clip, cross_entropy, norms, wide
from gpcore.checks import check_classes, expect, logits_of
from gpcore.cut import Cut, Rest
from gpcore.gradient import differentiable, normalise, pseudo_labels
from gpcore.progress import progress
from gpcore.untouched import untouched

BEYOND = 1e-4  # by which DeepFool steps over a border: where images are clipped it may else never get there
LEAST_C = 1e-5  # foolbox's, to which L-BFGS finds its weight


class Adversarial(NamedTuple):
    """Images moved as little as an attack could, and where it succeeded, B; elsewhere they are its last try."""

    images: Tensor
    fooled: Tensor


def fooled(logits: Tensor, labels: Tensor, *, targeted: bool = False, void: int = 255) -> Tensor:
    """The share of each image's non-void pixels whose class is not the label's (targeted: is it), B.

    Without pixels, logits B x K, it is 0 or 1.
    """
    target = pseudo_labels(logits, labels, void=void)
    known = target.sum(1) > 0
    hit = known & ((logits.max(1).indices == target.max(1).indices) == targeted)
    hits, pixels = (each.unsqueeze(-1).flatten(1).sum(1) for each in (hit, known))
    return hits / pixels.clamp_min(1)


@untouched
def deepfool(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    candidates: int = 10,
    overshoot: float = 0.02,
    steps: int = 50,
    share: float = 0.5,
    bounds: Bounds = (0.0, 1.0),
    void: int = 255,
) -> Adversarial:
    """To the nearest border of the label's class as if the network were affine, repeatedly: r <- r + d w / ||w||.

    f = z_k - z_label, w its gradient at x + (1 + overshoot) r, d = |f| / ||w|| + 1e-4. Of the `candidates` best
    classes, the label's among them, k is the one with the least d. A segmentation network's f is summed over the pixels
    not yet fooled, k counting each pixel's own best classes; an image is fooled once a `share` of its pixels is.
    Source: Moosavi-Dezfooli, Fawzi, Frossard: DeepFool, algorithm 2; settings from the released code.
    """
    _check(images, labels, bounds, share)
    expect("candidates", candidates, candidates >= 2, "at least 2")
    expect("steps", steps, steps >= 1, "at least 1")
    cut = Cut(model, images)
    x, moved, others = (images := cut.place), torch.zeros_like(images), labels
    for step in range(steps + 1):
        logits, backward = differentiable(cut, x)
        done = fooled(logits, labels, void=void) >= share
        target = pseudo_labels(logits, labels, void=void)
        if step == 0:
            others = _without(target, logits).topk(min(candidates, logits.shape[1]) - 1, 1).indices
        if done.all() or step == steps:
            break
        pending = target * (logits.max(1).indices == target.max(1).indices).unsqueeze(1)
        nearest, least = torch.zeros_like(x), torch.full_like(norms(x), math.inf)
        for k in others.unbind(1):
            signal = pseudo_labels(logits, k, void=-1) * pending.sum(1, keepdim=True) - pending
            gradient = backward(signal, again=True)
            # no number where the gradient is zero, and never less
            distance = wide((signal * logits).flatten(1).sum(1).abs()) / norms(gradient)
            nearest = torch.where(distance < least, (distance + BEYOND) * normalise(gradient, "l2"), nearest)
            least = torch.where(distance < least, distance, least)
        moved = moved + nearest
        x = torch.where(wide(done), x, clip(images + (1 + overshoot) * moved, bounds))
    return Adversarial(x, done)


@untouched
def lbfgs(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    targeted: bool = False,
    iterations: int = 150,
    share: float = 0.5,
    bounds: Bounds = (0.0, 1.0),
    void: int = 255,
) -> Adversarial:
    """The least c at which the minimum of mean((x - image)^2) + c CE(x, target), found by L-BFGS-B, fools the network.

    c doubles from 2e-5, 30 times at most, and is then bisected to 1e-5. Untargeted, every pixel's target is the best
    class but its label; a `share` of fooled pixels makes an image fooled.
    Source: Szegedy et al., Intriguing Properties of Neural Networks, section 4.1; settings from foolbox.
    """
    _check(images, labels, bounds, share)
    expect("iterations", iterations, iterations >= 1, "at least 1")
    cut = Cut(model, images)
    pairs = zip(progress(cut.place.split(1), desc="L-BFGS"), labels.to(images.device).split(1), strict=True)
    found = [_lbfgs(cut, *pair, targeted, iterations, share, bounds, void) for pair in pairs]
    return Adversarial(*map(torch.cat, zip(*found, strict=True)))


def _lbfgs(
    rest: Rest, image: Tensor, label: Tensor, targeted: bool, iterations: int, share: float, bounds: Bounds, void: int
) -> Adversarial:
    def predict(x: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(rest(x))

    def attempt(c: float) -> Adversarial:
        def value(flat: Any) -> tuple[float, Any]:
            loss, gradient = objective(torch.from_numpy(flat).view_as(image).to(image))
            slope = 2 * (flat - start) / start.size + c * gradient.flatten().double().cpu().numpy()
            # the optimiser's tolerance is relative to 1 at least, and the least c makes values far below
            return 1e10 * (np.mean((flat - start) ** 2) + c * loss.item()), 1e10 * slope

        flat = optimize.minimize(value, start, jac=True, method="L-BFGS-B", bounds=box, options=options).x
        x = torch.from_numpy(flat).view_as(image).to(image)
        return Adversarial(x, fooled(predict(x), label, targeted=targeted, void=void) >= share)

    logits, start = predict(image), image.flatten().double().cpu().numpy()
    other = _without(pseudo_labels(logits, label, void=void), logits).max(1).indices.where(label != void, void)
    objective = cross_entropy(rest, label if targeted else other, void=void)
    box, options = bounds and optimize.Bounds(*bounds), {"maxcor": 15, "maxiter": iterations}  # 15: foolbox's memory
    found, low, high = Adversarial(image, fooled(logits, label, targeted=targeted, void=void) >= share), 0.0, 0.0
    while not found.fooled.all() and high < 2**30 * LEAST_C:  # its 30 doublings
        low, high = high, 2 * (high or LEAST_C)
        found = attempt(high)
    while found.fooled.all() and high - low >= LEAST_C:
        middle = (low + high) / 2
        tried = attempt(middle)
        found, low, high = (tried, low, middle) if tried.fooled else (found, middle, high)
    return found


def _without(target: Tensor, logits: Tensor) -> Tensor:
    return logits.masked_fill(target > 0, -math.inf)


def _check(images: Tensor, labels: Tensor, bounds: Bounds, share: float) -> None:
    check_bounds(images, bounds)
    check_classes(labels)
    expect("labels", f"{len(labels)} of them", len(labels) == len(images), f"one per image, {len(images)}")
    expect("share", share, 0 < share <= 1, "0 < share <= 1")
