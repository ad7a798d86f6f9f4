"""Draws the diagram of "How ACT works": docs/_static/method.svg.

.venv/bin/python docs/draw_method.py
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from actlib.analysis import style

OUT = Path(__file__).parent / "_static" / "method.svg"
ROWS, COLUMNS, MASKED = 8, 5, (1, 5)
DONOR, TARGET = "#0072B2", "#D55E00"
SIZE = 0.36
HEIGHTS = -SIZE * np.arange(ROWS)


def draw_matrix(ax: Axes, x: float, colors: list[str], title: str) -> None:
    """A weight [channels, inputs], a color for each row."""
    for column in range(COLUMNS):
        cells = {"left": x + column * SIZE, "color": colors, "edgecolor": "#888888", "lw": 0.5}
        ax.barh(HEIGHTS, SIZE, SIZE, align="edge", **cells)
    ax.text(x + COLUMNS * SIZE / 2, SIZE + 0.15, title, ha="center", va="bottom")


def draw_differences(ax: Axes, x: float) -> None:
    """A bar for each channel: its mean difference; the masked ones are filled."""
    lengths = [0.25, 1.3, 0.35, 0.2, 0.45, 1.0, 0.15, 0.3]
    colors = ["#000000" if row in MASKED else "#CCCCCC" for row in range(ROWS)]
    ax.barh(HEIGHTS + SIZE / 2, lengths, SIZE - 0.14, left=x, color=colors)
    ax.plot([x, x], [SIZE, -(ROWS - 1) * SIZE], color="#444444", lw=0.6)
    title = "2. difference of activations\n$d_i$ = mean |$a_i$ donor − $a_i$ target|"
    ax.text(x + 0.6, SIZE + 0.15, title, ha="center", va="bottom")
    ax.text(x + 1.4, -1 * SIZE + 0.1, "mask", va="center", fontsize=7)


def draw(path: Path = OUT) -> None:
    """Two models, their differences, and the target after the transfer."""
    fig, ax = style.figure("full", 2.3)
    draw_matrix(ax, 0, [DONOR] * ROWS, "1. donor")
    draw_matrix(ax, 2.6, [TARGET] * ROWS, "1. target")
    draw_differences(ax, 6.4)
    moved = [DONOR if row in MASKED else TARGET for row in range(ROWS)]
    draw_matrix(ax, 9.9, moved, "3. target after\nthe transfer (λ = 1)")
    ax.text(-0.15, -1 * SIZE + SIZE / 2, "one channel:\none row", ha="right", va="center")
    ax.set(xlim=(-1.8, 12.4), ylim=(-ROWS * SIZE + 0.2, 1.3))
    ax.set_axis_off()
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)


if __name__ == "__main__":
    style.set_theme("neurips")
    draw()
