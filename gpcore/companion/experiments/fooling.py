"""Fooled networks: how small a nudge need be, ostriches, confident noise, transfer, and attacks that outlive a turn."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from gpcore import metrics
from gpcore.attacks import bim, clip, cross_entropy, projected_gradient, wide
from gpcore.datasets.photographs import categories, photograph
from gpcore.gradient import as_generator, differentiable, normalise
from gpcore.metrics import Interval

View = Callable[[Tensor], Tensor]
GREY = 255  # levels of grey, in which the sizes of nudges are told
NUDGES = tuple(2.0**k / GREY for k in range(-9, 8))  # each twice the one before: from a 512th of a level to half of all


def answers(network: nn.Module, images: Tensor) -> Tensor:
    """Probabilities B x K, image by image: large ones run faster alone."""
    with torch.no_grad():
        return torch.cat([network(image).softmax(1) for image in images.split(1)])


def told(probabilities: Tensor) -> list[str]:
    """The most likely of ImageNet's classes in words, each with its probability: "ostrich .996"."""
    best = probabilities.max(1)
    return [f"{categories()[i]} {short(p)}" for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def short(p: float) -> str:
    """A probability as short as may be, never rounded to one: ".37", ".996", "> .998"."""
    return "> .998" if p > 0.9985 else f"{p:.{2 if p < 0.985 else 3}f}".removeprefix("0")


def margins(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By how much the best logit exceeds the second, B, the gradient of that, B x C x H x W, and the best classes."""
    logits, backward = differentiable(network, images)
    best = logits.topk(2, 1)
    signal = torch.zeros_like(logits).scatter_(1, best.indices, torch.tensor([[1.0, -1.0]]).repeat(len(logits), 1))
    return best.values[:, 0] - best.values[:, 1], backward(signal), best.indices[:, 0]


def in_blocks(gradient: Tensor, block: int) -> Tensor:
    """Sums over block x block pixels, at every one of them: the gradient where these must move together."""
    side = gradient.shape[-1] // block
    sums = nn.functional.avg_pool2d(gradient, block) * block**2
    return sums.view(*sums.shape[:2], side, 1, side, 1).expand(-1, -1, -1, block, -1, block).reshape(gradient.shape)


def needed_rows(network: nn.Module, images: Mapping[str, Tensor], block: int = 1) -> pd.DataFrame:
    """Of each image the smallest of NUDGES at which one sign step changes the network's own answer, and what a linear
    network would need: margin / ||gradient||_1. With a `block`, as many pixels squared must move together.

    Levels of 255; where no nudge is enough, twice the last. Tried are those above a quarter of the linear network's.
    """
    rows = []
    for name, image in images.items():
        margin, gradient, known = margins(network, image[None])
        gradient = in_blocks(gradient, block)
        linear = (margin / (gradient.abs().sum() / block**2)).item()
        worth = (e for e in NUDGES if e > linear / 4)
        tried = (
            e for e in worth if answers(network, clip(image[None] - e * gradient.sign(), (0, 1))).argmax() != known
        )
        size, dims = image.shape[-1], 3 * (image.shape[-1] // block) ** 2
        rows.append((name, size, block, dims, GREY * next(tried, 2 * NUDGES[-1]), GREY * linear, margin.item()))
    return pd.DataFrame(rows, columns=["photograph", "size", "block", "dims", "needed", "linear", "margin"])


def fall(rows: pd.DataFrame, value: str = "needed") -> Interval:
    """How many times the nudge halves while the dimensions double, the least-squares slope, mean over photographs."""
    table = rows.assign(log=torch.tensor(rows[value].to_numpy()).log2().numpy())
    logs = torch.tensor(table.pivot(index="photograph", columns="dims", values="log").to_numpy())
    x = torch.tensor(sorted(rows["dims"].unique()), dtype=torch.double).log2()
    x = x - x.mean()
    return metrics.mean(-(logs * x).sum(1) / x.square().sum())


def typical(rows: pd.DataFrame, value: str, by: str = "dims") -> pd.DataFrame:
    """Geometric mean over photographs with its interval, for every value of `by`."""
    found = []
    for key, part in rows.groupby(by):
        found.append((key, *(math.exp(end) for end in metrics.mean(torch.tensor(part[value].to_numpy()).log()))))
    return pd.DataFrame(found, columns=[by, "value", "low", "high"])


def photographs(names: Iterable[str], size: int) -> dict[str, Tensor]:
    return {name: photograph(name, size) for name in names}


def ostrich_rows(
    networks: Mapping[str, nn.Module], found: Mapping[str, Tensor], names: Sequence[str], target: int
) -> pd.DataFrame:
    """What each network answers to each picture (B x 3 x H x W for each state), and its probability of the target."""
    rows = []
    for label, network in networks.items():
        for state, images in found.items():
            p = answers(network, images)
            pairs = zip(names, told(p), p[:, target].tolist(), strict=True)
            rows += [(label, state, name, answer, chance) for name, answer, chance in pairs]
    return pd.DataFrame(rows, columns=["network", "state", "photograph", "answer", "target"])


def stepped(images: Tensor, gradient: Tensor, epsilon: float, kind: str) -> Tensor:
    """Images moved along a gradient by its "sign", or along "raw" itself, scaled to the same largest change, or along
    "raw, l2", scaled to the length that the sign step has."""
    step = gradient.sign() if kind == "sign" else gradient / wide(gradient.flatten(1).abs().amax(1).clamp_min(1e-30))
    if kind == "raw, l2":
        step = normalise(gradient, "l2") * wide(gradient.sign().flatten(1).norm(dim=1))
    return clip(images + epsilon * step, (0, 1))


def sign_rows(network: nn.Module, images: Tensor, labels: Tensor, epsilons: Sequence[float]) -> pd.DataFrame:
    """One row per digit that the network reads rightly, ε and kind of step: whether it is fooled, 0 or 1."""
    _, gradient = cross_entropy(network, labels)(images)
    rows = []
    with torch.no_grad():
        right = network(images).argmax(1) == labels
        for epsilon in epsilons:
            for kind in ("sign", "raw", "raw, l2"):
                wrong = (network(stepped(images, gradient, epsilon, kind)).argmax(1) != labels)[right]
                rows.append(
                    pd.DataFrame({"image": range(len(wrong)), "epsilon": epsilon, "method": kind, "fooled": wrong})
                )
    return pd.concat(rows).astype({"fooled": float})


def transfer_rows(
    makers: Mapping[str, nn.Module],
    judges: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
) -> pd.DataFrame:
    """For each ε one row per judge, digit and maker of the examples, or "random signs": right before, 0 or 1, and
    after. Examples are `attacks.bim`'s, ten steps."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()
    rows = []
    for epsilon in epsilons:
        shown = {"random signs": clip(images + epsilon * noise, (0, 1))}
        shown |= {name: bim(maker, images, labels, epsilon).images for name, maker in makers.items()}
        for judge, network in judges.items():
            with torch.no_grad():
                before = (network(images).argmax(1) == labels).double()
                for maker, attacked in shown.items():
                    after = (network(attacked).argmax(1) == labels).double()
                    given: dict[str, Any] = {"epsilon": epsilon, "judge": judge, "maker": maker}
                    rows.append(pd.DataFrame({**given, "image": range(len(images)), "before": before, "after": after}))
    return pd.concat(rows, ignore_index=True)


def drops(rows: pd.DataFrame) -> pd.DataFrame:
    """Points of accuracy that each maker's examples cost each judge, with the interval over digits."""
    lost = rows.assign(drop=100 * (rows["before"] - rows["after"]))
    keys = ["epsilon", "judge", "maker"]
    found = [(*key, *metrics.mean(torch.tensor(p["drop"].to_numpy()))) for key, p in lost.groupby(keys, sort=False)]
    return pd.DataFrame(found, columns=[*keys, "drop", "low", "high"])


def share(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], white: tuple[str, str], epsilon: float) -> Interval:
    """The drop of (judge, maker), mean over some pairs, in per cent of that of the `white` pair; paired over digits."""
    part = rows[rows["epsilon"] == epsilon].assign(drop=lambda r: r["before"] - r["after"])
    by = {key: torch.tensor(p["drop"].to_numpy()) for key, p in part.groupby(["judge", "maker"])}
    theirs = torch.stack([by[pair] for pair in pairs]).mean(0)
    return metrics.bootstrap(lambda a, b: 100 * a / b, theirs, by[white])


def confident(
    network: nn.Module, noise: Tensor, classes: Tensor, limit: float, step_size: float, *, rounds: int = 8
) -> tuple[Tensor, Tensor]:
    """Noise moved by sign steps, without a bound but [0, 1], until its class has a probability above the limit.

    Ten steps make a round; after each those that are there stay as they were best, and steps get shorter by a tenth.
    Returns the images and the steps of each, B.
    """
    images, steps, left = noise.clone(), torch.zeros(len(noise), dtype=torch.long), torch.arange(len(noise))
    for number in range(rounds):
        options: dict[str, Any] = {"epsilon": math.inf, "step_size": step_size * 0.9**number, "steps": 10, "best": True}
        parts = [projected_gradient(cross_entropy(network, classes[i]), images[i], **options) for i in left.split(4)]
        images[left], losses = torch.cat([part.images for part in parts]), torch.cat([p.losses for p in parts], 1)
        steps[left] += 10
        left = left[losses.amin(0) >= -math.log(limit)]
        if not len(left):
            break
    return images, steps


def exact_share(hits: Tensor) -> Interval:
    """The share of N hits in per cent with Clopper and Pearson's 95 % interval, which is wide even where all hit."""
    found = binomtest(int(hits.sum()), len(hits))
    ends = found.proportion_ci(method="exact")
    return Interval(100 * found.statistic, 100 * ends.low, 100 * ends.high)


def view(turn: float, zoom: float = 1.0, light: float = 1.0) -> View:
    """A picture turned to the left by so many degrees, nearer by a factor, in other light; the border is mirrored."""
    cos, sin = math.cos(math.radians(turn)) / zoom, math.sin(math.radians(turn)) / zoom
    frame = torch.tensor([[cos, -sin, 0], [sin, cos, 0]])

    def seen(images: Tensor) -> Tensor:
        places = affine_grid(frame.to(images).expand(len(images), 2, 3), list(images.shape), align_corners=False)
        return (light * grid_sample(images, places, padding_mode="reflection", align_corners=False)).clamp(0, 1)

    return seen


def drawn_views(count: int, seed: int | torch.Generator, *, turn: float = 30, spread: float = 0.2) -> list[View]:
    """Views at random: turned by up to `turn` degrees either way, zoom and light between 1 - spread and 1 + spread."""
    drawn = 2 * torch.rand(count, 3, generator=as_generator(seed)) - 1
    return [view(turn * a, 1 + spread * b, 1 + spread * c) for a, b, c in drawn.tolist()]


def view_rows(
    network: nn.Module, pictures: Mapping[str, Tensor], views: Mapping[Any, View], target: int
) -> pd.DataFrame:
    """The probability of the target and the answer to each picture, 1 x 3 x H x W, under each view."""
    rows: list[tuple[Any, ...]] = []
    for name, image in pictures.items():
        p = answers(network, torch.cat([seen(image) for seen in views.values()]))
        rows += zip([name] * len(p), views, told(p), p[:, target].tolist(), strict=True)
    return pd.DataFrame(rows, columns=["method", "image", "answer", "target"])
