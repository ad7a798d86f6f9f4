"""One look for all figures: fixed colors and markers per method, and the widths of venues.

    set_theme("neurips")
    fig, ax = figure("column", height=2.2)
    plots.curves(table, ax, x="top_percent", y="recovery", log=True)
    add_legend(fig)
    fig.savefig("recovery.pdf")

Figures are drawn at their final size. The typeface (STIX, close to Times) ships with matplotlib, so
that every machine draws the same.
"""

from typing import Any, NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from actlib.rankings import RANKINGS, ranking_of
from actlib.wording import require_known

NARROW = 4.5
"""Inches: figures below it fill one column of a page."""

WIDTHS = {
    "neurips": {"column": 5.5, "full": 5.5},
    "iclr": {"column": 5.5, "full": 5.5},
    "icml": {"column": 3.25, "full": 6.75},
    "acl": {"column": 3.03, "full": 6.3},
}
"""Width of one column and of the full page, in inches."""


class Look(NamedTuple):
    """How a method is drawn and named, and who proposed it where it is not of this study."""

    color: str
    marker: str
    label: str
    source: str = ""


# Colors are Okabe-Ito, then Tol's muted ones, then what lies farthest from all before to normal,
# deutan and protan eyes; with so many, it takes the marker besides.
METHODS = {
    "act_global": Look("#0072B2", "o", "ACT", "arXiv 2601.09398"),
    "act_no_head": Look("#3B0F66", "D", "ACT, no head"),
    "act_module": Look("#56B4E9", "s", "ACT, per module"),
    "act_scaled": Look("#009E73", "^", "ACT, scaled"),
    "act_relative": Look("#6969FF", "<", "ACT, relative"),
    "act_contrast": Look("#1E00B4", "h", "ACT, contrast"),
    "attribution": Look("#B4005A", "^", "Attribution (ours)"),
    "attribution_absolute": Look("#5F7A00", "p", "Attribution, absolute (ours)"),
    "attribution_by_size": Look("#2A00FF", "v", "Attribution by size (ours)"),
    "attribution_per_parameter": Look("#FF6A00", "D", "Attribution per parameter (ours)"),
    "attribution_again": Look("#401A39", "<", "Attribution, again (ours)"),
    "attribution_per_parameter_retention": Look("#D4008C", ">", "Per parameter, retention (ours)"),
    "attribution_random": Look("#A0522D", "X", "Random, modules of per parameter"),
    "weight_difference": Look("#E69F00", "v", "Weight difference"),
    "task_vector": Look("#D21E3C", "*", "Task-vector entries"),
    "task_vector_equal": Look("#660000", "*", "Task-vector entries, same distance"),
    "random_matched": Look("#888888", "D", "Random, matched"),
    "random_no_head": Look("#00D2C8", "D", "Random, no head"),
    "random_module": Look("#33525C", "s", "Random, per module"),
    "lowest_module": Look("#8C153D", "X", "Lowest, per module"),
    "random_equal_difference": Look("#BA21D9", "P", "Random, same difference"),
    "random_uniform": Look("#BBBBBB", "d", "Random, uniform"),
    "all_rows": Look("#882255", "*", "All channels"),
    "interpolation": Look("#999933", "h", "Interpolation"),
    "target": Look("#D55E00", "P", "Target"),
    "donor": Look("#000000", "p", "Donor"),
    "base": Look("#666666", ">", "Base"),
    "specialist": Look("#A84800", "v", "Specialist"),
    "sft_only": Look("#CC6677", "<", "SFT only"),
    "sft_recording": Look("#E1A6FF", "H", "SFT on the recording items"),
    "sft_replay": Look("#4B3A00", "H", "SFT with replay"),
    "act_module_sft": Look("#1F8AC0", "s", "ACT, per module, then SFT"),
    "random_module_sft": Look("#5C6B73", "v", "Random, per module, then SFT"),
    "interpolation_sft": Look("#B8A000", "X", "Interpolation, then SFT"),
    "donor_sft": Look("#1A1A1A", "8", "Donor, then SFT"),
    "union": Look("#117733", "o", "ACT, union", "arXiv 2601.09398"),
    "average": Look("#44AA99", "s", "ACT, average"),
    "largest": Look("#88CCEE", "^", "ACT, largest"),
    "random_union": Look("#7A5C3E", "d", "Random, union"),
    "attribution_union": Look("#FF5FA2", "o", "Attribution, union (ours)"),
    "task_arithmetic": Look("#DDAA33", "<", "Task arithmetic", "arXiv 2212.04089"),
    "mean_weights": Look("#AA4499", "X", "Weight average", "arXiv 2203.05482"),
    "ties": Look("#78E178", "P", "TIES", "arXiv 2306.01708"),
    "dare_linear": Look("#2D5AC3", "d", "DARE", "arXiv 2311.03099"),
    "layer_swap": Look("#69005A", "*", "Layer swapping", "arXiv 2410.01335"),
}
"""Every method by its key: read by figures, tables and docs."""
VERDICTS = {
    "supported": Look("#0072B2", "o", "Supported"),
    "partly supported": Look("#56B4E9", "s", "Partly supported"),
    "not supported": Look("#D55E00", "X", "Not supported"),
    "inconclusive": Look("#777777", "D", "Inconclusive"),
    "not tested": Look("#000000", "p", "Not tested"),
}
"""How the verdicts of `actlib.analysis.contrasts` are drawn."""

# For series that are no method (abilities, module kinds, comparisons), by their position.
_CYCLE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#999933"]
_CYCLE_MARKERS = "ov>^DPX*"
# For rankings without a look in METHODS: what lies farthest from all colors there, in CIELAB.
_OWN = ["#00DD00", "#FFBB99", "#99DD00", "#009900", "#003300", "#FF77FF", "#FF0000", "#770099"]

NULL: dict[str, Any] = {"color": "#444444", "linewidth": 0.9, "linestyle": (0, (4, 2))}
"""Line of a null or of a reference level."""

_widths = dict(WIDTHS["neurips"])


def label_of(key: object) -> str:
    """Display name: the method's, or the key with spaces for underscores and a capital.

    Keys of up to three letters stay as they are, being language codes, and so do keys with a hyphen
    or a point, being abilities and modules: their names are whoever wrote them's.
    """
    text = str(key).replace("_", " ")
    if str(key) in METHODS:
        return METHODS[str(key)].label
    if (rule := ranking_of(key)) and rule.legend:
        return rule.legend
    return text if len(text) <= 3 or set("-.") & set(text) else text[0].upper() + text[1:]


def named(table: pd.DataFrame) -> pd.DataFrame:
    """A table for readers: names of methods, or legends, in place of keys, wherever these stand."""
    methods = [*METHODS, *(rule.method for rule in RANKINGS.values() if rule.legend)]
    names = {key: label_of(key) for key in methods}
    table = table.rename(index=names, columns=names)
    for column in table.select_dtypes(exclude="number"):
        table[column] = table[column].replace(names)
    return table


def look_of(key: object, position: int = 0) -> Look:
    """Color, marker and label: fixed for a method, otherwise by position.

    A ranking that is registered elsewhere gets a color of no method and of no other series.
    """
    if str(key) in METHODS | VERDICTS:
        return (METHODS | VERDICTS)[str(key)]
    index = position % len(_CYCLE)
    color = (_OWN if ranking_of(key) else _CYCLE)[index]
    return Look(color, _CYCLE_MARKERS[index], label_of(key))


def set_theme(venue: str = "neurips") -> None:
    """Set seaborn's style, and the widths that `figure` draws at, for a venue of `WIDTHS`.

    Raises:
        ValueError: the venue is unknown.
    """
    require_known("venue", [venue], WIDTHS)
    _widths.update(WIDTHS[venue])
    sns.set_theme("paper", "ticks", font="STIXGeneral", rc=_THEME)


_SIZES = [f"{name}size" for name in ("font.", "axes.label", "axes.title", "legend.font")]
_SIZES += [f"{name}size" for name in ("xtick.label", "ytick.label", "figure.title", "figure.label")]
_TICKS = {"width": 0.6, "size": 2.5, "pad": 2.5}
_THEME = {
    **dict.fromkeys(_SIZES, 8),
    **{f"{axis}tick.major.{key}": size for axis in "xy" for key, size in _TICKS.items()},
    "mathtext.fontset": "stix",
    "pdf.fonttype": 42,  # embedded TrueType, so that text stays text
    "ps.fonttype": 42,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 0.9,
    "legend.labelspacing": 0.3,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "svg.hashsalt": "actlib",
}


def inches_of(width: str) -> float:
    """Inches of "column" or "full" at the venue that was set last.

    Raises:
        ValueError: the width is neither.
    """
    require_known("width", [width], _widths)
    return _widths[width]


def figure(width: str = "full", height: float = 2.4, rows: int = 1, columns: int = 1, **options):
    """New figure at final size: `plt.subplots` with the venue's width.

    Args:
        width: "column" or "full".
        height: of each row of axes, in inches, with its labels and without a legend.
        rows: rows of axes.
        columns: columns of axes.
        **options: passed on to `plt.subplots`.

    Returns:
        The figure and its axes, as `plt.subplots` returns them.
    """
    size = (inches_of(width), rows * height)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def add_legend(fig: Figure) -> None:
    """One legend above all axes, as wide as the figure allows, which grows by the legend's height.

    A single series has no legend.
    """
    handles: dict[str, Artist] = {}
    for ax in fig.axes:
        drawn, names = ax.get_legend_handles_labels()
        handles |= {n: h for n, h in zip(names, drawn, strict=True) if n not in handles}
    if len(handles) < 2:
        return
    room = fig.bbox.width - 0.15 * fig.dpi  # what the layout pads on both sides
    names = list(handles)
    for columns in range(min(4, len(names)), 0, -1):
        # matplotlib fills columns first; a reader goes by rows
        by_row = [name for column in range(columns) for name in names[column::columns]]
        artists = [handles[name] for name in by_row]
        legend = fig.legend(
            artists, by_row, ncols=columns, loc="outside upper center", borderaxespad=0.2
        )
        if columns == 1 or legend.get_window_extent().width <= room:
            break
        legend.remove()
    extra = legend.get_window_extent().height / fig.dpi
    fig.set_figheight(fig.get_figheight() + extra)


def settle(fig: Figure) -> None:
    """Lay the figure out for good, so that its PDF and its PNG have everything in one place.

    The constrained layout still moves a little from one drawing to the next; two rounds are enough.
    """
    if fig.get_layout_engine() is not None:
        for _ in range(2):
            fig.draw_without_rendering()
        fig.set_layout_engine("none")
