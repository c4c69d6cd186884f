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


def test_gains_stand_beside_the_published_ones_on_other_axes():
    rows = pd.DataFrame({"network": ["unet", "deeplab"], "gain": [1.0, -0.5], "low": [0.5, -1.0], "high": [2.0, 0.25]})
    rows = rows.assign(images=300)
    published = pd.DataFrame({"network": ["DeepLab-VGG16", "FCN-8s"], "base": [60.0, 1.0], "guided": [62.5, 9.0]})
    ours, theirs = plots.network_gains(rows, published).axes
    assert errorbars(ours.containers[0], 0) == ([[1.0, 0], [-0.5, 1]], [[0.5, 2.0], [-1.0, 0.25]])
    assert theirs.lines[0].get_xydata().tolist() == [[2.5, 0], [8, 1]] and theirs.lines[0].get_marker() == "D"
    names = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in (ours, theirs)]
    assert names == [["U-Net", "DeepLab-v2"], ["DeepLab-VGG16", "FCN-8s"]]
    assert ours.get_ylim() == (1.5, -0.5) and "300" in ours.get_title()  # the first above
    seeds = pd.DataFrame({"network": ["unet", "unet", "deeplab"], "gain": [1.0, 3.0, -0.5], "images": 40})
    drawn = plots.network_gains(rows, published, seeds).axes[0].lines
    (each,) = (line for line in drawn if line.get_label() == "each training, on 40 images")
    assert each.get_xydata().tolist() == [[1, 0.25], [3, 0.25]]  # where there are several
    alone = plots.network_gains(rows, published, seeds[1:]).axes[0].lines
    assert not [line for line in alone if "training" in line.get_label()]


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


def test_names_of_categories_never_collide():
    names = ["pedestrian", "bicyclist", "building", "column pole", "sidewalk", "sky", "road"]
    rows = pd.DataFrame({"class": names, "mean": 1.0, "low": 0.5, "high": 1.5})

    def turned(rows):
        figure = plots.means(rows, x="class", label="gain")
        figure.draw_without_rendering()
        return [label.get_rotation() for label in figure.axes[0].get_xticklabels()]

    assert turned(rows) == [35] * 7
    assert turned(rows.assign(**{"class": [*"0123456"]})) == [0] * 7


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


def test_strategies_have_a_plot_each_and_a_star_where_validation_chose():
    rows = pd.DataFrame({"network": ["fcn32s"] * 3 + ["fcn8s"] * 3, "label": "top2", "level": [-1, 0, 0.03] * 2})
    rows = rows.assign(gain=[-20.0, 0, 1, -5, 0, 2], picked=[False, False, True, True, False, False])
    rows = pd.concat([rows.assign(low=rows["gain"] - 1, high=rows["gain"] + 1)] * 2, ignore_index=True)
    rows.loc[6:, "label"] = "uniform"
    axes = [each for each in plots.strategies(rows).axes if each.get_visible()]
    assert [each.get_title() for each in axes] == ["top2", "uniform"]
    for each in axes:
        first, star, second, other = each.lines[:4]
        assert first.get_xdata().tolist() == [0, 1, 2] and first.get_ydata().tolist() == [-20, 0, 1]
        assert (star.get_xdata().tolist(), star.get_ydata().tolist()) == ([2], [1])
        assert second.get_ydata().tolist() == [-5, 0, 2] and other.get_xdata().tolist() == [0.2]
        assert (star.get_marker(), first.get_label(), second.get_label()) == ("*", "FCN-32s", "FCN-8s")
        assert [tick.get_text() for tick in each.get_xticklabels()] == ["-1", "0", "0.03"]
        assert each.get_yscale() == "symlog" and each.get_ylim() == pytest.approx((-27.3, 3.9))


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
    both = pd.concat([shares.assign(network="B"), shares.assign(network="A", share=[70, 30, 0, 100])])
    axes, other = plots.distances(both).axes
    assert (axes.get_title(), other.get_title()) == ("B", "A")
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [[60, 40], [10, 90]]
    assert [[bar.get_height() for bar in bars] for bars in other.containers] == [[70, 30], [0, 100]]
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
