import pandas as pd
import pytest
import torch
from conftest import EPSILON

from gpcore.companion.experiments import corrected_pixels
from gpcore.companion.experiments.corrected_pixels import boundary_distance, change_rows
from gpcore.companion.measure import changes
from gpcore.perturb import guide


def test_changes_and_their_distances(study):
    rows = change_rows(study, "fcn8s", "test", 2)
    for image, (x, y) in enumerate([study.data("test", 2)[i] for i in range(2)]):
        guided = guide(study.network("fcn8s"), x[None], EPSILON)
        kinds = changes(guided.before[0].argmax(0), guided.after[0].argmax(0), y, 255)
        for kind, mask in kinds.items():
            part = rows[(rows["image"] == image) & (rows["kind"] == kind)]
            assert part["pixels"].sum() == mask.sum()
            assert part["on_objects"].sum() == (mask & (y != study.classes.index("ground"))).sum()
            expected = boundary_distance(y)[mask].floor().sum().item()
            assert (part["pixels"] * part["distance"]).sum() == expected


def test_boundary_distance_by_hand():
    labels = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    expected = torch.tensor([[3, 2, 1, 1], [3, 2, 1, 1], [10**0.5, 5**0.5, 2**0.5, 1]]).double()
    assert torch.allclose(boundary_distance(labels), expected)
    assert boundary_distance(torch.zeros(2, 2)).isinf().all()


ROWS = pd.DataFrame(
    [
        *((0, "base error", 1, 2, 0), (0, "base error", 2, 2, 2), (1, "base error", 3, 4, 1)),
        *((0, "corrected", 4, 2, 2), (1, "corrected", 6, 2, 1), (0, "newly wrong", 1, 5, 0)),
    ],
    columns=["image", "kind", "distance", "pixels", "on_objects"],
)


def test_shares_on_objects_are_of_all_images_together():
    found = corrected_pixels.object_shares(ROWS)
    assert {kind: share.value for kind, share in found.items()} == {
        "base error": pytest.approx(100 * 3 / 8),
        "corrected": pytest.approx(75),
        "newly wrong": 0,
    }
    assert (found["base error"].low, found["base error"].high) == (25, 50)  # of either image alone


def test_summary_and_differences_have_their_networks():
    deeper = ROWS.assign(distance=ROWS["distance"] + 10 * (ROWS["kind"] == "corrected"))
    table = corrected_pixels.summary({"a": ROWS, "b": deeper})
    assert table["network"].tolist() == ["a"] * 3 + ["b"] * 3
    assert table["kind"].tolist() == ["base error", "corrected", "newly wrong"] * 2
    assert table["median"].tolist() == [3, 5, 1.5, 3, 15, 1.5]
    assert table["on objects (%)"].tolist() == [37.5, 75, 0] * 2
    found = corrected_pixels.differences({"a": ROWS, "b": deeper})
    assert found["difference"].tolist() == ["corrected − base error", "corrected − newly wrong"] * 2
    assert found["median"].tolist() == [2, 3.5, 12, 13.5]
