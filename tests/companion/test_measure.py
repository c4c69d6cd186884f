import dataclasses
import itertools
from functools import partial

import pytest
import torch
from conftest import CRF, EPSILON, scenes

from gpcore import metrics, paths
from gpcore.companion import keeping, measure
from gpcore.companion.studies import DIGITS, Study
from gpcore.crf import dense_crf
from gpcore.perturb import guide


def counted(study, logits, labels):
    return metrics.confusion(logits.argmax(0), labels, 11, study.void)


def void_of_three(study):
    """The study with another void: contours are 3, as is the digit 2."""
    data = [(x, y.where(y != study.void, 3)) for x, y in study.data("test")]
    return dataclasses.replace(study, void=3, dataset=lambda split: data)


def test_guided_counts_are_those_of_guide(study):
    counts, pixels = measure.guided_counts(study, "fcn8s", "test")
    assert counts.shape == (2, 4, 11, 11)
    for i, (x, (y,)) in enumerate(scenes(study)):
        guided = guide(study.network("fcn8s"), x, EPSILON)
        assert torch.equal(counts[0, i], counted(study, guided.before[0], y))
        assert torch.equal(counts[1, i], counted(study, guided.after[0], y))
        was, now = guided.before[0].argmax(0) == y, guided.after[0].argmax(0) == y
        assert [int(each[i]) for each in pixels.values()] == [(~was & now).sum(), (was & ~now).sum()]
    assert list(pixels) == ["corrected", "newly_wrong"] and all(each.sum() > 0 for each in pixels.values())
    half, _ = measure.guided_counts(study, "fcn8s", "test", epsilon=EPSILON / 2)
    assert torch.equal(half[0], counts[0])
    assert not torch.equal(half[1], counts[1])


def test_sweeps_at_a_layer_perturb_that_layer(study):
    swept = measure.sweep_counts(study, "fcn8s", "test", [0.0, 0.5], at="pool4")
    for i, (x, (y,)) in enumerate(scenes(study)):
        guided = guide(study.network("fcn8s"), x, 0.5, at="pool4")
        assert torch.equal(swept[0, i], counted(study, guided.before[0], y))
        assert torch.equal(swept[1, i], counted(study, guided.after[0], y))


def test_sweeps_go_where_they_are_told(study):
    """By the true labels, without void, or by another signal; a minus steps away."""
    study = void_of_three(study)
    tried = {"truth": {"labels": "truth"}, "eq5": {"signal": "eq5", "labels": "top2"}}
    found = {name: measure.sweep_counts(study, "fcn8s", "test", [EPSILON, -EPSILON], **o) for name, o in tried.items()}
    for i, (x, y) in enumerate(scenes(study)):
        options = {"truth": {"labels": y, "void": 3}, "eq5": tried["eq5"]}
        for (name, each), (e, epsilon) in itertools.product(options.items(), enumerate((EPSILON, -EPSILON))):
            after = guide(study.network("fcn8s"), x, epsilon, **each).after[0]
            assert torch.equal(found[name][e, i], counted(study, after, y[0]))
    assert not torch.equal(found["truth"], found["eq5"])


def test_every_measurement_asks_for_the_training_it_is_told(study, monkeypatch):
    network, asked = study.network("fcn8s"), []
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: asked.append((name, seed)) or network)
    monkeypatch.setattr(
        Study, "tuned", lambda self, name, seed=0: {"epsilon": asked.append(("tuned", seed)) or EPSILON}
    )
    measure.guided_counts(study, "unet", "test", images=1, seed=2)
    measure.sweep_counts(study, "unet", "test", [0.0], images=1, seed=1)
    assert asked == [("unet", 2), ("tuned", 2), ("unet", 1)]


def test_answers_see_what_a_change_makes_of_the_images(study):
    network = study.network("fcn8s")
    answers = {"alone": network, "flipped": lambda x: network(x).flip(1)}
    found = measure.answer_counts(study, answers, "test", 3, change=lambda x: 1 - x)
    (plain,) = measure.count(study, lambda x, y: [network(x)], "test", 3)
    for i, (x, y) in enumerate(study.data("test", 3)):
        with torch.no_grad():
            before, after = network(x[None])[0], network(1 - x[None])[0]
        assert torch.equal(plain[i], counted(study, before, y))
        assert torch.equal(found["alone"][i], counted(study, after, y))
        assert torch.equal(found["flipped"][i], counted(study, after.flip(0), y))
    assert len(plain) == len(found["alone"]) == 3


def test_psnr_of_a_step():
    assert metrics.step_psnr(0.01) == pytest.approx(40)
    noisy = torch.full((3, 8, 8), 0.5) + 0.002 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
    error = (noisy - 0.5).square().mean()
    assert metrics.step_psnr(-0.002) == pytest.approx(-10 * torch.log10(error).item(), abs=1e-3)


def test_changes_of_pixels():
    before = torch.tensor([[0, 0, 1], [2, 2, 2]])
    after = torch.tensor([[0, 1, 1], [2, 1, 2]])
    truth = torch.tensor([[0, 1, 1], [2, 2, 255]])
    kinds = measure.changes(before, after, truth, 255)
    assert kinds["base error"].int().tolist() == [[0, 1, 0], [0, 0, 0]]
    assert kinds["corrected"].int().tolist() == [[0, 1, 0], [0, 0, 0]]
    assert kinds["newly wrong"].int().tolist() == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("steps", [1, 3])
def test_counts_are_of_every_image_under_every_answer(study, steps):
    """Void pixels apart, from predictions on whichever grid, with no graph behind them."""
    study, network, seen = void_of_three(study), study.network("fcn8s"), []

    def answers(x, y):
        seen.append(torch.is_grad_enabled())
        return guide(network, x, EPSILON, steps=steps).trajectory

    counts = measure.count(study, answers, "test")
    assert counts.shape == (steps + 1, 4, 11, 11) and seen == [False, False]
    for i, (x, (y,)) in enumerate(scenes(study)):
        found = guide(network, x, EPSILON, steps=steps).trajectory
        assert torch.equal(counts[:, i], torch.stack([counted(study, z[0], y) for z in found]))
    assert counts.sum((2, 3)).tolist() == [[int((y != 3).sum()) for _, y in scenes(study)]] * (steps + 1)


@pytest.fixture
def kept(study, tmp_path, monkeypatch):
    """A study of five images in batches of two, its counts kept below tmp_path, and how many batches were measured."""
    monkeypatch.setattr(paths, "COUNTS", tmp_path)
    monkeypatch.setenv("GPCORE_RECORD", "1")
    study, measured = dataclasses.replace(study, images={"test": 5}, batch=2), []

    def count(classes, keep="one", images=None):
        measured.clear()
        return measure.count(
            study, lambda x, y: measured.append(0) or classes(x, y), "test", images, keep=keep
        ), measured

    return count


def dark(x, y):
    return [(10 * x.mean(1)).long(), y.clamp(max=10)]


def test_what_is_kept_is_read_once_the_first_batch_agrees(kept, tmp_path, monkeypatch):
    first, measured = kept(dark)
    assert len(measured) == 3 and first.shape == (2, 5, 11, 11)
    (file,) = tmp_path.glob("digits/one_test_5-*.npz")
    blob = file.read_bytes()
    again, measured = kept(dark)
    assert len(measured) == 1 and torch.equal(again, first) and again.dtype == first.dtype
    monkeypatch.delenv("GPCORE_RECORD")
    file.write_bytes(blob)
    assert len(kept(dark)[1]) == 1
    for other in ({"keep": "two"}, {"images": 4}):  # another name, other images
        assert len(kept(dark, **other)[1]) > 1
    assert [*tmp_path.glob("digits/*")] == [file]  # nothing is kept unless it is asked for


def test_what_is_kept_and_wrong_is_measured_anew(kept, tmp_path):
    """Another network, one answer more, a few images less: none of them reads the old counts, all replace them."""
    first, _ = kept(dark)
    for changed in (
        lambda x, y: [(9 * x.mean(1)).long(), y.clamp(max=10)],
        lambda x, y: [*dark(x, y), y.clamp(max=10)],
    ):
        found, measured = kept(changed)
        assert len(measured) == 3 and (found.shape != first.shape or not torch.equal(found, first))
        assert torch.equal(kept(changed)[0], found)


def test_an_interrupted_measurement_goes_on_where_it_was(kept, tmp_path, monkeypatch):
    """Killed in its third batch of two, after each of which it kept what there was; then killed no more."""
    monkeypatch.setattr(measure, "OFTEN", -1)
    calls = []

    def killed(x, y):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return dark(x, y)

    with pytest.raises(KeyboardInterrupt):
        kept(killed)
    (part,) = tmp_path.glob("digits/one_test_5-*.part.npz")
    blob = part.read_bytes()
    monkeypatch.delenv("GPCORE_RECORD")
    assert len(kept(dark)[1]) == 2 and part.read_bytes() == blob  # who keeps nothing takes nothing away
    monkeypatch.setenv("GPCORE_RECORD", "1")
    found, measured = kept(dark)
    assert len(measured) == 2  # the first anew, to compare, and the third
    (file,) = tmp_path.glob("digits/*")
    assert ".part" not in file.name
    file.unlink()
    whole, measured = kept(dark)
    assert len(measured) == 3 and torch.equal(whole, found)
    file.unlink()
    part.write_bytes(blob)  # of another network nothing is taken over
    _, measured = kept(lambda x, y: [(9 * x.mean(1)).long(), y.clamp(max=10)])
    assert len(measured) == 3


def test_without_the_images_what_is_kept_is_taken_as_it_is(kept, study, monkeypatch):
    first, _ = kept(dark)

    def gone(split):
        raise FileNotFoundError("no photographs")

    bare = dataclasses.replace(study, images={"test": 5}, batch=2, dataset=gone, sequences={"test": (5,)})
    taken = partial(measure.count, bare, lambda x, y: pytest.fail("asked"), "test", keep="one")
    assert torch.equal(taken(frames=True), first) and torch.equal(taken(), first.sum(1, keepdim=True))
    with pytest.raises(FileNotFoundError, match="no photographs"):
        measure.count(bare, dark, "test", keep="another")


@pytest.mark.parametrize("name", DIGITS.networks)
def test_what_is_committed_agrees_with_the_committed_networks(name, monkeypatch):
    """So that a run reads it: after one batch of the ten images that it measures anew."""
    batches, measured = Study.batches, []

    def noted(self, split, count=None):
        for batch in batches(self, split, count):
            measured.append(len(batch[0]))
            yield batch

    monkeypatch.setattr(Study, "batches", noted)
    counts, _ = measure.guided_counts(DIGITS, name, DIGITS.main)
    assert measured == [10] and counts.shape == (2, 6000, 11, 11)


@pytest.mark.parametrize(("share", "batches"), [(0.0015, 1), (0.003, 3)])
def test_machines_may_differ_in_a_few_pixels(kept, share, batches):
    kept(dark)

    def differing(x, y):
        classes, truth = dark(x, y)
        known = (y != 255).flatten(1).cumsum(1).view_as(y)
        moved = (y != 255) & (known <= share * known.amax((1, 2), keepdim=True))
        return [torch.where(moved, 10, classes), truth]

    assert len(kept(differing)[1]) == batches


def test_a_crf_refines_each_image_by_its_own(study):
    x, _ = next(study.batches("test"))
    scores = study.network("fcn8s")(x).detach()
    expected = [dense_crf(z.softmax(0), image, **CRF) for z, image in zip(scores, x, strict=True)]
    assert torch.equal(measure.with_crf(scores, x, CRF), torch.stack(expected))


def test_what_is_remembered_is_the_same_batch_and_not_an_equal_one():
    asked = []
    answer = measure.once(lambda x, scale=1: asked.append(x) or scale * x)
    first, second = torch.ones(2), torch.ones(2)
    assert [answer(x) is answer(x) for x in (first, second)] == [True, True]
    assert [each is x for each, x in zip(asked, (first, second), strict=True)] == [True, True]
    assert answer(first, 2).tolist() == [2, 2] and len(asked) == 3


def test_units_are_blocks_of_consecutive_frames_of_one_sequence(study):
    """Frames that count themselves, of videos of 12 and 23 frames: blocks end with their video."""
    video = dataclasses.replace(study, dataset=lambda split: range(35), sequences={"test": (12, 23)})
    counts = torch.arange(35).view(35, 1).expand(35, 2)
    summed = measure.by_unit(video, "test", counts)
    ends = [(0, 10), (10, 12), (12, 22), (22, 32), (32, 35)]
    assert summed.tolist() == [[sum(range(*end))] * 2 for end in ends]
    assert torch.equal(measure.by_unit(video, "test", counts.T, 1), summed.T)
    assert video.number("test", 35) == 5 and study.number("test", 3) == 3
    # of seven frames, every fifth: 0, 5 | 10 | 15, 20 | 25, 30
    assert video.units("test", 7).tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert study.units("test") is None and torch.equal(measure.by_unit(study, "test", counts), counts)


def test_of_a_video_counts_are_those_of_its_blocks(kept, study, monkeypatch):
    """And the frames' own where they are asked for; one file holds them for both."""
    video = dataclasses.replace(study, images={"test": 5}, batch=2, sequences={"test": (2, 3)})
    whole = measure.count(video, dark, "test", keep="both", frames=True)
    blocks = measure.count(video, lambda x, y: dark(x, y) if len(x) == 2 else pytest.fail("anew"), "test", keep="both")
    assert whole.shape == (2, 5, 11, 11)
    assert torch.equal(blocks, torch.stack([whole[:, :2].sum(1), whole[:, 2:].sum(1)], 1))


def test_other_values_are_kept_too_and_agree_by_their_size(kept, study):
    """Here brightness: a batch that is a hundredth brighter is taken for the same on another machine."""
    study, asked = dataclasses.replace(study, images={"test": 5}, batch=2), []

    def bright(factor, gap=0.0):
        def values(x, y):
            asked.append(len(x))
            return torch.stack([factor * x.mean((1, 2, 3)), torch.full((len(x),), gap)])

        asked.clear()
        keep = {"keep": "bright", "agree": keeping.values_agree}
        return measure.collect(study, values, "test", **keep), [*asked]

    first, measured = bright(1)
    assert measured == [2, 2, 1] and first.shape == (2, 5)
    found, measured = bright(1.01)
    assert measured == [2] and torch.equal(found, first)
    assert bright(1.05)[1] == [2, 2, 1]
    gaps, _ = bright(1.05, float("nan"))
    found, measured = bright(1.05, float("nan"))
    assert measured == [2] and torch.allclose(found, gaps, equal_nan=True)


def test_whole_numbers_agree_by_their_size_as_well():
    kept = torch.tensor([[[100, 0], [3, 4]]])
    assert keeping.values_agree(kept, kept) and keeping.values_agree(kept, kept + 1)  # by 2 of some 100
    assert not keeping.values_agree(kept, kept + 2)
