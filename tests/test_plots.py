"""What is in the table is what is drawn."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from legibility import faults
from matplotlib import colors
from matplotlib import pyplot as plt

from actlib.analysis import frontier, plots, style
from actlib.analysis.drawing import draw_figure


@pytest.fixture
def ax():
    with plt.rc_context():
        style.set_theme()
        yield style.figure("column", 2.4)[1]
    plt.close("all")


def curve():
    rows = [("act_global", p, p / 100, p / 100 - 0.01, p / 100 + 0.02) for p in (1, 5, 20)]
    rows += [("all_rows", 100, 0.9, 0.8, 1.0)]
    columns = ["method", "top_percent", "recovery", "low", "high"]
    return pd.DataFrame(rows, columns=columns).iloc[[2, 0, 3, 1]]


def drawn_lines(ax):
    return [line for line in ax.lines if len(line.get_xdata()) and line.get_label()[0] == "_"]


def spots(ax):
    """Color and place of every dot."""
    return {
        (colors.to_hex(color).upper(), *map(float, place))
        for group in ax.collections
        for place, color in zip(group.get_offsets(), group.get_facecolor(), strict=False)
    }


def test_curves_draw_each_row_in_order_with_its_method_and_band(ax):
    plots.curves(curve(), ax, x="top_percent", y="recovery", log=True, levels={"donor": 1})
    line = next(line for line in drawn_lines(ax) if len(line.get_xdata()) == 3)
    assert list(line.get_xdata()) == [1, 5, 20] and list(line.get_ydata()) == [0.01, 0.05, 0.2]
    assert colors.to_hex(line.get_color()).upper() == style.METHODS["act_global"].color
    handles, names = ax.get_legend_handles_labels()
    assert names == ["ACT", "All channels"]
    assert [handle.get_marker() for handle in handles] == ["o", "*"]
    assert {1, 2, 5, 10, 20, 50, 100} <= set(ax.get_xticks()) and ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["donor"]


def test_chance_is_a_line_at_its_level(ax):
    plots.curves(curve().assign(chance=0.25), ax, x="top_percent", y="recovery", null="chance")
    line = next(line for line in ax.lines if line.get_label() == "Chance")
    assert list(line.get_ydata()) == [0.25, 0.25]


def test_many_values_get_round_ticks(ax):
    table = pd.DataFrame({"method": "ties", "x": np.geomspace(1.3, 77, 12), "y": 0.5})
    plots.curves(table, ax, x="x", y="y", log=True)
    assert set(ax.get_xticks()) <= {m * 10.0**n for n in (0, 1) for m in (1, 2, 5)}
    assert len(ax.get_xticks()) >= 3


def test_intervals_have_a_row_a_name_and_a_color_a_value(ax):
    table = pd.DataFrame(
        {"method": ["ties", "union"], "nll": [0.5, 0.2], "low": [0.4, 0.1], "high": [0.6, 0.3]}
    )
    plots.intervals(table, ax, x="nll")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["TIES", "ACT, union"]
    assert spots(ax) == {
        (style.METHODS["ties"].color, 0.5, 0.0),
        (style.METHODS["union"].color, 0.2, 1.0),
    }


def test_ccdf_is_drawn_against_its_null(ax):
    over_mean = [0.5, 1.0, 2.0]
    table = pd.DataFrame({"value_over_mean": over_mean, "ccdf": [1, 0.5, 0.1], "ranking": "raw"})
    plots.ccdf(table.assign(null_ccdf=[0.9, 0.4, 0.05]), ax)
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 0.5, 0.1], [0.9, 0.4, 0.05]]


def trials():
    rows = [("act_global", 0.5, 0.9), ("act_global", 0.8, 0.4), ("act_global", 0.3, 0.3)]
    rows += [("target", 0.1, 0.8), ("donor", 0.9, 0.2)]
    table = pd.DataFrame(rows, columns=["method", "recovered", "retained"])
    return table.assign(on_frontier=[True, True, False, False, False])


def test_the_staircase_encloses_the_area_of_the_frontier(ax):
    plots.pareto(trials(), ax)
    stairs = next(line for line in ax.lines if line.get_drawstyle() == "steps-pre")
    x, y = stairs.get_xdata(), stairs.get_ydata()
    area = float(np.sum(np.diff(x) * np.asarray(y)[1:]))
    assert area == pytest.approx(frontier.hypervolume([0.5, 0.8], [0.9, 0.4]))


def test_trials_and_the_models_themselves_lie_where_their_rows_say(ax):
    plots.pareto(trials(), ax)
    points = [line for line in ax.lines if len(line.get_xdata()) == 1]
    ends = {(line.get_xdata()[0], line.get_ydata()[0]) for line in points}
    assert ends == {(0.8, 0.1), (0.2, 0.9)}
    assert {place[1:] for place in spots(ax)} == {(0.9, 0.5), (0.4, 0.8), (0.3, 0.3)}


def test_a_matrix_has_its_diagonal_and_its_numbers(ax):
    values = [("b", "c", 0.5), ("b", "b", -0.25), ("a", "b", np.nan), ("a", "c", 1.0)]
    table = pd.DataFrame(values, columns=["moved", "measured", "recovery"])
    plots.matrix(table, ax, x="measured", y="moved", value="recovery", label="Share", centered=True)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["b", "c"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "a"]
    assert [text.get_text() for text in ax.texts] == ["−0.25", "0.50", "1.00"]
    low, high = ax.collections[0].get_clim()
    assert low == -high == -1
    with pytest.raises(ValueError, match="duplicate"):
        twice = pd.concat([table, table])
        plots.matrix(twice, ax, x="measured", y="moved", value="recovery", label="")


def test_a_composition_names_modules_as_they_are_with_their_share(ax):
    columns = ["kind", "layer", "masked_percent", "of_mask_percent"]
    rows = [("embed_tokens", -1, 5, 20), ("mlp.up_proj", 1, 30, 50), ("mlp.up_proj", 0, 10, 30)]
    plots.composition(pd.DataFrame(rows, columns=columns), ax)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["embed_tokens (20 %)", "mlp.up_proj (80 %)"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["–", "0", "1"]


def test_analysis_does_not_import_torch():
    names = "drawing, frontier, nulls, plots, stats, style"
    code = f"import sys; from actlib.analysis import {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def contrasts():
    rows = [
        ("Sufficient", seed, d, 0.2, 0.1, 0.3, 0.05, "supported")
        for seed, d in enumerate((0.1, 0.2, 0.3))
    ]
    rows += [
        ("Merges", seed, d, 0.0, -0.1, 0.1, 0.05, "inconclusive")
        for seed, d in enumerate((-0.1, 0.1))
    ]
    columns = ["claim", "seed", "difference", "estimate", "low", "high", "margin", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def test_a_forest_has_a_dot_a_seed_a_mean_in_the_color_of_its_verdict_and_the_margin(ax):
    plots.forest(contrasts(), ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["Sufficient", "Merges"]
    seen = spots(ax)
    assert {
        (style.VERDICTS["supported"].color, 0.2, -0.1),
        (style.VERDICTS["inconclusive"].color, 0.0, 0.9),
    } < seen
    assert {place[1:] for place in seen if place[0] == "#777777" and place[2] % 1 == 0.25} == {
        (0.1, 0.25),
        (0.2, 0.25),
        (0.3, 0.25),
        (-0.1, 1.25),
        (0.1, 1.25),
    }
    ranges = [path for group in ax.collections for path in group.get_paths() if len(path) == 2]
    ends = {tuple(map(float, path.vertices.T[0])) for path in ranges}
    assert ends == {(0.1, 0.3), (-0.1, 0.1)}
    bands = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert bands == [(-0.05, 0.1)] * 2
    names = ax.get_legend_handles_labels()[1]
    assert names == ["One seed", "Supported", "Inconclusive", "Within ± the margin"]


def test_a_forest_of_two_families_is_legible_in_a_narrow_column():
    table = pd.concat([contrasts().assign(family=name) for name in ("smol", "tiny")])
    with plt.rc_context():
        for venue, inches in (("acl", 3.03), ("icml", 3.25), ("neurips", 5.5)):
            style.set_theme(venue)
            fig = draw_figure(plots.forest, table, panels="family", share=True)
            assert fig.get_figwidth() == inches and faults(fig) == []
    style.set_theme()
    plt.close("all")


def test_a_triangle_shows_each_pair_once_with_the_diagonal(ax):
    pairs = [(a, b, 0.9 if a == b else 0.4, 0.1) for a in "xyz" for b in "xyz"]
    table = pd.DataFrame(pairs, columns=["a", "b", "jaccard", "expected"])
    plots.matrix(table, ax, x="b", y="a", value="jaccard", label="Jaccard", triangle=True)
    assert [text.get_text() for text in ax.texts] == [
        "0.90",
        "0.40",
        "0.90",
        "0.40",
        "0.40",
        "0.90",
    ]


def test_a_map_of_modules_can_be_signed(ax):
    table = pd.DataFrame({"kind": ["q", "q"], "layer": [0, 1], "recovery": [-0.2, 0.1]})
    plots.composition(table, ax, value="recovery", label="Recovered", centered=True)
    assert ax.collections[0].get_clim() == (-0.2, 0.2)
    assert ax.get_ylabel() == "Module" and ax.get_yticklabels()[0].get_text() == "q"
