"""Notebook 10: what a CRF, a guided step and both make of a scene, side by side."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gpcore.companion.measure import Answers
from gpcore.companion.report.panels import Panel, net_panel
from gpcore.companion.studies import Study


def right_pixels(counts: Tensor) -> Tensor:
    """Pixels that are right in each image, N from N x K x K counts."""
    return counts.diagonal(dim1=1, dim2=2).sum(1)


def variant_panels(
    study: Study, scenes: Mapping[int, str], answers: Answers, variants: Sequence[str]
) -> list[list[Panel]]:
    """Two rows of panels for each test scene, which the mapping names: what each variant answers, the first being the
    network alone, and below what it changes, with the net number of pixels; image and truth in front where ours."""
    rows = list[list[Panel]]()
    for scene, name in scenes.items():
        x, truth = study.scene(scene)
        with torch.no_grad():
            alone, *others = (scores[0].argmax(0) for scores in answers(x, truth))
        blank = Panel("changes", torch.full_like(alone, 4))
        above, below = [Panel("labels", alone, variants[0])], [blank]
        if study.shown:
            above, below = [Panel("image", x[0], name), *above], [Panel("labels", truth[0], "truth"), *below]
        for after, variant in zip(others, variants[1:], strict=True):
            above.append(Panel("labels", after, variant))
            below.append(net_panel(alone, after, truth[0], study.void))
        rows += [above, below]
    return rows
