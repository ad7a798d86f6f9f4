"""Every figure of the study by its name, drawn from its tidy table alone.

    table = pandas.read_csv("figures/smol/fig03_parameters.csv")
    fig = draw("fig03_parameters", table, venue="acl")

Notebooks, `make figures` and the gallery all draw through here, so each figure has one definition.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from actlib.plotting import curves, heatmaps, sweep_plots
from actlib.plotting.style import NARROW, figure, inches_of, legend_of_figure, set_theme

Height = Callable[[pd.DataFrame, float], float]

SINGLE = 1.2
"""Height over width, at most, of a single panel in one column; its kind's height is for several."""


@dataclass(frozen=True)
class StudyFigure:
    """How one figure of the study is made from its table.

    Attributes:
        plot: Draws the table on axes.
        caption: What is seen, with its interval and what n is, in Markdown.
        height: Height in inches, from the table and the width in inches.
        width: "column" or "full": what it fills where a venue has two columns.
        panels: Column of the table with one panel for each value; none for a single plot.
        columns: Panels side by side, where the figure is not narrow.
        options: Passed on to `plot`.
    """

    plot: Callable[..., Axes]
    caption: str
    height: Height
    width: str = "column"
    panels: str | None = None
    columns: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)


def _times(wide: float, narrow: float) -> Height:
    """Height as a multiple of the width: `wide` for a page, `narrow` for one column of it."""
    return lambda table, inches: inches * (narrow if inches < NARROW else wide)


def _per(column: str | list[str], each: float, besides: float) -> Height:
    """`each` inches for every value of the column (or set of columns), and some `besides`."""
    columns = [column] if isinstance(column, str) else column
    return lambda table, inches: besides + each * len(table[columns].drop_duplicates())


_SCORE = {"label": "Score (−NLL)"}
_SCORE_PER_TOKEN = {"label": "Score (−NLL, nats per token)"}
_BOOTSTRAP = "95 % bootstrap intervals over computations (test items) and training seeds"

_FIGURES = {
    "fig00_forgetting": StudyFigure(
        heatmaps.forgetting_heatmap,
        "Mean answer NLL of every model on every ability; lower is better. Means over the table's "
        "`items` and `seeds`; its `low` and `high` are 95 % bootstrap intervals.",
        _times(0.45, 0.8),
        width="full",
        options={"label": "Answer NLL (nats per token)"},
    ),
    "fig01_concentration_ccdf": StudyFigure(
        curves.concentration_ccdf,
        "Complementary CDF of the scores over all channels, raw and scaled by module, against the "
        "half-normal; first training seed, no interval.",
        _times(0.5, 0.8),
    ),
    "fig01_concentration_by_kind": StudyFigure(
        curves.share_bars,
        "Share of the summed score that the top channels of each module kind hold; ticks mark the "
        "half-normal null; first training seed, no interval.",
        _times(0.6, 1.1),
    ),
    "fig01_mask_makeup": StudyFigure(
        heatmaps.makeup_heatmap,
        "Percent of channels in the mask of the paper's ranking, by module kind and layer; first "
        "training seed, no interval.",
        _times(0.5, 0.8),
        width="full",
    ),
    "fig02_overlap": StudyFigure(
        heatmaps.overlap_heatmap,
        "Jaccard overlap of the abilities' masks; in brackets the expectation of random masks with "
        "the same counts per module (its 95 % range: `null_low`, `null_high`).",
        _times(0.55, 0.9),
    ),
    "fig02_probes": StudyFigure(
        curves.probe_curves,
        "Accuracy of probes on the highest-ranked channels and on random ones (mean of the draws); "
        "bands are 95 % intervals over items.",
        _times(0.45, 1.9),
        width="full",
        panels="label",
        columns=3,
    ),
    "fig02_causal": StudyFigure(
        heatmaps.causal_heatmap,
        "Recovered share of each lost ability's gap (columns) when the channels of one ability "
        "(rows) move; means over the table's `items`, with 95 % bootstrap intervals in it.",
        _times(0.55, 1.15),
    ),
    "fig02_interventions": StudyFigure(
        sweep_plots.ablation_bars,
        "What patching into the target and ablating in the donor change, on lost and on retained "
        f"abilities; lines are {_BOOTSTRAP}.",
        _per(["how", "method"], 0.1925, 1.375),
        width="full",
        options={"label": "Change of the score, −NLL (nats per answer token)"},
    ),
    "fig03_sufficiency": StudyFigure(
        curves.sufficiency_curves,
        "Recovered share of the gap in answer NLL against the share of channels moved; bands are "
        "95 % bootstrap intervals over test items (and seeds, where there are several).",
        _times(0.6, 1.1),
    ),
    "fig03_sufficiency_by_ability": StudyFigure(
        curves.sufficiency_curves,
        "The same for each lost ability.",
        _times(0.8, 3.0),
        width="full",
        panels="cell",
    ),
    "fig03_controls": StudyFigure(
        curves.sufficiency_curves,
        f"Rankings by activation differences, and controls, over all lost abilities; bands are "
        f"{_BOOTSTRAP}.",
        _times(0.6, 2.0),
        width="full",
        panels="panel",
        options={"same_ranges": True},
    ),
    "fig03_parameters": StudyFigure(
        curves.sufficiency_curves,
        "As fig03_controls, against the share of the model's parameters that moved; bands are "
        f"{_BOOTSTRAP}.",
        _times(0.6, 2.0),
        width="full",
        panels="panel",
        options={"x": "parameters_percent", "same_ranges": True},
    ),
    "fig04_stability": StudyFigure(
        curves.stability_curves,
        "Jaccard overlap of two masks against the samples behind each; bands are 95 % bootstrap "
        "intervals over abilities (or pairs of them) and seeds, `count` of them.",
        _times(0.5, 1.7),
        width="full",
        panels="ranking",
    ),
    "fig05_tradeoff": StudyFigure(
        curves.tradeoff,
        "Score on the lost abilities against that on the retained one as λ grows, at the p picked "
        "for each method; validation items, no interval; the last λ is written.",
        _times(0.6, 1.15),
        options={
            "xlabel": "Retained: score on the retained ability (−NLL)",
            "ylabel": "Recovered: score on lost abilities (−NLL)",
        },
    ),
    "fig05_pareto": StudyFigure(
        sweep_plots.pareto,
        "Recovered against kept share of every setting, with each method's frontier; means over "
        "items, seeds and draws, without intervals (those of the areas are in fig05_areas).",
        _times(0.65, 2.5),
        width="full",
        panels="panel",
    ),
    "fig05_areas": StudyFigure(
        sweep_plots.area_bars,
        f"Area under each method's frontier; lines are {_BOOTSTRAP}; in brackets the number of "
        "settings.",
        _per("method", 0.165, 1.1),
    ),
    "fig05_sft": StudyFigure(
        curves.sft_curves,
        "Score on lost and on retained abilities as fine-tuning goes on, in the notebook's own "
        "run; bands are 95 % bootstrap intervals over the table's `items`.",
        _times(0.5, 1.7),
        width="full",
        panels="part",
        options=_SCORE,
    ),
    "fig05_sft_arms": StudyFigure(
        curves.sft_curves,
        f"Every arm of the fine-tuning over training seeds; bands are {_BOOTSTRAP}.",
        _times(0.6, 1.9),
        width="full",
        panels="part",
        options=_SCORE,
    ),
    "fig06_merging": StudyFigure(
        curves.merge_bars,
        "Score of the base, the specialists and each merge on the abilities of each specialist; "
        "lines are 95 % bootstrap intervals over the table's `items`. Nearer to zero is better.",
        _times(0.55, 1.0),
        width="full",
        options=_SCORE_PER_TOKEN,
    ),
    "fig06_baselines": StudyFigure(
        curves.merge_bars,
        f"As fig06_merging, every way to merge two or three specialists; lines are {_BOOTSTRAP}.",
        _per("merge", 2.09, 0.55),
        width="full",
        panels="merge",
        columns=1,
        options=_SCORE_PER_TOKEN,
    ),
    "fig07_verdicts": StudyFigure(
        heatmaps.verdict_matrix,
        "Verdict on each claim (rows, with its notebook) in each family (columns), by rules that "
        "were written before the sweeps were read.",
        _times(0.45, 0.8),
    ),
}
FIGURES: Mapping[str, StudyFigure] = MappingProxyType(_FIGURES)
"""The figures of the study, by name, in its order."""


def draw(
    name: str, table: pd.DataFrame, venue: str | None = None, width: str | None = None
) -> Figure:
    """Draw a figure of the study at its final size, ready for `save_figure`.

    Args:
        name: One of `FIGURES`, such as "fig03_parameters".
        table: Its tidy table: what its CSV holds.
        venue: A venue of `WIDTHS`, whose theme is set as by `set_theme`; the theme last set if
            None.
        width: "column" or "full"; what suits the figure if None.

    Raises:
        ValueError: no figure, venue or width has this name, or the table is empty.
    """
    if name not in FIGURES:
        raise ValueError(f"no figure is called {name!r}; choose one of {', '.join(FIGURES)}.")
    if table.empty:
        raise ValueError(f"{name} was given an empty table; it needs the rows of {name}.csv.")
    if venue is not None:
        set_theme(venue)
    made = FIGURES[name]
    width = width or made.width
    inches = inches_of(width)
    aspect = made.height(table, inches) / inches
    if made.panels is None:
        fig, ax = figure(width, aspect)
        made.plot(table, ax, **made.options)
        if inches < NARROW:
            legend_of_figure(fig)
            _break_label(ax)
        return fig
    columns = 1 if inches < NARROW else made.columns
    if columns == 1 and table[made.panels].nunique() == 1:
        aspect = min(aspect, SINGLE)
    return curves.panels(made.plot, table, made.panels, columns, width, aspect, **made.options)


def _break_label(ax: Axes) -> None:
    """Put the bracket of a long x label on a line of its own."""
    label = ax.get_xlabel()
    if len(label) > 30:
        ax.set_xlabel(label.replace(" (", "\n(", 1))
