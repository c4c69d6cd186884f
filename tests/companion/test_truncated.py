import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from conftest import EPSILON, iou, pairs

from gpcore import paths
from gpcore.companion import cost, measure
from gpcore.companion.experiments import truncated
from gpcore.companion.studies import Study
from gpcore.perturb import guide


@pytest.fixture
def layered(study, monkeypatch):
    """The study, whose networks have an epsilon at pool4 too."""
    tuned = {"epsilon": EPSILON, "pool4": {"epsilon": 0.5}}
    monkeypatch.setattr(Study, "tuned", lambda self, name, seed=0: tuned)
    return study


def test_steps_are_taken_where_an_epsilon_was_chosen(layered):
    assert cost.places(layered, "fcn8s") == {"input": EPSILON, "pool4": 0.5}
    found = truncated.place_counts(layered, "fcn8s")
    assert [*found] == [cost.ALONE, "input", "pool4"]
    network = layered.network("fcn8s")
    x, y = (torch.cat(parts) for parts in zip(*(layered.scene(i) for i in layered.indices("test")), strict=True))
    at_input, at_pool4 = guide(network, x, EPSILON), guide(network, x, 0.5, at="pool4")
    for place, scores in ((cost.ALONE, at_input.before), ("input", at_input.after), ("pool4", at_pool4.after)):
        assert torch.equal(found[place], measure.count_pixels(layered, scores, y))
    assert not torch.equal(found["input"], found["pool4"])


def test_times_are_those_recorded_if_they_are_of_the_same_places(layered, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "FINISHED", tmp_path)
    monkeypatch.setattr(
        cost, "timing", lambda study, name: pd.DataFrame({"place": [cost.ALONE], "milliseconds": [len(name)]})
    )
    fresh = truncated.timing_rows(layered, ["fcn8s", "fcn32s"], again=False)
    assert fresh[["network", "milliseconds"]].to_numpy().tolist() == [["fcn8s", 5], ["fcn32s", 6]]
    folder = tmp_path / layered.name / "09_truncated"
    folder.mkdir(parents=True)
    kept = pd.DataFrame({"network": "fcn8s", "place": [cost.ALONE, "input", "pool4"], "milliseconds": [1.0, 2.0, 3.0]})
    kept.to_csv(folder / "timing.csv", index=False)
    assert truncated.timing_rows(layered, ["fcn8s"], again=False)["milliseconds"].tolist() == [1, 2, 3]
    assert truncated.timing_rows(layered, ["fcn8s"], again=True)["milliseconds"].tolist() == [5]
    assert len(truncated.timing_rows(layered, ["fcn8s", "fcn32s"], again=False)) == 2
    kept.drop(columns="network").to_csv(folder / "timing.csv", index=False)  # as older ones
    assert truncated.timing_rows(layered, ["fcn8s"], again=False)["milliseconds"].tolist() == [5]


COUNTS = {"fcn8s": {cost.ALONE: pairs([5, 5]), "input": pairs([8, 8]), "pool4": pairs([7, 9])}}


def test_costs_are_multiples_of_the_network_alone(layered, monkeypatch):
    places = [cost.ALONE, "input", "pool4"]
    spent = pd.DataFrame({"place": places, "gflop": [2.0, 6.0, 3.0], "megabytes": [10.0, 30.0, 15.0]})
    monkeypatch.setattr(cost, "operations", lambda study, name: spent)
    times = pd.DataFrame({"network": "fcn8s", "place": places, "milliseconds": [4.0, 10.0, 6.0]})
    other = times.assign(network="fcn32s", milliseconds=99.0)
    rows = truncated.cost_rows(layered, COUNTS, pd.concat([other, times])).set_index("place")
    assert rows["network"].tolist() == ["FCN-8s"] * 3 and rows["images"].tolist() == [4] * 3
    assert rows["time_ratio"].tolist() == [1, 2.5, 1.5] and rows["operations_ratio"].tolist() == [1, 3, 1.5]
    assert rows["gain"].tolist() == pytest.approx([0, iou(8) - iou(5), iou(8) - iou(5)])
    assert rows["epsilon"].tolist()[1:] == [EPSILON, 0.5]


def test_what_a_layer_keeps_is_over_the_input():
    (row,) = truncated.kept_rows(COUNTS).to_dict("records")
    assert (row["network"], row["difference"]) == ("FCN-8s", "pool4 − input")
    ends = [iou(8) - iou(8), iou(7) - iou(8), iou(9) - iou(8)]
    assert [row[name] for name in ("points", "low", "high")] == pytest.approx(ends)


def test_published_numbers_have_axes_of_their_own():
    rows = pd.DataFrame(
        {"network": "FCN-8s", "place": ["input", "pool4"], "gain": [1.0, 0.5], "low": [0.5, 0], "high": [2.0, 1.0]}
    ).assign(time_ratio=[3.0, 2.0], images=300)
    published = pd.DataFrame({"place": ["input", "pool4"], "gain": [2.6, 2.2], "time_ratio": [2.75, 1.8]})
    figure = truncated.places(pd.concat([rows, rows.assign(network="FCN-32s")]), published)
    first, second, theirs, *times = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["FCN-8s, 300 images", "FCN-32s, 300 images"]
    assert theirs.lines[0].get_ydata().tolist() == [2.6, 2.2] and not theirs.containers
    (segments,) = first.containers[0].lines[2]
    assert [[end[1] for end in each] for each in segments.get_segments()] == [[0.5, 2.0], [0, 1.0]]
    assert first.get_ylim() == second.get_ylim() != theirs.get_ylim()
    assert [[bar.get_height() for bar in axes.patches] for axes in times] == [[3, 2], [3, 2], [2.75, 1.8]]
    plt.close(figure)
