"""What is drawn: seaborn from a tidy table onto Axes, one function a kind of figure.

    fig, ax = style.figure("column", height=2.4)
    curves(table, ax, x="top_percent", y="recovery", log=True)

The table and the arguments, which name its columns, are all that a figure needs. Its columns `low`
and `high` are the ends of an interval. `actlib.analysis.drawing` repeats these functions over
panels, names the axes, saves and redraws.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from actlib.analysis.heatmaps import composition, matrix
from actlib.analysis.style import NULL, VERDICTS, label_of, look_of

__all__ = ["ccdf", "composition", "curves", "forest", "intervals", "matrix", "pareto"]


def curves(
    table: pd.DataFrame,
    ax: Axes,
    *,
    x: str,
    y: str,
    by: str = "method",
    log: bool = False,
    null: str = "",
    levels: Mapping[str, float] | None = None,
) -> None:
    """A line with markers for each value of `by`, and its interval as a band.

    Args:
        table: x, y, by, and those of low, high and null that there are.
        ax: axes to draw on.
        x: column along the axis.
        y: column that low and high are the interval of.
        by: column with one line for each value.
        log: logarithmic x axis.
        null: column with the level of chance, whose mean is drawn dashed.
        levels: y of reference lines by their names.
    """
    table = table.dropna(subset=[x, y])
    plot = _begin(table, ax, by, x=x, y=y).add(so.Line(), legend=False)
    if "low" in table:
        plot = plot.add(so.Band(alpha=0.15, edgewidth=0), legend=False, ymin="low", ymax="high")
        single = table[table.groupby(by)[x].transform("size") == 1]  # a band needs two points
        ax.vlines(single[x].to_numpy(), single["low"], single["high"], color="black", linewidth=0.8)
    plot.plot()
    if null:
        ax.axhline(table[null].mean(), **NULL, label=label_of(null), zorder=1)
    for name, level in (levels or {}).items():
        ax.axhline(level, **NULL, zorder=1)
        aside: dict[str, Any] = {"xytext": (2, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(name, (1, level), xycoords=("axes fraction", "data"), color="#444444", **aside)
    if log:
        _set_log_ticks(ax, table[x].unique().tolist())
    _add_handles(table, ax, by)


def ccdf(table: pd.DataFrame, ax: Axes, *, by: str = "ranking") -> None:
    """Fraction of channels above a score, both axes logarithmic, against the half-normal.

    Args:
        table: value_over_mean, ccdf, null_ccdf, and by.
        ax: axes to draw on.
        by: column with one line for each value.
    """
    table = table[table["value_over_mean"] > 0]
    for position, (key, line) in enumerate(table.groupby(by, sort=False)):
        line = line.sort_values("value_over_mean")
        color, marker, label, _ = look_of(key, position)
        points: dict[str, Any] = {"marker": marker, "markevery": 0.12, "markeredgewidth": 0}
        ax.plot(line["value_over_mean"], line["ccdf"], color=color, label=label, **points)
    null = table[table["null_ccdf"] > 0].sort_values("value_over_mean")
    ax.plot(null["value_over_mean"], null["null_ccdf"], **NULL, label="Half-normal (reference)")
    left = max(0.01, table["value_over_mean"].min() / 1.2)
    ax.set(xscale="log", yscale="log", xlim=(left, None), ylim=(table["ccdf"].min() / 1.5, 1.5))
    _set_log_ticks(ax)
    ax.set(xlabel=r"Score $\Delta a$ over its mean", ylabel="Fraction of channels above")


def intervals(
    table: pd.DataFrame,
    ax: Axes,
    *,
    x: str,
    y: str = "method",
    by: str = "",
    null: str = "",
    lines: Sequence[float] = (),
    names: bool = True,
) -> None:
    """A point with its interval for each row of names, several colors a row if asked for.

    Args:
        table: x, y, and those of low, high, by and null that there are.
        ax: axes to draw on.
        x: column that low and high are the interval of.
        y: column of the rows, in order of appearance, or of its categories.
        by: column that colors tell apart within a row; those of the rows themselves if none.
        null: column with the level of a null, such as chance, an upright line with its name.
        lines: x of upright lines, such as 0.
        names: rows have display names; as written if false, such as modules.
    """
    table = table.dropna(subset=[x])
    keys = _keys(table, y)
    labels = {key: label_of(key) if names else str(key) for key in keys}
    table = table.assign(row=pd.Categorical(table[y].map(labels), list(labels.values())))
    dodge = [so.Dodge(by=["color"])] if by else []
    plot = _begin(table, ax, by or y, x=x, y="row")
    if "low" in table:
        plot = plot.add(so.Range(linewidth=0.9), *dodge, legend=False, xmin="low", xmax="high")
    if null:
        plot = plot.add(so.Dash(color="black", width=0.7), *dodge, legend=False, x=null)
        ax.plot([], [], color="black", marker="|", linestyle="", markersize=6, label=label_of(null))
    plot.add(so.Dot(edgewidth=0, pointsize=4), *dodge, legend=False).plot()
    for level in lines:
        ax.axvline(level, color="black", linewidth=0.6, zorder=1)
    ax.set(ylim=(len(keys) - 0.4, -0.6), ylabel="")
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    if by:
        _add_handles(table, ax, by)


def forest(table: pd.DataFrame, ax: Axes, *, y: str = "claim") -> None:
    """Contrasts one below the other: a dot a training seed, mean and interval, ± the margin.

    Args:
        table: one row a seed: difference and y, and the same in all rows of a y: estimate, low,
            high, margin (NaN where there is none), verdict.
        ax: axes to draw on.
        y: column of the rows, in order of appearance, or of its categories.
    """
    keys = _keys(table, y)
    table = table.assign(row=table[y].map({key: number for number, key in enumerate(keys)}))
    table = table.astype({"row": float}).dropna(subset=["difference"])
    means = table.drop_duplicates("row")
    means = means.assign(verdict=pd.Categorical(means["verdict"], list(VERDICTS)))
    margin = means["margin"].fillna(0)
    band: dict[str, Any] = {"color": "#EAEAEA", "height": 0.9, "zorder": 0.5}
    ax.barh(means["row"], 2 * margin, left=-margin, label="Within ± the margin", **band)
    ax.axvline(0, color="black", linewidth=0.6, zorder=1)
    dots: dict[str, Any] = {"color": "#777777", "pointsize": 2.2, "edgewidth": 0, "alpha": 0.6}
    below = table.assign(row=table["row"] + 0.25)
    so.Plot(below, x="difference", y="row").on(ax).add(so.Dot(**dots), legend=False).plot()
    ax.plot([], [], color="#777777", marker="o", linestyle="", markersize=2.2, label="One seed")
    plot = _begin(means.assign(row=means["row"] - 0.1), ax, "verdict", x="estimate", y="row")
    ends = {"xmin": "low", "xmax": "high", "orient": "y"}
    plot = plot.add(so.Range(linewidth=1.4), legend=False, **ends)
    plot.add(so.Dot(edgewidth=0, pointsize=5), legend=False).plot()
    ax.set_yticks(range(len(keys)), [label_of(key) for key in keys])
    ax.set(ylim=(len(keys) - 0.4, -0.6), ylabel="", xlabel="Treatment minus control")
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    _add_handles(means, ax, "verdict")


def pareto(table: pd.DataFrame, ax: Axes) -> None:
    """What every trial recovers against what it retains; faint points are dominated.

    Args:
        table: method, recovered and retained (0 to 1) and on_frontier, a row a trial, and a row for
            each of the methods donor and target, the untouched models.
        ax: axes to draw on.
    """
    axes = ["retained", "recovered"]
    models = table[table["method"].isin(["target", "donor"])]
    model_points = dict(zip(models["method"], models[axes].to_numpy(), strict=True))
    points = table[~table["method"].isin(model_points)]
    if isinstance(points["method"].dtype, pd.CategoricalDtype):
        points = points.assign(method=points["method"].cat.remove_unused_categories())
    best = points[points["on_frontier"].astype(bool)]
    for part, alpha in ((points, 0.25), (best, 1.0)):
        plot = _begin(part, ax, "method", x="retained", y="recovered")
        plot.add(so.Dot(edgewidth=0, alpha=alpha), legend=False).plot()
    around: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center"}
    for key, rise in (("target", -9), ("donor", 9)):
        color, marker, label, _ = look_of(key)
        ax.plot(*model_points[key], color=color, marker=marker, markersize=6, zorder=4)
        ax.annotate(label, model_points[key], (0, rise), **around)
    low, high = table[axes].min(), table[axes].max()
    ax.set(xlim=(low["retained"] - 0.08, high["retained"] + 0.08))
    ax.set(ylim=(low["recovered"] - 0.18, high["recovered"] + 0.14))
    ax.set(xlabel="Retained (0: donor, 1: target)", ylabel="Recovered (0: target, 1: donor)")
    _add_handles(points, ax, "method")


def _begin(table: pd.DataFrame, ax: Axes, by: str, **variables: str) -> so.Plot:
    """A plot on axes in their own theme, with the colors and markers of the column `by`."""
    keys = _keys(table, by)
    looks = {key: look_of(key, position) for position, key in enumerate(keys)}
    plot = so.Plot(table, color=by, marker=by, **variables).on(ax)
    plot = plot.theme({name: mpl.rcParams[name] for name in so.Plot.config.theme})
    return plot.scale(
        color=so.Nominal({key: look.color for key, look in looks.items()}, order=keys),
        marker=so.Nominal({key: look.marker for key, look in looks.items()}, order=keys),
    )


def _add_handles(table: pd.DataFrame, ax: Axes, by: str) -> None:
    """Empty lines that a legend can show, one for each value of the column `by`."""
    for position, key in enumerate(_keys(table, by)):
        color, marker, label, _ = look_of(key, position)
        if (table[by] == key).any():
            ax.plot([], [], color=color, marker=marker, markeredgewidth=0, label=label)


def _keys(table: pd.DataFrame, name: str) -> list:
    """Values of a column in order of appearance, or its categories, which panels share."""
    fixed = isinstance(table[name].dtype, pd.CategoricalDtype)
    return list(table[name].cat.categories if fixed else table[name].unique())


def _set_log_ticks(ax: Axes, measured: Sequence[float] = ()) -> None:
    """Logarithmic x axis, with ticks at what was measured if that is little, or at round values."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    subs = (1, 2, 5) if high < 300 * low else (1, 3)
    few = 0 < len(measured) <= 6
    ax.xaxis.set_major_locator(FixedLocator(measured) if few else LogLocator(subs=subs))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
