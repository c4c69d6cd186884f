"""The signal at the logits, against numbers worked out by hand and automatic differentiation."""

import math
import re
import warnings
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gpcore.checks import check_images, warn_of_units
from gpcore.gradient import LABELS, SIGNALS, differentiable, logit_signal, normalise, pseudo_labels

LOG3 = math.log(3)


@pytest.fixture(autouse=True)
def _seeded_and_on_one_core(one_core: None) -> None:
    torch.manual_seed(0)


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


LOGITS = torch.zeros(2, 4, 1, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((2, 4, 1, 2), 0.25), r"got a distribution of shape \[2, 4, 1, 2\], expected \[2, 4, 1, 3\]"),
        (torch.full_like(LOGITS, 0.25).index_fill(3, torch.tensor([1]), 0.3), r"sums to one .* off by 0\.2"),
        (torch.tensor([1.5, -0.5, 0, 0]).view(1, 4, 1, 1).expand_as(LOGITS), "a distribution is >= 0"),
        (torch.full_like(LOGITS, math.nan), "sums to one"),
        (torch.zeros(2, 1, 3, dtype=torch.bool), "got torch.bool, expected integer classes"),
        (torch.zeros(2, 1, 3, dtype=torch.complex64), "got torch.complex64, expected integer classes"),
        (torch.zeros(2, 1, 3, dtype=torch.int64).numpy(), "got ndarray, expected integer classes"),
        (None, "got NoneType, expected integer classes"),
        (torch.zeros(2, 3, 1, dtype=torch.int64), r"got torch.int64 of shape \[2, 3, 1\], expected .* \[2, 1, 3\]"),
        (torch.tensor([[[0, 1, 2]], [[3, 255, 4]]]), "got class 4, expected 0 to 3 or void = 255"),
        (torch.tensor([[[0, -1, 2]], [[3, 255, 3]]]), "got class -1, expected 0 to 3 or void = 255"),
        ("best", "got 'best', expected a tensor or one of onehot, top2, uniform, random, random-image"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"labels: .*{message}"):
        pseudo_labels(LOGITS, labels)


def test_directions_by_hand() -> None:
    gradient = torch.tensor([[3.0, -4], [0, 0], [-3e-30, 4e-30]]).view(3, 1, 1, 2)
    expected = {"sign": [1, -1, 0, 0, -1, 1], "linf": [0.75, -1, 0, 0, -0.75, 1], "l2": [0.6, -0.8, 0, 0, -0.6, 0.8]}
    for direction, units in expected.items():
        close(normalise(gradient, direction).flatten(), torch.tensor(units, dtype=torch.float32), 1e-7)


def test_a_signal_is_taken_back_to_where_it_came_from() -> None:
    place, weight = torch.ones(2, 3), torch.arange(12.0).view(4, 3)
    logits, backward = differentiable(lambda x: x**2 @ weight.T, place)
    assert not logits.requires_grad and not place.requires_grad
    assert torch.equal(logits, weight.sum(1).expand(2, 4))
    signal = torch.eye(4)[:2]
    assert torch.equal(backward(signal, again=True), 2 * weight[:2])
    assert torch.equal(backward(-signal), -2 * weight[:2])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        backward(signal)


@pytest.mark.parametrize("rest", [lambda x: torch.zeros(2, 3), lambda x: torch.zeros(2, 3, requires_grad=True) + 1])
def test_outputs_that_ignore_the_place(rest: Any) -> None:
    for at, message in [(None, "model: its output ignores the images"), ("stem", "at: the output .* on 'stem'")]:
        backward = differentiable(rest, torch.ones(2, 3))[1]
        with pytest.raises(ValueError, match=message):
            backward(torch.ones(2, 3), at)


@pytest.mark.parametrize("signal", [1.0, 0.0])  # an infinite gradient, and 0 / 0
def test_gradients_that_are_no_numbers(signal: float) -> None:
    logits, backward = differentiable(torch.sqrt, torch.tensor([[0.0, 1, 4], [1, 1, 1]]))
    assert logits.tolist() == [[0, 1, 2], [1, 1, 1]]
    with pytest.raises(ValueError, match="model: got a gradient with NaN or infinite values"):
        backward(torch.full((2, 3), signal))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 5), r"got torch.float32 of shape \[3, 4, 5\], expected floats B x C x H x W"),
        (torch.zeros(1, 3, 4, 5, dtype=torch.uint8), "got torch.uint8"),
        (torch.zeros(1, 3, 4, 5).numpy(), "got ndarray"),
        *(
            (torch.tensor([0, value, 1]).view(1, 1, 1, 3), "got NaN or inf")
            for value in (math.nan, math.inf, -math.inf)
        ),
        (torch.full((1, 1, 1, 2), math.inf), "got NaN or inf"),
    ],
)
def test_what_images_are_not(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"images: {message}"):
        check_images(images)


def test_the_range_of_images() -> None:
    assert check_images(torch.tensor([0.25, -1, 0.5]).view(1, 1, 1, 3)) == (-1, 0.5)
    assert check_images(torch.zeros(0, 3, 4, 5)) == (math.inf, -math.inf)  # none is out of any bounds


def between(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, 24).view(2, 1, 3, 4)


ORDINARY = torch.tensor([[2.0, -1, 0.5], [0, 3, 1]])
PROBABILITIES = torch.tensor([[0.7, 0.2, 0.1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("images", "logits", "message"),
    [
        (between(0, 1), ORDINARY, ""),
        (between(-0.3, 1.3), ORDINARY, ""),  # as a step or two leave them
        (between(0, 255), ORDINARY, "images: .* bytes"),
        (between(-2, 2), ORDINARY, "images: .* normalised"),
        (between(-1, 1), ORDINARY, "images: .* normalised"),
        (between(0, 2), ORDINARY, "images: .* normalised"),
        (between(0, 1), PROBABILITIES, "model: .* probabilities"),
        (between(0, 1), PROBABILITIES.bfloat16().float(), "model: .* probabilities"),  # whose sum is rounded, too
        (between(0, 1), PROBABILITIES.view(2, 3, 1, 1).expand(2, 3, 4, 4), "model: .* probabilities"),
        (between(0, 1), PROBABILITIES * torch.tensor([[2.0], [1]]), ""),  # one row sums to two
        (between(0, 1), PROBABILITIES / 2, ""),
        (between(0, 1), torch.tensor([[1.5, -0.5], [0.5, 0.5]]), ""),  # they sum to one, but for a negative
        (
            between(0, 1),
            torch.tensor([[0, 0.7], [0, 0.2]]),
            "model: .* probabilities",
        ),  # of one channel, after a sigmoid
        (between(0, 1), torch.tensor([[0, 0.7], [0, 1.2]]), ""),
        (between(0, 1), torch.tensor([[0, 0.7], [0, -0.2]]), ""),
        (between(0, 1), torch.tensor([[0.5, 0.7], [0.1, 0.2]]), ""),
        (torch.zeros(0, 1, 3, 4), torch.zeros(0, 3), ""),
    ],
)
def test_units_that_are_seldom_meant(images: Tensor, logits: Tensor, message: str) -> None:
    with warnings.catch_warnings(record=True, action="always") as caught:
        assert warn_of_units(images, logits) is False
    assert len(caught) == bool(message)
    assert all(re.match(f"{message}.*check=False", str(warning.message)) for warning in caught)
