"""Heatmaps of the study: a tidy table in, Axes out. Part of `actlib.plotting`."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from actlib.plotting.style import label_of, page_of

_VERDICTS = {
    "holds": ("#009E73", "holds"),
    "holds in part": ("#F0E442", "in part"),
    "not seen here": ("#D55E00", "not seen"),
    "not run": ("#F2F2F2", "not run"),
}


def makeup_heatmap(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Where a mask lies: percent of channels masked, module kinds by layers.

    Args:
        table: kind, layer (-1 outside the layers, drawn first), masked_percent; of_mask_percent
            (optional), whose sum over layers is written beside each kind.
        ax: Axes to draw on; a new one if None.
    """
    grid = _grid(table, "kind", "layer", "masked_percent")
    grid = grid[sorted(grid.columns)]
    ax = _heatmap(grid, ax, cmap="viridis", vmin=0, bar="Channels masked (%)", lines=False)
    inches = page_of(ax).get_figwidth()
    step = max(1, int(np.ceil((grid.shape[1] - 1) / max(4, min(12, 2.2 * inches)))))
    layers = [int(layer) for layer in grid.columns.to_numpy()]
    crowded = min(layers) < 0 and inches / len(layers) < 0.15  # no room for – beside 0
    shown = [i for i, n in enumerate(layers) if n < 0 or n % step == 0 and (n or not crowded)]
    ax.set_xticks(shown, ["–" if layers[i] < 0 else str(layers[i]) for i in shown])
    plt.setp(ax.get_xticklabels(), rotation=0, ha="center")
    names = list(map(str, grid.index))  # module names, as they are
    told = "of_mask_percent" in table
    if told:
        share = table.groupby("kind")["of_mask_percent"].sum()
        names = [f"{name} ({share[name]:.0f} %)" for name in names]
    ax.set_yticks(range(grid.shape[0]), names)
    note = " (–: outside the layers)" if min(layers) < 0 else ""
    ax.set(xlabel=f"Layer{note}", ylabel="Module (share of the mask)" if told else "")
    return ax


def overlap_heatmap(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Jaccard overlap of ability masks; below each, in brackets, what chance would give.

    Args:
        table: ability_a, ability_b, jaccard, expected_jaccard (of one null only).
        ax: Axes to draw on; a new one if None.
    """
    grid = _grid(table, "ability_a", "ability_b", "jaccard")
    null = _grid(table, "ability_a", "ability_b", "expected_jaccard")
    texts = [
        [
            f"{x:.2f}\n({n:.2f})" if i != j else ""
            for j, (x, n) in enumerate(zip(*pair, strict=True))
        ]
        for i, pair in enumerate(zip(grid.to_numpy(), null.to_numpy(), strict=True))
    ]
    others = grid.to_numpy()[~np.eye(*grid.shape, dtype=bool)]
    high = max(0.05, float(np.nanmax(others))) if others.size else 1.0
    grid = grid.mask(np.eye(*grid.shape, dtype=bool))  # a mask's overlap with itself says nothing
    bar = "Jaccard (chance in brackets)"
    return _heatmap(grid, ax, cmap="viridis", vmin=0, vmax=high, bar=bar, texts=texts)


def forgetting_heatmap(
    table: pd.DataFrame, ax: Axes | None = None, label: str = "Exact match (%)"
) -> Axes:
    """Score of every model in every cell (ability, language or both), written into the cell.

    Args:
        table: model, cell, value (in the unit of `label`).
        ax: Axes to draw on; a new one if None.
        label: What `value` is, with its unit.
    """
    grid = _grid(table, "model", "cell", "value")
    digits = 2 - sum(np.nanmax(np.abs(grid.to_numpy())) >= limit for limit in (10, 20))
    texts = [[_number(x, digits) for x in row] for row in grid.to_numpy()]
    return _heatmap(grid, ax, cmap="viridis", bar=label, texts=texts)


def causal_heatmap(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Recovery of one ability when the channels of another move: a diagonal if disentangled.

    Args:
        table: moved (whose channels move), measured (the ability tested), recovery (fraction of the
            gap; 0 the target, 1 the donor).
        ax: Axes to draw on; a new one if None.
    """
    grid = _grid(table, "moved", "measured", "recovery")
    own = [name for name in grid.index if name in grid.columns]
    grid = grid[own + [name for name in grid.columns if name not in own]]  # else no diagonal
    limit = max(1.0, float(np.nanmax(np.abs(grid.to_numpy()), initial=0)))
    texts = [[_number(x, 2) for x in row] for row in grid.to_numpy()]
    bar = "Recovered share of the gap"
    ax = _heatmap(grid, ax, cmap="RdBu", vmin=-limit, vmax=limit, bar=bar, texts=texts)
    ax.set(xlabel="Ability measured", ylabel="Channels moved")
    return ax


def verdict_matrix(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Verdict on every claim in every family, as a color and as a word.

    Args:
        table: claim, notebook, family, verdict; what stands in brackets is left out.
        ax: Axes to draw on; a new one if None.

    Raises:
        ValueError: a verdict is unknown.
    """
    ax = ax or plt.gca()
    number = table["notebook"].astype(str).str.zfill(2)  # a CSV gives 0 for "00"
    named = table.assign(name=table["claim"] + " (" + number + ")")
    grid = _grid(named, "name", "family", "verdict")
    for row, line in enumerate(grid.to_numpy()):
        for column, verdict in enumerate(line):
            kind = verdict.split(" (")[0]
            if kind not in _VERDICTS:
                raise ValueError(f"unknown verdict {verdict!r}: expected {', '.join(_VERDICTS)}")
            color, word = _VERDICTS[kind]
            corner = (column - 0.48, row - 0.46)
            ax.add_patch(Rectangle(corner, 0.96, 0.92, color=color, linewidth=0))
            ink = "white" if kind in ("holds", "not seen here") else "black"
            ax.text(column, row, word, ha="center", va="center", color=ink)
    ax.set(xlim=(-0.5, grid.shape[1] - 0.5), ylim=(grid.shape[0] - 0.5, -0.5))
    ax.set_xticks(range(grid.shape[1]), grid.columns)  # presets, as they are named
    ax.set_yticks(range(grid.shape[0]), grid.index)
    ax.xaxis.tick_top()
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _number(value: float, digits: int) -> str:
    """Rounded, with a true minus sign but none before zero; a dash for NaN."""
    if np.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _grid(table: pd.DataFrame, rows: str, columns: str, value: str) -> pd.DataFrame:
    """Table as a matrix, rows and columns in order of appearance."""
    missing = [name for name in (rows, columns, value) if name not in table]
    if missing or table.empty:
        raise ValueError(f"the table must have rows and the column(s) {', '.join(missing)}.")
    if table.duplicated([rows, columns]).any():
        raise ValueError(f"the table holds a pair of {rows} and {columns} twice.")
    grid = table.pivot(index=rows, columns=columns, values=value)
    return grid.loc[table[rows].unique(), table[columns].unique()]


def _heatmap(
    grid: pd.DataFrame,
    ax: Axes | None,
    *,
    cmap: str,
    bar: str,
    vmin: float | None = None,
    vmax: float | None = None,
    texts: list[list[str]] | None = None,
    lines: bool = True,
) -> Axes:
    """Draw a matrix with named rows and columns, a color bar, and text in each cell if given."""
    ax = ax or plt.gca()
    colors = plt.get_cmap(cmap).with_extremes(bad="#F2F2F2")
    image = ax.imshow(grid.to_numpy(dtype=float), cmap=colors, vmin=vmin, vmax=vmax, aspect="auto")
    names = [label_of(name) for name in grid.columns]
    slanted = sum(map(len, names)) > 8.2 * page_of(ax).get_figwidth()  # letters that an inch holds
    ax.set_xticks(range(grid.shape[1]), names, rotation=40 * slanted)
    plt.setp(ax.get_xticklabels(), ha="right" if slanted else "center", rotation_mode="anchor")
    ax.set_yticks(range(grid.shape[0]), [label_of(name) for name in grid.index])
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if lines:
        _white_lines(ax, grid.shape)
    values = grid.to_numpy(dtype=float)
    for row, line in enumerate(texts or []):
        for column, text in enumerate(line):
            shade = image.to_rgba(values[row, column])
            ink = "white" if np.dot(shade[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
            ax.text(column, row, text, ha="center", va="center", color=ink, linespacing=0.95)
    color_bar = ax.figure.colorbar(image, ax=ax, label=bar, fraction=0.05, pad=0.02)
    color_bar.outline.set_visible(False)
    return ax


def _white_lines(ax: Axes, shape: tuple[int, int]) -> None:
    """Separate the cells."""
    for row in range(1, shape[0]):
        ax.axhline(row - 0.5, color="white", linewidth=0.8)
    for column in range(1, shape[1]):
        ax.axvline(column - 0.5, color="white", linewidth=0.8)
