"""Figures at their final size, kept with their calls, and drawn again from table and call alone."""

import json
import re
import textwrap

import numpy as np
import pandas as pd
import pytest
from legibility import faults
from matplotlib import pyplot as plt
from programs import python

from actlib.analysis import plots, style
from actlib.analysis.drawing import draw_figure, read_captions, redraw_figures, save_figure
from actlib.study.presets import ROOT

FIGURES = sorted((ROOT / "figures").glob("*/fig*.json"))


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        yield
    style.set_theme()
    plt.close("all")


@pytest.mark.parametrize("venue", ["neurips", "acl"])
@pytest.mark.parametrize("path", FIGURES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_kept_figure_is_drawn_again_and_legible(path, venue, tmp_path):
    style.set_theme(venue)
    call = json.loads(path.read_text("utf-8")) | ({"width": "column"} if venue == "acl" else {})
    table = pd.read_csv(path.with_suffix(".csv"))
    fig = draw_figure(getattr(plots, call.pop("plot")), table, **call)
    assert faults(fig) == []
    # Nor have a legend or labels taken the room of what is drawn.
    axes = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    assert all(min(ax.get_window_extent().size) > 0.4 * fig.dpi for ax in axes)
    assert fig.get_figwidth() == style.WIDTHS[venue]["column"]
    if venue == "neurips":
        save_figure(fig, table, "again", tmp_path)
        ours, kept = plt.imread(tmp_path / "again.png"), plt.imread(path.with_suffix(".png"))
        assert ours.shape == kept.shape
        # Other versions of the libraries may round a pixel of a line's edge otherwise.
        assert np.sqrt(np.mean((ours - kept) ** 2)) < 2 / 255


def test_a_saved_figure_is_drawn_again_as_it_was_without_torch(tmp_path):
    table = pd.DataFrame({"method": list("aabb"), "top_percent": [1, 5] * 2, "part": list("uvuv")})
    table = table.assign(recovery=[0.1, 0.2, 0.3, 0.4], items=8, seeds=[1, 1, 2, 2])
    style.set_theme("icml")
    call = {"x": "top_percent", "y": "recovery", "panels": "part", "xlabel": "Moved (%)"}
    fig = draw_figure(plots.curves, table, levels={"donor": 1}, **call)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["(a) u", "(b) v"]
    assert "n = 8 items, 1–2 training seeds" in [text.get_text() for text in fig.texts]
    paths = save_figure(fig, table, "fig", tmp_path / "one")
    code = "import sys; from actlib.analysis.drawing import redraw_figures\n"
    code += "redraw_figures('one', 'two', 'icml'); sys.exit('torch' in sys.modules)"
    python("-c", code, cwd=tmp_path)
    for path in paths:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    pdf = paths[0].read_bytes()
    assert b"/FontFile2" in pdf and b"/Subtype /Type3" not in pdf and b"CreationDate" not in pdf
    with pytest.raises(ValueError, match="no figure 'fig02_causal'"):
        redraw_figures(tmp_path / "one", tmp_path, names=["fig02_causal"])


def test_the_gallery_shows_every_figure_with_its_caption():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    captions = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        captions |= read_captions(path)
    kept = {path.stem for path in FIGURES if path.parent.name == "tiny"}
    assert {*captions} == kept == {*re.findall(r"\]\(/figures/tiny/(.+?)\.png\)", page)}
    for name, caption in captions.items():
        assert textwrap.fill(caption, 100, break_on_hyphens=False) in page, name
