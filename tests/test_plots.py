import matplotlib.pyplot as plt
import pandas as pd
import pytest

from gpcore import plots

ROWS = pd.DataFrame(
    {
        "label": ["A", "A", "B", "B"],
        "variant": ["+CRF", "+GP", "+CRF", "+GP"],
        "epsilon": [0.0, 1.0, 0.0, 1.0],
        "gain": [0.5, -0.25, 2.0, 1.0],
        "low": [0.25, -1.0, 1.0, 0.75],
        "high": [1.0, 0.0, 4.0, 2.0],
    }
)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_points_stand_at_their_value_with_their_interval():
    (axes,) = plots.points(ROWS, x="gain", y="label", hue="variant").axes
    for name, lines, (bars,) in [(c.get_label(), c.lines[0], c.lines[2]) for c in axes.containers]:
        part = ROWS[ROWS["variant"] == name]
        assert lines.get_xdata().tolist() == part["gain"].tolist()
        assert [[end[0] for end in segment] for segment in bars.get_segments()] == part[
            ["low", "high"]
        ].to_numpy().tolist()
        assert [round(y) for y in lines.get_ydata()] == [0, 1]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["A", "B"]


def test_small_multiples_draw_one_network_each():
    figure = plots.small_multiples(ROWS, x="epsilon", y="gain", by="label")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["A", "B"]
    for axes, (_, part) in zip(shown, ROWS.groupby("label"), strict=True):
        assert axes.lines[0].get_ydata().tolist() == part["gain"].tolist()
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == (part["low"].min(), part["high"].max())


def test_strategies_are_evenly_spaced_and_enlarged_around_the_base():
    rows = pd.DataFrame({"label": ["a"] * 3, "epsilon": [-1, 0, 0.03], "miou": [50.0, 70.0, 71.0]})
    whole, zoomed = plots.strategies(rows, base=70).axes
    assert whole.lines[0].get_xdata().tolist() == [0, 1, 2]
    assert whole.lines[0].get_ydata().tolist() == [50, 70, 71]
    assert [tick.get_text() for tick in whole.get_xticklabels()] == ["-1", "0", "0.03"]
    assert zoomed.get_ylim() == (67, 71.5)


def test_trade_names_every_point():
    rows = pd.DataFrame({"place": ["input", "pool4"], "t": [3.0, 1.5], "gain": [1.0, 0.5], "low": 0.0, "high": 2.0})
    (axes,) = plots.trade(rows, rows.assign(gain=[2.0, 1.5]), x="t", y="gain", label="place").axes
    assert [(text.get_text(), text.xy) for text in axes.texts] == [
        ("input", (3.0, 1.0)), ("pool4", (1.5, 0.5)), ("input", (3.0, 2.0)), ("pool4", (1.5, 1.5)),
    ]  # fmt: skip


def test_toy_bars_carry_their_numbers():
    rows = pd.DataFrame(
        {
            "case": "one",
            "label": ["u", "u", "h", "h"],
            "class": [1, 2, 1, 2],
            "y": [0.4, 0.6, 0.4, 0.6],
            "eq. (5)": [0.1, -0.1, 0, 0.2],
        }
    )
    figure = plots.toy(pd.concat([rows, rows.assign(case="two")]))
    scores, uniform, onehot = figure.axes[:3]
    assert [bar.get_height() for bar in scores.patches] == [0.4, 0.6]
    assert [text.get_text() for text in uniform.texts] == ["0.100", "-0.100"]
    assert [bar.get_height() for bar in onehot.patches] == [0, 0.2]
