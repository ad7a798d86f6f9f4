"""Figures at their final size, kept with their calls, and drawn again from table and call alone."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from legibility import faults
from matplotlib import pyplot as plt

from actlib.analysis import plots, style
from actlib.analysis.drawing import draw_figure, redraw_figures, save_figure

ROOT = Path(__file__).resolve().parents[1]
# Presets whose figures are those of the notebooks as they are; `make keep` leaves both.
PRESETS = sorted(path.name for path in (ROOT / "data" / "items").glob("*") if path.is_dir())
FIGURES = [
    (preset, path.stem)
    for preset in PRESETS
    for path in sorted((ROOT / "figures" / preset).glob("fig*.csv"))
]
NAME = "fig03_sufficiency"
kept = pytest.mark.skipif(not PRESETS, reason="nothing is kept yet of the notebooks as they are")
COMMAND = [sys.executable, str(ROOT / "tools" / "redraw_figures.py")]
spec = importlib.util.spec_from_file_location("redraw_figures", COMMAND[1])
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        yield
    style.set_theme()
    plt.close("all")


@pytest.fixture
def folder(tmp_path):
    tables = tmp_path / "figures" / "smol"
    tables.mkdir(parents=True)
    table = pd.DataFrame({"method": ["ties", "union"] * 2, "top_percent": [5, 5, 50, 50]})
    table = table.assign(recovery=[0.1, 0.2, 0.5, 0.7], part=["lost", "lost", "other", "other"])
    call = {"x": "top_percent", "y": "recovery", "panels": "part", "width": "column"}
    style.set_theme("neurips")
    for path in save_figure(draw_figure(plots.curves, table, **call), table, NAME, tables)[:2]:
        path.unlink()
    return tables


def width(path):
    return matplotlib.image.imread(path).shape[1]


def again(name, folder, **changes):
    call = json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) | changes
    return draw_figure(
        getattr(plots, call.pop("plot")), pd.read_csv(folder / f"{name}.csv"), **call
    )


def legible(fig, inches):
    axes = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    assert fig.get_figwidth() == inches
    assert faults(fig) == []
    # Nor have a legend or labels taken the room of what is drawn.
    assert all(min(ax.get_window_extent().size) > 0.4 * fig.dpi for ax in axes)


def pixels(fig):
    fig.set_dpi(300)
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba(), dtype=float) / 255


@pytest.mark.parametrize(("preset", "name"), FIGURES)
def test_the_kept_table_and_call_give_the_kept_picture_and_a_legible_one(preset, name):
    style.set_theme("neurips")
    fig = again(name, ROOT / "figures" / preset)
    legible(fig, 5.5)
    ours, theirs = pixels(fig), plt.imread(ROOT / "figures" / preset / f"{name}.png")
    assert ours.shape == theirs.shape
    # The same libraries give the same bytes; others may round a pixel of a line's edge otherwise.
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 2 / 255


@pytest.mark.parametrize(("preset", "name"), FIGURES)
def test_figures_are_legible_in_a_narrow_column(preset, name):
    style.set_theme("acl")
    fig = again(name, ROOT / "figures" / preset, width="column")
    legible(fig, 3.03)


def test_the_checks_of_labels_can_fail():
    style.set_theme()
    fig = plt.figure(figsize=(2, 1), layout="none")
    fig.text(0.5, 0.5, "one", fontsize=8)
    assert faults(fig) == []
    fig.text(0.52, 0.5, "two", fontsize=8)
    fig.text(0.95, 0.1, "beyond", fontsize=8)
    fig.text(0.1, 0.1, "big", fontsize=9)
    assert {kind for kind, *_ in faults(fig)} == {"overlap", "cut off", "size"}


@kept
def test_notebooks_save_every_kept_figure_and_each_has_its_call():
    for preset in PRESETS:
        calls = sorted(path.stem for path in (ROOT / "figures" / preset).glob("fig*.json"))
        assert calls == [n for p, n in FIGURES if p == preset] and {*calls} <= {*tool.captions()}
        assert preset != "tiny" or calls == sorted(tool.captions())  # others are run in part


def test_a_saved_figure_is_drawn_again_as_it_was(tmp_path):
    table = pd.DataFrame({"method": list("aabb"), "top_percent": [1, 5] * 2, "part": list("uvuv")})
    table = table.assign(recovery=[0.1, 0.2, 0.3, 0.4], items=8, seeds=[1, 1, 2, 2])
    style.set_theme("icml")
    call = {"x": "top_percent", "y": "recovery", "panels": "part", "xlabel": "Moved (%)"}
    fig = draw_figure(plots.curves, table, levels={"donor": 1}, **call)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["(a) u", "(b) v"]
    assert {ax.get_xlabel() for ax in fig.axes} == {"Moved (%)"}
    assert "n = 8 items, 1–2 training seeds" in [text.get_text() for text in fig.texts]
    paths = save_figure(fig, table, "fig", tmp_path / "one")
    assert [path.suffix for path in paths] == [".pdf", ".png", ".csv", ".json"]
    redrawn = redraw_figures(tmp_path / "one", tmp_path / "two", "icml")
    for one, two in zip(paths, redrawn, strict=True):
        assert one.read_bytes() == two.read_bytes()
    pdf = paths[0].read_bytes()
    assert b"/FontFile2" in pdf and b"/Subtype /Type3" not in pdf and b"CreationDate" not in pdf
    with pytest.raises(ValueError, match="empty"):
        draw_figure(plots.curves, table.head(0), **call)


def test_panels_share_the_places_of_their_rows():
    table = pd.DataFrame(
        {"method": ["a", "b", "b", "c"], "x": [1.0, 2, 3, 4], "part": list("uuvv")}
    )
    style.set_theme("neurips")
    fig = draw_figure(plots.intervals, table, x="x", panels="part", share=True)
    places = [dict(zip(*dots(ax), strict=True)) for ax in fig.axes]
    assert places == [{1.0: 0, 2.0: 1}, {3.0: 1, 4.0: 2}]
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["a", "b", "c"]


def dots(ax):
    points = [tuple(map(float, p)) for group in ax.collections for p in group.get_offsets()]
    return zip(*points, strict=True)


def test_another_venue_and_folder(folder, tmp_path):
    pictures = redraw_figures(folder, tmp_path / "acl", "acl", "full")
    assert width(pictures[1]) == 1890
    assert (tmp_path / "acl" / f"{NAME}.csv").is_file() and len(list(folder.iterdir())) == 2


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match="no figure"):
        redraw_figures(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="fig02_causal"):
        redraw_figures(folder, tmp_path, names=["fig02_causal"])


def test_the_command_draws_for_a_venue_without_torch(folder, tmp_path):
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, COMMAND[1], "--preset", "smol", "--venue", "icml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = Path("artifacts/figures/icml")
    assert str(out) in done.stdout
    assert width(tmp_path / out / f"{NAME}.png") == 975


@kept
def test_the_gallery_shows_every_figure_by_a_picture_that_exists():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = tool.gallery_page() if Path.cwd() == ROOT else page
    assert page == shown, "run tools/redraw_figures.py --gallery docs/gallery.md"
    pictures = re.findall(r"\]\(/(.+?\.png)\)", page)
    assert [Path(picture).stem for picture in pictures] == sorted(tool.captions())
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_the_page_on_adapting_a_figure_runs(tmp_path, monkeypatch):
    (tmp_path / "figures").symlink_to(ROOT / "figures")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "adapt_a_figure.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.+?)```", page, re.DOTALL):
        exec(block, names)
    table = pd.read_csv(tmp_path / "paper" / "fig05_distance.csv")
    assert "act_module" in set(table["method"]) and "act_global" not in set(table["method"])
    assert width(tmp_path / "paper" / "fig05_distance.png") == 909


def test_the_diagram_of_the_method_is_what_its_script_draws(tmp_path):
    spec = importlib.util.spec_from_file_location("draw_method", ROOT / "docs" / "draw_method.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    style.set_theme("neurips")
    script.draw(tmp_path / "method.svg")
    assert (tmp_path / "method.svg").read_bytes() == script.OUT.read_bytes()


def test_a_panel_without_a_number_says_so():
    table = pd.DataFrame({"method": "union", "x": [1, 2] * 2, "part": list("aabb")})
    table["y"] = [0.1, 0.2, None, None]
    fig = draw_figure(plots.curves, table, x="x", y="y", panels="part")
    texts = [[text.get_text() for text in ax.texts] for ax in fig.axes]
    assert texts == [[], ["not defined"]]
