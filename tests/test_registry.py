"""Every figure of the study: from its kept table alone, legible at each width, to all eyes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eyes import alike
from legibility import faults
from matplotlib import pyplot as plt

from actlib import plotting
from actlib.plotting.style import settle

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "figures" / "smol"
COLUMNS = [("acl", "column"), ("icml", "column")]
PAGES = [("acl", "full"), ("icml", "full")]


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        yield
    plotting.set_theme()
    plt.close("all")


def kept(name, preset="smol"):
    return pd.read_csv(ROOT / "figures" / preset / f"{name}.csv")


def handles(fig):
    found = {}
    for ax in fig.axes:
        drawn, names = ax.get_legend_handles_labels()
        legend = ax.get_legend()
        if legend and not drawn:
            drawn, names = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
        found |= dict(zip(names, drawn, strict=True))
    return found


@pytest.mark.parametrize("preset", ["smol", "tiny"])
def test_every_kept_figure_is_registered_and_every_registered_one_is_kept(preset):
    tables = {path.stem for path in (ROOT / "figures" / preset).glob("fig*.csv")}
    assert tables == set(plotting.FIGURES)


def test_notebooks_draw_every_figure_by_the_name_that_they_save_it_under():
    named = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            saved = re.findall(r'plotting\.save_figure\(fig, (\w+), "(\w+)"', source)
            drawn = re.findall(r'fig = plotting\.draw\("(\w+)", (\w+)\)', source)
            assert saved == [(table, name) for name, table in drawn]
            named += [name for name, _ in drawn]
    assert named == list(plotting.FIGURES)


def pixels(fig):
    fig.set_dpi(300)
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba(), dtype=float) / 255


def legible(fig, inches):
    plots = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    assert fig.get_figwidth() == inches
    assert faults(fig) == []
    # Nor have a legend or labels taken the room of what is drawn.
    assert all(min(ax.get_window_extent().size) > 0.4 * fig.dpi for ax in plots)


@pytest.mark.parametrize("name", plotting.FIGURES)
def test_the_kept_table_gives_the_kept_picture_and_a_legible_one(name):
    fig = plotting.draw(name, kept(name), "neurips")
    legible(fig, 5.5)
    ours, theirs = pixels(fig), plt.imread(KEPT / f"{name}.png")
    assert ours.shape == theirs.shape
    # The same libraries give the same bytes; others may round a pixel of a line's edge otherwise.
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 2 / 255


@pytest.mark.parametrize("name", plotting.FIGURES)
def test_no_label_is_cut_off_or_covers_another_at_the_widths_of_two_column_venues(name):
    table = kept(name)
    for venue, width in COLUMNS + PAGES * (plotting.FIGURES[name].width == "full"):
        fig = plotting.draw(name, table, venue, width)
        legible(fig, plotting.WIDTHS[venue][width])
        plt.close(fig)


@pytest.mark.parametrize("preset", ["smol", "tiny"])
@pytest.mark.parametrize("name", plotting.FIGURES)
def test_series_are_told_apart_by_all_eyes_and_in_grey(name, preset):
    assert alike(handles(plotting.draw(name, kept(name, preset)))) == []


def test_the_check_of_eyes_can_fail():
    ax = plt.figure().add_subplot()
    for color in ("#D55E00", "#8F8B00"):  # far apart, but not to deuteranopic eyes or in grey
        ax.plot([1], [1], color=color, marker="o", label=color)
    found = {eyes for *_, eyes in alike(handles(ax.figure))}
    assert "deuteranopia" in found and "grey" in found and "normal" not in found


def test_the_check_of_labels_can_fail():
    plotting.set_theme()
    fig = plt.figure(figsize=(2, 1), layout="none")
    fig.text(0.5, 0.5, "one", fontsize=8)
    assert faults(fig) == []
    fig.text(0.52, 0.5, "two", fontsize=8)
    fig.text(0.95, 0.1, "beyond", fontsize=8)
    fig.text(0.1, 0.1, "big", fontsize=9)
    assert {kind for kind, *_ in faults(fig)} == {"overlap", "cut off", "size"}


def test_panels_are_stacked_in_a_column_and_stand_side_by_side_on_a_page():
    table = kept("fig03_parameters")
    for width, side_by_side in (("column", False), ("full", True)):
        fig = plotting.draw("fig03_parameters", table, "acl", width)
        settle(fig)
        first, second = (ax.get_position() for ax in fig.axes)
        assert (first.x1 < second.x0) == side_by_side
        assert (first.y0 > second.y1) != side_by_side


def test_the_theme_last_set_is_kept_where_no_venue_is_given():
    plotting.set_theme("icml")
    assert plotting.draw("fig07_verdicts", kept("fig07_verdicts")).get_figwidth() == 3.25


def test_unknown_names_widths_and_empty_tables_are_refused():
    table = kept("fig07_verdicts")
    with pytest.raises(ValueError, match="fig03_sufficiency"):
        plotting.draw("fig99", table)
    with pytest.raises(ValueError, match="empty"):
        plotting.draw("fig07_verdicts", table.head(0))
    with pytest.raises(ValueError, match="column"):
        plotting.draw("fig07_verdicts", table, width="half")
    with pytest.raises(ValueError, match="acl"):
        plotting.draw("fig07_verdicts", table, venue="nature")


def test_drawing_needs_no_torch():
    code = (
        "import sys, pandas; from actlib import plotting;"
        "table = pandas.read_csv(sys.argv[1]);"
        "plotting.draw('fig03_parameters', table, 'acl'); sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(KEPT / "fig03_parameters.csv")]
    assert subprocess.run(command, check=False).returncode == 0
