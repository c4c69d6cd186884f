from conftest import EPSILON

from gpcore import metrics
from gpcore.companion.experiments.corrected_pixels import change_rows
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
            expected = metrics.boundary_distance(y)[mask].floor().sum().item()
            assert (part["pixels"] * part["distance"]).sum() == expected
