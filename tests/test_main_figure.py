"""The main figure: panels to be compared, legends and sizes that fit what is drawn."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from actlib import plotting

TABLE = Path(__file__).parents[1] / "figures/smol/fig03_parameters.csv"


@pytest.fixture
def table():
    yield pd.read_csv(TABLE)
    plt.close("all")
    plotting.set_theme("neurips")


def test_panels_share_their_ranges(table):
    left, right = plotting.draw("fig03_parameters", table).axes
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()


def test_act_lies_on_top(table):
    for ax in plotting.draw("fig03_parameters", table).axes:
        act = next(line for line in ax.lines if line.get_label() == "ACT")
        assert all(act.zorder > line.zorder for line in ax.lines if line is not act)


def test_many_names_stand_in_two_columns_of_a_narrow_figure(table):
    fig = plotting.draw("fig03_parameters", table, "acl", "column")
    assert fig.legends[0]._ncols == 2


def test_a_single_panel_has_no_letter_and_no_room_for_others(table):
    one = table[table["panel"] == "controls"]
    fig = plotting.draw("fig03_parameters", one, "acl", "column")
    whole = plotting.draw("fig03_parameters", table, "acl", "column")
    assert fig.axes[0].get_title("left") == "Controls"
    assert fig.get_figheight() < 0.7 * whole.get_figheight()


def test_names_of_abilities_stay_as_written():
    assert plotting.label_of("fr-mgsm") == "fr-mgsm"
    assert plotting.label_of("some_method") == "Some method"
