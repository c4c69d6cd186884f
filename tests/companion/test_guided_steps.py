import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import iou, pairs

from gpcore.companion.experiments import guided_steps
from gpcore.companion.report import panels
from gpcore.companion.studies import DIGITS


@pytest.fixture
def study():
    """One test scene of 2 x 3 pixels of three classes, one of them void."""
    data = [(torch.full((3, 2, 3), 0.5), torch.tensor([[0, 1, 2], [0, 1, DIGITS.void]]))]
    return dataclasses.replace(
        DIGITS, dataset=lambda split: data, classes=DIGITS.classes[:3], colours=DIGITS.colours[:3]
    )


def scored(labels):
    """Scores 1 x 3 x 2 x 3 by which these are predicted."""
    return torch.nn.functional.one_hot(torch.tensor([labels]), 3).movedim(-1, 1).float()


WRONG_TWICE, BETTER, WORSE = [[0, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 1, 2]], [[1, 0, 2], [1, 0, 0]]


def test_scene_figure_by_hand(study):
    titles = ["true labels' step", "own step"]
    figure, rows = guided_steps.scene_figure(
        study, ["fcn32s", "fcn8s"], 0, lambda name: lambda x, y: map(scored, (WRONG_TWICE, BETTER, WORSE)), titles
    )
    expected = [("prediction", 2, 0, 0), ("true labels' step", 1, 1, 0), ("own step", 4, 1, 3)]
    found = rows[["network", "answer", "wrong", "corrected", "newly_wrong", "scene"]].to_numpy().tolist()
    assert found == [[name, *each, 0] for name in ("FCN-32s", "FCN-8s") for each in expected]
    drawn = [axes.images[0].get_array() for axes in figure.axes[:16]]
    colours, (right, still, corrected, newly, void) = np.array(study.colours), range(len(panels.CHANGES))
    for line in (0, 8):
        for place, labels in ((1, WRONG_TWICE), (2, BETTER), (3, WORSE)):
            np.testing.assert_array_equal(drawn[line + place], colours[np.array(labels)])

        assert drawn[line + 5].tolist() == [[right, still, still], [right, right, void]]
        assert drawn[line + 6].tolist() == [[right, corrected, still], [right, right, void]]
        assert drawn[line + 7].tolist() == [[newly, still, corrected], [newly, newly, void]]
    texts = [axes.get_title() for axes in figure.axes[:16]]
    assert texts[:4] == ["image", "prediction", *titles]
    assert texts[4:8] == ["truth", "2 pixels wrong", "+1 −0 pixels", "+1 −3 pixels"]
    assert [axes.get_ylabel() for axes in figure.axes[0:16:4]] == ["FCN-32s", "changes", "FCN-8s", "changes"]
    plt.close(figure)


def test_scene_figure_draws_nothing_that_may_not_be_shown(withheld):
    figure, _ = guided_steps.scene_figure(
        withheld, ["fcn8s"], 0, lambda name: lambda x, y: map(scored, (WRONG_TWICE, BETTER)), ["own step"]
    )
    assert [axes.get_title() for axes in figure.axes] == ["prediction", "own step", "2 pixels wrong", "+1 −0 pixels"]
    plt.close(figure)


def test_curves_are_apart_by_group_and_have_their_bands():
    rows = pd.DataFrame(
        [(by, hue, x, x * scale, x * scale - 1, x * scale + 2)
         for by, scale in (("true labels", 10), ("own", 1)) for hue in ("FCN-32s", "FCN-8s") for x in (0, 1, 2)],
        columns=["direction", "network", "factor", "gain", "low", "high"],
    )  # fmt: skip
    figure = guided_steps.curves(rows, x="factor", hue="network", by="direction", label="ε")
    assert [axes.get_title() for axes in figure.axes] == ["true labels", "own"]
    for axes, scale in zip(figure.axes, (10, 1), strict=True):
        assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [[0, scale, 2 * scale]] * 2
        for band in axes.collections:
            ends = band.get_paths()[0].vertices[:, 1]
            assert (ends.min(), ends.max()) == (-1, 2 * scale + 2)
        assert len(axes.collections) == 2
    assert [text.get_text() for text in figure.legends[0].texts] == ["FCN-32s", "FCN-8s"]
    plt.close(figure)


def test_agreement_draws_each_networks_mean():
    rows = pd.DataFrame({"network": ["a", "a", "b", "b"], "cosine": [0.1, 0.3, 0.5, 0.7], "sign_agreement": [0.5] * 4})
    figure = guided_steps.agreement_figure(rows)
    cosine, agreement = figure.axes
    assert [text.get_text() for text in cosine.get_legend().texts] == ["a, mean 0.200", "b, mean 0.600"]
    assert agreement.get_xlabel() == "sign agreement"
    plt.close(figure)


def test_first_minus_share_by_hand():
    """Gains 20, 30 and 10 of hits of ten pixels, in images that are all alike: each resample is the same."""
    hits = (4, 6, 8, 5)
    trajectory = torch.stack([pairs([each] * 5) for each in hits])
    before, first, best, _ = map(iou, hits)
    found = guided_steps.first_minus_share(trajectory, 0.6)
    assert [*found] == pytest.approx([(first - before) - 0.6 * (best - before)] * 3)
    only = guided_steps.first_minus_share(trajectory[:2], 0.6)
    assert only.value == pytest.approx(0.4 * (first - before))


def test_every_resample_has_its_own_best():
    """Two images whose best step differs: resamples of one image alone reach what that one's own best says."""
    trajectory = torch.stack([pairs([4, 4]), pairs([5, 5]), pairs([9, 4]), pairs([4, 9])])
    gain = {each: iou(each) - iou(4) for each in (5, 6.5, 9)}
    found = guided_steps.first_minus_share(trajectory, 0.6)
    assert found.value == pytest.approx(gain[5] - 0.6 * gain[6.5])
    assert found.low == pytest.approx(gain[5] - 0.6 * gain[9])
    assert found.high == pytest.approx(found.value)


def test_shares_of_wrong_pixels_by_hand():
    """Two classes; y of the true one is 3/4 where right, 1/4 where wrong, and one pixel is void."""
    odds = torch.log(torch.tensor(3.0))
    logits = torch.stack([torch.zeros(1, 4), odds.expand(1, 4)])[None]
    truth = torch.tensor([[[1, 1, 0, 255]]])
    shares = guided_steps.wrong_shares(logits, truth, 255)
    assert shares.tolist() == [pytest.approx([1 / 3, (3 / 4) / (1 / 4 + 1 / 4 + 3 / 4)])]
