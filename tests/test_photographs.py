import numpy as np
import pytest
import skimage.data
import torch

from gpcore.datasets.photographs import (
    NONE,
    PHOTOGRAPHS,
    Photographs,
    categories,
    classes,
    credits,
    photograph,
    whole,
)


def test_pictures_are_those_of_the_packages():
    """Against scikit-image's own reader."""
    for name in ("chelsea", "coffee", "rocket"):
        theirs = getattr(skimage.data, name)()
        assert np.array_equal((255 * whole(name)).round().byte().permute(1, 2, 0).numpy(), theirs)


def test_the_frame_is_cut_before_it_is_resized():
    assert torch.equal(photograph("chelsea", 300), whole("chelsea")[:, :, 100:400])
    assert torch.equal(photograph("coffee", 400), whole("coffee")[:, :, 100:500])


def test_classes_are_imagenets():
    assert len(categories()) == 1000
    assert classes("chelsea") == [281, 282, 285] and classes("camera") == [872] and classes("flower") == []


def test_the_data_set_has_one_split_and_says_where_no_class_fits():
    data = Photographs("test")
    labels = [int(data[i][1]) for i in range(len(data))]
    assert len(labels) == len(PHOTOGRAPHS) == 20
    assert labels[:6] == [281, 967, 872, 657, 652, NONE]
    assert all(image.shape == (3, 224, 224) and 0 <= image.min() <= image.max() <= 1 for image, _ in data)
    with pytest.raises(ValueError, match="split: got 'train', expected 'test'"):
        Photographs("train")


def test_every_picture_has_an_author_and_a_licence_that_lets_it_be_shown():
    free = {"CC0", "public domain", "CC BY 2.0", "no known copyright restrictions"}
    assert all(each.author and each.licence in free for each in PHOTOGRAPHS.values())
    assert credits(["flower", "camera"]) == "Photographs: flower, vultilion (CC BY 2.0); camera, Lav Varshney (CC0)"


def test_an_unknown_picture_is_refused():
    for function in (photograph, whole, classes):
        with pytest.raises(ValueError, match="photograph: got 'lena', expected one of chelsea, coffee"):
            function("lena")
