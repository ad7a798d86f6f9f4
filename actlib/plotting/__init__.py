"""Figures of the study: a tidy table in, Axes out.

    from actlib import plotting
    table = pandas.read_csv("figures/smol/fig03_parameters.csv")
    plotting.set_theme("acl")
    fig = plotting.draw("fig03_parameters", table)

`FIGURES` names the study's figures, and `draw` makes each from its table, by the functions below.
Every function takes a data frame whose columns its docstring names (`low` and `high` are the ends
of an interval) and draws on `ax`, or on the current axes. The table is all it needs, so a figure
can be redrawn from its CSV: nothing here imports torch.
"""

from actlib.plotting.curves import (
    concentration_ccdf,
    merge_bars,
    panels,
    probe_curves,
    sft_curves,
    share_bars,
    stability_curves,
    sufficiency_curves,
    tradeoff,
)
from actlib.plotting.heatmaps import (
    causal_heatmap,
    forgetting_heatmap,
    makeup_heatmap,
    overlap_heatmap,
    verdict_matrix,
)
from actlib.plotting.redrawing import redraw
from actlib.plotting.registry import FIGURES, StudyFigure, draw
from actlib.plotting.style import (
    LABELS,
    MARKERS,
    PALETTE,
    WIDTHS,
    figure,
    inches_of,
    label_of,
    look,
    save_figure,
    save_pictures,
    set_theme,
)
from actlib.plotting.sweep_plots import ablation_bars, area_bars, pareto

__all__ = [
    "FIGURES",
    "LABELS",
    "MARKERS",
    "PALETTE",
    "StudyFigure",
    "WIDTHS",
    "ablation_bars",
    "area_bars",
    "causal_heatmap",
    "concentration_ccdf",
    "draw",
    "figure",
    "forgetting_heatmap",
    "inches_of",
    "label_of",
    "look",
    "makeup_heatmap",
    "merge_bars",
    "overlap_heatmap",
    "panels",
    "pareto",
    "probe_curves",
    "redraw",
    "save_figure",
    "save_pictures",
    "set_theme",
    "sft_curves",
    "share_bars",
    "stability_curves",
    "sufficiency_curves",
    "tradeoff",
    "verdict_matrix",
]
