"""The signal at the logits, against numbers worked out by hand and automatic differentiation."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gpcore.gradient import LABELS, SIGNALS, logit_signal, pseudo_labels

LOG3 = math.log(3)


@pytest.fixture(autouse=True)
def _seeded_and_on_one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def targets(logits: Tensor) -> dict[str, Tensor]:
    """The distributions of all strategies, and a random one."""
    return {name: pseudo_labels(logits, name) for name in LABELS} | {"any": torch.rand_like(logits).softmax(1)}


def close(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("y", "best", "exact", "printed"),
    [
        (".2 .6 .07 .1 .03", None, "0 -.08 .026 .02 .034", [0, -80, 26, 20, 34]),
        (".2 .6 .07 .1 .03", 1, "-.12 .24 -.042 -.06 -.018", [-120, 240, -42, -60, -18]),
        (".35 .1 .45 .06 .04", None, "-.03 .02 -.05 .028 .032", [-30, 20, -50, 28, 32]),
        (".35 .1 .45 .06 .04", 2, "-.1575 -.045 .2475 -.027 -.018", [-157, -45, 247, -27, -18]),
    ],
)
def test_figure_9(y: str, best: int | None, exact: str, printed: list[int]) -> None:
    prediction = [Fraction(v) for v in y.split()]
    label = [Fraction(1, 5) if best is None else Fraction(k == best) for k in range(5)]
    weight = sum(a * b for a, b in zip(label, prediction, strict=True))
    signal = [weight * (a - b) for a, b in zip(label, prediction, strict=True)]
    assert signal == [Fraction(v) for v in exact.split()]
    assert [math.trunc(1000 * v) for v in signal] == printed  # thousandths, truncated
    logits = torch.tensor([[float(v) for v in prediction]], dtype=torch.float64).log()
    target = pseudo_labels(logits, "uniform" if best is None else "onehot")
    close(target[0].tolist(), [float(v) for v in label])
    close(logit_signal(logits, target, "eq5")[0].tolist(), [float(v) for v in signal], 1e-15)


def test_eq5_is_the_gradient_of_the_labels_probability_only_if_one_hot() -> None:
    logits = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    for labels, target in targets(logits.detach()).items():
        gradient = torch.autograd.grad((target * logits.softmax(1)).sum(), logits)[0]
        same = torch.allclose(logit_signal(logits.detach(), target, "eq5"), gradient, rtol=0, atol=1e-14)
        assert same is (labels in ("onehot", "random", "random-image"))


def entropy(logits: Tensor) -> Tensor:
    """Of every image, summed over its pixels."""
    return torch.special.entr(logits.softmax(1)).flatten(1).sum(1)


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3, 5)])
def test_entropy_signal_is_minus_its_gradient_whatever_the_label(shape: tuple[int, ...]) -> None:
    logits = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    gradient, z = torch.autograd.grad(entropy(logits).sum(), logits)[0], logits.detach()
    for target in targets(z).values():
        close(logit_signal(z, target, "entropy"), -gradient, 1e-10)
    labels = torch.randint(4, z[:, 0].shape)
    labels[0] = 255
    close(logit_signal(z, pseudo_labels(z, labels), "entropy"), -gradient * (labels != 255).unsqueeze(1), 1e-10)


def test_entropy_signal_by_hand_and_at_the_ends() -> None:
    logits = torch.tensor([[0, LOG3], [7, 7], [0, 200], [-math.inf, 0]])
    signal = logit_signal(logits, pseudo_labels(logits, "onehot"), "entropy")
    close(signal, torch.tensor([[-1, 1], [0, 0], [0, 0], [0, 0]]) * 3 / 16 * LOG3, 1e-7)  # y (1 - y) log(y / (1 - y))
    far = 200 * torch.randn(2, 4, 3, 3)
    assert logit_signal(far, pseudo_labels(far), "entropy").isfinite().all()


def test_pseudo_labels() -> None:
    logits = torch.tensor([[1.0, 3, 2, 0], [5, 0, 0, 4]])
    assert pseudo_labels(logits, "onehot").tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert pseudo_labels(logits, "top2").tolist() == [[0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    assert pseudo_labels(logits, "uniform").tolist() == [[0.25] * 4] * 2
    target = pseudo_labels(torch.zeros(2, 4, 1, 2), torch.tensor([[[2, 255]], [[0, 3]]]))
    assert target[:, :, 0].mT.tolist() == [[[0, 0, 1, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 1]]]
    void = pseudo_labels(logits, torch.tensor([7, 1]), void=7)
    assert void.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0]]
    assert all(logit_signal(logits, void, signal)[0].tolist() == [0, 0, 0, 0] for signal in SIGNALS)
    close(logit_signal(logits, void), torch.tensor([[0.0], [1]]) * (void - logits.softmax(1)), 1e-7)
    assert torch.equal(pseudo_labels(logits, logits.softmax(1)), logits.softmax(1))


def test_random_pseudo_labels() -> None:
    logits, found = torch.zeros(500, 4, 8, 8), torch.get_rng_state()
    for labels, tolerance in [("random", 0.013), ("random-image", 0.1)]:  # five standard deviations
        target, again, other = (pseudo_labels(logits, labels, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(target, again)
        assert not torch.equal(target, other)
        assert torch.equal(target.sort(1).values, torch.tensor([0.0, 0, 0, 1]).view(1, 4, 1, 1).expand_as(target))
        close(target.mean((0, 2, 3)), torch.full((4,), 0.25), tolerance)
        assert torch.equal(target, target[:, :, :1, :1].expand_as(target)) is (labels == "random-image")
    assert torch.equal(torch.get_rng_state(), found)
