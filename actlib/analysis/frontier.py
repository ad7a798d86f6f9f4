"""Recovered against retained over many trials: whose frontier encloses more?

A trial is one setting (`top_percent`, `scale`) of one method. Both axes run between the untouched
models: 0 is as good as the worse of the two, 1 as the better one. In scores, negative answer NLL:

    recovered = (score - target) / (donor - target)    on items of lost abilities
    retained  = (score - donor) / (target - donor)     on items of retained abilities

so the target lies at recovered 0, retained 1 and the donor at recovered 1, retained 0. Trials are
not picked here: all of them are compared at once.

    items["part"] = items["ability"].isin(lost).map({True: "lost", False: "retained"})
    frontier_areas(items)
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from actlib.analysis.old_stats import correct_p_values, p_value
from actlib.analysis.resampling import Resampled, clusters_of, pivot_scores, resample_means
from actlib.analysis.stats import REFERENCES

TRIAL = ["method", "top_percent", "scale"]
"""Columns that name a trial."""

PARTS = ["lost", "retained"]


def frontier_table(items: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Recovered and retained share of every trial, and which ones no other of its method dominates.

    Args:
        items: one row an item: method, top_percent, scale, part ("lost" or "retained"), item, nll
            (nats), and where there are any seed, draw and cluster (see `actlib.analysis.stats`).
            Methods `donor` and `target` are the untouched models. Draws are averaged.
        resamples: draws that decide whether the two gaps are clear.
        seed: of the draws.

    Returns:
        method, top_percent, scale, recovered, retained (fractions of the gap, may be outside 0 to
        1), on_frontier, gap_clear, items, seeds. Where donor is not clearly above target on lost
        items, `recovered` is NaN; where target is not clearly above donor on retained items,
        `retained` is NaN; in both cases `gap_clear` is false and no trial is on a frontier.

    Raises:
        ValueError: columns, parts, donor or target are missing, trials differ in their items, or
            items of several purposes are mixed.
    """
    trials, points, _ = _place_trials(items, resamples, seed)
    best = np.zeros(len(trials), dtype=bool)
    for rows in trials.groupby("method", sort=False).indices.values():
        best[rows] = undominated(points[:, rows].T)
    table = trials[TRIAL].assign(recovered=points[0], retained=points[1])
    table["on_frontier"] = best & trials["gap_clear"]
    return table.join(trials[["gap_clear", "items", "seeds"]])


def frontier_areas(
    items: pd.DataFrame, baseline: str = "act_global", resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Area that each method's trials enclose, with its interval, and minus that of the baseline.

    The area is the hypervolume (Zitzler & Thiele, 1999): of the unit square, the part in which a
    point is matched or beaten by some trial on both axes; see `hypervolume`. The target (0, 1) and
    the donor (1, 0), free to every method, enclose nothing. Settings are not interpolated.

    One draw of seeds and of clusters serves all methods, trials and both untouched models; lost
    and retained items are drawn apart from each other.

    Read it with care: the area never shrinks with more trials, so compare methods only where
    `trials` is alike, and it takes the best of noisy points, so it is a little too large with few
    items. The second tends to cancel in differences between methods with as many trials. Intervals
    cover items and training seeds, not which channels a random method happened to draw.

    Args:
        items: as for `frontier_table`.
        baseline: method that the others are compared with.
        resamples: number of draws; `actlib.analysis.stats.correct_p_values` says how many it takes.
        seed: of the draws.

    Returns:
        One row a method: method, trials, area, low, high (0 to 1), difference (area minus the
        baseline's), difference_low, difference_high, p_value, p_corrected (NaN in the row of the
        baseline), gap_clear, items, seeds. Numbers are NaN where a gap is not clear.

    Raises:
        ValueError: as `frontier_table`, or there is no trial of the baseline.
    """
    trials, points, draws = _place_trials(items, resamples, seed)
    groups = trials.groupby("method", sort=False).indices
    if baseline not in groups:
        raise ValueError(f"no trial is of the method {baseline!r}; there are {list(groups)}")
    areas = {name: hypervolume(*points[:, rows]) for name, rows in groups.items()}
    resampled = {name: hypervolume(*draws[..., rows]) for name, rows in groups.items()}
    table = []
    for name, rows in groups.items():
        row = {"method": name, "trials": len(rows), "area": areas[name]}
        row |= _ends(resampled[name], "")
        if name != baseline:
            change = resampled[name] - resampled[baseline]
            row |= {"difference": areas[name] - areas[baseline]} | _ends(change, "difference_")
            row |= {"p_value": p_value(change)}
        table.append(row)
    columns = ["method", "trials", "area", "low", "high"]
    columns += ["difference", "difference_low", "difference_high", "p_value"]
    result = pd.DataFrame(table).reindex(columns=columns)
    result["p_corrected"] = correct_p_values(result["p_value"])
    return result.join(trials[["gap_clear", "items", "seeds"]].head(1), how="cross")


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

    By the trapezoidal rule over the points in this range, both of whose ends must be points.

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
    areas = np.trapezoid(wide.to_numpy(), wide.columns.to_numpy(), axis=1) / (high - low)
    return pd.Series(areas, wide.index, name=y).reset_index()


def hypervolume(
    recovered: Float[np.ndarray, "*draws trials"], retained: Float[np.ndarray, "*draws trials"]
) -> Float[np.ndarray, "*draws"]:
    """Area of the union of the rectangles from (0, 0) to each point, points clipped to [0, 1].

    Sweeps from the highest `retained` down; the height is the most recovered by any point so far.
    NaN if any coordinate is.
    """
    x, y = (np.clip(np.asarray(axis, dtype=float), 0, 1) for axis in (retained, recovered))
    order = np.argsort(-x, axis=-1)
    x, y = np.take_along_axis(x, order, -1), np.take_along_axis(y, order, -1)
    widths = x - np.concatenate([x[..., 1:], np.zeros_like(x[..., :1])], axis=-1)
    return (widths * np.maximum.accumulate(y, axis=-1)).sum(axis=-1)


def undominated(points: Float[np.ndarray, "trials axes"]) -> Bool[np.ndarray, " trials"]:
    """Points that no other equals or beats on all axes and beats on one; equal points both stay."""
    at_least = np.all(points[None] >= points[:, None], axis=-1)
    better = np.any(points[None] > points[:, None], axis=-1)
    return ~np.any(at_least & better, axis=1)


def _place_trials(
    items: pd.DataFrame, resamples: int, seed: int
) -> tuple[pd.DataFrame, Float[np.ndarray, "2 trials"], Float[np.ndarray, "2 resamples trials"]]:
    """All trials, with recovered and retained as measured and in every resample with both gaps."""
    _require_trials(items)
    used = items[items["part"].isin(PARTS)].reset_index(drop=True)
    used = used.assign(score=-used["nll"])
    used.loc[used["method"].isin(REFERENCES), TRIAL[1:]] = np.nan
    used["trial"] = used.groupby(TRIAL, sort=False, dropna=False).ngroup()
    trials = used.groupby("trial")[TRIAL].head(1).reset_index(drop=True)
    tables = [pivot_scores(used[used["part"] == part], "trial") for part in PARTS]
    if any(table.shape[1] < len(trials) for table in tables):
        raise ValueError("every trial, donor and target must have items of both parts")
    drawn = resample_means(tables, clusters_of(used), resamples, seed)
    target, donor = (int(np.flatnonzero(trials["method"] == name)[0]) for name in REFERENCES)
    shares = _share(drawn[0], start=target, end=donor), _share(drawn[1], start=donor, end=target)
    # trials alone, in draws where neither gap is turned round (rare, if both are clear)
    rows = ~trials["method"].isin(REFERENCES).to_numpy()
    points = np.stack([point for point, _ in shares])[:, rows]
    draws = np.stack([draws for _, draws in shares])[..., rows]
    clear = bool(np.isfinite(points).all())
    draws = draws[:, np.isfinite(draws).all(axis=(0, 2))]
    counts = {"items": sum(part.items for part in drawn), "seeds": drawn[0].seeds}
    return trials[rows].reset_index(drop=True).assign(gap_clear=clear, **counts), points, draws


def _share(drawn: Resampled, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(score - start) / (end - start): as measured and drawn; NaN in draws without a gap.

    NaN throughout unless the 95 % interval of the gap is above zero.
    """
    gaps = drawn.draws[:, end] - drawn.draws[:, start]
    if not np.quantile(gaps, 0.025) > 0:
        return np.full_like(drawn.point, np.nan), np.full_like(drawn.draws, np.nan)
    point = (drawn.point - drawn.point[start]) / (drawn.point[end] - drawn.point[start])
    return point, (drawn.draws - drawn.draws[:, [start]]) / np.where(gaps > 0, gaps, np.nan)[
        :, None
    ]


def _require_trials(items: pd.DataFrame) -> None:
    """Refuse items from which the plane cannot be drawn."""
    missing = {*TRIAL, "part", "item", "nll"} - set(items)
    if missing:
        raise ValueError(f"items of trials need the columns {sorted(missing)}")
    if not set(PARTS) <= set(items["part"]):
        present = sorted(map(str, items["part"].unique()))
        raise ValueError(f"expected items of the parts {PARTS}, not of {present}")
    if "purpose" in items and items["purpose"].nunique() > 1:
        purposes = sorted(items["purpose"].unique())
        raise ValueError(
            f"items must be of one purpose, not of {purposes}: take validation or test"
        )
    if not set(REFERENCES) < set(items["method"]):
        raise ValueError(
            f"items must have the methods donor, target and at least one more; they have "
            f"{sorted(items['method'].unique())}"
        )


def _ends(draws: Float[np.ndarray, " resamples"], prefix: str) -> dict[str, float]:
    """The 95 % percentile interval of draws as columns; NaN without draws."""
    usable = draws.size and np.isfinite(draws).all()
    low, high = np.quantile(draws, [0.025, 0.975]) if usable else (np.nan, np.nan)
    return {f"{prefix}low": float(low), f"{prefix}high": float(high)}
