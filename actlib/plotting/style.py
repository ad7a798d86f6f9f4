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
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from actlib.files import atomic_file, write_text
from actlib.rankings import RANKINGS

NARROW = 4.5
"""Inches: figures below it fill one column of a page."""

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
    "whole_modules": ("#5A4B00", ">", "Whole modules"),
    "bottom": ("#CC79A7", "X", "Bottom channels"),
    "random_matched": ("#888888", "D", "Random, matched"),
    "random_scaled": ("#33525C", "s", "Random, matched to scaled"),
    "random_uniform": ("#BBBBBB", "d", "Random, uniform"),
    "all_rows": ("#882255", "*", "All channels"),
    "interpolation": ("#999933", "h", "Interpolation"),
    "target": ("#D55E00", "P", "Target"),
    "donor": ("#000000", "p", "Donor"),
    "base": ("#666666", ">", "Base"),
    "specialist": ("#A84800", "v", "Specialist"),
    "sft_only": ("#CC6677", "<", "SFT only"),
    "act_sft": ("#332288", ">", "ACT, then SFT"),
    "random_sft": ("#AAAA88", "H", "Random, then SFT"),
    "interpolation_sft": ("#87A55A", "X", "Interpolation, then SFT"),
    "donor_sft": ("#1E3C0F", "8", "Donor, then SFT"),
    "sft_only_lora": ("#B885C2", "v", "SFT only, LoRA"),
    "act_sft_lora": ("#6996FF", "^", "ACT, then SFT, LoRA"),
    "random_sft_lora": ("#C8A078", "D", "Random, then SFT, LoRA"),
    "union": ("#117733", "o", "ACT, union"),
    "sum": ("#117733", "o", "ACT, sum"),
    "average": ("#44AA99", "s", "ACT, average"),
    "largest": ("#88CCEE", "^", "ACT, largest"),
    "task_arithmetic": ("#DDAA33", "<", "Task arithmetic"),
    "mean_weights": ("#AA4499", "X", "Weight average"),
    "ties": ("#78E178", "P", "TIES"),
    "dare_linear": ("#2D5AC3", "d", "DARE"),
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
_CYCLE_MARKERS = "ov>^DPX*"
_CYCLE_LINES = ["-", (0, (3, 1)), (0, (1, 1))]  # a second round of the colors is dashed

NULL: dict[str, Any] = {"color": "#444444", "linewidth": 0.9, "linestyle": (0, (4, 2))}
"""Line of a null or of a reference level."""

_widths = dict(WIDTHS["neurips"])


def label_of(key: object) -> str:
    """Display name: the method's, or the key with spaces for underscores and a capital.

    Keys of up to three letters stay as they are, being language codes, and so do keys with a
    hyphen, being abilities: their names are whoever wrote the questions'.
    """
    if str(key).startswith("act_") and str(key)[4:] in RANKINGS:
        return RANKINGS[str(key)[4:]].legend
    text = str(key).replace("_", " ")
    as_written = len(text) <= 3 or "-" in text
    return LABELS.get(str(key), text if as_written else text[0].upper() + text[1:])


def look(key: str, position: int = 0) -> dict[str, Any]:
    """Color, marker, line style and label: fixed for a method, otherwise by position."""
    label = label_of(key)
    if key in PALETTE:
        return {"color": PALETTE[key], "marker": MARKERS[key], "linestyle": "-", "label": label}
    turn, place = divmod(position, len(_CYCLE))
    line = _CYCLE_LINES[turn % len(_CYCLE_LINES)]
    color, marker = _CYCLE[place], _CYCLE_MARKERS[place]
    return {"color": color, "marker": marker, "linestyle": line, "label": label}


def series(table: pd.DataFrame, by: str) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each value of the column `by` with its look, in order of appearance."""
    for position, (key, rows) in enumerate(table.groupby(by, sort=False)):
        yield look(str(key), position), rows


def mixed(color: str, strength: float) -> tuple[float, float, float]:
    """The color with white mixed in, so that no grid shows through as it would with alpha."""
    red, green, blue = (1 - strength * (1 - channel) for channel in to_rgb(color))
    return red, green, blue


def empty_note(ax: Axes, why: str) -> None:
    """Say in the middle of axes that hold no data why they hold none."""
    middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": ax.transAxes}
    ax.text(0.5, 0.5, why, fontstyle="italic", color="#444444", **middle)


def legend_above(ax: Axes) -> Axes:
    """Legend above the axes, where it can cover no data; none for a single series."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > 1:
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        _in_columns(ax, dict(zip(labels, handles, strict=True)), **above)
    return ax


def legend_of_figure(fig: Figure) -> None:
    """Replace the legends of the axes by one above them all, as wide as the figure allows."""
    handles: dict[str, Artist] = {}
    for ax in fig.axes:
        legend = ax.get_legend()
        if legend:
            drawn, names = ax.get_legend_handles_labels()
            if not drawn:  # it was given handles of its own
                drawn = [handle for handle in legend.legend_handles if handle is not None]
                names = [text.get_text() for text in legend.get_texts()]
            handles |= dict(zip(names, drawn, strict=True))
            legend.remove()
    if handles:
        _in_columns(fig, handles, loc="outside upper center")


def page_of(owner: Axes | Figure) -> Figure:
    """The whole figure that axes are on."""
    fig = owner.get_figure(root=True)
    assert isinstance(fig, Figure), "axes that were removed are on no figure"
    return fig


def _in_columns(owner: Axes | Figure, handles: dict[str, Artist], **where: Any) -> None:
    """Legend of at most four columns, fewer where they would be wider than the figure."""
    fig = page_of(owner)
    room = fig.bbox.width - 0.15 * fig.dpi  # what the layout pads on both sides
    many = len(handles) > 6
    for columns in range(min(4, len(handles)), 0, -1):
        # One column of many names would take a quarter of a narrow page: rather two, set closer.
        close: dict[str, Any] = _CLOSE if columns == 2 and many else {}
        legend = owner.legend(handles.values(), handles, ncols=columns, **close, **where)
        if columns == 1 or legend.get_window_extent().width <= room:
            return
        legend.remove()


def set_theme(venue: str = "neurips") -> None:
    """Set matplotlib's style, and the widths that `figure` draws at, for a venue of `WIDTHS`.

    Raises:
        ValueError: the venue is unknown.
    """
    if venue not in WIDTHS:
        raise ValueError(f"unknown venue {venue!r}; choose one of {', '.join(WIDTHS)}.")
    _widths.update(WIDTHS[venue])
    sizes: dict[str, Any] = dict.fromkeys(
        ("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize"), 8
    )
    sizes |= dict.fromkeys(("ytick.labelsize", "legend.fontsize", "figure.titlesize"), 8)
    lines = {"axes.linewidth": 0.6, "lines.linewidth": 1.1, "lines.markersize": 3.5}
    ticks = {f"{axis}tick.major.{what}": x for axis in "xy" for what, x in _TICKS.items()}
    everything: dict[Any, Any] = sizes | lines | ticks | _THEME
    mpl.rcParams.update(everything)


_CLOSE = {"handlelength": 1.1, "columnspacing": 0.5, "handletextpad": 0.3, "borderpad": 0}
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


def inches_of(width: str) -> float:
    """Inches of "column" or "full" at the venue that was set last.

    Raises:
        ValueError: the width is neither.
    """
    if width not in _widths:
        raise ValueError(f"width must be 'column' or 'full', not {width!r}.")
    return _widths[width]


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
    inches = inches_of(width)
    size = (inches, inches * aspect)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def settle(fig: Figure) -> None:
    """Lay the figure out for good, so that its PDF and its PNG place everything alike.

    The constrained layout still moves a little from one drawing to the next; two rounds are enough.
    """
    if fig.get_layout_engine() is not None:
        for _ in range(2):
            fig.draw_without_rendering()
        fig.set_layout_engine("none")


def save_pictures(fig: Figure, name: str, directory: str | Path) -> list[Path]:
    """Write NAME.pdf (vector, embedded TrueType) and NAME.png (300 dpi).

    Nothing is cropped, so the size stays the final one. Files hold no date: redrawing the same data
    gives the same bytes.

    Returns:
        The two paths: pdf, png.
    """
    paths = [Path(directory) / f"{name}.{suffix}" for suffix in ("pdf", "png")]
    settle(fig)
    with mpl.rc_context({"pdf.fonttype": 42}), atomic_file(paths[0]) as unfinished:
        fig.savefig(unfinished, metadata={"CreationDate": None})
    with atomic_file(paths[1]) as unfinished:
        fig.savefig(unfinished, dpi=300)
    return paths


def save_figure(fig: Figure, data: pd.DataFrame, name: str, directory: str | Path) -> list[Path]:
    """Write NAME.pdf and NAME.png as `save_pictures` does, and NAME.csv (the data drawn).

    Returns:
        The three paths: pdf, png, csv.
    """
    paths = save_pictures(fig, name, directory)
    paths.append(Path(directory) / f"{name}.csv")
    write_text(paths[2], data.to_csv(index=False))
    return paths
