"""Curves and bars of the notebooks: concentration, sufficiency, trade-offs, tuning, merging."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from actlib.analysis.nulls import half_normal_ccdf
from actlib.plotting.style import (
    NULL,
    figure,
    label_of,
    legend_above,
    legend_of_figure,
    mixed,
    page_of,
    series,
)


def concentration_ccdf(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Fraction of channels above a score, both axes logarithmic, against the half-normal.

    Args:
        table: value_over_mean, ccdf, and name, ranking or both (see `ccdf_table`): one line each.
        ax: Axes to draw on; the current ones if None.
    """
    ax = ax or plt.gca()
    by = "ranking" if table["name"].nunique() == 1 else "name"
    if by == "name" and table["ranking"].nunique() > 1:
        raise ValueError("draw several names in one ranking, or one name in several rankings.")
    for style, line in series(table, by):
        line = line[line["value_over_mean"] > 0].sort_values("value_over_mean")
        name = style["label"] if by == "ranking" else line["name"].iloc[0]
        style |= {"label": name, "markevery": 0.12}  # of the diagonal: few of the many points
        ax.plot(line["value_over_mean"], line["ccdf"], **style)
    floor = table["ccdf"].min()
    grid = np.geomspace(0.01, 10, 500)
    ax.plot(grid, half_normal_ccdf(grid), **NULL, label="Half-normal (chance)", zorder=1)
    ax.set(xscale="log", yscale="log", xlim=(0.01, None), ylim=(floor / 1.5, 1.5))
    ax.set(xlabel=r"Score $\Delta a$ over its mean", ylabel="Fraction of channels above")
    return legend_above(ax)


def share_bars(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Share of all score that the top channels hold, by group, with a tick where chance lies.

    Args:
        table: name, top_percent, share_percent, null_share_percent (see `concentration_table`).
        ax: Axes to draw on; the current ones if None.
    """
    ax = ax or plt.gca()
    names, percents = list(table["name"].unique()), sorted(table["top_percent"].unique())
    height = 0.8 / len(percents)
    for number, percent in enumerate(percents):
        rows = table[table["top_percent"] == percent].set_index("name").reindex(names)
        place = np.arange(len(names)) + (number - (len(percents) - 1) / 2) * height
        color = plt.get_cmap("viridis")(0.15 + 0.65 * number / max(1, len(percents) - 1))
        ax.barh(place, rows["share_percent"], height * 0.9, color=color, label=f"Top {percent:g} %")
        null: dict[str, Any] = {
            "color": "black",
            "linewidth": 1.0,
            "label": "_" if number else "Chance",
        }
        low, high = place - height * 0.45, place + height * 0.45
        ax.vlines(rows["null_share_percent"], low, high, **null)
    ax.set_yticks(range(len(names)), names)  # module names, as they are
    ax.set(
        xlabel=r"Share of the summed score $\Sigma\,\Delta a$ (%)", ylim=(len(names) - 0.5, -0.5)
    )
    ax.grid(False, axis="y")
    return legend_above(ax)


def probe_curves(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy of probes on a number of channels, each method with its band.

    Args:
        table: method, channels (count), accuracy, low, high (fractions); chance (optional).
        ax: Axes to draw on; the current ones if None.
    """
    ax = _curves(table, ax, "channels", "accuracy", "method")
    if "chance" in table:
        ax.axhline(table["chance"].iloc[0], **NULL, label="Chance", zorder=1)
    _log_ticks(ax, table["channels"])
    ax.set(xlabel="Channels read", ylabel="Probe accuracy")
    return legend_above(ax)


def sufficiency_curves(table: pd.DataFrame, ax: Axes | None = None, x: str = "top_percent") -> Axes:
    """Recovered share of the gap as more channels move, for each way to choose them.

    Args:
        table: method, recovery, low, high (fractions of the gap between target, 0, and donor, 1),
            and the column `x`. A method with a single percent (all_rows at 100) is a point.
        ax: Axes to draw on; the current ones if None.
        x: What the share moved is counted in: top_percent (channels) or parameters_percent.
    """
    ax = _curves(table, ax, x, "recovery", "method")
    for level in (0, 1):
        ax.axhline(level, **NULL, zorder=1)
    ends: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "color": "#444444",
    }
    ax.annotate("target", (1, 0), (2, 0), va="center", **ends)
    ax.annotate("donor", (1, 1), (2, 0), va="center", **ends)
    values = table[x]
    if x != "top_percent":  # sizes that no one chose: round numbers between them are the ticks
        steps = [m * 10.0**n for n in range(-6, 3) for m in (1, 2, 5)]
        inside = [step for step in steps if values.min() <= step <= values.max()]
        if len(inside) < 3:  # too few to read the ends by
            below = [step for step in steps if step < values.min()][-1:]
            inside = below + inside + [step for step in steps if step > values.max()][:1]
            ax.set_xlim(inside[0], inside[-1])
        values = pd.Series(inside)
    _log_ticks(ax, values)
    counted = x.removesuffix("_percent").replace("top", "channels").capitalize()
    ax.set(xlabel=f"{counted} moved (%)", ylabel="Recovered share of the gap")
    return legend_above(ax)


def stability_curves(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Agreement of two masks as the number of samples behind each grows.

    Args:
        table: comparison, samples, jaccard, low, high; expected_jaccard (optional, of two random
            masks).
        ax: Axes to draw on; the current ones if None.
    """
    ax = _curves(table, ax, "samples", "jaccard", "comparison")
    if "expected_jaccard" in table:
        ax.axhline(table["expected_jaccard"].mean(), **NULL, label="Random masks", zorder=1)
    _log_ticks(ax, table["samples"])
    ax.set(xlabel="Samples behind each mask", ylabel="Jaccard of the masks", ylim=(0, 1.02))
    return legend_above(ax)


def tradeoff(
    table: pd.DataFrame,
    ax: Axes | None = None,
    parameter: str = "scale",
    xlabel: str = "Retained",
    ylabel: str = "Recovered",
) -> Axes:
    """What is recovered against what is retained, one line a method, along a parameter.

    Args:
        table: method, recovered, retained (each in the unit of its label), the column `parameter`;
            recovered_low, recovered_high, retained_low and retained_high (optional).
        ax: Axes to draw on; the current ones if None.
        parameter: Column that orders the points of a line; its last value is written at the end.
        xlabel: What `retained` is, with its unit if it is no fraction.
        ylabel: What `recovered` is, likewise.
    """
    ax = ax or plt.gca()
    ends = []
    for style, line in series(table, "method"):
        line = line.sort_values(parameter)
        bars = {}
        for axis, name in (("xerr", "retained"), ("yerr", "recovered")):
            if f"{name}_low" in line:
                low, high = line[name] - line[f"{name}_low"], line[f"{name}_high"] - line[name]
                bars[axis] = np.nan_to_num(np.clip([low, high], 0, None))
        ax.errorbar(line["retained"], line["recovered"], **bars, **style, elinewidth=0.5)
        if len(line) > 1:  # lines start close together, so only their last point has room
            ends.append((line.iloc[-1], style["color"]))
    named = "λ = " if parameter == "scale" else ""
    texts = [f"{named}{end[parameter]:g}" for end, _ in ends]
    places = [(end["retained"], end["recovered"], color) for end, color in ends]
    _annotate_ends(ax, [(text, *place) for text, place in zip(texts, places, strict=True)])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return legend_above(ax)


def sft_curves(table: pd.DataFrame, ax: Axes | None = None, label: str = "Accuracy") -> Axes:
    """Accuracy, or another score, as light fine-tuning goes on, for each starting point.

    Args:
        table: method, steps, accuracy, low, high (in the unit of `label`). A method with one row
            (target, donor) is drawn as a level line.
        ax: Axes to draw on; the current ones if None.
        label: What `accuracy` is, with its unit if it is no fraction.
    """
    ax = ax or plt.gca()
    counts = table.groupby("method")["steps"].transform("size")
    if (counts > 1).any():
        _curves(table[counts > 1], ax, "steps", "accuracy", "method")
    for style, line in series(table[counts == 1], "method"):
        level = {"color": style["color"], "label": style["label"], "linestyle": (0, (1, 1.2))}
        ax.axhline(line["accuracy"].iloc[0], **level)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set(xlabel="Fine-tuning steps", ylabel=label)
    return legend_above(ax)


def merge_bars(table: pd.DataFrame, ax: Axes | None = None, label: str = "Accuracy") -> Axes:
    """Score of each merge on each ability: bars, with intervals, and a method's marker at the tip.

    Args:
        table: method, ability, score, low, high (in the unit of `label`).
        ax: Axes to draw on; the current ones if None.
        label: What `score` is, with its unit.
    """
    ax = ax or plt.gca()
    abilities, methods = list(table["ability"].unique()), list(series(table, "method"))
    width = 0.84 / len(methods)
    for number, (style, bars) in enumerate(methods):
        bars = bars.set_index("ability").reindex(abilities)
        place = np.arange(len(abilities)) + (number - (len(methods) - 1) / 2) * width
        ax.bar(place, bars["score"], width * 0.92, color=mixed(style["color"], 0.5))
        if "low" in bars:
            ax.vlines(place, bars["low"], bars["high"], color="black", linewidth=0.7)
        # The marker at the tip tells methods apart in grey and to color-blind readers.
        ax.plot(place, bars["score"], **style | {"linestyle": ""})
    ax.set_xticks(range(len(abilities)), [label_of(name) for name in abilities])
    ax.set(xlabel="", ylabel=label)
    ax.grid(False, axis="x")
    return legend_above(ax)


def panels(
    plot: Callable[..., Axes],
    table: pd.DataFrame,
    by: str,
    columns: int = 2,
    width: str = "full",
    aspect: float = 0.45,
    same_ranges: bool = False,
    **options,
) -> Figure:
    """The same plot once for each value of the column `by`, lettered, under one shared legend.

    Args:
        plot: A function of this module.
        table: What it draws, with the column `by` besides.
        by: Column that tells panels apart; its values become titles.
        columns: Panels side by side.
        width: As for `figure`.
        aspect: Height over width of the whole figure.
        same_ranges: Give all panels the widest of their x and of their y ranges.
        **options: Passed on to `plot`.
    """
    groups = list(table.groupby(by, sort=False))
    columns = min(columns, len(groups))
    rows = -(-len(groups) // columns)
    fig, axes = figure(width, aspect, rows, columns, squeeze=False)
    for number, (ax, (value, group)) in enumerate(zip(axes.flat, groups, strict=False)):
        plot(group, ax, **options)
        letter = f"({chr(97 + number)}) " if len(groups) > 1 else ""
        ax.set_title(f"{letter}{label_of(value)}")
        if number % columns:
            ax.set_ylabel("")
    for ax in list(axes.flat)[len(groups) :]:
        ax.remove()
    if same_ranges:
        for axis in ("x", "y"):
            ends = [getattr(ax, f"get_{axis}lim")() for ax in fig.axes]
            low, high = min(end[0] for end in ends), max(end[1] for end in ends)
            plt.setp(fig.axes, **{f"{axis}lim": (low, high)})
    legend_of_figure(fig)
    return fig


def _annotate_ends(ax: Axes, ends: list[tuple[str, float, float, str]]) -> None:
    """Write (text, x, y, color) beside each point, on a side that no other text has taken."""
    points_per_pixel = 72 / ax.figure.dpi
    taken: list[np.ndarray] = []
    for text, x, y, color in ends:
        point = ax.transData.transform((x, y)) * points_per_pixel
        sides = [np.array([across, up]) for across in (3, -3 - 4 * len(text)) for up in (3, -9)]
        room = 4 * len(text) + 4, 9
        free = [s for s in sides if all((abs(point + s - t) > room).any() for t in taken)]
        side = (free or sides)[0]
        taken.append(point + side)
        ax.annotate(text, (x, y), tuple(side), textcoords="offset points", color=color)


def _curves(table: pd.DataFrame, ax: Axes | None, x: str, y: str, by: str) -> Axes:
    """A line with markers for each value of `by`, and a band where `low` and `high` are given."""
    ax = ax or plt.gca()
    for style, line in series(table.dropna(subset=[y]), by):
        line = line.sort_values(x)
        # What the study is about lies on top where others would hide it.
        front = 3 if line[by].iloc[0] == "act_global" else 2
        ax.plot(line[x], line[y], **style, zorder=front)
        if "low" in line and len(line) > 1:
            band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
            ax.fill_between(line[x], line["low"], line["high"], **band)
        elif "low" in line:
            ax.vlines(line[x], line["low"], line["high"], color=style["color"], linewidth=0.8)
    return ax


def _log_ticks(ax: Axes, values: pd.Series) -> None:
    """Logarithmic x axis whose ticks are the values drawn, thinned where they would collide."""
    ax.set_xscale("log")
    spread = np.log(values.max() / values.min())
    spec = ax.get_subplotspec()
    inches = page_of(ax).get_figwidth() * 0.8 / (spec.get_gridspec().ncols if spec else 1)
    ticks: list[float] = []
    for value in sorted(values.unique(), reverse=True):
        if not ticks or np.log(ticks[-1] / value) > 0.2 * spread / inches:
            ticks.append(value)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
