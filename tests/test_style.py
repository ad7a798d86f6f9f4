"""The one look: fixed colors and markers, final sizes, names."""

from dataclasses import replace
from itertools import combinations

import pandas as pd
import pytest
from eyes import VISIONS, difference
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib import pyplot as plt

from actlib.analysis import style
from actlib.rankings import RANKINGS

METHODS = list(style.METHODS.values())


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        style.set_theme()
        yield
    style.set_theme()
    plt.close("all")


def test_methods_can_be_told_apart():
    assert len({look.color for look in METHODS}) == len(METHODS)
    assert len({look.label for look in METHODS}) == len(METHODS)


@pytest.mark.parametrize("vision", VISIONS)
def test_methods_differ_in_color_or_marker_to_all_eyes(vision):
    for one, other in combinations(METHODS, 2):
        if one.marker == other.marker:
            # 2.3 is just noticeable side by side
            assert difference(one.color, other.color, vision) > 10, (one, other)


def test_names_and_looks_do_not_depend_on_what_is_drawn_beside():
    assert style.look_of("act_global", 0) == style.look_of("act_global", 7)
    others = [style.look_of("some_arm", number) for number in range(8)]
    assert len({look.color for look in others}) == len({look.marker for look in others}) == 8
    names = {"some_arm": "Some arm", "de": "de", "fr-mgsm": "fr-mgsm", "mlp.up_proj": "mlp.up proj"}
    names |= {"act_scaled": "ACT, scaled", "union": "ACT, union", "ties": "TIES"}
    assert {key: style.label_of(key) for key in names} == names


def test_tables_for_readers_name_methods_in_index_columns_and_cells():
    table = pd.DataFrame({"ties": ["union", "fr-maths"], "n": [1.0, 2.0]}, index=["donor", "all"])
    expected = pd.DataFrame(
        {"TIES": ["ACT, union", "fr-maths"], "n": [1.0, 2.0]}, index=["Donor", "all"]
    )
    pd.testing.assert_frame_equal(style.named(table), expected)
    wide = table.set_axis([20, 50], axis="columns")  # sizes
    assert [*style.named(wide)[20]] == ["ACT, union", "fr-maths"] and wide.index[0] == "donor"
    levels = table.set_index("ties", append=True)
    assert [*style.named(levels).index[0]] == ["Donor", "ACT, union"]


@pytest.mark.parametrize(("like", "key"), [("scaled", "act_own"), ("attribution", "own")])
def test_a_new_ranking_is_named_at_once_and_looks_like_no_method(monkeypatch, like, key):
    monkeypatch.setitem(RANKINGS, "own", replace(RANKINGS[like], name="own", legend="Squared"))
    looks = [style.look_of(key, position) for position in range(8)]
    assert {look.label for look in looks} == {style.label_of(key)} == {"Squared"}
    drawn = {look[:2] for look in looks}
    assert len(drawn) == 8 and not drawn & {look[:2] for look in METHODS}
    assert style.label_of({"act_own": "own", "own": "act_own"}[key]) != "Squared"


@pytest.mark.parametrize(("venue", "width"), [("neurips", 5.5), ("icml", 6.75), ("acl", 6.3)])
def test_figures_have_their_final_width(venue, width):
    style.set_theme(venue)
    fig, _ = style.figure(height=1.5, rows=2)
    assert tuple(fig.get_size_inches()) == pytest.approx((width, 3))
    assert plt.rcParams["axes.labelsize"] == plt.rcParams["xtick.labelsize"] == 8


def test_unknown_venue_and_width_are_refused():
    with pytest.raises(ValueError, match="neurips"):
        style.set_theme("nature")
    with pytest.raises(ValueError, match="full"):
        style.figure(width="half")


def test_typeface_comes_with_matplotlib():
    found = font_manager.findfont(plt.rcParams["font.family"][0], fallback_to_default=False)
    assert "mpl-data" in found
    assert {ord(c) for c in "Δλ×−–%"} <= TTFont(found).getBestCmap().keys()


def test_legends_have_as_many_columns_as_the_width_holds_and_add_their_height():
    style.set_theme("acl")
    columns = {}
    for width in ("column", "full"):
        fig, ax = style.figure(width, height=2)
        for number in range(6):
            ax.plot([0], [number], label=f"Random, matched {number}")
        style.add_legend(fig)
        (legend,) = fig.legends
        assert legend.get_window_extent().width <= fig.bbox.width
        columns[width] = legend._ncols
        assert fig.get_figheight() == pytest.approx(2 + legend.get_window_extent().height / fig.dpi)
    assert columns == {"column": 2, "full": 4}


def test_one_legend_names_each_series_of_all_axes_once_and_a_single_one_needs_none():
    fig, axes = style.figure(columns=2)
    axes[0].plot([0], [1], label="ACT")
    style.add_legend(fig)
    assert not fig.legends
    for name in ("ACT", "TIES"):
        axes[1].plot([0], [1], label=name)
    style.add_legend(fig)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["ACT", "TIES"]
