"""Curves and bars: data drawn as given, fixed colors, labels with units, and no torch."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from actlib import plotting


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        plotting.set_theme()
        yield
    plt.close("all")


def curves(keys, by, x, y):
    rows = [(key, n, n / 200, n / 200 - 0.01, n / 200 + 0.02) for key in keys for n in (1, 10, 100)]
    return pd.DataFrame(rows, columns=[by, x, y, "low", "high"])


def tables():
    """One small table for each plot, columns as its docstring names them."""
    levels = np.array([0.1, 1.0, 3.0])
    methods = ["act_global", "random_matched"]
    shares = [("all", p, 3.0 * p, 2.0 * p) for p in (1, 5)] + [("lm_head", 1, 9.0, 2.0)]
    trade = curves(methods, "method", "scale", "recovered").drop(columns=["low", "high"])
    sft = curves(["act_sft", "sft_only"], "method", "steps", "accuracy")
    donor = pd.DataFrame([("donor", 0, 0.8, 0.7, 0.9)], columns=sft.columns)
    bars = [(m, a, 0.5, 0.4, 0.6) for m in ("union", "average") for a in ("maths", "science")]
    share_columns = ["name", "top_percent", "share_percent", "null_share_percent"]
    return {
        plotting.concentration_ccdf: pd.DataFrame(
            {"name": "all", "ranking": ["raw"] * 3 + ["scaled"] * 3, "ccdf": [1, 0.3, 0.01] * 2}
        ).assign(value_over_mean=[*levels, *(2 * levels)]),
        plotting.share_bars: pd.DataFrame(shares, columns=share_columns),
        plotting.probe_curves: curves(methods, "method", "channels", "accuracy").assign(chance=0.2),
        plotting.sufficiency_curves: curves(methods, "method", "top_percent", "recovery"),
        plotting.stability_curves: curves(
            ["halves", "donors"], "comparison", "samples", "jaccard"
        ).assign(expected_jaccard=0.03),
        plotting.tradeoff: trade.assign(retained=1 - trade["recovered"]),
        plotting.sft_curves: pd.concat([sft, donor]),
        plotting.merge_bars: pd.DataFrame(
            bars, columns=["method", "ability", "score", "low", "high"]
        ),
    }


PLOTS = list(tables())


def legend(ax):
    return dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_plots_draw_on_the_axes_given_and_label_them(plot):
    _, ax = plotting.figure()
    other = plt.figure().add_subplot()  # the current axes, to be left alone
    assert plot(tables()[plot], ax) is ax
    assert not other.has_data()
    assert ax.get_ylabel() or ax.get_yticklabels()
    assert ax.get_legend() is not None
    if plot is not plotting.merge_bars:
        assert ax.get_xlabel()


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_plots_redraw_the_same_from_their_csv(plot, tmp_path):
    table = tables()[plot]
    pictures = []
    for name in ("first", "again"):
        fig, ax = plotting.figure()
        paths = plotting.save_figure(plot(table, ax).figure, table, name, tmp_path)
        pictures.append(paths[1].read_bytes())
        table = pd.read_csv(paths[2])
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_nothing_reaches_beyond_the_figure(plot):
    fig, ax = plotting.figure()
    plot(tables()[plot], ax)
    fig.canvas.draw()
    box = fig.get_tightbbox()
    assert box.x0 >= -0.01 and box.y0 >= -0.01
    assert box.x1 <= 5.51 and box.y1 <= 3.31


def test_methods_keep_their_color_whatever_else_is_drawn():
    table = tables()[plotting.sufficiency_curves]
    for part in (table, table.iloc[::-1], table[table["method"] == "random_matched"]):
        ax = plotting.sufficiency_curves(part, plt.figure().add_subplot())
        line = legend(ax)["Random, matched"]
        assert line.get_color() == plotting.PALETTE["random_matched"]
        assert line.get_marker() == plotting.MARKERS["random_matched"]


def test_lines_and_bands_hold_the_numbers_of_the_table():
    table = tables()[plotting.sufficiency_curves].sample(frac=1, random_state=0)
    ax = plotting.sufficiency_curves(table, plt.figure().add_subplot())
    line = legend(ax)["ACT"]
    assert line.get_xdata().tolist() == [1, 10, 100]
    assert line.get_ydata().tolist() == [0.005, 0.05, 0.5]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((-0.005, 0.52))
    assert ax.get_xscale() == "log" and ax.get_xticks().tolist() == [100, 10, 1]


def test_undefined_recoveries_are_left_out():
    table = tables()[plotting.sufficiency_curves]
    table.loc[table["method"] == "act_global", "recovery"] = np.nan
    ax = plotting.sufficiency_curves(table, plt.figure().add_subplot())
    assert set(legend(ax)) == {"Random, matched"}


def test_ccdf_shows_the_half_normal_and_refuses_a_mixture():
    table = tables()[plotting.concentration_ccdf]
    ax = plotting.concentration_ccdf(table, plt.figure().add_subplot())
    null = legend(ax)["Half-normal (chance)"]
    x, y = (np.asarray(data) for data in (null.get_xdata(), null.get_ydata()))
    assert -np.trapezoid(x, y) == pytest.approx(1, abs=0.02)  # its mean, the integral of x dP
    two = pd.concat([table, table.assign(name="norm")])
    with pytest.raises(ValueError, match="one ranking"):
        plotting.concentration_ccdf(two, plt.figure().add_subplot())
    named = plotting.concentration_ccdf(two[two["ranking"] == "raw"], plt.figure().add_subplot())
    assert {"all", "norm"} < set(legend(named))


def test_share_bars_mark_chance_on_each_bar():
    ax = plotting.share_bars(tables()[plotting.share_bars], plt.figure().add_subplot())
    assert [text.get_text() for text in ax.get_yticklabels()] == ["all", "lm_head"]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths[:3] == [3, 9, 15] and np.isnan(widths[3])
    drawn = [segment for lines in ax.collections for segment in lines.get_segments()]
    ticks = [segment[0, 0] for segment in drawn if len(segment)]
    assert ticks == [2, 2, 10]


def test_one_row_is_a_level_line_in_sft_curves():
    ax = plotting.sft_curves(tables()[plotting.sft_curves], plt.figure().add_subplot())
    assert legend(ax)["Donor"].get_ydata() == [0.8, 0.8]
    assert legend(ax)["ACT, then SFT"].get_xdata().tolist() == [1, 10, 100]


def test_merge_bars_are_grouped_by_ability():
    ax = plotting.merge_bars(tables()[plotting.merge_bars], plt.figure().add_subplot())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["Maths", "Science"]
    places = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches]
    assert [round(place) for place in places] == [0, 1, 0, 1]
    tips = ax.lines[0]  # the full color and the marker; bars are paler
    assert (tips.get_color(), tips.get_marker()) == (plotting.PALETTE["union"], "o")
    assert tips.get_ydata().tolist() == [bar.get_height() for bar in ax.patches[:2]]
    assert len(ax.collections) == 2  # the intervals of each method


def test_tradeoff_follows_its_parameter():
    table = tables()[plotting.tradeoff].sample(frac=1, random_state=1)
    ax = plotting.tradeoff(table, plt.figure().add_subplot())
    assert ax.lines[0].get_ydata().tolist() == sorted(ax.lines[0].get_ydata())
    assert [text.get_text() for text in ax.texts] == ["λ = 100", "λ = 100"]


def test_panels_share_one_legend_and_are_lettered():
    table = tables()[plotting.sufficiency_curves]
    table = pd.concat([table.assign(domain=name) for name in ("maths", "science", "both")])
    fig = plotting.panels(plotting.sufficiency_curves, table, "domain", aspect=0.8)
    assert [ax.get_title("left") for ax in fig.axes] == ["(a) Maths", "(b) Science", "(c) Both"]
    assert all(ax.get_legend() is None for ax in fig.axes) and len(fig.legends) == 1
    found = [text.get_text() for text in fig.legends[0].get_texts()]
    assert found == ["ACT", "Random, matched"]


def test_plotting_does_not_import_torch():
    code = "import sys, actlib.plotting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_recovery_can_stand_against_the_share_of_parameters():
    table = tables()[plotting.sufficiency_curves].assign(parameters_percent=lambda t: t.index + 0.5)
    ax = plotting.sufficiency_curves(table, plotting.figure()[1], x="parameters_percent")
    assert ax.get_xlabel() == "Parameters moved (%)"
    drawn = np.concatenate([line.get_xdata() for line in ax.lines if len(line.get_xdata()) > 2])
    assert set(drawn) == set(table["parameters_percent"])
    ticks = ax.get_xticks()
    assert len(ticks) and all(f"{tick:g}".strip("0.")[:1] in "125" for tick in ticks)


def test_a_score_that_is_no_accuracy_is_named():
    ax = plotting.sft_curves(tables()[plotting.sft_curves], plotting.figure()[1], label="Score")
    assert ax.get_ylabel() == "Score"


def test_tradeoff_names_its_axes_and_keeps_the_values_at_the_ends_apart():
    table = tables()[plotting.tradeoff]
    together = table.assign(recovered=table["scale"], retained=1 - table["scale"])
    _, ax = plotting.figure()
    plotting.tradeoff(together, ax, xlabel="Kept (nats)", ylabel="Back (nats)")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Kept (nats)", "Back (nats)")
    first, second = (text.get_position() for text in ax.texts)
    assert ax.texts[0].xy == ax.texts[1].xy and first != second
