"""Maps of what moved a network, what is left of them when its weights are shuffled, and what cancels on the way."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor, nn

from gpcore import metrics, saliency
from gpcore.companion.studies import Study
from gpcore.progress import progress

Shuffle = Callable[[nn.Module, torch.Generator], None]
Stops = Mapping[str, Sequence[str]]  # layers by the name of the stop that follows them


def own_class(network: nn.Module, images: Tensor) -> saliency.Read:
    """Reads the log-probability of the class that the network holds most likely for each image, found beforehand."""
    with torch.no_grad():
        top = network(images).argmax(1, keepdim=True)
    return lambda logits: logits.log_softmax(1).gather(1, top)[:, 0]


def lowest(left: Tensor) -> tuple[int, int]:
    """(row, column) of the least of h x w values."""
    return divmod(int(left.argmin()), left.shape[1])


def blurred(maps: Tensor, deviation: float = 3.0) -> Tensor:
    """B x H x W maps under a Gaussian of that standard deviation, in pixels."""
    return torch.from_numpy(gaussian_filter(maps.numpy(), (0, deviation, deviation)))


def cascade(network: nn.Module, stops: Stops, shuffle: Shuffle, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """The network itself as "trained"; then, at every stop, one copy of it in which all layers named so far, one after
    the other, were shuffled."""
    yield "trained", network
    changed, draw = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for stop, layers in progress(stops.items(), desc="cascade"):
        for layer in layers:
            shuffle(changed.get_submodule(layer), draw)
        yield stop, changed


def ranks(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of the magnitudes of B x C x H x W attributions, image by image."""
    pairs = zip(saliency.magnitude(first), saliency.magnitude(second), strict=True)
    return torch.tensor([float(spearmanr(a.flatten(), b.flatten()).statistic) for a, b in pairs])


def cascade_rows(network: nn.Module, images: Tensor, stops: Stops, shuffle: Shuffle) -> pd.DataFrame:
    """How each rule's map of each image's own class ranks with the trained network's at every stop of a cascade.

    Columns rule, stop, image, rank. `stops` names the layers that are shuffled on the way to each from the one before.
    """
    read, own, rows = own_class(network, images), dict[str, Tensor](), []
    for stop, state in cascade(network, stops, shuffle):
        for rule in saliency.RULES:
            found = saliency.attribute(state, images, read, rule=rule)
            rows += [(rule, stop, i, rank) for i, rank in enumerate(ranks(own.setdefault(rule, found), found).tolist())]
    return pd.DataFrame(rows, columns=["rule", "stop", "image", "rank"])


def cascade_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over images of every rule and stop of `cascade_rows` with its interval, columns rule, stop, mean, ..."""
    table = [
        (*key, *metrics.mean(torch.tensor(part["rank"].to_numpy())))
        for key, part in rows.groupby(["rule", "stop"], sort=False)
    ]
    return pd.DataFrame(table, columns=["rule", "stop", "mean", "low", "high"])


def above_gradient(rows: pd.DataFrame, rule: str, stop: str) -> metrics.Interval:
    """By how much a rule's ranks exceed the gradient's at a stop of `cascade_rows`, paired over the images."""
    wide = rows[rows["stop"] == stop].pivot(index="image", columns="rule", values="rank")
    return metrics.mean(torch.tensor((wide[rule] - wide["gradient"]).to_numpy()))


@contextlib.contextmanager
def relus(network: nn.Module, rule: str) -> Iterator[None]:
    """Meanwhile the network's ReLUs send back by the "gradient" or, "guided", only what is positive of it."""
    found = [m for m in network.modules() if isinstance(m, nn.ReLU) and rule == "guided"]
    hooks = [m.register_full_backward_hook(_positive) for m in found]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _positive(module: nn.Module, into: Any, out: Any) -> Any:
    return (into[0].clamp(min=0),)


def tiles(height: int, width: int, count: int = 4) -> Tensor:
    """The places of a height x width map in count x count parts: count^2 x height x width of zeros and ones."""
    rows, columns = (torch.arange(n) * count // n for n in (height, width))
    return nn.functional.one_hot(rows[:, None] * count + columns, count * count).permute(2, 0, 1).float()


def contributions(network: nn.Module, images: Tensor, at: str, rule: str) -> Tensor:
    """What each part of the places of a module's map sends back to the input: 16 x B x C x H x W.

    The signal that comes back to the module from each image's log-probability of its own class is cut into `tiles`;
    each goes on to the input alone. By the rule "gradient" they add up to the gradient.
    """
    kept, leaf = list[Tensor](), images.clone().requires_grad_()
    read = own_class(network, images)
    hook = network.get_submodule(at).register_forward_hook(lambda *call: kept.append(call[-1]))
    with relus(network, rule):
        total = read(network(leaf)).sum()
        hook.remove()
        (signal,) = torch.autograd.grad(total, kept[0], retain_graph=True)
        parts = [
            torch.autograd.grad(kept[0], leaf, signal * part, retain_graph=True)[0]
            for part in progress(tiles(signal.shape[2], signal.shape[3]), desc=f"{rule}, {at}")
        ]
    return torch.stack(parts)


def left_over(parts: Tensor, seed: int | None = None) -> Tensor:
    """What share of P x B x C x H x W contributions is left when they are added: sum |sum_p g_p| over sum |g_p|, B.

    With a seed every part has a random sign first.
    """
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        parts = parts * torch.randn(len(parts), parts.shape[1], 1, 1, 1, generator=draw).sign()
    return parts.sum(0).abs().sum((1, 2, 3)) / parts.abs().sum((0, 2, 3, 4))


def left_rows(network: nn.Module, images: Tensor, modules: Mapping[str, str]) -> pd.DataFrame:
    """What is `left_over` of every image's parts, at some modules (by label): columns places, kind, image, left."""
    found = []
    for label, at in modules.items():
        gradient = contributions(network, images, at, "gradient")
        kinds = {"gradient": left_over(gradient), "random signs": left_over(gradient, 0)}
        kinds["guided"] = left_over(contributions(network, images, at, "guided"))
        found += [(label, kind, i, each) for kind, left in kinds.items() for i, each in enumerate(left.tolist())]
    return pd.DataFrame(found, columns=["places", "kind", "image", "left"])


def left_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over images of `left_rows` with their intervals: columns places, kind, left, low, high."""
    groups = rows.groupby(["places", "kind"], sort=False)["left"]
    table = [(*key, *metrics.mean(torch.tensor(part.to_numpy()))) for key, part in groups]
    return pd.DataFrame(table, columns=["places", "kind", "left", "low", "high"])


def digits(task: Study, count: int) -> tuple[Tensor, Tensor]:
    """The first test pictures of a study of digits, N x 1 x 28 x 28, and their classes."""
    x, y = (torch.cat(part) for part in zip(*task.batches("test", count), strict=True))
    return x, y
