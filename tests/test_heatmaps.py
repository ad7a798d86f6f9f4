"""Heatmaps: cells where they belong, texts as in the table, and names of rows and columns."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from actlib.plotting import heatmaps
from actlib.plotting.style import set_theme


@pytest.fixture(autouse=True)
def ax():
    with plt.rc_context():
        set_theme()
        yield plt.figure().add_subplot()
    plt.close("all")


def names(ticks):
    return [tick.get_text() for tick in ticks]


def texts(ax):
    return {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}


def test_makeup_puts_modules_outside_the_layers_first(ax):
    table = pd.DataFrame(
        [("mlp.up_proj", 0, 5.0), ("mlp.up_proj", 1, 10.0), ("lm_head", -1, 80.0)],
        columns=["kind", "layer", "masked_percent"],
    )
    assert heatmaps.makeup_heatmap(table, ax) is ax
    drawn = ax.images[0].get_array()
    assert np.ma.filled(drawn, -1).tolist() == [[-1, 5, 10], [80, -1, -1]]
    assert names(ax.get_yticklabels()) == ["mlp.up_proj", "lm_head"]
    assert names(ax.get_xticklabels()) == ["–", "0", "1"]
    assert "outside" in ax.get_xlabel()


def test_makeup_tells_each_kinds_share_of_the_mask_if_the_table_does(ax):
    table = pd.DataFrame(
        [
            ("mlp.up_proj", 0, 5.0, 20.0),
            ("mlp.up_proj", 1, 10.0, 30.4),
            ("lm_head", -1, 80.0, 49.6),
        ],
        columns=["kind", "layer", "masked_percent", "of_mask_percent"],
    )
    heatmaps.makeup_heatmap(table, ax)
    assert names(ax.get_yticklabels()) == ["mlp.up_proj (50 %)", "lm_head (50 %)"]
    assert "share of the mask" in ax.get_ylabel()


def test_makeup_thins_the_ticks_of_many_layers(ax):
    rows = [("mlp", layer, 1.0) for layer in range(80)]
    heatmaps.makeup_heatmap(pd.DataFrame(rows, columns=["kind", "layer", "masked_percent"]), ax)
    assert len(ax.get_xticks()) <= 13


def test_overlap_writes_chance_below_and_leaves_the_diagonal_out(ax):
    table = pd.DataFrame(
        [("a", "a", 1.0, 0.03), ("a", "b", 0.4, 0.03), ("b", "a", 0.4, 0.03), ("b", "b", 1, 0.03)],
        columns=["ability_a", "ability_b", "jaccard", "expected_jaccard"],
    )
    heatmaps.overlap_heatmap(table, ax)
    assert texts(ax)[1, 0] == texts(ax)[0, 1] == "0.40\n(0.03)"
    assert texts(ax)[0, 0] == ""
    assert np.ma.getmaskarray(ax.images[0].get_array()).tolist() == [[True, False], [False, True]]
    assert ax.images[0].get_clim()[1] == pytest.approx(0.4)


def test_overlap_of_both_nulls_at_once_is_refused(ax):
    row = {"ability_a": "a", "ability_b": "b", "jaccard": 0.1, "expected_jaccard": 0.1}
    with pytest.raises(ValueError, match="twice"):
        heatmaps.overlap_heatmap(pd.DataFrame([row, row]), ax)


def test_forgetting_keeps_the_order_of_the_table(ax):
    rows = [("maths_specialist", "zh", 90.0), ("base", "zh", 12.4), ("base", "de", 3.0)]
    table = pd.DataFrame(rows, columns=["model", "cell", "value"])
    heatmaps.forgetting_heatmap(table, ax, label="Accuracy (%)")
    assert names(ax.get_yticklabels()) == ["Maths specialist", "Base"]
    assert names(ax.get_xticklabels()) == ["zh", "de"]
    assert texts(ax) == {(0, 0): "90", (1, 0): "–", (0, 1): "12", (1, 1): "3"}
    assert ax.figure.axes[-1].get_ylabel() == "Accuracy (%)"


def test_causal_is_centered_on_zero_and_marks_what_is_undefined(ax):
    rows = [("a", "a", 0.9), ("a", "b", -0.001), ("b", "a", -1.6), ("b", "b", np.nan)]
    heatmaps.causal_heatmap(pd.DataFrame(rows, columns=["moved", "measured", "recovery"]), ax)
    assert ax.images[0].get_clim() == (-1.6, 1.6)
    assert texts(ax) == {(0, 0): "0.90", (1, 0): "0.00", (0, 1): "−1.60", (1, 1): "–"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Ability measured", "Channels moved")


def test_causal_puts_an_ability_and_its_own_channels_on_the_diagonal(ax):
    rows = [(moved, measured, 0.1) for moved in ("b", "a", "random") for measured in ("a", "b")]
    heatmaps.causal_heatmap(pd.DataFrame(rows, columns=["moved", "measured", "recovery"]), ax)
    assert names(ax.get_xticklabels()) == names(ax.get_yticklabels())[:2] == ["b", "a"]


def test_verdicts_of_a_table_read_from_csv_keep_their_notebook(ax):
    row = {"claim": "One", "family": "a", "verdict": "holds", "notebook": 3}  # written "03"
    heatmaps.verdict_matrix(pd.DataFrame([row]), ax)
    assert names(ax.get_yticklabels()) == ["One (03)"]


def test_verdicts_are_told_in_words_and_colors(ax):
    rows = [("One", "a", "holds"), ("One", "b", "holds in part (so far)"), ("Two", "a", "not run")]
    rows += [("Two", "b", "not seen here")]
    table = pd.DataFrame(rows, columns=["claim", "family", "verdict"]).assign(notebook="03")
    heatmaps.verdict_matrix(table, ax)
    told = {(0, 0): "holds", (1, 0): "in part", (0, 1): "not run", (1, 1): "not seen"}
    assert texts(ax) == told
    assert len({patch.get_facecolor() for patch in ax.patches}) == 4
    assert names(ax.get_xticklabels()) == ["a", "b"]
    assert names(ax.get_yticklabels()) == ["One (03)", "Two (03)"]
    with pytest.raises(ValueError, match="perhaps"):
        heatmaps.verdict_matrix(table.assign(verdict="perhaps"), ax)


def test_missing_columns_are_named(ax):
    with pytest.raises(ValueError, match="recovery"):
        heatmaps.causal_heatmap(pd.DataFrame({"moved": ["a"], "measured": ["b"]}), ax)
