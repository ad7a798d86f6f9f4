"""Figures of the sweep: a tidy table in, Axes out. Part of `actlib.plotting`."""

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from actlib.plotting.style import NULL, empty_note, label_of, legend_above, look, mixed, series

_STRENGTHS = {"lost": 1.0, "retained": 0.4}


def pareto(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Recovered against retained of every trial, with the frontier of each method as a staircase.

    Below and left of a staircase lies what the method matches or beats; its part in the unit square
    is the area of `frontier.frontier_areas`. Faint points are dominated. Trials farther than 0.5
    outside the unit square are counted in a note, and not shown.

    Args:
        table: method, recovered, retained (fractions of the gap between donor and target) and
            on_frontier (see `frontier.frontier_table`). Undefined trials are left out.
        ax: Axes to draw on; the current ones if None.
    """
    ax = ax or plt.gca()
    for style, trials in series(table.dropna(subset=["recovered", "retained"]), "method"):
        dots = {"color": style["color"], "marker": style["marker"], "linestyle": ""}
        ax.plot(trials["retained"], trials["recovered"], **dots, alpha=0.25, markeredgewidth=0)
        best = trials[trials["on_frontier"].astype(bool)].sort_values("retained")
        x = [min(0, best["retained"].min()), *best["retained"], best["retained"].max()]
        y = [best["recovered"].iloc[0], *best["recovered"], min(0, best["recovered"].min())]
        ax.step(x, y, where="pre", color=style["color"], linewidth=0.8)
        ax.plot(best["retained"], best["recovered"], **dots)
        ax.plot([], [], **style)  # the legend shows the line with its points
    for end, place, rise in (("target", (1, 0), -9), ("donor", (0, 1), 9)):
        style = look(end) | {"label": "_", "linestyle": "", "markersize": 6}
        ax.plot(*place, **style, zorder=4)
        around: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center"}
        ax.annotate(label_of(end), place, (0, rise), **around)
    _frame(ax, table)
    if table[["recovered", "retained"]].dropna().empty:
        empty_note(ax, "undefined: no clear gap between\ndonor and target on both axes")
    ax.set(xlabel="Retained (0: donor, 1: target)", ylabel="Recovered (0: target, 1: donor)")
    return legend_above(ax)


def area_bars(table: pd.DataFrame, ax: Axes | None = None, against: str = "act_global") -> Axes:
    """Area under the frontier of each method with its interval, largest on top.

    The method that the others are compared with is drawn full, and its area as a line.

    Args:
        table: method, area, low, high (0 to 1), trials (count; see `frontier.frontier_areas`).
            Methods whose area is undefined are left out.
        ax: Axes to draw on; the current ones if None.
        against: The method to highlight.
    """
    ax = ax or plt.gca()
    if table["area"].isna().all():
        empty_note(ax, "undefined: no clear gap\nbetween donor and target")
    bars = table.dropna(subset=["area"]).sort_values("area", kind="stable").reset_index(drop=True)
    for place, bar in enumerate(bars.to_dict("records")):
        full = bar["method"] == against
        color = mixed(look(bar["method"])["color"], 1.0 if full else 0.5)
        ax.barh(place, bar["area"], 0.72, color=color)
        if full:
            ax.axvline(bar["area"], **NULL, zorder=1)
    ax.hlines(bars.index, bars["low"], bars["high"], color="black", linewidth=0.9)
    names = [f"{label_of(bar.method)} ({bar.trials:g})" for bar in bars.itertuples()]
    ax.set_yticks(range(len(bars)), names)
    for name, method in zip(ax.get_yticklabels(), bars["method"], strict=True):
        name.set_fontweight("bold" if method == against else "normal")
    ax.set(
        xlabel="Area under the frontier, of 1 (in brackets: trials)",
        ylabel="",
        ylim=(-0.6, len(bars) - 0.4),
    )
    ax.grid(False, axis="y")
    return ax


def ablation_bars(
    table: pd.DataFrame, ax: Axes | None = None, label: str = "Change of the answer NLL (nats)"
) -> Axes:
    """What an intervention changes on lost and on retained abilities, by method and kind.

    Args:
        table: method, how (kind of intervention), part (lost or retained), change, low, high (in
            the unit of `label`).
        ax: Axes to draw on; the current ones if None.
        label: What `change` is, with its unit.
    """
    ax = ax or plt.gca()
    places, names = _rows(table)
    for part, strength in _STRENGTHS.items():
        for row in table[table["part"] == part].to_dict("records"):
            method = row["method"]
            place = places[row["how"], method] + (0.19 if part == "retained" else -0.19)
            ax.barh(place, row["change"], 0.36, color=mixed(look(method)["color"], strength))
            ax.hlines(place, row["low"], row["high"], color="black", linewidth=0.7)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(list(names), names.values())
    for name, tick, place in zip(ax.get_yticklabels(), ax.yaxis.majorTicks, names, strict=True):
        if place not in places.values():
            name.set_fontweight("bold")
            tick.tick1line.set_visible(False)
    ax.set(xlabel=label, ylabel="", ylim=(max(names) + 0.6, min(names) - 0.5))
    ax.grid(False, axis="y")
    patches = [
        Patch(color=mixed("#444444", strength), linewidth=0, label=f"{label_of(part)} abilities")
        for part, strength in _STRENGTHS.items()
    ]
    ax.legend(handles=patches, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def _frame(ax: Axes, table: pd.DataFrame) -> None:
    """Limits around the unit square with room for two names, and a note on what lies beyond."""
    points = table[["retained", "recovered"]].dropna()
    near = points[((points >= -0.5) & (points <= 1.5)).all(axis=1)]
    low, high = near.min().fillna(0) - 0.06, near.max().fillna(1) + 0.06
    ax.set_xlim(min(low["retained"], -0.08), max(high["retained"], 1.08))
    ax.set_ylim(min(low["recovered"], -0.18), max(high["recovered"], 1.14))
    beyond = len(points) - len(near)
    if beyond:
        note = f"{beyond} of {len(points)} trials lie outside"
        ax.annotate(note, (0.02, 0.02), xycoords="axes fraction", fontstyle="italic")


def _rows(table: pd.DataFrame) -> tuple[dict[tuple[str, str], float], dict[float, str]]:
    """Place of each (how, method) down the axis, and the names there, with a heading a kind."""
    places: dict[tuple[str, str], float] = {}
    names: dict[float, str] = {}
    place = 0.0
    for how, rows in table.groupby("how", sort=False):
        names[place] = label_of(how)
        for method in rows["method"].unique():
            place += 1 if str(how) in (key[0] for key in places) else 0.8
            places[str(how), str(method)] = place
            names[place] = label_of(method)
        place += 1
    return places, names
