"""Heatmaps, drawn with seaborn from a tidy table onto Axes; `actlib.analysis.plots` has them too.

matrix(table, ax, y="model", x="ability", value="nll", label="Answer NLL (nats per token)")
"""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from actlib.analysis.style import label_of

EMPTY = "////"
"""Hatch of a field for which there is nothing."""


def matrix(
    table: pd.DataFrame,
    ax: Axes,
    *,
    x: str,
    y: str,
    value: str,
    label: str,
    null: str = "",
    triangle: bool = False,
    centered: bool = False,
) -> None:
    """A heatmap with its numbers written into it.

    Args:
        table: x, y, value and null, one row a field.
        ax: axes to draw on.
        x: column of the columns; those that are rows too come first, so there is a diagonal.
        y: column of the rows, in order of appearance.
        value: column of the numbers.
        label: what they are, with their unit.
        null: column with what chance gives, in brackets below.
        triangle: draw a symmetric matrix once: its lower triangle with the diagonal.
        centered: diverging colors centered on zero.
    """
    grid, chance = (_pivot(table, y, x, name) for name in (value, null or value))
    if triangle:
        grid = grid.where(np.tri(*grid.shape, dtype=bool))
    largest = float(np.nanmax(np.abs(grid.to_numpy(dtype=float)), initial=0.05))
    digits = 2 - (largest >= 10) - (largest >= 20)
    texts = grid.map(lambda number: _format(number, digits))
    if null:
        brackets = chance.map(lambda number: f"\n({_format(number, digits)})")
        texts = texts + brackets.where(chance.notna(), "")
        texts = texts.where(grid.notna(), "")
    colors: dict[str, Any] = {"cmap": "viridis"}
    if centered:
        limit = max(1.0, largest)
        colors = {"cmap": "RdBu", "vmin": -limit, "vmax": limit}
    elif null:
        colors |= {"vmin": 0, "vmax": largest}
    named = grid.rename(index=label_of, columns=label_of)
    hatch = "" if triangle else EMPTY
    _heatmap(named, ax, label, hatch, annot=texts.to_numpy(), **colors)


def composition(
    table: pd.DataFrame,
    ax: Axes,
    *,
    value: str = "masked_percent",
    label: str = "Channels masked (%)",
    centered: bool = False,
) -> None:
    """Module kinds by layers, in colors: where a mask lies, or what moving each module does.

    Args:
        table: kind, layer (-1 outside the layers) and value; of_mask_percent, where there is such
            a column, is shown beside each kind.
        ax: axes to draw on.
        value: column of the numbers.
        label: what they are, with their unit.
        centered: diverging colors centered on zero.
    """
    grid = _pivot(table, "kind", "layer", value)
    grid = grid.sort_index(axis="columns")
    if "of_mask_percent" in table:
        share = table.groupby("kind")["of_mask_percent"].sum()
        grid.index = pd.Index([f"{kind} ({share[kind]:.0f} %)" for kind in grid.index])
    grid.columns = pd.Index(["–" if str(layer) == "-1" else str(layer) for layer in grid.columns])
    limit = float(np.nanmax(np.abs(table[value]), initial=1e-9))
    colors: dict[str, Any] = {"cmap": "viridis", "vmin": 0}
    if centered:
        colors = {"cmap": "RdBu", "vmin": -limit}
    _heatmap(grid, ax, label, vmax=limit, linewidths=0, **colors)
    outside = bool(grid.columns[0] == "–")
    step = -(-grid.shape[1] // int(2.4 * _inches(ax)))  # as many ticks as there is room for
    ticks = [*[0] * outside, *range(outside, grid.shape[1], step)[outside and step > 1 :]]
    ax.set_xticks([tick + 0.5 for tick in ticks], grid.columns[ticks], rotation=0, ha="center")
    suffix = " (share of mask)" * ("of_mask_percent" in table)
    ax.set(xlabel=f"Layer{' (–: outside the layers)' * outside}", ylabel=f"Module{suffix}")


def _pivot(table: pd.DataFrame, y: str, x: str, value: str) -> pd.DataFrame:
    """Table as a matrix in order of appearance, columns that are rows too first."""
    names, columns = list(table[y].unique()), list(table[x].unique())
    columns.sort(key=lambda name: names.index(name) if name in names else len(names))
    return table.pivot(index=y, columns=x, values=value).loc[names, columns]


def _format(value: float, digits: int) -> str:
    """Rounded, with a true minus sign but none before zero; a dash for NaN."""
    text = "–" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"
    return text.replace("-", "−")


def _heatmap(grid: pd.DataFrame, ax: Axes, label: str, hatch: str = EMPTY, **options: Any) -> None:
    bar = {"label": label, "fraction": 0.05, "pad": 0.02}
    options = {"linewidths": 0.8, "fmt": "", "yticklabels": True, "cbar_kws": bar} | options
    sns.heatmap(grid.astype(float), ax=ax, annot_kws={"linespacing": 0.95}, **options)
    slanted = sum(map(len, map(str, grid.columns))) > 8.2 * _inches(ax)  # letters to an inch
    ticks, turn = np.arange(grid.shape[1]) + 0.5, 40 * slanted
    align = "right" if slanted else "center"
    ax.set_xticks(ticks, grid.columns, rotation=turn, rotation_mode="anchor", ha=align)
    ax.tick_params(length=0)
    ax.tick_params(axis="y", rotation=0)
    ax.set(facecolor="white", xlabel="", ylabel="")
    ax.patch.set(hatch=hatch, edgecolor="#DDDDDD", linewidth=0)
    ax.grid(False)


def _inches(ax: Axes) -> float:
    """Width of the figure's part that the axes have to themselves, before anything is laid out."""
    subplot = ax.get_subplotspec()
    panels = subplot.get_gridspec().ncols if subplot else 1
    return ax.figure.bbox.width / ax.figure.dpi / panels
