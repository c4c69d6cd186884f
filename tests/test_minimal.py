"""DeepFool and L-BFGS against foolbox, borders of affine networks and steps taken by hand."""

import copy
import math

import pytest
import torch
from conftest import network
from torch import nn
from torch.testing import assert_close

from gpcore.minimal import BEYOND, LEAST_C, deepfool, fooled, lbfgs

pytestmark = pytest.mark.usefixtures("one_core")

ATTACKS = pytest.mark.parametrize("attack", [deepfool, lbfgs])
# foolbox warns when it is imported
FOOLBOX = pytest.mark.filterwarnings("ignore:Please import `gaussian_filter`:DeprecationWarning")


def affine(weight, bias):
    """A classifier z = weight x + bias."""
    weight = torch.tensor(weight, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight)).double())
    model[1].weight.data, model[1].bias.data = weight, torch.tensor(bias, dtype=torch.float64)
    return model


def pictures(batch=5, seed=1):
    return torch.rand(batch, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def row(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def norm(delta):
    return delta.flatten(1).norm(dim=1)


def wrong(model, found, labels):
    return model(found.images).argmax(1) != labels


def test_deepfool_by_hand():
    """f(x) = 3 x_1 + 4 x_2 - 5 is 5 at (2, 1): the border is 5 / 5 = 1 away, the step along (-3, -4) / 5."""
    model, x = affine([[3, 4], [0, 0]], [-5, 0]), row(2, 1)
    for overshoot in (0.02, 0.5):
        found = deepfool(model, x, torch.tensor([0]), overshoot=overshoot, bounds=None, steps=1)
        step = (1 + overshoot) * (1 + BEYOND)
        assert_close(found.images, x + step * row(-0.6, -0.8), atol=1e-12, rtol=0)
        assert found.fooled.tolist() == [True]
    assert torch.equal(deepfool(model, x, torch.tensor([1]), bounds=None).images, x)  # wrong already


def test_deepfool_takes_the_nearest_of_the_candidates():
    """From x = 0: class 1 is 2 / 4 away, class 2 is 1 / 1 and class 3 is 3 / 10; the best classes are 2, 1, 3."""
    model, x, label = affine([[0, 0], [0, 4], [1, 0], [-6, -8]], [3, 1, 2, 0]), row(0, 0), torch.tensor([0])
    steps = {2: row(1, 0), 3: row(0, 0.5), 4: 0.3 * row(-0.6, -0.8), 10: 0.3 * row(-0.6, -0.8)}
    for candidates, step in steps.items():
        found = deepfool(model, x, label, candidates=candidates, bounds=None).images
        assert_close(found, 1.02 * (1 + BEYOND / norm(step)) * step, atol=1e-12, rtol=0)


def test_deepfool_keeps_the_candidates_of_the_first_step():
    """z = (2, 2 log x, 2.6 x - 3.6): at 1 class 1 is the second best, after a step of 1 to 2.02 class 2 is."""
    model, first = nn.Module(), 1 + BEYOND
    model.forward = lambda x: torch.cat([0 * x + 2, 2 * x.log(), 2.6 * x - 3.6], 1).flatten(1)
    at = 1 + 1.02 * first
    second = (2 - 2 * math.log(at)) / (2 / at) + BEYOND
    found = deepfool(model, row(1), torch.tensor([0]), candidates=2, bounds=None)
    assert_close(found.images, row(1 + 1.02 * (first + second)))


def test_deepfool_of_pixels_by_hand():
    """Two pixels with scores 0 and x: their gaps 1 and 3 add up to 4, the gradient is (1, 1), the step 2 for each."""
    model = nn.Conv2d(1, 2, 1, bias=False).double()
    model.weight.data = torch.tensor([0.0, 1]).double().view(2, 1, 1, 1)
    x, labels = row(-1, -3), torch.zeros(1, 1, 2, dtype=torch.long)
    first = row(2, 2) + BEYOND / math.sqrt(2)
    found = deepfool(model, x, labels, bounds=None)
    assert_close(found.images, x + 1.02 * first)  # (1.04, -.96): half of them
    second = first + row(0, 3 - 1.02 * first[..., 1] + BEYOND)
    found = deepfool(model, x, labels, bounds=None, share=0.6)
    assert_close(found.images, x + 1.02 * second)
    labels[..., 0] = 255
    found = deepfool(model, x, labels, bounds=None)
    assert_close(found.images, x + 1.02 * row(0, 3 + BEYOND))
    assert found.fooled.tolist() == [True]


@FOOLBOX
@pytest.mark.parametrize("candidates", [2, 3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_deepfool_of_foolbox(candidates, seed):
    import foolbox

    model, images = network("classify", seed), pictures(20)
    model[0].weight.data *= 3  # far from affine: several steps, in which pixels leave the box and come back
    labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    theirs = foolbox.attacks.L2DeepFoolAttack(candidates=candidates)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    expected = theirs.run(wrapped, images, foolbox.criteria.Misclassification(labels))
    found = deepfool(model, images, labels, candidates=candidates)
    assert_close(found.images, expected, atol=1e-7, rtol=0)  # they add 1e-8 to the norms that they divide by
    assert found.fooled.all() and wrong(model, found, labels).all()
    assert torch.equal(found.images[0], images[0])
    assert ((found.images == 0) | (found.images == 1)).any()


@pytest.mark.parametrize("targeted", [False, True])
def test_lbfgs_finds_an_affine_networks_nearest_border(targeted):
    """Of two classes the minimum is x + t w / ||w||, 2 t / n = c ||w|| sigmoid: at the border 4 t = c n ||w||.

    So c, which is found to LEAST_C, leaves t at most n ||w|| LEAST_C / 4 beyond it, to first order; the rest is that
    of minima found to a part in 1e4.
    """
    torch.manual_seed(0)
    model, images = affine(torch.randn(2, 60).tolist(), [0.3, 0]), 0.4 + pictures(4) / 5
    labels = model(images).argmax(1)
    found = lbfgs(model, images, 1 - labels if targeted else labels, targeted=targeted)
    w, f = (parameter[1] - parameter[0] for parameter in (model[1].weight, model(images).T))
    distance = (f.abs() / w.norm()).detach()
    assert found.fooled.all() and wrong(model, found, labels).all()
    slack = 60 * w.norm().item() * LEAST_C / 4
    assert (norm(found.images - images) >= distance - 1e-9).all()
    assert (norm(found.images - images) <= distance * (1 + 1e-4) + slack).all()
    along = (found.images - images).flatten(1) @ w / w.norm()
    assert_close(along.abs().detach(), norm(found.images - images), atol=0, rtol=1e-4)


@FOOLBOX
def test_lbfgs_agrees_with_foolbox():
    """foolbox 3 has no L-BFGS. Its DDN looks for the same images: those of least cross-entropy to the target at their
    distance, which is made the least that succeeds. It knows distances to 1e-3 of themselves after its 500 steps."""
    import foolbox

    model, images = network("classify"), pictures()
    labels = model(images).argmax(1)
    targets = (labels + 1) % 4
    theirs = foolbox.attacks.DDNAttack(steps=500, init_epsilon=0.3)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    expected = theirs.run(wrapped, images, foolbox.criteria.TargetedMisclassification(targets))
    assert torch.equal(model(expected).argmax(1), targets)
    found = lbfgs(model, images, targets, targeted=True)
    assert found.fooled.all() and torch.equal(model(found.images).argmax(1), targets)
    assert_close(norm(found.images - images), norm(expected - images), atol=0, rtol=2e-3)
    assert norm(found.images - expected).max() < 0.02 * norm(images - expected).min()
    assert found.images.min() == 0 or found.images.max() == 1


def test_lbfgs_untargeted_aims_at_the_second_best_class():
    model, images = network("classify"), pictures(4)
    labels, second = model(images).topk(2, 1).indices.T
    found, aimed = lbfgs(model, images, labels), lbfgs(model, images, second, targeted=True)
    assert found.fooled.all() and wrong(model, found, labels).all()
    reached = model(found.images).argmax(1) == second
    assert reached.sum() >= 3
    assert_close(found.images[reached], aimed.images[reached], atol=1e-6, rtol=0)
    assert (norm(found.images - images) <= norm(aimed.images - images) + 1e-6).all()


@ATTACKS
def test_what_cannot_be_fooled_says_so(attack):
    """The border is out of the box, or every pixel void."""
    model, labels = affine([[0, 0], [1, 1]], [3, 0]), torch.tensor([0])
    found = attack(model, row(0.5, 0.25), labels)
    assert found.fooled.tolist() == [False]
    assert_close(found.images, row(1, 1), atol=1e-3, rtol=0)
    model, images = network("segment"), pictures(2)
    found = attack(model, images, torch.full((2, 4, 5), 255))
    assert found.fooled.tolist() == [False, False]
    assert_close(found.images, images)


@ATTACKS
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_label_maps(attack, share):
    model, images = network("segment"), pictures(1 if attack is lbfgs else 2)
    labels = model(images).argmax(1)
    labels[..., 0] = 255
    found = attack(model, images, labels, share=share)
    rates = fooled(model(found.images), labels)
    assert found.fooled.all() and (rates >= share).all()
    assert found.images.min() >= 0 and found.images.max() <= 1
    if attack is lbfgs:
        assert (rates < share + 0.15).all()  # no more than needed

    class Disturbed(nn.Module):
        def forward(self, x):
            noise = 9 * torch.randn(4, 4, 5, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
            return {"out": model(x) + x.mean() * noise * (labels[:1] == 255).unsqueeze(1)}

    assert_close(attack(Disturbed(), images, labels, share=share).images, found.images)
    again = attack(model, images, labels.where(labels != 255, 9), share=share, void=9)
    assert torch.equal(again.images, found.images)


def test_lbfgs_aims_at_a_label_map():
    model, images = network("segment"), pictures(1)
    target = model(pictures(1, seed=2)).argmax(1)
    target[..., 0] = 255
    found = lbfgs(model, images, target, targeted=True, share=0.9)
    agreeing = (model(found.images).argmax(1) == target)[..., 1:].double().mean()
    assert found.fooled.all() and agreeing >= 0.9
    assert (model(images).argmax(1) == target)[..., 1:].double().mean() < 0.9


@ATTACKS
@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_an_image_does_not_depend_on_its_batch(attack, kind):
    model, images = network(kind), pictures(2)
    labels = model(images).argmax(1)
    whole = attack(model, images, labels)
    parts = [attack(model, images[i : i + 1], labels[i : i + 1]) for i in range(2)]
    assert_close(torch.cat([part.images for part in parts]), whole.images, atol=1e-7, rtol=0)
    assert torch.equal(torch.cat([part.fooled for part in parts]), whole.fooled)


@ATTACKS
def test_the_model_is_left_as_found(attack):
    model, images = network("segment"), pictures(2)
    model = nn.Sequential(model, nn.BatchNorm2d(4).double(), nn.Dropout(0.5)).train()
    model[0][0].weight.requires_grad_(False)
    labels = torch.zeros(2, 4, 5, dtype=torch.long)

    def state():
        parameters = [(p.tolist(), p.requires_grad, p.grad) for p in model.parameters()]
        hooks = [len(v) for m in model.modules() for k, v in vars(m).items() if "hooks" in k]
        buffers = [b.tolist() for b in model.buffers()]
        return parameters, hooks, buffers, [m.training for m in model.modules()], torch.get_rng_state().tolist()

    found = state()
    options = {"iterations": 2} if attack is lbfgs else {}
    result = attack(model, images.requires_grad_(), labels, **options)
    assert state() == found
    assert images.grad is None and not result.images.requires_grad
    assert torch.equal(images, pictures(2))
    with pytest.raises(ValueError, match="labels"):
        attack(model, images, labels + 4)
    assert state() == found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@ATTACKS
def test_cuda_gives_the_same(attack):
    model, images = network("segment"), pictures(2)
    labels = model(images).argmax(1)
    expected, found = attack(model, images, labels), attack(model.cuda(), images.cuda(), labels)
    assert_close(found.images.cpu(), expected.images, atol=1e-6, rtol=0)
    assert torch.equal(found.fooled.cpu(), expected.fooled)


def test_fooled_counts_pixels():
    logits = torch.tensor([[[0, 1, 1, 1]], [[1, 0, 0, 0]]]).float().unsqueeze(0)  # classes 1 0 0 0
    labels = torch.tensor([[[1, 0, 1, 255]]])
    assert_close(fooled(logits, labels), torch.tensor([1 / 3]))
    assert_close(fooled(logits, labels, targeted=True), torch.tensor([2 / 3]))
    assert_close(fooled(logits, labels.where(labels != 255, 7), void=7), torch.tensor([1 / 3]))
    assert fooled(logits, torch.full_like(labels, 255)).tolist() == [0]
    assert fooled(logits.flatten(2)[0].T[:3], torch.tensor([1, 1, 0])).tolist() == [0, 1, 0]


@ATTACKS
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 0.0}, "share: got 0.0, expected 0 < share <= 1"),
        ({"share": 1.5}, "share: got 1.5, expected 0 < share <= 1"),
        ({"labels": torch.zeros(5, 4)}, "labels: got torch.float32, expected integer classes"),
        ({"labels": torch.zeros(5, dtype=torch.long).numpy()}, "labels: got ndarray, expected integer classes"),
        ({"labels": torch.zeros(5, dtype=torch.bool)}, "labels: got torch.bool, expected integer classes"),
        ({"labels": torch.zeros(5, dtype=torch.complex64)}, "labels: got torch.complex64, expected integer classes"),
        ({"labels": torch.zeros(4, dtype=torch.long)}, "labels: got 4 of them, expected one per image, 5"),
        ({"labels": torch.full((5,), 7)}, "labels: got class 7, expected 0 to 3 or void = 255"),
        ({"bounds": (0.5, 1)}, r"images: got values 0\.\d+ to 0\.\d+, expected within \(0.5, 1\)"),
        ({"steps": 0}, "steps: got 0, expected at least 1"),
        ({"candidates": 1}, "candidates: got 1, expected at least 2"),
        ({"iterations": 0}, "iterations: got 0, expected at least 1"),
    ],
)
def test_mistakes_are_named(attack, wrong, message):
    options = {"images": pictures(), "labels": torch.zeros(5, dtype=torch.long)} | wrong
    unknown = {"steps", "candidates"} if attack is lbfgs else {"iterations"}
    with pytest.raises(TypeError if unknown & {*wrong} else ValueError, match=None if unknown & {*wrong} else message):
        attack(network("classify"), **options)


@ATTACKS
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_refused(attack, value):
    model = network("classify")
    model[3].bias.data[1] = value
    with pytest.raises(ValueError, match="model: got logits with NaN or infinite values, expected finite ones"):
        attack(model, pictures(), torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize(
    ("attack", "dtype", "kind", "options"),
    [
        (deepfool, torch.half, "classify", {}),
        (deepfool, torch.bfloat16, "segment", {"share": 0.3}),
        (lbfgs, torch.half, "segment", {"iterations": 5, "share": 0.3}),
        (lbfgs, torch.bfloat16, "classify", {"iterations": 5}),
    ],
)
def test_networks_in_half_precision(attack, dtype, kind, options):
    model, images = network(kind).to(dtype), pictures(1).to(dtype)
    labels = model(images).argmax(1)
    found = attack(model, images, labels, **options)
    expected = attack(copy.deepcopy(model).float(), images.float(), labels, **options)
    assert found.images.dtype == torch.float32 and found.fooled.all()
    assert fooled(model(found.images.to(dtype)), labels) >= options.get("share", 0.5)
    moved, exactly = (each.images - images.float() for each in (found, expected))
    assert torch.cosine_similarity(moved.flatten(1), exactly.flatten(1)).min() > 0.95
    assert_close(norm(moved), norm(exactly), atol=0, rtol=0.15)


@ATTACKS
@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_an_empty_batch_stays_empty(attack, kind):
    model, none = network(kind), pictures(0)
    found = attack(model, none, model(none).argmax(1), bounds=(0.6, 0.7))
    assert found.images.shape == none.shape and found.fooled.shape == (0,) and found.fooled.dtype == torch.bool
