"""One look for all figures: fixed colors and markers per method, venue widths, and saving.

    set_theme("neurips")
    fig, ax = figure(width="full", aspect=0.6)
    sufficiency_curves(table, ax)
    save_figure(fig, table, "fig03_sufficiency", "figures")

Figures are drawn at their final size. The typeface (STIX, close to Times) ships with matplotlib, so
that every machine draws the same.
"""

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTHS = {
    "neurips": {"column": 5.5, "full": 5.5},
    "iclr": {"column": 5.5, "full": 5.5},
    "icml": {"column": 3.25, "full": 6.75},
    "acl": {"column": 3.03, "full": 6.3},
}
"""Width of one column and of the full page, in inches."""

# Method: color, marker, label. Colors are Okabe-Ito, then Tol's muted ones, then what lies farthest
# from all before to normal, deutan and protan eyes; with so many, it takes the marker besides.
_METHODS = {
    "act_global": ("#0072B2", "o", "ACT"),
    "act_module": ("#56B4E9", "s", "ACT, per module"),
    "act_scaled": ("#009E73", "^", "ACT, scaled"),
    "act_relative": ("#6969FF", "<", "ACT, relative"),
    "act_contrast": ("#1E00B4", "h", "ACT, contrast"),
    "act_patched": ("#1E4BFF", "H", "ACT, activations patched"),
    "weight_difference": ("#E69F00", "v", "Weight difference"),
    "weight_scaled": ("#FFC300", "^", "Weight difference, scaled"),
    "task_vector": ("#D21E3C", "*", "Task-vector entries"),
    "random_entries": ("#CCC28F", "P", "Random entries"),
    "whole_modules": ("#5A4B00", "p", "Whole modules"),
    "bottom": ("#CC79A7", "X", "Bottom channels"),
    "random_matched": ("#888888", "D", "Random, matched"),
    "random_scaled": ("#33525C", "s", "Random, matched to scaled"),
    "random_uniform": ("#BBBBBB", "d", "Random, uniform"),
    "all_rows": ("#882255", "*", "All channels"),
    "interpolation": ("#999933", "h", "Interpolation"),
    "target": ("#D55E00", "P", "Target"),
    "donor": ("#000000", "p", "Donor"),
    "base": ("#666666", "8", "Base"),
    "sft_only": ("#CC6677", "<", "SFT only"),
    "act_sft": ("#332288", ">", "ACT, then SFT"),
    "random_sft": ("#AAAA88", "H", "Random, then SFT"),
    "interpolation_sft": ("#87A55A", "X", "Interpolation, then SFT"),
    "donor_sft": ("#1E3C0F", "8", "Donor, then SFT"),
    "sft_only_lora": ("#B885C2", "d", "SFT only, LoRA"),
    "act_sft_lora": ("#6996FF", "D", "ACT, then SFT, LoRA"),
    "union": ("#117733", "o", "ACT, union"),
    "sum": ("#117733", "o", "ACT, sum"),
    "average": ("#44AA99", "s", "ACT, average"),
    "largest": ("#88CCEE", "^", "ACT, largest"),
    "task_arithmetic": ("#DDAA33", "<", "Task arithmetic"),
    "mean_weights": ("#AA4499", "X", "Weight average"),
    "ties": ("#78E178", "P", "TIES"),
    "dare_linear": ("#2D5AC3", "8", "DARE"),
    "dare_ties": ("#3C3C87", "p", "DARE, TIES"),
    "layer_swap": ("#69005A", "*", "Layer swapping"),
    "act_sum": ("#117733", "o", "ACT, sum"),
    "act_average": ("#44AA99", "s", "ACT, average"),
    "act_largest": ("#88CCEE", "^", "ACT, largest"),
    "raw": ("#0072B2", "o", "Raw"),
    "scaled": ("#009E73", "^", "Scaled by module"),
}
PALETTE = {key: color for key, (color, _, _) in _METHODS.items()}
MARKERS = {key: marker for key, (_, marker, _) in _METHODS.items()}
LABELS = {key: label for key, (_, _, label) in _METHODS.items()}

# For series that are no method (abilities, module kinds, comparisons), by their position.
_CYCLE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#999933"]
_CYCLE_MARKERS = "osv^DPX*"
_CYCLE_LINES = ["-", (0, (3, 1)), (0, (1, 1))]  # a second round of the colors is dashed

NULL = {"color": "#444444", "linewidth": 0.9, "linestyle": (0, (4, 2))}
"""Line of a null or of a reference level."""

_widths = dict(WIDTHS["neurips"])


def label_of(key: str) -> str:
    """Display name: the method's, or the key with spaces for underscores and a capital.

    Keys of up to three letters stay as they are: they are language codes.
    """
    text = str(key).replace("_", " ")
    return LABELS.get(str(key), text if len(text) <= 3 else text[0].upper() + text[1:])


def look(key: str, position: int = 0) -> dict[str, object]:
    """Color, marker, line style and label: fixed for a method, otherwise by position."""
    label = label_of(key)
    if key in PALETTE:
        return {"color": PALETTE[key], "marker": MARKERS[key], "linestyle": "-", "label": label}
    turn, place = divmod(position, len(_CYCLE))
    line = _CYCLE_LINES[turn % len(_CYCLE_LINES)]
    color, marker = _CYCLE[place], _CYCLE_MARKERS[place]
    return {"color": color, "marker": marker, "linestyle": line, "label": label}


def series(table: pd.DataFrame, by: str) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Each value of the column `by` with its look, in order of appearance."""
    for position, (key, rows) in enumerate(table.groupby(by, sort=False)):
        yield look(key, position), rows


def legend_above(ax: Axes) -> Axes:
    """Legend above the axes, where it can cover no data; none for a single series."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > 1:
        columns = min(4, len(handles))
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    return ax


def set_theme(venue: str = "neurips") -> None:
    """Set matplotlib's style, and the widths that `figure` draws at, for a venue of `WIDTHS`.

    Raises:
        ValueError: the venue is unknown.
    """
    if venue not in WIDTHS:
        raise ValueError(f"unknown venue {venue!r}; choose one of {', '.join(WIDTHS)}.")
    _widths.update(WIDTHS[venue])
    sizes = dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize"), 8)
    sizes |= dict.fromkeys(("ytick.labelsize", "legend.fontsize", "figure.titlesize"), 8)
    lines = {"axes.linewidth": 0.6, "lines.linewidth": 1.1, "lines.markersize": 3.5}
    ticks = {f"{axis}tick.major.{what}": x for axis in "xy" for what, x in _TICKS.items()}
    mpl.rcParams.update(sizes | lines | ticks | _THEME)


_TICKS = {"width": 0.6, "size": 2.5, "pad": 2.5}
_THEME = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "pdf.fonttype": 42,  # embedded TrueType, so that text stays text
    "ps.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.2,
    "legend.labelspacing": 0.3,
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "svg.hashsalt": "actlib",
}


def figure(width: str = "full", aspect: float = 0.6, rows: int = 1, columns: int = 1, **options):
    """New figure at final size: `plt.subplots` with the venue's width.

    Args:
        width: "column" or "full".
        aspect: Height over width of the whole figure.
        rows: Rows of axes.
        columns: Columns of axes.
        **options: Passed on to `plt.subplots`.

    Returns:
        The figure and its axes, as `plt.subplots` returns them.
    """
    if width not in _widths:
        raise ValueError(f"width must be 'column' or 'full', not {width!r}.")
    size = (_widths[width], _widths[width] * aspect)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def save_figure(fig: Figure, data: pd.DataFrame, name: str, directory: str | Path) -> list[Path]:
    """Write NAME.pdf (vector, embedded TrueType), NAME.png (300 dpi) and NAME.csv (the data drawn).

    Nothing is cropped, so the size stays the final one. Files hold no date: redrawing the same data
    gives the same bytes.

    Returns:
        The three paths: pdf, png, csv.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.{suffix}" for suffix in ("pdf", "png", "csv")]
    with mpl.rc_context({"pdf.fonttype": 42}):
        fig.savefig(paths[0], metadata={"CreationDate": None})
    fig.savefig(paths[1], dpi=300)
    data.to_csv(paths[2], index=False)
    return paths
