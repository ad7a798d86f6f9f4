"""What is in the table is what is drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt

from actlib.analysis import plots, style


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
    assert {1, 5, 20, 100} == set(ax.get_xticks()) and ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["donor"]


def test_of_many_measured_places_a_logarithmic_axis_names_round_ones(ax):
    table = pd.DataFrame({"method": "act_global", "top_percent": [1, 3, 4, 7, 9, 30, 90], "y": 0.5})
    plots.curves(table, ax, x="top_percent", y="y", log=True)
    assert {1, 2, 5, 10, 20, 50} <= set(ax.get_xticks())


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
