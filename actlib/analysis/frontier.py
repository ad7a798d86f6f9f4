"""Methods compared along a curve or in a plane, from a tidy table: one row a trial of a method.

value_at(trials, ["method", "seed"], x="displacement_percent", y="recovery", at=30)
area_over(trials, ["method", "seed"], x="top_percent", y="recovery", low=20, high=80)
trials["on_frontier"] = undominated(trials[["recovered", "retained"]].to_numpy())
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float


def value_at(table: pd.DataFrame, by: list[str], x: str, y: str, at: float) -> pd.DataFrame:
    """`y` at one `x` of each group's curve, linear between its points: methods at equal `x`.

    NaN where the curve does not reach so far: nothing is extrapolated.

    Args:
        table: x, y and the columns of by, one row a point; y may stand several times at one x
            (draws), which are averaged.
        by: columns of a group, such as method and seed.
        x: such as the share of the squared distance moved.
        y: such as recovery.
        at: value of x.

    Returns:
        The columns of by, and y.
    """
    points = table.groupby([*by, x])[y].mean().reset_index()
    curves = [(key, np.interp(at, g[x], g[y], np.nan, np.nan)) for key, g in points.groupby(by)]
    return pd.DataFrame([(*key, value) for key, value in curves], columns=[*by, y])


def area_over(
    table: pd.DataFrame, by: list[str], x: str, y: str, low: float, high: float
) -> pd.DataFrame:
    """Mean height of each group's curve from `low` to `high`: its area there over its width.

    By the trapezoidal rule over the points in this range, both of whose ends must be points. Of a
    range of one point it is the height there.

    Args:
        table: as in `value_at`.
        by: columns of a group, such as method and seed.
        x: such as top_percent.
        y: such as recovery.
        low: first x.
        high: last x.

    Returns:
        The columns of by, and y (NaN where a point of the range is missing or NaN).

    Raises:
        ValueError: no row lies at one of the ends.
    """
    points = table[table[x].between(low, high)].groupby([*by, x])[y].mean(skipna=False)
    wide = points.unstack(x)
    if not {low, high} <= set(wide):
        raise ValueError(f"no row has {x} {low:g} and {high:g}, between which the area lies")
    if low == high:  # one point is its own height
        return wide[low].rename(y).reset_index()
    areas = np.trapezoid(wide.to_numpy(), wide.columns.to_numpy(), axis=1) / (high - low)
    return pd.Series(areas, wide.index, name=y).reset_index()


def undominated(points: Float[np.ndarray, "trials axes"]) -> Bool[np.ndarray, " trials"]:
    """Points that no other equals or beats on all axes and beats on one; equal points both stay."""
    at_least = np.all(points[None] >= points[:, None], axis=-1)
    better = np.any(points[None] > points[:, None], axis=-1)
    return ~np.any(at_least & better, axis=1)
