"""Measurements under attack, against the attacks themselves and against counts made by hand."""

import dataclasses
import math

import pytest
import torch
from conftest import scenes
from torch import nn

from gpcore import attacks, metrics, minimal, paths
from gpcore.companion.experiments import attacked_networks
from gpcore.companion.studies import DIGITS
from gpcore.networks.fcn import fcn_small
from gpcore.networks.unet import unet_small


def test_counts_pair_every_attack_with_every_answer(study):
    network = study.network("fcn8s")
    moves = {"same": lambda x, y: x, "black": lambda x, y: 0 * x, "labels": lambda x, y: x * (y == 3).unsqueeze(1)}
    answers = {"network": network, "flipped": lambda x: network(x).flip(1)}
    counts = attacked_networks.attacked_counts(study, moves, answers, "test")
    assert [*counts] == [(move, answer) for move in moves for answer in answers]
    for (move, answer), found in counts.items():
        for i, counted in enumerate(found):
            x, y = scenes(study)[i]
            with torch.no_grad():
                predicted = answers[answer](moves[move](x, y))[0].argmax(0)
            assert torch.equal(counted, metrics.confusion(predicted, y[0], 11, study.void))


def test_restarts_keep_what_leaves_most_pixels_wrong(study):
    network, x = study.network("fcn8s"), torch.cat([image for image, _ in scenes(study)[:3]])
    y = network(x).argmax(1)  # its own answer, so that an untrained network is right at first
    starts = x.repeat(4, 1, 1, 1), y.repeat(4, 1, 1)
    tried = attacks.pgd(network, *starts, 0.03, steps=2, seed=torch.Generator().manual_seed(0)).images
    wrong = minimal.fooled(network(tried), starts[1]).view(4, 3)
    moved = attacked_networks.strongest(network, 0.03, steps=2, restarts=4)(x, y)
    assert len({*wrong.argmax(0).tolist()}) > 1  # not one start is the best for all
    for i, best in enumerate(wrong.argmax(0)):
        assert torch.equal(moved[i], tried[3 * best + i])
    assert attacked_networks.strongest(network)(x, y) is x


def test_random_signs_move_every_value_and_stay_in_range():
    move, x = attacked_networks.random_signs(0.1), torch.tensor([0.5, 0.05]).view(1, 1, 1, 2).repeat(1, 3, 50, 1)
    first, second = move(x, x), move(x, x)
    assert not torch.equal(first, second) and torch.equal(attacked_networks.random_signs(0.1)(x, x), first)
    levels, counts = first.unique(return_counts=True)
    torch.testing.assert_close(levels, torch.tensor([0.0, 0.15, 0.4, 0.6]))
    assert counts.min() > 50


def test_names_of_what_is_kept_tell_network_training_weights_and_settings():
    first, other = (
        attacked_networks.told(DIGITS, (name, 0), {"steps": 3, "epsilon": 0.5}) for name in ("unet", "fcn8s")
    )
    assert first.startswith("unet seed0 ") and first.endswith(" epsilon=0.5 steps=3")
    assert first.split()[2] != other.split()[2] and len(first.split()[2]) == 8
    assert attacked_networks.told(DIGITS, ("unet", 0), {}, {"steps": 3}).endswith(" , steps=3")


@pytest.fixture
def keeping(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "COUNTS", tmp_path)
    monkeypatch.setenv("GPCORE_RECORD", "1")
    return tmp_path


def test_of_kept_counts_one_image_is_attacked_anew(study, keeping):
    study, seen = dataclasses.replace(study, images={"test": 4}), []

    def shift(by):
        return {"shift": lambda x, y: seen.append(len(x)) or (x + by)}

    def attacked(by, keep="one"):
        seen.clear()
        counts = attacked_networks.attacked_counts(study, shift(by), {"": study.network("fcn8s")}, "test", keep=keep)
        return counts["shift", ""], len(seen)

    first, images = attacked(0.3)
    assert images == 4 and {*seen} == {1}
    again, images = attacked(0.3)
    assert images == 1 and torch.equal(again, first)
    near, images = attacked(0.3001)  # as another machine would have it
    assert images == 1 and torch.equal(near, first)
    assert attacked(0.3, "two")[1] == 4 and len([*keeping.glob("digits/attacked*")]) == 2


def test_kept_counts_of_which_too_many_pixels_are_right_are_measured_anew(study, keeping):
    def attacked(wrong):
        def answer(x):
            truth = next(y for image, y in scenes(study) if torch.equal(image, x))
            flat = truth.flatten(1).clone()
            known = (flat[0] != study.void).nonzero()[:, 0]
            flat[:, known[: round(wrong * len(known))]] += 1
            return flat.remainder(11).view_as(truth)

        seen = []
        move = {"": lambda x, y: seen.append(0) or x}
        return attacked_networks.attacked_counts(study, move, {"": answer}, "test", keep="one")["", ""], len(seen)

    first, _ = attacked(0.5)
    assert metrics.accuracy(first).tolist() == pytest.approx([0.5] * 4, abs=1e-3)
    near, images = attacked(0.58)
    assert images == 1 and torch.equal(near, first)
    far, images = attacked(0.62)
    assert images == 4 and metrics.accuracy(far).tolist() == pytest.approx([0.38] * 4, abs=1e-3)


def test_transfer_shows_every_makers_images_to_every_judge(study):
    options = {"epsilon": 0.02, "steps": 2}
    pair = {"a": ("fcn8s", 0), "b": ("unet", 0)}
    counts = attacked_networks.transfer_counts(study, pair, pair, "test", **options)
    assert [*counts] == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    network = study.network("fcn8s")
    move = attacked_networks.strongest(network, **options)
    for i, (x, y) in enumerate(scenes(study)):
        predicted = network(move(x, y))[0].argmax(0)
        assert torch.equal(counts["a", "b"][i], metrics.confusion(predicted, y[0], 11, study.void))


def test_makers_and_judges_are_the_trainings_asked_for(study, monkeypatch):
    network, asked = study.network("fcn8s"), []
    monkeypatch.setattr(type(study), "network", lambda self, name, seed=0: asked.append((name, seed)) or network)
    monkeypatch.setattr(type(study), "stored_as", lambda self, name, seed=0: "digits/fcn-seed0")
    attacked_networks.transfer_counts(study, {"a": ("unet", 2)}, {"b": ("fcn8s", 1)}, "test", 1, epsilon=0.01, steps=1)
    assert sorted(asked) == [("fcn8s", 1), ("unet", 2)]


def test_budget_rows_count_images_of_which_half_errs():
    # right on a share of each image: all, half, less, none
    matrices = torch.stack([torch.tensor([[s * 100, (1 - s) * 100], [0, 0]]) for s in (1.0, 0.5, 0.4, 0.0)]).long()
    counts = {(("BIM", 2), "fcn8s"): matrices, (("PGD", 4), "fcn8s"): matrices[:1]}
    rows = attacked_networks.budget_rows(counts)
    assert rows[["attack", "epsilon", "success"]].to_numpy().tolist() == [["BIM", 2, 75], ["PGD", 4, 0]]
    assert rows["miou"].tolist() == pytest.approx([100 * 190 / 400 / 2, 100])  # IoU .475 and 0; one class alone
    assert rows["low"][0] < 20 < 28 < rows["high"][0] and rows["low"][1] == rows["high"][1] == 100


def of_two(*right):
    """Counts of images with ten pixels of a class, so many of them right, and none of another: an IoU of right / 10."""
    return torch.tensor([[[each, 10 - each], [0, 0]] for each in right])


def test_the_share_is_the_mean_of_what_others_cost_of_what_its_own_do():
    alone, own = of_two(10, 10), of_two(2, 2)
    first, second = of_two(6, 6), of_two(8, 8)  # mIoU: 100, 10; 30 and 40, as the class of the wrong pixels has none
    expected = [100 * (each / 90) for each in (70, 60)]
    for others, value in (([first], expected[0]), ([first, second], sum(expected) / 2), ([own], 100.0)):
        assert attacked_networks.share(alone, own, others) == pytest.approx((value, value, value))
    low, high = attacked_networks.share(alone, own, [of_two(10, 2)])[1:]
    assert (low, high) == pytest.approx((0, 100))


def test_transfer_rows_by_hand():
    alone = of_two(10, 10)
    counts = {"itself": of_two(2, 2), "a": of_two(6, 6), "none": alone}
    rows = attacked_networks.transfer_rows(alone, "itself", counts)
    assert rows["maker"].tolist() == [*counts]
    assert rows["attacked"].tolist() == pytest.approx([10, 30, 100])
    for columns in (["drop", "low", "high"], ["share", "share_low", "share_high"]):
        expected = {"drop": (90, 70, 0), "share": (100, 700 / 9, 0)}[columns[0]]
        for found, value in zip(rows[columns].to_numpy(), expected, strict=True):
            assert found.tolist() == pytest.approx([value] * 3)


def test_kinship():
    torch.manual_seed(0)
    first = fcn_small(11)
    torch.manual_seed(0)
    sibling = unet_small(11)
    torch.manual_seed(1)
    stranger = fcn_small(11)
    shared = [n for n, m in first.named_modules() if isinstance(m, nn.Conv2d) and n.startswith("conv")]
    assert attacked_networks.kinship(first, first) == pytest.approx(1)
    assert abs(attacked_networks.kinship(first, stranger)) < 0.02
    torch.testing.assert_close(first.get_submodule(shared[0]).weight, sibling.get_submodule(shared[0]).weight)
    assert attacked_networks.kinship(first, sibling) > 0.9
    assert math.isnan(attacked_networks.kinship(first, nn.Conv2d(3, 3, 1)))


def test_sizes_by_hand(study):
    network, two = study.network("fcn8s"), scenes(study)[:2]
    images, labels = (torch.cat(each) for each in zip(*two, strict=True))
    labels[labels == study.void], labels[:, :48] = 0, 99
    attacked = {"half": images + 0.5, "one": images + torch.eye(96, 128)}
    rows = attacked_networks.size_rows(network, attacked, images, labels, void=99).set_index("attack")
    pixels = 3 * 96 * 128
    assert rows["linf"].tolist() == pytest.approx([127.5, 255], rel=1e-4)
    assert rows["l2"].tolist() == pytest.approx([0.5 * pixels**0.5, (3 * 96) ** 0.5], rel=1e-4)
    assert rows["psnr"].tolist() == pytest.approx([6.0206, 10 * math.log10(128)], rel=1e-4)
    errs = (network(images + 0.5).argmax(1) != labels)[:, 48:]
    assert rows["wrong"]["half"] == pytest.approx(100 * errs.double().mean().item())


def test_panels_show_the_attack_ten_times(study):
    x, _ = study.scene(3)
    attacked = {"a": x + 0.01, "b": x, "c": x}
    rows = attacked_networks.scene_panels(study.network("fcn8s"), attacked, x)
    assert [len(row) for row in rows] == [6, 3] and [panel.title for panel in rows[0][::3]] == ["a", "b"]
    torch.testing.assert_close(rows[0][1].data, torch.full((3, 96, 128), 0.6), atol=1e-5, rtol=0)
    predicted = [study.network("fcn8s")(each)[0].argmax(0) for each in (x + 0.01, x)]
    assert torch.equal(rows[0][2].data, predicted[0]) and torch.equal(rows[0][5].data, predicted[1])
    assert torch.equal(rows[0][0].data, x[0] + 0.01)
    assert [panel.kind for panel in rows[0]] == ["image", "image", "labels"] * 2


def test_a_perturbation_is_found_once_and_kept_in_half_precision(study, keeping, monkeypatch):
    tries, v = [], torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) / 25
    find = lambda: tries.append(0) or v  # noqa: E731
    first, again = (attacked_networks.kept(study, "v of a network", find) for _ in range(2))
    assert len(tries) == 1 and torch.equal(first, again) and torch.equal(first, v.half().float())
    attacked_networks.kept(study, "v of another", find)
    assert len(tries) == 2
    monkeypatch.delenv("GPCORE_RECORD")
    assert attacked_networks.kept(study, "third", find).shape == (3, 4, 5) and len([*keeping.glob("*/*.npz")]) == 2


class Brightness(nn.Module):
    """Class 1 where the picture is brighter than a half, of every pixel or of the whole."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, x):
        z = x.mean((1, 2, 3)) if self.whole else x.mean(1)
        return torch.stack([0.5 - z, z - 0.5], 1)


def test_fooled_is_another_class_or_one_for_half_of_the_pixels():
    images = torch.tensor([0.45, 0.45, 0.45, 0.9]).view(4, 1, 1, 1).repeat(1, 1, 2, 3)
    images[1, 0, 0, :2] = images[2, 0, :, :2] = 0.1
    pushes = {"none": torch.zeros(1, 2, 3), "up": torch.full((1, 2, 3), 0.1)}
    maps = attacked_networks.fooled(Brightness(False), images, pushes)  # 6, 4, 2, 0 of 6 pixels change
    assert {name: each.tolist() for name, each in maps.items()} == {"none": [0, 0, 0, 0], "up": [1, 1, 0, 0]}
    whole = attacked_networks.fooled(Brightness(True), images, pushes)
    assert {name: each.tolist() for name, each in whole.items()} == {"none": [0, 0, 0, 0], "up": [1, 0, 0, 0]}


def test_what_is_pushed_stays_within_the_range_of_images():
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    pushed = attacked_networks.pushed(nn.Identity(), torch.full((1, 1, 1), 0.25))(images)
    assert pushed.flatten().tolist() == [0.25, 0.75, 1.0]
