"""Frontiers, areas and ablations: what is in the table is what is drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt

from actlib import plotting
from actlib.analysis.frontier import hypervolume


@pytest.fixture(autouse=True)
def ax():
    with plt.rc_context():
        plotting.set_theme()
        yield plotting.figure()[1]
    plt.close("all")


def frontier():
    rows = [
        ("act_global", 5, 0.5, 0.5, 0.9, True),
        ("act_global", 5, 1.0, 0.8, 0.4, True),
        ("act_global", 20, 1.0, 0.7, 0.3, False),
        ("random_matched", 5, 1.0, 0.3, 0.6, True),
    ]
    names = ["method", "top_percent", "scale", "recovered", "retained", "on_frontier"]
    return pd.DataFrame(rows, columns=names)


def areas():
    rows = [("random_matched", 0.3, 4), ("act_global", 0.5, 8), ("interpolation", 0.6, 8)]
    table = pd.DataFrame(rows, columns=["method", "area", "trials"])
    return table.assign(low=table["area"] - 0.1, high=table["area"] + 0.2)


def ablations():
    rows = [
        (method, how, part, change, change - 0.1, change + 0.2)
        for how, base in (("zero", 1.0), ("mean", 0.5))
        for method, more in (("act_global", 0.3), ("random_matched", 0.0))
        for part, change in (("lost", base + more), ("retained", -base))
    ]
    return pd.DataFrame(rows, columns=["method", "how", "part", "change", "low", "high"])


TABLES = {"pareto": frontier, "area_bars": areas, "ablation_bars": ablations}


def names(ticks):
    return [tick.get_text() for tick in ticks]


def staircase(ax, method):
    color = plotting.PALETTE[method]
    (line,) = [n for n in ax.lines if n.get_drawstyle() == "steps-pre" and n.get_color() == color]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


@pytest.mark.parametrize("name", TABLES)
def test_figures_redraw_the_same_from_their_csv_and_stay_inside(name, tmp_path):
    table, pictures = TABLES[name](), []
    for turn in ("first", "again"):
        fig, ax = plotting.figure()
        other = plt.figure().add_subplot()  # the current axes, to be left alone
        assert getattr(plotting, name)(table, ax) is ax and not other.has_data()
        paths = plotting.save_figure(fig, table, turn, tmp_path)
        pictures.append(paths[1].read_bytes())
        table = pd.read_csv(paths[2])
        box = fig.get_tightbbox()
        assert min(box.x0, box.y0) >= -0.01 and box.x1 <= 5.51 and box.y1 <= 3.31
    assert pictures[0] == pictures[1]


def test_the_area_under_a_staircase_is_the_hypervolume(ax):
    table = frontier()
    plotting.pareto(table, ax)
    for method, trials in table.groupby("method"):
        x, y = staircase(ax, method)
        assert (x[0], y[-1]) == (0, 0)
        area = (np.diff(x) * y[1:]).sum()  # a step before each point: at its own height
        assert area == pytest.approx(hypervolume(trials["recovered"], trials["retained"]))


def test_pareto_marks_both_ends_and_every_trial(ax):
    plotting.pareto(frontier(), ax)
    drawn = {(x, y) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
    assert {(0.9, 0.5), (0.4, 0.8), (0.3, 0.7), (0.6, 0.3), (1, 0), (0, 1)} <= drawn
    assert [text.get_text() for text in ax.texts] == ["Target", "Donor"]
    assert names(ax.get_legend().get_texts()) == ["ACT", "Random, matched"]


def test_pareto_counts_what_lies_far_outside(ax):
    table = frontier()
    table.loc[2, ["recovered", "retained"]] = (-5.0, 0.2)
    plotting.pareto(table, ax)
    assert ax.texts[-1].get_text() == "1 of 4 trials lie outside"
    assert ax.get_ylim()[0] > -0.5 and ax.get_ylim()[1] > 1


def test_pareto_leaves_undefined_trials_out(ax):
    plotting.pareto(frontier().assign(retained=np.nan, on_frontier=False), ax)
    *ends, note = [text.get_text() for text in ax.texts]
    assert ends == ["Target", "Donor"] and note.startswith("undefined")


def test_pareto_can_be_drawn_in_panels():
    table = pd.concat([frontier().assign(family=name) for name in ("smol", "tiny")])
    fig = plotting.panels(plotting.pareto, table, "family")
    assert len(fig.axes) == 2 and len(fig.legends[0].get_texts()) == 2


def test_areas_are_sorted_and_tell_their_trials(ax):
    undefined = areas().head(1).assign(method="bottom", area=np.nan)
    plotting.area_bars(pd.concat([areas(), undefined]), ax)
    assert names(ax.get_yticklabels()) == ["Random, matched (4)", "ACT (8)", "Interpolation (8)"]
    assert [bar.get_width() for bar in ax.patches] == [0.3, 0.5, 0.6]
    segments = ax.collections[0].get_segments()
    assert np.allclose(
        [segment[:, 0] for segment in segments], [[0.2, 0.5], [0.4, 0.7], [0.5, 0.8]]
    )


def test_the_method_compared_with_is_highlighted(ax):
    plotting.area_bars(areas(), ax)
    faces = [colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert faces[1] == plotting.PALETTE["act_global"]
    assert faces[2] != plotting.PALETTE["interpolation"]
    assert [name.get_fontweight() for name in ax.get_yticklabels()] == ["normal", "bold", "normal"]
    assert ax.lines[0].get_xdata() == [0.5, 0.5]


def test_ablations_pair_lost_and_retained_under_headings(ax):
    plotting.ablation_bars(ablations(), ax)
    rows = ["Zero", "ACT", "Random, matched", "Mean", "ACT", "Random, matched"]
    assert names(ax.get_yticklabels()) == rows
    places = dict(zip(ax.get_yticks(), rows, strict=True))
    found = {}
    for bar in ax.patches:
        nearest = min(places, key=lambda place: abs(place - bar.get_y() - bar.get_height() / 2))
        found.setdefault((nearest, places[nearest]), []).append(bar.get_width())
    assert [name for _, name in sorted(found)] == rows[1:3] + rows[4:]
    widths = [pytest.approx(found[key]) for key in sorted(found)]
    assert widths == [[1.3, -1.0], [1.0, -1.0], [0.8, -0.5], [0.5, -0.5]]
    assert ax.yaxis_inverted()
    assert names(ax.get_legend().get_texts()) == ["Lost abilities", "Retained abilities"]
