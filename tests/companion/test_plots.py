import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from gpcore.companion.report import plots
from gpcore.companion.report.panels import CHANGES

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


def errorbars(container, axis):
    """Where the points of an error bar stand, and the ends of its bars along x (0) or y (1)."""
    points, _, (bars,) = container.lines
    ends = [[float(end[axis]) for end in segment] for segment in bars.get_segments()]
    return points.get_xydata().tolist(), [pytest.approx(each) for each in ends]


def test_gains_stand_beside_the_published_ones():
    rows = pd.DataFrame({"network": ["unet", "deeplab"], "gain": [1.0, -0.5], "low": [0.5, -1.0], "high": [2.0, 0.25]})
    published = pd.DataFrame({"network": ["DeepLab-VGG16", "FCN-8s"], "base": [60.0, 1.0], "guided": [62.5, 9.0]})
    (axes,) = plots.network_gains(rows, published).axes
    assert errorbars(axes.containers[0], 0) == ([[1.0, 0], [-0.5, 1]], [[0.5, 2.0], [-1.0, 0.25]])
    given = axes.lines[[line.get_marker() for line in axes.lines].index("D")]
    assert [str(x) for x in given.get_xdata()] == ["nan", "2.5"] and given.get_ydata().tolist() == [0, 1]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["U-Net", "DeepLab-v2"]
    assert axes.get_ylim() == (1.5, -0.5)  # the first above


def test_lines_have_their_bands_and_their_reference():
    (axes,) = plots.lines(ROWS, x="epsilon", y="gain", hue="label", zero=0.3).axes
    assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [[0.5, -0.25], [2, 1]]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [0.3]
    for band, name in zip(axes.collections, "AB", strict=True):
        part, edge = ROWS[ROWS["label"] == name], band.get_paths()[0].vertices[:, 1]
        assert (edge.min(), edge.max()) == (part["low"].min(), part["high"].max())
    (plain,) = plots.lines(ROWS.drop(columns=["low", "high"]), x="epsilon", y="gain", hue="label").axes
    assert not plain.collections and not [line for line in plain.lines if line.get_linestyle() == "--"]


def test_means_over_categories():
    (axes,) = plots.means(ROWS.iloc[:2], x="variant", y="gain", label="gain").axes
    assert errorbars(axes.containers[0], 1) == ([[0, 0.5], [1, -0.25]], [[0.25, 1.0], [-1.0, 0.0]])
    assert axes.get_ylabel() == "gain" and axes.lines[-1].get_ydata() == [0, 0]


def test_points_stand_at_their_value_with_their_interval():
    (axes,) = plots.points(ROWS, x="gain", y="label", hue="variant").axes
    for name, lines, (bars,) in [(c.get_label(), c.lines[0], c.lines[2]) for c in axes.containers]:
        part = ROWS[ROWS["variant"] == name]
        assert lines.get_xdata().tolist() == part["gain"].tolist()
        assert [[end[0] for end in segment] for segment in bars.get_segments()] == part[
            ["low", "high"]
        ].to_numpy().tolist()
        offset = {"+CRF": -0.12, "+GP": 0.12}[name]
        assert lines.get_ydata().tolist() == pytest.approx([offset, 1 + offset])
    assert axes.get_ylim() == (1.5, -0.5)
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
    assert [line.get_ydata()[0] for line in whole.lines if line.get_linestyle() == "--"] == [70]


def test_trade_names_every_point():
    rows = pd.DataFrame({"place": ["input", "pool4"], "t": [3.0, 1.5], "gain": [1.0, 0.5], "low": 0.0, "high": 2.0})
    (axes,) = plots.trade(rows, rows.assign(gain=[2.0, 1.5]), x="t", y="gain", label="place").axes
    assert errorbars(axes.containers[0], 1) == ([[3.0, 1.0], [1.5, 0.5]], [[0.0, 2.0]] * 2)
    given = axes.lines[[line.get_marker() for line in axes.lines].index("D")]
    assert given.get_xydata().tolist() == [[3.0, 2.0], [1.5, 1.5]]
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
    assert [axes.get_title() for axes in figure.axes[3:]] == [
        "two scores y",
        "signal for a u label",
        "signal for a h label",
    ]
    assert [bar.get_height() for bar in uniform.patches] == [0.1, -0.1]
    assert [text.get_va() for text in uniform.texts] == ["bottom", "top"]  # outside of their bars
    assert [bar.get_height() for bar in scores.patches] == [0.4, 0.6]
    assert [text.get_text() for text in uniform.texts] == ["0.100", "-0.100"]
    assert [bar.get_height() for bar in onehot.patches] == [0, 0.2]


def test_heatmap_writes_every_gain_and_stars_the_clear_ones():
    rows = pd.DataFrame(
        {
            "condition": ["clean", "clean", "fog 2", "fog 2"],
            "method": ["step", "flips", "step", "flips"],
            "gain": [0.24, -12.0, -0.04, 1.0],
            "low": [0.1, -14.0, -0.2, -0.5],
            "high": [0.4, -10.0, 0.1, 2.0],
        }
    )
    axes, bar = plots.heatmap(rows, x="condition", y="method", value="gain").axes
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


def test_distances_and_histograms_show_their_rows():
    shares = pd.DataFrame(
        {"kind": ["corrected"] * 2 + ["base error"] * 2, "distance": [1, 2] * 2, "share": [60, 40, 10, 90]}
    )
    (axes,) = plots.distances(shares).axes
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [[60, 40], [10, 90]]
    colours = [to_hex(bars[0].get_facecolor()).upper() for bars in axes.containers]
    blue, grey = (CHANGES[kind] for kind in ("corrected", "still wrong"))
    assert colours[1] == "#9A9A9A" == grey and colours[0][1:3] < colours[0][5:] and blue[1:3] < blue[5:]
    values = pd.DataFrame({"cosine": [0.1, 0.2, 0.6], "sign_agreement": [0.5, 0.5, 0.8]})
    first, second = plots.histograms(values).axes
    assert [sum(bar.get_height() for bar in axes.patches) for axes in (first, second)] == [3, 3]
    assert [axes.lines[-1].get_xdata() for axes in (first, second)] == [
        [pytest.approx(0.3)] * 2,
        [pytest.approx(0.6)] * 2,
    ]
    assert second.get_xlabel() == "sign agreement" and second.lines[-1].get_label() == "mean 0.600"


def test_verdicts_have_a_line_per_claim_and_a_cell_per_study():
    cells = [
        ("digits", "GP-01", "a", "holds"),
        ("digits", "GP-02", "b", "fails"),
        ("camvid", "GP-02", "b", "undecided"),
    ]
    rows = pd.DataFrame([*cells, ("camvid", "GP-01", "a", "not run")], columns=["study", "id", "claim", "verdict"])
    (axes,) = plots.verdict_cells(rows).axes
    found = [(text.get_text(), text.get_position()) for text in axes.texts]
    expected = [("✓ holds", (0.5, 0.5)), ("✗ fails", (0.5, 1.5)), ("? undecided", (1.5, 1.5)), ("not run", (1.5, 0.5))]
    assert found == expected
    assert [to_hex(patch.get_facecolor()) for patch in axes.patches] == ["#0072b2", "#d55e00", "#f0e442", "#ffffff"]
    corners = [pytest.approx((x - 0.48, y - 0.44)) for _, (x, y) in expected]
    assert [patch.get_xy() for patch in axes.patches] == corners
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a   GP-01", "b   GP-02"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["digits", "camvid"]
    assert axes.get_ylim() == (2, 0)
