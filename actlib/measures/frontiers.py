"""Recovered against retained over many trials: whose frontier encloses more?

A trial is one setting (`top_percent`, `scale`) of one method. Scores are negative answer NLL; both
axes run from the untouched models: 0 is as good as the worse of the two, 1 as the better one.

    recovered = (score - target) / (donor - target)    on items of the lost abilities
    kept      = (score - donor) / (target - donor)     on items of the retained abilities

so that the target lies at recovered 0, kept 1 and the donor at recovered 1, kept 0. Trials are
picked elsewhere (`experiments.best_trials`); here all of them are compared at once.

    frontier_areas(items, study.lost, study.retained)
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from actlib.measures.intervals import Means, bootstrap_p, corrected, item_clusters, joint_means

TRIAL = ["method", "top_percent", "scale"]
"""Columns that name a trial."""

_ENDS = ["donor", "target"]


class _Plane(NamedTuple):
    """Trials in the plane of recovered and kept, as measured and in every usable resample."""

    trials: pd.DataFrame
    recovered: Float[np.ndarray, " trials"]
    kept: Float[np.ndarray, " trials"]
    recovered_draws: Float[np.ndarray, "resamples trials"]
    kept_draws: Float[np.ndarray, "resamples trials"]
    clear: bool
    items: int
    seeds: int


def frontier_table(
    items: pd.DataFrame,
    lost: Iterable[str],
    retained: Iterable[str],
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Recovered and kept share of every trial, and which trials no other of its method dominates.

    Args:
        items: one row an item: method, top_percent, scale, cell, item, nll (nats), and where there
            are any seed, cluster (see `actlib.measures.intervals`) and draw. Methods `donor` and
            `target` are the untouched models, whatever their top_percent and scale. Draws are
            averaged.
        lost: cells whose items measure what is recovered.
        retained: cells whose items measure what is kept; other cells are left out.
        resamples: draws that judge whether the two gaps are clear.
        seed: of the draws.

    Returns:
        method, top_percent, scale, recovered, kept (fractions of the gap, may be outside 0 to 1),
        on_frontier, gap_clear. Where donor is not clearly above target on lost items, `recovered`
        is NaN; where target is not clearly above donor on retained items, `kept` is NaN; in both
        cases `gap_clear` is false and no trial is on a frontier.

    Raises:
        ValueError: columns, cells, donor or target are missing, trials differ in their items, or
            items of several purposes are mixed.
    """
    plane = _plane(items, lost, retained, resamples, seed)
    table = plane.trials.assign(recovered=plane.recovered, kept=plane.kept, on_frontier=False)
    for places in table.groupby("method", sort=False).indices.values():
        points = np.stack([plane.recovered[places], plane.kept[places]], axis=1)
        table.loc[places, "on_frontier"] = undominated(points) & plane.clear
    return table.assign(gap_clear=plane.clear)


def frontier_areas(
    items: pd.DataFrame,
    lost: Iterable[str],
    retained: Iterable[str],
    against: str = "act_global",
    resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Area that each method's trials enclose, with intervals, against one method.

    The area is the hypervolume (Zitzler & Thiele, 1999): of the unit square, the part in which a
    point is matched or beaten by some trial on both axes; see `hypervolume`. The target (0, 1) and
    the donor (1, 0), free to every method, enclose nothing. Settings are not interpolated.

    One draw of seeds and of clusters serves all methods, trials and both untouched models; lost
    and retained items are drawn apart from each other. P-values are corrected for the number of
    methods (see `actlib.measures.intervals.corrected`, also for why 2000 resamples would be too
    few).

    Read it with care: the area never shrinks with more trials, so compare methods only where
    `trials` is alike, and it takes the best of noisy points, so it is a little too large with few
    items. The second tends to cancel in differences between methods with as many trials. Intervals
    cover items and training seeds, not which channels a random method happened to draw.

    Args:
        items: as for `frontier_table`.
        lost: cells whose items measure what is recovered.
        retained: cells whose items measure what is kept.
        against: method that the others are compared with.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        One row a method: method, trials, area, low, high (0 to 1), difference (area minus that of
        `against`), difference_low, difference_high, p_value, p_corrected (NaN in the row of
        `against`), gap_clear, items, seeds. Numbers are NaN where a gap is not clear.

    Raises:
        ValueError: as `frontier_table`, or no row is of the method `against`.
    """
    plane = _plane(items, lost, retained, resamples, seed)
    groups = plane.trials.groupby("method", sort=False).indices
    if against not in groups:
        known = sorted(map(str, groups))
        raise ValueError(f"no trial is of the method {against!r}; there are {known}.")
    points = {m: hypervolume(plane.recovered[g], plane.kept[g]) for m, g in groups.items()}
    draws = {
        m: hypervolume(plane.recovered_draws[:, g], plane.kept_draws[:, g])
        for m, g in groups.items()
    }
    rows = [
        {"method": method, "trials": len(places), "area": points[method]}
        | _ends(draws[method], "")
        | {"difference": points[method] - points[against]}
        | _ends(draws[method] - draws[against], "difference_")
        | {"p_value": bootstrap_p(draws[method] - draws[against])}
        for method, places in groups.items()
    ]
    table = pd.DataFrame(rows)
    compared = ["difference", "difference_low", "difference_high", "p_value"]
    table.loc[table["method"] == against, compared] = np.nan
    return table.assign(
        p_corrected=corrected(table["p_value"]),
        gap_clear=plane.clear,
        items=plane.items,
        seeds=plane.seeds,
    )


def hypervolume(
    recovered: Float[np.ndarray, "*draws trials"], kept: Float[np.ndarray, "*draws trials"]
) -> Float[np.ndarray, "*draws"]:
    """Area of the union of the rectangles from (0, 0) to each point, points clipped to [0, 1].

    Sweeps from the highest `kept` down; the height is the most recovered by any point so far. NaN
    if any coordinate is.
    """
    x, y = (np.clip(np.asarray(axis, dtype=float), 0, 1) for axis in (kept, recovered))
    order = np.argsort(-x, axis=-1)
    x, y = np.take_along_axis(x, order, -1), np.take_along_axis(y, order, -1)
    widths = x - np.concatenate([x[..., 1:], np.zeros_like(x[..., :1])], axis=-1)
    return (widths * np.maximum.accumulate(y, axis=-1)).sum(axis=-1)


def undominated(points: Float[np.ndarray, "trials axes"]) -> Bool[np.ndarray, " trials"]:
    """Points that no other equals or beats on all axes and beats on one; equal points both stay."""
    at_least = np.all(points[None] >= points[:, None], axis=-1)
    better = np.any(points[None] > points[:, None], axis=-1)
    return ~np.any(at_least & better, axis=1)


def _plane(items: pd.DataFrame, lost, retained, resamples: int, seed: int) -> _Plane:
    """All trials in the plane, drawn jointly."""
    cells = list(lost), list(retained)
    _check(items, *cells)
    used = items[items["cell"].isin([*cells[0], *cells[1]])].reset_index(drop=True)
    names = used[TRIAL].copy()
    names.loc[names["method"].isin(_ENDS), TRIAL[1:]] = np.nan
    groups = names.groupby(TRIAL, sort=False, dropna=False)
    trials = names.groupby(groups.ngroup()).head(1).reset_index(drop=True)
    tables = [_wide(used[used["cell"].isin(part)], groups.ngroup()) for part in cells]
    found = joint_means(tables, item_clusters([used]), resamples, seed)
    donor, target = (int(np.flatnonzero(trials["method"] == end)[0]) for end in _ENDS)
    recovered, gained, usable = _share(found[0], start=target, end=donor)
    kept, held, also = _share(found[1], start=donor, end=target)
    rows = ~trials["method"].isin(_ENDS).to_numpy()
    both = usable & also
    return _Plane(
        trials[rows].reset_index(drop=True),
        recovered[rows],
        kept[rows],
        gained[both][:, rows],
        held[both][:, rows],
        bool(np.isfinite(recovered).all() and np.isfinite(kept).all()),
        sum(part.items for part in found),
        found[0].seeds,
    )


def _share(means: Means, start: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score - start) / (end - start): as measured, drawn, and which draws have a gap to share.

    NaN throughout unless the 95 % interval of the gap is above zero.
    """
    gaps = means.draws[:, end] - means.draws[:, start]
    usable = gaps > 0  # a resample with the gap turned round, rare if the gap is clear, has none
    if not np.quantile(gaps, 0.025) > 0:
        return np.full_like(means.point, np.nan), np.full_like(means.draws, np.nan), usable
    point = (means.point - means.point[start]) / (means.point[end] - means.point[start])
    gaps = np.where(usable, gaps, np.nan)[:, None]
    return point, (means.draws - means.draws[:, [start]]) / gaps, usable


def _wide(items: pd.DataFrame, trial: pd.Series) -> pd.DataFrame:
    """Scores [seed and item, trials] of one part, draws averaged, checked to be complete."""
    table = items.assign(trial=trial, score=-items["nll"])
    if "seed" not in table:
        table["seed"] = 0
    keys = ["trial", "seed", "item"]
    if table.duplicated([*keys, *(["draw"] if "draw" in table else [])]).any():
        raise ValueError("a trial may hold an item once a seed and draw; one holds it twice.")
    wide = table.groupby(keys)["score"].mean().unstack("trial")
    gaps = int(wide.isna().sum().sum())
    if gaps or wide.shape[1] <= trial.max():
        raise ValueError(
            f"every trial, donor and target must hold the same items and seeds; {gaps} of "
            f"{wide.size} scores are missing."
        )
    return wide


def _check(items: pd.DataFrame, lost: list[str], retained: list[str]) -> None:
    """Refuse items from which the plane cannot be drawn."""
    missing = {*TRIAL, "cell", "item", "nll"} - set(items)
    if missing:
        raise ValueError(f"items of trials need the columns {sorted(missing)}.")
    absent = {*lost, *retained} - set(items["cell"])
    if absent or not lost or not retained or set(lost) & set(retained):
        raise ValueError(
            f"lost and retained must be cells of the items, apart from each other; they are {lost} "
            f"and {retained}, and the items have {sorted(items['cell'].unique())}."
        )
    if items["nll"].isna().any():
        raise ValueError(f"every item needs an NLL; {items['nll'].isna().sum()} have NaN.")
    if "purpose" in items and items["purpose"].nunique() > 1:
        told = sorted(items["purpose"].unique())
        raise ValueError(f"items must be of one purpose, validation or test; they are of {told}.")
    if not set(_ENDS) < set(items["method"]):
        raise ValueError(
            f"items must hold the methods donor, target and at least one more; they hold "
            f"{sorted(items['method'].unique())}."
        )


def _ends(draws: np.ndarray, prefix: str) -> dict[str, float]:
    """The 95 % percentile interval of draws as columns; NaN without draws."""
    usable = draws.size and np.isfinite(draws).all()
    low, high = np.quantile(draws, [0.025, 0.975]) if usable else (np.nan, np.nan)
    return {f"{prefix}low": float(low), f"{prefix}high": float(high)}
