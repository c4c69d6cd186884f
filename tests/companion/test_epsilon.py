import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from conftest import iou, pairs

from gpcore.companion.experiments import epsilon

ROWS = pd.DataFrame(
    {
        "label": "a",
        "epsilon": [-0.01, 0, 0.01, 0.02, 0.04, 0.08, 0.16],
        "multiple": [-1, 0, 1, 2, 4, 8, 16],
        "gain": [-9.0, 0, 1, 2, 1, 0.5, -30],
        "low": [-9.5, 0, 0.5, 1, 0.5, -0.5, -40],
        "high": [-8.0, 0, 2, 3, 2, 0, -20],
        "images": 100,
    }
)


def test_ranges_by_hand():
    """Three neighbours lie wholly above zero; at the fourth the interval ends at zero and lies not below it."""
    (row,) = epsilon.ranges(ROWS).to_dict("records")
    expected = {"network": "a", "best ε": 0.02, "lies inside": True, "gain": 2, "low": 1, "high": 3}
    assert row == expected | {"sure_factor": pytest.approx(4), "possible_factor": pytest.approx(8), "images": 100}


def test_ranges_where_nothing_gains_or_the_best_is_the_last():
    rising = ROWS.iloc[:4].assign(label="rising")
    falling = ROWS.iloc[:4].assign(label="falling", gain=[3, 0, -1, -2], low=-5, high=[4, 0, -0.5, -1])
    found = epsilon.ranges(pd.concat([rising, falling])).set_index("network")
    assert found["lies inside"].tolist() == [False, False]
    assert found["sure_factor"].tolist() == [2, 0] and found["possible_factor"].tolist() == [2, 0]


def test_directions_by_hand():
    counts = {"unet": {0: pairs([5]), 1: pairs([6]), -1: pairs([1])}}
    (row,) = epsilon.directions(counts, {"unet": 0.01}).to_dict("records")
    gain, loss = iou(6) - iou(5), iou(5) - iou(1)
    assert (row["network"], row["epsilon"], row["images"]) == ("U-Net", 0.01, 1)
    assert [row[name] for name in ("gain", "loss", "PSNR (dB)")] == pytest.approx([gain, loss, 40])
    assert [row[name] for name in ("loss − 2 gain", "low", "high")] == pytest.approx([loss - 2 * gain] * 3)
    two = {"unet": {0: pairs([5, 5]), 1: pairs([6, 6]), -1: pairs([1, 5])}}
    (row,) = epsilon.directions(two, {"unet": 0.01}).to_dict("records")
    assert [row["low"], row["high"]] == pytest.approx([-2 * gain, loss - 2 * gain])
    assert torch.equal(two["unet"][0], pairs([5, 5]))


def test_multiples_are_evenly_spaced_under_their_names():
    figure = epsilon.multiples(pd.concat([ROWS, ROWS.assign(label="b", gain=0.1, images=40)]), by="label")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["a\nn = 100", "b\nn = 40"]
    assert shown[0].lines[0].get_xydata().tolist() == [[i, gain] for i, gain in enumerate(ROWS["gain"])]
    assert [tick.get_text() for tick in shown[1].get_xticklabels()] == ["-1", "0", "1", "2", "4", "8", "16"]
    band = shown[0].collections[0].get_paths()[0].vertices[:, 1]
    low, high = shown[0].get_ylim()
    assert (band.min(), band.max()) == (-40, 3) and low < -40 and high > 3
    plt.close(figure)
