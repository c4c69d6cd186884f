"""Notebook 45: the lecture's numbers, nudges by hand, steps against foolbox, views against scipy and scikit-image."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import defined_in
from scipy.ndimage import rotate
from torch import nn
from torch.testing import assert_close

from gpcore import attacks
from gpcore.companion import studies
from gpcore.companion.experiments import fooling, fooling_figures
from gpcore.datasets.classification import Answered, Half, Pictures

pytestmark = pytest.mark.usefixtures("one_core")

X = torch.tensor([2.0, -1, 3, -2, 2, 2, 1, -4, 5, 1])
W = torch.tensor([-1.0, -1, 1, -1, 1, -1, 1, 1, -1, 1])


def linear(w, classes=2):
    """Logits 0 and w . x of 1 x n x n images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(w.numel(), classes, bias=False)).to(w.dtype)
    model[1].weight.data = torch.stack([torch.zeros(w.numel(), dtype=w.dtype), w.flatten()])
    return model


def test_the_lectures_numbers():
    found = defined_in("45_fooling", "x", "w", "nudged", "scores", "printed", "wrong")
    assert torch.equal(found["x"], X) and torch.equal(found["w"], W)
    assert found["nudged"].tolist() == [1.5, -1.5, 3.5, -2.5, 2.5, 1.5, 1.5, -3.5, 4.5, 1.5]  # as the slide prints them
    assert found["scores"].tolist() == [-3, 2]
    assert [round(p, 4) for p in found["scores"].sigmoid().tolist()] == [0.0474, 0.8808]
    assert found["printed"].tolist() == [-1.5, 1.5, 3.5, 2.5, -1.5, 1.5, -3.5, -4.5, 1.5]  # nine terms
    assert found["printed"].sum() == -0.5
    assert round(found["wrong"].item(), 3) == 0.119


def test_the_least_nudge_of_a_linear_classifier():
    required = defined_in("45_fooling", "required")["required"]
    needed = required(W @ X, W)
    assert_close(needed, torch.tensor(0.3))
    assert_close(W @ (X + needed * W.sign()), torch.tensor(0.0))
    assert_close(required(torch.tensor(-3.0), torch.ones(150_528)), torch.tensor(3 / 150_528))


def test_directions_of_a_nudge():
    assert torch.equal(fooling_figures.towards(W, "sign(w)"), W)
    assert torch.equal(fooling_figures.towards(W, "−sign(w)"), -W)
    assert fooling_figures.towards(W, "one entry").tolist() == [-1] + 9 * [0]
    assert fooling_figures.towards(W, "random signs").abs().tolist() == 10 * [1]
    figure = fooling_figures.nudge_figure(X, W, nudge=0.5, direction="sign(w)")
    told = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert told == ["before: −3 → 0.0474", "nudged: 2 → 0.8808"]
    plt.close(figure)


def test_margins_and_blocks_by_hand():
    model = linear(torch.tensor([[1.0, -2], [3, -4]]))
    images = torch.tensor([[[[0.5, 0.5], [0.25, 0.25]]], [[[0.5, 0.0], [0.0, 0.0]]]])  # scores -.75 and .5
    margin, gradient, best = fooling.margins(model, images)
    assert margin.tolist() == [0.75, 0.5] and best.tolist() == [0, 1]
    assert gradient.flatten(1).tolist() == [[-1, 2, -3, 4], [1, -2, 3, -4]]
    assert fooling.in_blocks(gradient, 1).tolist() == gradient.tolist()
    assert fooling.in_blocks(gradient, 2).flatten(1).tolist() == [4 * [2], 4 * [-2]]


def test_needed_nudges_of_a_linear_network():
    """Margin .5 and l1 norm 10: 12.75 of 255 levels, so 16 of the powers of two; in one block 63.75, so 64."""
    images = {"a": torch.tensor([[[0.75, 0.5], [0.5, 0.4375]]])}
    rows = fooling.needed_rows(linear(torch.tensor([[1.0, -2], [3, -4]])), images)
    assert rows.drop(columns="dims").loc[0].tolist() == ["a", 2, 1, 16, pytest.approx(12.75 * 0.5 / 0.5), 0.5]
    block = fooling.needed_rows(linear(torch.tensor([[1.0, -2], [3, -4]])), images, block=2)
    assert block.loc[0, ["dims", "needed"]].tolist() == [3, 64]
    assert block.loc[0, "linear"] == pytest.approx(63.75)


def test_the_fall_is_a_slope_in_logarithms():
    """Needs that halve while dimensions double, and that halve while they quadruple: 1 and 1/2, mean 3/4."""
    rows = pd.DataFrame({"photograph": list("aaabbb"), "dims": [4, 16, 64] * 2, "needed": [16, 4, 1, 8, 4, 2]})
    found = fooling.fall(rows)
    assert found.value == pytest.approx(0.75) and (found.low, found.high) == pytest.approx((0.5, 1.0))
    typical = fooling.typical(rows, "needed")
    assert typical["value"].tolist() == pytest.approx([math.sqrt(128), 4, math.sqrt(2)])


def test_steps_by_hand():
    images, gradient = torch.full((1, 1, 2, 2), 0.5), torch.tensor([[[[0.0, 3], [-4, 0]]]])
    assert fooling.stepped(images, gradient, 0.1, "sign").flatten().tolist() == pytest.approx([0.5, 0.6, 0.4, 0.5])
    raw = fooling.stepped(images, gradient, 0.1, "raw")
    assert raw.flatten().tolist() == pytest.approx([0.5, 0.575, 0.4, 0.5])
    long = fooling.stepped(images, gradient, 0.1, "raw, l2") - images  # of the sign step's length, .1 sqrt(2)
    assert_close(long.flatten(), torch.tensor([0.0, 0.6, -0.8, 0.0]) * 0.1 * math.sqrt(2))


@pytest.mark.filterwarnings("ignore:Please import `gaussian_filter`:DeprecationWarning")  # foolbox, on import
def test_sign_steps_are_foolboxs(classifier):
    import foolbox

    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = classifier(x).argmax(1)
    rows = fooling.sign_rows(classifier, x, y, [0.05, 0.2])
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1))
    for epsilon, part in rows[rows["method"] == "sign"].groupby("epsilon"):
        *_, fooled = foolbox.attacks.FGSM(random_start=False)(model, x, y, epsilons=epsilon)
        assert part["fooled"].tolist() == fooled.float().tolist()
    assert set(rows["fooled"]) == {0, 1}


def test_shares_of_the_white_box_drop():
    """Of four digits the victim loses all that it knew, three; the others one and two of those: half on average."""
    found = {("victim", "victim"): (1.0, 1, 1, 0), ("a", "victim"): (1.0, 0, 0, 0), ("b", "victim"): (0.0, 1, 1, 0)}
    rows = pd.concat(
        pd.DataFrame({"epsilon": 0.2, "judge": j, "maker": m, "image": range(4), "before": lost, "after": 0.0})
        for (j, m), lost in found.items()
    )
    share = fooling.share(rows, [("a", "victim"), ("b", "victim")], ("victim", "victim"), 0.2)
    assert share.value == pytest.approx(50)
    assert fooling.drops(rows)["drop"].tolist() == [75, 25, 50]


def test_transfer_rows_hold_every_judge_and_maker(classifier):
    torch.manual_seed(1)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    x = torch.rand(20, 1, 8, 8)
    y = classifier(x).argmax(1)
    rows = fooling.transfer_rows({"victim": classifier}, {"victim": classifier, "other": other}, x, y, [0.3])
    assert rows.groupby(["judge", "maker"]).size().tolist() == 4 * [20]
    own = rows[(rows["judge"] == "victim") & (rows["maker"] == "victim")]
    assert own["before"].tolist() == 20 * [1]
    expected = classifier(attacks.bim(classifier, x, y, 0.3).images).argmax(1) == y
    assert own["after"].tolist() == expected.double().tolist()


def test_noise_is_pushed_until_it_is_sure(classifier):
    torch.manual_seed(0)
    noise, classes = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    images, steps = fooling.confident(classifier, noise, classes, 0.37, 0.05)
    p = classifier(images).detach().softmax(1).gather(1, classes.unsqueeze(1)).squeeze(1)
    assert ((p > 0.37) | (steps == 80)).all() and 0 < (p > 0.37).sum() < 6
    assert images.min() >= 0 and images.max() <= 1
    assert set(steps.tolist()) <= set(range(10, 90, 10))


def test_exact_shares():
    found = fooling.exact_share(torch.ones(20, dtype=torch.bool))
    assert found == pytest.approx((100, 100 * 0.025 ** (1 / 20), 100))  # the rule of (α / 2)^(1 / n)


def test_a_view_turns_as_scipy_does():
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 8:25, 12:20] = 1
    turned = fooling.view(30)(image)[0, 0].numpy()
    theirs = rotate(image[0, 0].numpy(), 30, reshape=False, order=1)
    assert np.abs(turned - theirs)[6:-6, 6:-6].max() < 0.02
    assert_close(fooling.view(0, light=0.5)(image), image / 2, atol=1e-5, rtol=0)
    nearer = fooling.view(0, zoom=2)(image).sum() / image.sum()
    assert 3.5 < nearer < 4.2


def test_views_are_drawn_within_their_bounds():
    drawn = torch.Generator().manual_seed(3)
    first, second = fooling.drawn_views(5, drawn), fooling.drawn_views(5, drawn)
    image = torch.rand(1, 3, 16, 16)
    assert not torch.equal(first[0](image), second[0](image))
    assert torch.equal(fooling.drawn_views(5, 3)[4](image), first[4](image))


@pytest.mark.parametrize(("p", "text"), [(0.3712, ".37"), (0.98499, ".98"), (0.9984, ".998"), (0.99914, "> .998")])
def test_probabilities_in_short(p, text):
    assert fooling.short(p) == text


def test_a_negative_has_the_same_hog():
    image = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    figure, rows = fooling_figures.hog_figure(studies.get("photographs"), {"image": image, "negative": 1 - image})
    assert rows["HOG differs"].max() < 1e-6 < 0.1 < rows["largest number"].min()
    assert rows["pixels differ"][1] > 0.2
    plt.close(figure)


def test_the_halves_share_no_digit():
    halves = [Half("handwriting", first, "train") for first in (0, 1)]
    assert [len(half) for half in halves] == [1500, 1500]
    first, second = ({bytes(p.numpy()) for p in half.pictures} for half in halves)
    assert not first & second
    whole = Pictures("handwriting", "train")
    assert first | second == {bytes(p.numpy()) for p in whole.pictures}
    assert all(half.labels.bincount().tolist() == 10 * [150] for half in halves)
    assert len(Half("handwriting", 0, "test")) == 1000
    with pytest.raises(ValueError, match="first: got 2, expected 0 or 1"):
        Half("handwriting", 2, "train")


def test_a_surrogate_sees_answers_not_labels():
    half = Half("handwriting", 1, "train")
    half.labels = torch.full_like(half.labels, -1)  # nobody looks
    seen = Answered(half, lambda x: nn.functional.one_hot((x.mean((1, 2, 3)) > 0.1).long() + 3, 10).float())
    pictures, answers = (torch.stack(part) for part in zip(*(seen[i] for i in range(50)), strict=True))
    assert answers.tolist() == [4 if p.mean() > 0.1 else 3 for p in pictures] and {3, 4} == set(answers.tolist())


def test_strangers_begin_with_other_weights():
    """They were trained from other seeds than the victim, so that transfer is not kinship."""
    task = studies.get("handwriting")
    victim = task.network("half-a").state_dict()["conv1.weight"].flatten()
    for name in ("half-b", "answers-b"):
        other = task.network(name, 1).state_dict()["conv1.weight"].flatten()
        assert abs(nn.functional.cosine_similarity(victim, other, dim=0)) < 0.3
