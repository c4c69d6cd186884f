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


def test_table_writes_every_gain_and_stars_the_clear_ones():
    rows = pd.DataFrame(
        {
            "condition": ["clean", "clean", "fog 2", "fog 2"],
            "method": ["step", "flips", "step", "flips"],
            "gain": [0.24, -12.0, -0.04, 1.0],
            "low": [0.1, -14.0, -0.2, -0.5],
            "high": [0.4, -10.0, 0.1, 2.0],
        }
    )
    axes, bar = plots.table(rows, x="condition", y="method", value="gain").axes
    assert [text.get_text() for text in axes.texts] == ["+0.2*", "+0.0", "-12.0*", "+1.0"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["step", "flips"]
    assert axes.collections[0].get_clim() == (-10, 10)  # beyond it the colour bar ends in arrows
    assert bar.get_ylabel() == "gain (mIoU points)"
    red, _, _, _ = axes.collections[0].get_facecolors()[2]  # flips on clean: the worst
    blue = axes.collections[0].get_facecolors()[3][2]
    assert red > axes.collections[0].get_facecolors()[2][2]
    assert blue > axes.collections[0].get_facecolors()[3][0]


def test_explained_draws_the_gain_over_every_column_by_kind():
    rows = ROWS.assign(kind=["network", "network", "prior", "prior"], base=[70.0, 71.0, 72.0, 73.0])
    figure = plots.explained(rows, columns={"base": "base (%)", "epsilon": "ε"})
    assert [axes.get_xlabel() for axes in figure.axes] == ["base (%)", "ε"]
    for axes, column in zip(figure.axes, ("base", "epsilon"), strict=True):
        for bars, (kind, part) in zip(axes.containers, rows.groupby("kind", sort=False), strict=True):
            assert bars.get_label() == kind
            assert bars.lines[0].get_xdata().tolist() == part[column].tolist()
            assert bars.lines[0].get_ydata().tolist() == part["gain"].tolist()
            (segments,) = bars.lines[2]
            ends = [[end[1] for end in segment] for segment in segments.get_segments()]
            assert ends == part[["low", "high"]].to_numpy().tolist()


def test_score_field_draws_both_fields_and_every_path_to_its_end():
    field = pd.DataFrame(
        {"kind": ["learned"] * 2 + ["true"] * 2, "x": [0, 1, 0, 1], "y": 0.0, "u": [1, 2, 3, 4], "v": 0}
    )
    paths = pd.DataFrame({"point": [0, 1, 0, 1], "step": [0, 0, 1, 1], "x": [0.0, 1, 2, 3], "y": [0.0, 0, 1, 1]})
    learned, true, climbed = plots.score_field(field, paths).axes
    arrows = [ax.collections[0] for ax in (learned, true)]
    assert [list(quiver.U) for quiver in arrows] == [[1, 2], [3, 4]]
    assert arrows[0].scale == arrows[1].scale
    assert climbed.lines[1].get_xdata().tolist() == [1, 3]
    assert climbed.lines[2].get_xdata().tolist() == [2, 3]  # the ends
