"""A study's splits, names and stored settings, on a data set that names its own items."""

import dataclasses

import pytest
import torch
from torch import nn

from gpcore.companion import studies, weights
from gpcore.companion.studies import CAMVID, DIGITS


@pytest.fixture
def counted():
    """Ten validation and eleven test images; item i of a split is full of i, or of 100 + i."""
    data = {
        split: [(torch.full((3, 2, 2), float(start + i)), torch.full((2, 2), start + i)) for i in range(length)]
        for split, start, length in (("val", 0, 10), ("test", 100, 11))
    }
    return dataclasses.replace(DIGITS, name="counted", dataset=data.__getitem__, images={"val": 4, "test": 20}, batch=3)


def test_images_are_evenly_spaced(counted):
    assert counted.indices("val") == [0, 2, 5, 7]
    assert counted.indices("val", 3) == [0, 3, 6]
    assert counted.indices("val", 0) == []
    assert counted.indices("test") == [*range(11)]  # no more than there are
    assert [int(y[0, 0]) for _, y in counted.data("val")] == [0, 2, 5, 7]


def test_batches_hold_every_image_in_its_order(counted):
    batches = [*counted.batches("test", 7)]
    assert [len(x) for x, _ in batches] == [3, 3, 1]
    expected = [100, 101, 103, 104, 106, 107, 109]
    for part in range(2):
        assert torch.cat([batch[part] for batch in batches]).flatten(1).amax(1).tolist() == expected


def test_a_scene_is_counted_in_the_whole_split(counted):
    for scene, item in ((counted.scene(5), 105), (counted.scene(9, "val"), 9)):
        assert [(part.unique().item(), len(part)) for part in scene] == [(item, 1)] * 2


def test_main_tables_are_measured_on_the_larger_split_which_goes_on_after_the_other(counted):
    assert counted.main == "test" and DIGITS.main == "large" and DIGITS.indices("large") == [*range(6000)]
    large, test = (DIGITS.dataset(split) for split in ("large", "test"))
    assert all(torch.equal(*pair) for i in (0, 299) for pair in zip(large[i], test[i], strict=True))


def test_names_of_stored_weights():
    assert DIGITS.stored_as("fcn8s") == "digits/fcn-seed0"
    assert DIGITS.stored_as("unet", 2) == "digits/unet-seed2"
    assert CAMVID.stored_as("at-small") == "camvid/at-small-seed0"
    assert CAMVID.stored_as("fcn8s-context", 1) == "camvid/fcn8s-context-seed1"
    with pytest.raises(ValueError, match=r"network: got 'fcn', expected one of fcn32s, .*at-small.*fcn8s-context"):
        CAMVID.stored_as("fcn")


def test_what_is_unknown_is_named():
    with pytest.raises(ValueError, match="study: got 'voc', expected one of digits, scenes, stages, parity, camvid"):
        studies.get("voc")
    with pytest.raises(
        ValueError, match="network: got 'fcn4s', expected one of fcn32s, fcn16s, fcn8s, deeplab, unet, crfrnn, densenet"
    ):
        DIGITS.network("fcn4s")


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ([], ["digits", "camvid", "mnist", "cifar10", "photographs"]),
        (["segmentation"], ["digits", "camvid"]),
        (["scene_labelling"], ["digits", "camvid"]),
        (["segmentation", "crfs"], ["digits", "camvid"]),
        (["crfs"], ["digits", "camvid"]),
        (["refiners", "crfs"], ["digits", "camvid"]),
        (["classification"], ["digits", "mnist", "cifar10"]),
        (["robust"], ["digits", "camvid"]),
        (["robust", "photographs"], ["digits"]),
        (["digits"], ["digits"]),
        (["lectures"], ["photographs"]),
        (["refiner"], []),
    ],
)
def test_notebooks_run_where_all_that_they_need_is(needs, expected):
    assert studies.suited(needs) == studies.suited(iter(needs)) == expected


def test_every_task_is_done_by_a_study():
    tasks = {name: study.tasks for name, study in studies.STUDIES.items() if study.tasks}
    assert {study for each in tasks.values() for study in each.values()} == {*studies.STUDIES}
    assert tasks["digits"]["scene_labelling"] == "scenes" and tasks["camvid"]["scene_labelling"] == "camvid"
    done = {name: studies.get(each["classification"]) for name, each in tasks.items() if "classification" in each}
    assert {name: study.networks["classifier"].published for name, study in done.items()} == {
        "digits": "mnist",
        "mnist": "mnist",
        "cifar10": "cifar10",
    }


def test_a_network_is_called_the_same_in_all_studies():
    every = [pair for study in studies.STUDIES.values() for pair in {**study.networks, **study.robust}.items()]
    called = {(name, plan.label, plan.published) for name, plan in every if name in studies.LABELS}
    assert len(called) == len(studies.LABELS) == 22
    assert (studies.LABELS["crfrnn"], studies.PUBLISHED["crfrnn"]) == ("FCN-8s + CRF-RNN", "CRFasRNN-coco")
    assert studies.LABELS["at-large"] == studies.PUBLISHED["at-large"] == "AT-large"


def test_networks_and_settings_are_those_that_are_stored(monkeypatch):
    asked = []
    network = nn.Conv2d(3, 11, 1)
    state = {name: torch.full_like(value, 0.5) for name, value in network.state_dict().items()}
    settings = {"fcn32s": {"epsilon": 0.1}, "fcn8s": {"epsilon": 1, "val": 70}, "unet": {"epsilon": 0.3}}
    monkeypatch.setattr(weights, "load", lambda name: asked.append(name) or state)
    monkeypatch.setattr(weights, "info", lambda name: asked.append(name) or {"networks": settings})
    plan = dataclasses.replace(DIGITS.networks["fcn8s"], build=lambda classes: network if classes == 11 else None)
    study = dataclasses.replace(DIGITS, networks={"fcn8s": plan})
    loaded = study.network("fcn8s", 3)
    assert loaded is network and not loaded.training
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert study.tuned("fcn8s", 3) == {"epsilon": 1, "val": 70}
    assert study.epsilon("fcn8s", 3) == 1.0 and isinstance(study.epsilon("fcn8s", 3), float)
    assert set(asked) == {"digits/fcn-seed3"}


def test_a_sample_is_the_first_images_or_grey_ones_of_their_size(study):
    images, labels = study.sample(2)
    assert all(torch.equal(images[i], study.dataset("test")[i][0]) for i in range(2))
    assert torch.equal(labels[1], study.dataset("test")[1][1]) and len(study.sample()[0]) == study.batch
    assert torch.equal(study.sample(1, "val")[0][0], study.dataset("val")[0][0])

    def gone(split):
        raise FileNotFoundError("no photographs")

    bare = dataclasses.replace(study, dataset=gone, size=(6, 8))
    assert study.present and not bare.present
    images, labels = bare.sample(2)
    assert images.shape == (2, 3, 6, 8) and (images == 0.5).all() and labels.shape == (2, 6, 8)
    assert bare.indices("val") == [0, 1, 2, 3]  # as many as the study uses: all that there are


def test_how_many_images_a_study_affords(study):
    assert (study.up_to(3), study.up_to(100), dataclasses.replace(study, most=2).up_to(3)) == (3, 4, 2)


def test_what_is_not_ours_is_shown_but_for_the_record(study, withheld, monkeypatch):
    assert study.shown and not withheld.shown
    monkeypatch.delenv("GPCORE_RECORD")
    assert study.shown and withheld.shown
