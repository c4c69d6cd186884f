"""Choosing an epsilon, against the companion's own measurements and by hand."""

import numpy as np
import pytest
import torch
from skimage.measure import label
from torch import nn

from gpcore import choose_epsilon, guide, metrics
from gpcore.choose import islands
from gpcore.companion import cost, measure

EPSILONS = (0.05, -0.05, 0.2)


def test_scores_and_gains_are_those_of_the_companion(study):
    network = study.network("fcn8s")
    choice = choose_epsilon(network, [*study.batches("test")], EPSILONS, void=study.void)
    assert [trial.epsilon for trial in choice.trials] == [-0.05, 0, 0.05, 0.2] and choice.images == 4
    counts = measure.sweep_counts(study, "fcn8s", "test", [-0.05, 0, 0.05, 0.2])
    for trial, each in zip(choice.trials, counts, strict=True):
        assert [*trial.score] == pytest.approx([*metrics.score(each)])
        assert [*trial.gain] == pytest.approx([*metrics.gain(counts[1], each)])
    best = max(choice.trials, key=lambda trial: trial.score.value)
    assert choice.best == best and choice.epsilon == best.epsilon
    x, _ = next(study.batches("test"))
    step = cost.relative({"alone": network, "step": lambda x: guide(network, x, 0.1)}, x)["step"]
    assert choice.passes == pytest.approx(step)


def test_what_changed_and_how_sure_it_is_by_hand(study):
    network, pairs = study.network("fcn8s"), [*study.batches("test")]
    trial = choose_epsilon(network, pairs, [0.2], void=study.void).trials[1]
    changed = small = entropy = known = 0.0
    for x, y in pairs:
        out, there = guide(network, x, 0.2), y != study.void
        p = out.after.softmax(1)
        known += there.sum().item()
        changed += ((out.after.argmax(1) != out.before.argmax(1)) & there).sum().item()
        small += (islands(out.after.argmax(1)) & there).sum().item()
        entropy += (-(p * p.log()).sum(1) * there).sum().item()
    found = (trial.changed, trial.islands, trial.entropy)
    assert found == pytest.approx((100 * changed / known, 100 * small / known, entropy / known), rel=1e-5)
    assert changed > 0 and small > 0


def test_a_classifier_is_judged_by_its_accuracy():
    """Two channels are the logits; the third and fourth picture are wrong, and a step confirms what is said already."""
    model = nn.Flatten()
    images = torch.tensor([[0.9, 0.3], [0.2, 0.9], [0.6, 0.5], [0.3, 0.6]]).view(4, 2, 1, 1)
    labels = torch.tensor([0, 1, 1, 0])
    choice = choose_epsilon(model, [(images[:3], labels[:3]), (images[3:], labels[3:])], [0.1, -0.25])
    by = {trial.epsilon: trial for trial in choice.trials}
    assert [by[e].score.value for e in (0, 0.1, -0.25)] == [50, 50, 100]
    assert (choice.epsilon, choice.images) == (-0.25, 4)
    assert (by[-0.25].changed, by[0.1].changed, by[0.1].islands) == (50, 0, 0)
    assert by[0.1].entropy < by[0].entropy < by[-0.25].entropy
    lines = str(choice).splitlines()
    assert len(lines) == 5 and lines[-1].startswith("best: -0.25, on 4 images; a step costs")


def test_without_a_gain_no_step_is_best():
    images, labels = torch.tensor([[0.9, 0.3]]).view(1, 2, 1, 1), torch.tensor([0])
    assert choose_epsilon(nn.Flatten(), [(images, labels)], [0.1, 0.2]).epsilon == 0


def test_coarse_logits_are_judged_at_the_labels_size(study):
    """And void pixels count nothing, whatever is said of them."""
    network, (x, y) = study.network("fcn8s"), next(study.batches("test", 2))
    coarse = nn.Sequential(network, nn.AvgPool2d(4))
    found = choose_epsilon(coarse, [(x, y)], [0.1], void=study.void).trials[0].score.value
    with torch.no_grad():
        fine = nn.functional.interpolate(coarse(x), y.shape[1:], mode="bilinear")
    assert found == pytest.approx(100 * metrics.miou(measure.count_pixels(study, fine, y).sum(0)).item())
    with pytest.raises(ValueError, match="class"):
        measure.count_pixels(study, fine, y.where(y != study.void, 200))  # so void is in these labels


@pytest.mark.parametrize("kind", ["stripes", "noise"])
def test_islands_are_the_small_regions_that_skimage_labels(kind, seeded):
    labels = torch.randint(0, 4, (2, 40, 50)).repeat_interleave(3 if kind == "stripes" else 1, 2)[:, :, :50]
    labels[:, 10:30, 10:40] = 2
    regions = [label(image.numpy(), connectivity=1, background=-1) for image in labels]
    small = [np.bincount(each.ravel())[each] < each.size / 200 for each in regions]
    assert torch.equal(islands(labels), torch.from_numpy(np.stack(small)))


@pytest.mark.parametrize(
    ("loader", "epsilons", "message"),
    [
        ([], [0.1], "loader: got no images, expected at least one batch"),
        ([(torch.zeros(1, 2, 1, 1), torch.tensor([0]))], [0.0], "epsilons: got 0 of them, expected at least one"),
    ],
)
def test_nothing_to_try_is_refused(loader, epsilons, message):
    with pytest.raises(ValueError, match=message):
        choose_epsilon(nn.Flatten(), loader, epsilons)
