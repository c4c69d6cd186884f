import torch
from conftest import EPSILON

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
            expected = boundary_distance(y)[mask].floor().sum().item()
            assert (part["pixels"] * part["distance"]).sum() == expected


def test_boundary_distance_by_hand():
    labels = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    expected = torch.tensor([[3, 2, 1, 1], [3, 2, 1, 1], [10**0.5, 5**0.5, 2**0.5, 1]]).double()
    assert torch.allclose(boundary_distance(labels), expected)
    assert boundary_distance(torch.zeros(2, 2)).isinf().all()
