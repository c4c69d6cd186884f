"""Neighbours against brute force by hand; guided steps against autograd alone."""

import numpy as np
import torch
from conftest import downhill
from scipy.spatial.distance import cdist

from gpcore import neighbours
from gpcore.perturb import guide


def test_nearest_is_brute_force_with_the_nearest_first():
    generator = torch.Generator().manual_seed(1)
    memory, queries = (torch.randn(n, 7, generator=generator) for n in (300, 40))
    expected = cdist(queries.double(), memory.double()).argsort(1)[:, :10]
    assert np.array_equal(neighbours.nearest(memory, queries, 10), expected)
    assert torch.equal(neighbours.nearest(memory, memory[:20], 1)[:, 0], torch.arange(20))


def test_shares_and_vote_by_hand():
    classes = torch.tensor([[2, 0, 0], [1, 2, 0], [3, 3, 3]])
    third = 1 / 3
    expected = [[2 * third, 0, third, 0], [third, third, third, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(neighbours.shares(classes, 4), torch.tensor(expected))
    assert neighbours.vote(classes, 4).tolist() == [0, 1, 3]  # of three with one vote each, the nearest
    assert neighbours.vote(torch.tensor([[1, 0, 0, 1]]), 4).tolist() == [1]  # two each: the nearest's


def test_interpolation_by_hand():
    logits = torch.tensor([[0.0, torch.tensor(3.0).log().item()]])  # softmax 1/4, 3/4
    mixed = neighbours.interpolated(logits, torch.tensor([[1.0, 0.0]]), 0.4)
    torch.testing.assert_close(mixed, torch.tensor([[0.6 * 0.25 + 0.4, 0.6 * 0.75]]))


def test_guided_runs_what_occurs_twice_once_and_equals_guide(classifier):
    generator = torch.Generator().manual_seed(2)
    pictures = torch.rand(9, 1, 8, 8, generator=generator)
    classes = torch.randint(5, (3, 9, 4), generator=generator)
    labels = torch.stack([neighbours.shares(each, 5) for each in classes])
    labels[2] = labels[0]
    seen = []
    handle = classifier[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    found = neighbours.guided(classifier, pictures, labels, (0.05, -0.2))
    handle.remove()
    different = {(i, *sorted(row)) for each in classes[:2].tolist() for i, row in enumerate(each)}
    assert seen[0] == len(different) < 27
    assert found.shape == (2, 3, 9)
    for e, epsilon in enumerate((0.05, -0.2)):
        for s, label in enumerate(labels):
            expected = guide(classifier, pictures, epsilon, labels=label).after.argmax(1)
            assert torch.equal(found[e, s], expected)
    assert (found[0] != found[1]).any()


def test_the_gradient_for_an_averaged_label_is_the_average_of_gradients(classifier):
    generator = torch.Generator().manual_seed(3)
    pictures = torch.rand(6, 1, 8, 8, generator=generator)
    classes = torch.randint(5, (6, 3), generator=generator)
    each = torch.stack([guide(classifier, pictures, 0.0, labels=column).signal for column in classes.unbind(1)])
    together = guide(classifier, pictures, 0.0, labels=neighbours.shares(classes, 5)).signal
    torch.testing.assert_close(each.mean(0), together, atol=1e-7, rtol=1e-5)


def test_averaged_signs_are_added_as_they_are(classifier):
    """Where two of three neighbours agree a pixel moves by a third of epsilon."""
    generator = torch.Generator().manual_seed(3)
    pictures = torch.rand(6, 1, 8, 8, generator=generator)
    classes = torch.randint(5, (6, 3), generator=generator)
    seen = []
    handle = classifier[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    found = neighbours.guided_by_signs(classifier, pictures, classes, (-0.1, 0.3))
    handle.remove()
    moved = pictures + 0.3 * torch.stack([downhill(classifier, pictures, c).sign() for c in classes.unbind(1)]).mean(0)
    torch.testing.assert_close(seen[-1], moved)
    assert found.shape == (2, 6) and torch.equal(found[1], classifier(moved).argmax(1))
    assert torch.equal(found[0], classifier(pictures - (moved - pictures) / 3).argmax(1))
    assert {round(10 * size, 3) for size in (moved - pictures).abs().unique().tolist()} == {1, 3}


def test_to_the_letter_gradients_are_taken_at_the_neighbours(classifier, monkeypatch):
    """One picture and one neighbour at a time, by autograd alone; in parts of four pictures."""
    monkeypatch.setattr(neighbours, "PART", 4)
    generator = torch.Generator().manual_seed(4)
    pictures, places = torch.rand(6, 1, 8, 8, generator=generator), torch.rand(6, 3, 1, 8, 8, generator=generator)
    classes = torch.randint(5, (6, 3), generator=generator)
    seen = []
    handle = classifier[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    found = neighbours.guided_by_signs(classifier, pictures, classes, (0.3,), places)
    handle.remove()
    steps = []
    for i in range(6):
        total = torch.zeros(1, 8, 8)
        for j in range(3):
            total += downhill(classifier, places[i, j][None], classes[i, j][None])[0].sign()
        steps.append(0.3 * total / 3)
    moved = pictures + torch.stack(steps)
    torch.testing.assert_close(torch.cat([seen[6], seen[13]]), moved)  # after two passes for each gradient
    assert torch.equal(found[0], classifier(moved).argmax(1))
