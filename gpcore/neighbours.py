"""Guided perturbation of classifiers: the label comes from the nearest training pictures in feature space.

Sankaranarayanan, Jain, Lim: Guided Perturbations, ICCV 2017, sections 3.1 and 4.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gpcore.perturb import guide, sweep

PART = 500  # pictures that are looked at together


def nearest(memory: Tensor, queries: Tensor, count: int) -> Tensor:
    """Rows of `memory` (M x D) nearest to each of `queries` (Q x D) by Euclidean distance, nearest first: Q x count."""
    memory = memory.double()
    found = [torch.cdist(part.double(), memory).topk(count, largest=False).indices for part in queries.split(PART)]
    return torch.cat(found)


def shares(classes: Tensor, count: int) -> Tensor:
    """The label distribution of Q x k neighbours' classes with equal weights: Q x `count`."""
    return nn.functional.one_hot(classes, count).float().mean(1)


def vote(classes: Tensor, count: int) -> Tensor:
    """The most frequent of Q x k neighbours' classes, nearest first; of equally frequent ones the nearest's: Q."""
    votes = nn.functional.one_hot(classes, count).sum(1)
    return classes.gather(1, votes.gather(1, classes).argmax(1, keepdim=True))[:, 0]


def interpolated(logits: Tensor, distribution: Tensor, weight: float) -> Tensor:
    """(1 - weight) softmax(logits) + weight * distribution, as Khandelwal et al., ICLR 2020."""
    return (1 - weight) * logits.softmax(1) + weight * distribution


def guided(network: nn.Module, pictures: Tensor, labels: Tensor, epsilons: Sequence[float]) -> Tensor:
    """Classes predicted after one step toward each of S label distributions (S x N x K), by each epsilon: E x S x N.

    The gradient for neighbours' averaged label is the average of their gradients. What occurs several times, and most
    neighbours agree, is run once.
    """
    count = labels.shape[1]
    index = torch.arange(count, dtype=labels.dtype).expand(len(labels), count).unsqueeze(-1)
    rows, places = torch.cat([index, labels], -1).flatten(0, 1).unique(dim=0, return_inverse=True)
    predicted = []
    for part in rows.split(PART):
        swept = sweep(network, pictures[part[:, 0].long()], epsilons, labels=part[:, 1:])
        predicted.append(torch.stack([logits.argmax(1) for _, logits in swept]))
    every: Tensor = torch.cat(predicted, 1)[:, places].unflatten(1, (len(labels), count))
    return every


def guided_by_signs(
    network: nn.Module, pictures: Tensor, classes: Tensor, epsilons: Sequence[float], places: Tensor | None = None
) -> Tensor:
    """Classes predicted after x + epsilon mean_i sign(g_i) over neighbours i, of the `classes` N x k, by each epsilon:
    E x N.

    g_i is taken at x for the neighbour's class, as the paper's text has it; or at `places`, the neighbours themselves
    (N x k x C x H x W), as its formula sign(grad_X J(theta, X_i, Y_nn_i)) is printed.
    """
    predicted = []
    for part in torch.arange(len(pictures)).split(PART):
        x, labels = pictures[part], classes[part].unbind(1)
        at = [x] * len(labels) if places is None else places[part].unbind(1)
        signs = [guide(network, a, 0.0, labels=each).signal.sign() for a, each in zip(at, labels, strict=True)]
        with torch.no_grad():
            step = torch.stack(signs).mean(0)
            predicted.append(torch.stack([network(x + epsilon * step).argmax(1) for epsilon in epsilons]))
    return torch.cat(predicted, 1)
