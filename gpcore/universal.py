"""Universal adversarial perturbations: one small change that makes a network err on most images.

With data, UAP; without, GD-UAP. `fooling_rate` tells how well one does.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gpcore.attacks import Bounds, check_bounds, clip, project, random_noise
from gpcore.checks import check_images, expect, logits_of, single
from gpcore.cut import Cut
from gpcore.gradient import as_generator
from gpcore.minimal import deepfool
from gpcore.progress import progress
from gpcore.untouched import hooked, untouched

EPSILON = 10 / 255  # of both papers
PART = 100  # images that are predicted at once


class Universal(NamedTuple):
    """A perturbation C x H x W; UAP's fooling rate after each pass, or GD-UAP's objective before each step."""

    perturbation: Tensor
    history: tuple[float, ...]


def uap(
    model: nn.Module,
    images: Tensor,
    *,
    epsilon: float = EPSILON,
    norm: str = "linf",
    rate: float = 0.8,
    passes: int = 10,
    steps: int = 10,
    share: float = 0.5,
    bounds: Bounds = (0.0, 1.0),
    seed: int | torch.Generator = 0,
    **options: Any,
) -> Universal:
    """One perturbation v: for every image x that v does not fool yet, v <- project(v + DeepFool(x + v) - (x + v)).

    Goes through N x C x H x W images, each time in a new order, until `fooling_rate` reaches `rate`, or for `passes`
    and returns the best. x + v is clipped to `bounds`; labels are the network's own; other options are `deepfool`'s.
    Source: Moosavi-Dezfooli et al., Universal Adversarial Perturbations, algorithm 1; settings of the released code.
    """
    check_bounds(images, bounds, epsilon, norm)
    expect("passes", passes, passes >= 1, "at least 1")
    images, labels, rates = images.detach(), _predict(model, images), list[float]()
    v = best = torch.zeros(1, *images.shape[1:], device=images.device)
    options = {"steps": steps, "share": share, "bounds": bounds, "void": -1} | options
    generator = as_generator(seed)
    while len(images) and len(rates) < passes and max(rates, default=0.0) < rate:
        order = torch.randperm(len(images), generator=generator, device=generator.device).tolist()
        for i in progress(order, desc=f"UAP, pass {len(rates) + 1}"):
            x = clip(images[i : i + 1] + v, bounds).to(images)  # v is in single precision, the model perhaps not
            found = deepfool(model, x, labels[i : i + 1], **options)
            if found.fooled:  # where v did so before, nothing has moved
                v = project(v + found.images - x, epsilon, norm)
        rates.append(fooling_rate(model, images, v[0], share=share, bounds=bounds))
        best = v if rates[-1] >= max(rates) else best
    return Universal(best[0], tuple(rates))


def fooling_rate(
    model: nn.Module, images: Tensor, perturbation: Tensor, *, share: float = 0.5, bounds: Bounds = (0.0, 1.0)
) -> float:
    """The fraction of N x C x H x W images whose prediction a C x H x W perturbation changes in a `share` of pixels."""
    check_bounds(images, bounds)
    before, after = _predict(model, images), _predict(model, clip(images + perturbation, bounds).to(images))
    return ((before != after).unsqueeze(-1).flatten(1).double().mean(1) >= share).double().mean().item()


@untouched
def gd_uap(
    model: nn.Module,
    background: Tensor,
    *,
    epsilon: float = EPSILON,
    at: Sequence[str] = (),
    steps: int = 1000,
    seed: int | torch.Generator = 0,
) -> Universal:
    """A perturbation v without data: it excites all layers a_i, minimising -sum_i log(||a_i(background + v)||^2 / 2).

    a_i is what the modules `at` return, or all ReLUs; the background, C x H x W, stands for any image: the mean colour,
    say. Adam from uniform noise, its rate epsilon / 100 (the code's .1 for 10), |v| <= epsilon; where over half of v
    is at +-epsilon and that share hardly changes, v is halved. Returns the v of least objective: no data to judge by.
    Source: Mopuri, Ganeshan, Babu: Generalizable Data-free Objective, eq. 3; settings of the released code.
    """
    check_images(background.unsqueeze(0))
    expect("epsilon", epsilon, 0 < epsilon < math.inf, "a finite number above 0")
    expect("steps", steps, steps >= 1, "at least 1")
    modules, terms, history = dict(model.named_modules()), list[Tensor](), list[float]()
    names = at or [name for name, module in modules.items() if isinstance(module, nn.ReLU)]
    expect("at", list(at), names and {*names} <= {*modules}, "names of modules, or a model with ReLUs")

    def excited(output: Tensor) -> None:
        terms.append((single(output).square().sum() / 2).clamp_min(torch.finfo(torch.float32).tiny).log())

    cut = Cut(model, background.unsqueeze(0).contiguous(memory_format=torch.channels_last))
    v = random_noise(cut.place, epsilon, "linf", seed=seed).requires_grad_()
    adam, best, saturation = torch.optim.Adam([v], lr=epsilon / 100), v.detach(), 0.0
    for _ in progress(range(steps), desc="GD-UAP"):
        terms.clear()
        with contextlib.ExitStack() as hooks:
            for name in names:
                hooks.enter_context(hooked(modules[name], excited))
            cut(cut.place + v)
        expect("at", list(at), terms, "modules that the model calls")
        objective = -torch.stack(terms).sum()
        history.append(objective.item())
        expect("model", f"an objective of {history[-1]}", math.isfinite(history[-1]), "finite activations")
        if history[-1] <= min(history):
            best = v.detach().clone()
        v.grad = torch.autograd.grad(objective, v)[0]
        adam.step()
        with torch.no_grad():
            v.clamp_(-epsilon, epsilon)
            before, saturation = saturation, (v.abs() >= epsilon).double().mean().item()
            if saturation > 0.5 and abs(saturation - before) < 1e-5:  # the code's limits
                v /= 2
    return Universal(best[0], tuple(history))


@untouched
def _predict(model: nn.Module, images: Tensor) -> Tensor:
    cut = Cut(model, images)
    with torch.no_grad():
        return torch.cat([logits_of(cut(part)).max(1).indices for part in images.split(PART)])
