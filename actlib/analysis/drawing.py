"""Draws a figure at its final size, keeps its call beside its table, and draws it again from both.

    fig = draw_figure(plots.curves, table, x="top_percent", y="recovery", panels="ability")
    save_figure(fig, table, "fig03_sufficiency", "figures/tiny")    # pdf, png, csv, json
    redraw_figures("figures/tiny", "figures-acl", venue="acl")

Drawing again needs no model and no torch.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from actlib.analysis import plots, style
from actlib.files import atomic_file, write_text

_CALLS: WeakKeyDictionary[Figure, dict[str, Any]] = WeakKeyDictionary()


def draw_figure(
    plot: Callable[..., None],
    table: pd.DataFrame,
    *,
    width: str = "column",
    height: float | None = None,
    panels: str = "",
    columns: int = 2,
    share: bool = False,
    xlabel: str = "",
    ylabel: str = "",
    **options: Any,
) -> Figure:
    """Draw a table at the width of the venue set last, lettered panels under one legend.

    Args:
        plot: a function of `actlib.analysis.plots`.
        table: what it draws. From its columns seeds and items, n is written below the figure.
        width: "column" or "full".
        height: of each row of panels, in inches; by the table's rows of names if None.
        panels: column with one panel for each value, which is its title; a single panel if none.
        columns: panels side by side; one below the other where the figure is narrow.
        share: all panels have the same axes.
        xlabel: what the x axis is, with its unit.
        ylabel: what the y axis is, with its unit.
        **options: passed on to `plot`.

    Raises:
        ValueError: the table is empty, or the width is unknown.
    """
    if table.empty:
        raise ValueError("a figure needs a table with rows; this one is empty")
    call = {"plot": plot.__name__, "width": width, "height": height}
    call |= {"panels": panels, "columns": columns, "share": share, "xlabel": xlabel}
    call |= {"ylabel": ylabel, **options}
    y = options.get("y", "kind" if "kind" in table else "method")
    for name in {options.get("by", "method"), y}:
        if _has_names(table, name):  # the same looks and places in all panels
            table = table.assign(**{name: pd.Categorical(table[name], table[name].unique())})
    groups = list(table.groupby(panels, sort=False)) if panels else [("", table)]
    columns = 1 if style.inches_of(width) < style.NARROW else min(columns, len(groups))
    high = height or _height_of(table, y, "by" in options)
    shape = -(-len(groups) // columns), columns
    fig, axes = style.figure(width, high, *shape, squeeze=False, sharex=share, sharey=share)
    for number, (ax, (title, group)) in enumerate(zip(axes.flat, groups, strict=False)):
        if not share and y in group and isinstance(group[y].dtype, pd.CategoricalDtype):
            group = group.assign(**{y: group[y].cat.remove_unused_categories()})
        _mark_undefined(ax, group, options)
        plot(group, ax, **options)
        letter = f"({chr(97 + number)}) " if len(groups) > 1 else ""
        ax.set_title(letter + style.label_of(title) if panels else "")
        ax.set(xlabel=xlabel or ax.get_xlabel(), ylabel=ylabel or ax.get_ylabel())
        _hide_inner_labels(ax, number % columns > 0, number + columns < len(groups), share)
    for ax in axes.flat[len(groups) :]:
        ax.remove()
    if "seeds" in table:
        fig.supxlabel(_sizes_of(table), x=0.99, ha="right", color="#444444")
    style.add_legend(fig)
    _CALLS[fig] = call
    return fig


def save_figure(fig: Figure, table: pd.DataFrame, name: str, folder: str | Path) -> list[Path]:
    """Write NAME.pdf (vector, embedded TrueType), NAME.png (300 dpi), NAME.csv and NAME.json.

    The csv is what is drawn, the json how. Pictures are not cropped, so the size stays the final
    one. Files hold no date: redrawing the same data gives the same bytes.

    Returns:
        The paths; without the json if the figure was not drawn by `draw_figure`.
    """
    style.settle(fig)
    paths = [Path(folder) / f"{name}.{kind}" for kind in ("pdf", "png")]
    for path in paths:
        with atomic_file(path) as unfinished:
            fig.savefig(unfinished, dpi=300, metadata={"CreationDate": None})
    texts = {"csv": table.to_csv(index=False)}
    if fig in _CALLS:
        call = {key: value for key, value in _CALLS[fig].items() if value not in ("", None)}
        texts["json"] = json.dumps(call, indent=1, ensure_ascii=False) + "\n"
    for kind, text in texts.items():
        paths.append(Path(folder) / f"{name}.{kind}")
        write_text(paths[-1], text)
    return paths


def redraw_figures(
    folder: str | Path,
    out: str | Path,
    venue: str = "neurips",
    width: str | None = None,
    names: Iterable[str] = (),
) -> list[Path]:
    """Draw every figure whose table and call are in a folder; see `save_figure`.

    Args:
        folder: where NAME.csv and NAME.json are, such as figures/tiny.
        out: where the pictures go, with copies of table and call.
        venue: a venue of `actlib.analysis.style.WIDTHS`.
        width: "column" or "full" for all; what suits each figure if None.
        names: which figures; all if empty.

    Returns:
        The files written.

    Raises:
        ValueError: a figure named is missing, or the folder has none.
    """
    folder = Path(folder)
    calls = sorted(folder.glob("*.json"))
    known = {path.stem: path for path in calls if path.with_suffix(".csv").is_file()}
    names = list(names) or list(known)
    missing = [name for name in names if name not in known]
    if missing or not names:
        what = f"no figure {missing[0]!r}" if missing else "no figure"
        there = f"; it has {', '.join(known)}" if known else ""
        raise ValueError(f"{folder} has {what} with NAME.csv and NAME.json{there}")
    style.set_theme(venue)
    paths = []
    for name in names:
        table = pd.read_csv(folder / f"{name}.csv")
        call = json.loads(known[name].read_text("utf-8")) | ({"width": width} if width else {})
        fig = draw_figure(getattr(plots, call.pop("plot")), table, **call)
        paths += save_figure(fig, table, name, out)
        plt.close(fig)
    return paths


def _hide_inner_labels(ax: Axes, right: bool, above: bool, share: bool) -> None:
    """Leave labels out that the panel on the left, or the one below, has too."""
    if right:
        ax.set_ylabel("")
        ax.tick_params(labelleft=not share)
    if above and share:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)


def _mark_undefined(ax: Axes, table: pd.DataFrame, options: Mapping[str, Any]) -> None:
    """Say so in a panel without a number, such as shares of a gap that is not there."""
    numbers = [options[key] for key in ("x", "y", "value") if options.get(key) in table]
    if table[numbers].isna().any(axis=1).all():
        ax.text(0.5, 0.5, "not defined", ha="center", va="center", transform=ax.transAxes)


def _has_names(table: pd.DataFrame, y: str) -> bool:
    return y in table and not pd.api.types.is_numeric_dtype(table[y])


def _height_of(table: pd.DataFrame, y: str, several: bool) -> float:
    """Inches of one panel: by its rows where the y axis has names, 2.4 otherwise."""
    each = 0.24 if several else 0.19
    return max(1.9, 0.6 + each * table[y].nunique()) if _has_names(table, y) else 2.4


def _sizes_of(table: pd.DataFrame) -> str:
    """What n is, such as "n = 40 items, 3 training seeds"."""
    texts = []
    for name, unit in {"items": "items", "seeds": "training seeds"}.items():
        if name in table and table[name].notna().any():
            least, most = int(table[name].min()), int(table[name].max())
            number = f"{least}" if least == most else f"{least}–{most}"
            one_seed = name == "seeds" and number == "1"
            texts.append(f"{number} {'training seed' if one_seed else unit}")
    return "n = " + ", ".join(texts)


def read_captions(notebook: Path) -> dict[str, str]:
    """Figures that a notebook saves, in its order -> the caption below, before the next figure."""
    captions: dict[str, str] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            captions |= dict.fromkeys(re.findall(r'save_figure\([^"]*"(\w+)"', source), "")
        elif captions and (caption := re.search(r"^\*Figure \w+\. (.+)\*$", source, re.MULTILINE)):
            captions[next(reversed(captions))] = caption[1]
    return captions
