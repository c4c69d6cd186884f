"""Who recognises images made from gradients, and whether a dream makes the rich richer."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from gpcore import dreams
from gpcore.attacks import random_noise
from gpcore.companion.experiments.inpainting import high_frequency
from gpcore.companion.report import Panel
from gpcore.cut import activations
from gpcore.datasets.photographs import categories, photograph

# the lecture's; "washer" is its washing machine
SIX = ("washer", "computer keyboard", "kit fox", "goose", "ostrich", "limousine")


def chosen(count: int) -> Tensor:
    """The lecture's six classes and, of ImageNet's thousand, every fiftieth from the 25th on, `count` in all."""
    names = categories()
    rest = [name for name in names[25::50] if name not in SIX]
    return torch.tensor([names.index(name) for name in (*SIX, *rest)][:count])


def judged(
    images: Mapping[str, Tensor], classes: Tensor, network: nn.Module, judge: nn.Module, size: int = 224
) -> pd.DataFrame:
    """Rows of image, class, method: the class's probability by the network that drew it, and its probability and rank
    by another, which sees it enlarged to `size`; high = the share of energy above a quarter of a cycle per pixel."""
    parts = []
    for method, each in images.items():
        known = classes[: len(each)]
        large = nn.functional.interpolate(each, (size, size), mode="bilinear")
        with torch.inference_mode():
            own, other = network(each).softmax(1), judge(large).softmax(1)
        p, q = (x.gather(1, known.unsqueeze(1)) for x in (own, other))
        columns = {"own": p[:, 0], "judge": q[:, 0], "rank": 1 + (other > q).sum(1), "high": high_frequency(each)}
        names = [categories()[i] for i in known]
        parts.append(pd.DataFrame({key: value.numpy() for key, value in columns.items()}).assign(method=method))
        parts[-1].insert(0, "class", names)
        parts[-1].insert(0, "image", range(len(each)))
    return pd.concat(parts, ignore_index=True)


def ladder_panels(images: Mapping[str, Tensor], rows: pd.DataFrame, count: int) -> list[list[Panel]]:
    """A row for each of the first classes, a column for each method, the judge's probability above each image."""
    told = rows.set_index(["method", "image"])["judge"]
    return [
        [
            Panel("image", each[i], f"{method}\n{told[method, i]:.2f}" if not i else f"{told[method, i]:.2f}")
            for method, each in images.items()
        ]
        for i in range(count)
    ]


def class_panels(images: Tensor, rows: pd.DataFrame, width: int) -> list[list[Panel]]:
    """Images in rows of `width`, each with its class and the probabilities that its network and the judge give it."""
    told = [f"{row['class']}\nown {row.own:.4f}, judge {row.judge:.2f}" for _, row in rows.head(len(images)).iterrows()]
    panels = [Panel("image", image, title) for image, title in zip(images, told, strict=True)]
    return [panels[i : i + width] for i in range(0, len(panels), width)]


def richer(network: nn.Module, at: str, names: Sequence[str], size: int, step_size: float) -> pd.DataFrame:
    """For photographs, the rank correlation over active units of their activation and how it changes: by one step of a
    dream, and by a step of equal length at random."""
    images = torch.stack([photograph(name, size) for name in names])
    noise = random_noise(images, step_size * images[0].numel() ** 0.5, "l2")
    dreamt = dreams.dream(network, images, at, octaves=1, steps=1, step_size=step_size, jitter=0)
    rows = []
    with torch.inference_mode():
        before, *after = (
            activations(network, x, at).flatten(1) for x in (images, dreamt, (images + noise).clamp(0, 1))
        )
    for step, values in zip(("dream", "random"), after, strict=True):
        for name, h, new in zip(names, before, values, strict=True):
            on = h > 0
            rows.append((name, step, spearmanr(h[on], (new - h)[on]).statistic, (new.norm() / h.norm() - 1).item()))
    return pd.DataFrame(rows, columns=["image", "method", "correlation", "growth"])
