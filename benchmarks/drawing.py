"""The figure of growth: seconds against size on logarithmic axes, with fitted lines."""

from pathlib import Path

import pandas as pd
from matplotlib.ticker import NullLocator

from actlib.plotting.style import figure, look, save_figure, set_theme
from benchmarks.report import fitted
from benchmarks.rows import GROWTHS, Growth
from benchmarks.tables import read


def draw_growth(folder: Path) -> list[Path]:
    """Write growth.pdf, .png and .csv beside the tables; nothing where no row was run."""
    runs = growth_runs(folder)
    if runs.empty:
        return []
    set_theme("neurips")
    fig, axes = figure(rows=2, columns=2, aspect=0.8)
    lines = pd.DataFrame(fitted(folder))
    for row, ax in zip(GROWTHS, axes.flat, strict=True):
        _panel(row, runs[runs["row"] == row.name], lines[lines["row"] == row.name], ax)
    return save_figure(fig, runs, "growth", folder)


def growth_runs(folder: Path) -> pd.DataFrame:
    """Every counted run: row, axis, way, size, turn, seconds."""
    found = []
    for row in GROWTHS:
        table = read(folder, row.name)
        for record in table.records if table else ():
            if record["measure"] == "seconds":
                told = {"row": row.name, "axis": row.axis, "way": record["way"]}
                told |= {"size": float(record["case"]), "turn": int(record["turn"])}
                found.append({**told, "seconds": float(record["value"])})
    return pd.DataFrame(found)


def _panel(row: Growth, runs: pd.DataFrame, lines: pd.DataFrame, ax) -> None:
    for position, line in enumerate(lines.to_dict("records")):
        style = look(line["way"], position)
        points = runs[runs["way"] == line["way"]]
        power = f"{line['exponent']:.2f} ± {line['half_width']:.2f}"
        ax.plot(
            points["size"],
            points["seconds"],
            linestyle="",
            marker=style["marker"],
            color=style["color"],
            label=f"{style['label']}: {power}",
        )
        ends = points["size"].agg(["min", "max"])
        ax.plot(ends, line["factor"] * ends ** line["exponent"], color=style["color"])
    ax.set_xscale("log")
    ax.set_yscale("log")
    sizes = sorted(runs["size"].unique())
    ax.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], fontsize=7)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(row.axis[0].upper() + row.axis[1:])
    ax.set_ylabel("Seconds")
    if len(lines):
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * (high / low) ** (0.12 * len(lines)))  # room for the legend
        ax.legend(loc="upper left", fontsize=7)
