"""The one look: fixed colors and markers, final sizes, and files that redraw to the same bytes."""

from itertools import combinations

import pandas as pd
import pytest
from eyes import VISIONS, difference
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib import pyplot as plt

from actlib.plotting import style

ALIASES = {"raw": "act_global", "scaled": "act_scaled", "sum": "union", "act_sum": "union"}
ALIASES |= {"act_average": "average", "act_largest": "largest"}


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        style.set_theme()
        yield
    style.set_theme()
    plt.close("all")


def test_methods_can_be_told_apart():
    methods = [key for key in style.PALETTE if key not in ALIASES]
    assert style.PALETTE.keys() == style.MARKERS.keys() == style.LABELS.keys()
    assert len({style.PALETTE[key] for key in methods}) == len(methods)
    assert len({style.LABELS[key] for key in methods}) == len(methods)
    for alias, key in ALIASES.items():
        assert style.PALETTE[alias] == style.PALETTE[key]


@pytest.mark.parametrize("vision", VISIONS)
def test_methods_differ_in_color_or_marker_to_all_eyes(vision):
    methods = [key for key in style.PALETTE if key not in ALIASES]
    for one, other in combinations(methods, 2):
        if style.MARKERS[one] == style.MARKERS[other]:
            # 2.3 is just noticeable side by side
            apart = difference(style.PALETTE[one], style.PALETTE[other], vision)
            assert apart > 10, (one, other)


def test_series_come_in_order_with_their_looks():
    table = pd.DataFrame({"method": ["other", "act_global", "other"], "value": [1, 2, 3]})
    found = list(style.series(table, "method"))
    assert [look["label"] for look, _ in found] == ["Other", "ACT"]
    assert [list(rows["value"]) for _, rows in found] == [[1, 3], [2]]


def test_a_single_series_needs_no_legend():
    _, ax = style.figure()
    ax.plot([1], [1], label="one")
    assert style.legend_above(ax).get_legend() is None
    ax.plot([1], [1], label="two")
    assert len(style.legend_above(ax).get_legend().get_texts()) == 2


def test_a_methods_look_does_not_depend_on_its_position():
    assert style.look("act_global", 0) == style.look("act_global", 7)
    others = [style.look("some_arm", number) for number in range(20)]
    assert len({(look["color"], str(look["linestyle"])) for look in others}) == 20
    assert others[0]["label"] == "Some arm"
    assert style.label_of("de") == "de"


@pytest.mark.parametrize(("venue", "width"), [("neurips", 5.5), ("icml", 6.75), ("acl", 6.3)])
def test_figures_have_their_final_width(venue, width):
    style.set_theme(venue)
    fig, _ = style.figure(aspect=0.5)
    assert tuple(fig.get_size_inches()) == pytest.approx((width, width / 2))
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


def saved(directory):
    fig, ax = style.figure()
    ax.plot([1, 2], [0.1, 0.3], label="ACT")
    ax.set(xlabel=r"$\Delta a$ (%)", ylabel="Accuracy")
    table = pd.DataFrame({"method": ["a", "b"], "score": [0.1, 1 / 3], "layer": [-1, 2]})
    return style.save_figure(fig, table, "fig01_test", directory), table


def test_saving_writes_three_files_and_the_table_survives(tmp_path):
    paths, table = saved(tmp_path / "new")
    assert [path.name for path in paths] == ["fig01_test.pdf", "fig01_test.png", "fig01_test.csv"]
    assert sorted((tmp_path / "new").iterdir()) == sorted(paths)
    pd.testing.assert_frame_equal(pd.read_csv(paths[2]), table)
    height, width = plt.imread(paths[1]).shape[:2]
    assert (width, height) == (1650, 990)  # 5.5 by 3.3 inches at 300 dpi: nothing cropped


def test_pdf_embeds_truetype_and_holds_no_type3_font(tmp_path):
    paths, _ = saved(tmp_path)
    content = paths[0].read_bytes()
    assert b"/FontFile2" in content and b"/Subtype /Type3" not in content


def test_saving_again_gives_the_same_bytes(tmp_path, monkeypatch):
    first, _ = saved(tmp_path / "a")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    second, _ = saved(tmp_path / "b")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"CreationDate" not in first[0].read_bytes()


def test_a_settled_figure_does_not_move_any_more():
    fig, ax = style.figure()
    ax.set(xlabel="x", ylabel="y")
    style.settle(fig)
    place = ax.get_position().bounds
    fig.set_dpi(300)
    fig.draw_without_rendering()
    assert ax.get_position().bounds == place
    style.settle(fig)  # nothing left to do


def test_legends_have_as_many_columns_as_the_width_holds():
    style.set_theme("acl")
    columns = {}
    for width in ("column", "full"):
        fig, ax = style.figure(width)
        for number in range(6):
            ax.plot([0], [number], label=f"Random, matched {number}")
        legend = style.legend_above(ax).get_legend()
        assert legend.get_window_extent().width <= fig.bbox.width
        columns[width] = legend._ncols
    assert columns == {"column": 2, "full": 4}


def test_one_legend_of_the_figure_takes_the_place_of_those_of_its_axes():
    fig, axes = style.figure(columns=2)
    for ax, names in zip(axes, (("ACT", "Base"), ("Base", "TIES")), strict=True):
        for name in names:
            ax.plot([0], [1], label=name)
        style.legend_above(ax)
    style.legend_of_figure(fig)
    assert [ax.get_legend() for ax in axes] == [None, None]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["ACT", "Base", "TIES"]


def test_mixing_in_white():
    assert style.mixed("#000000", 1) == (0, 0, 0) and style.mixed("#FF0000", 0.5) == (1, 0.5, 0.5)
