"""Statistics of what is measured on items: means, paired differences, recovered shares.

    recovered = stats.recovery(items, by=["method", "top_percent"])
    changes = stats.differences(items, baseline="target")    # method - target, by item and seed

Intervals are 95 % percentile bootstraps, fixed by `seed`; `actlib.analysis.resampling` says how
seeds and items are drawn, and what a table of items is. Scores are better the higher they are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from actlib.analysis.resampling import BLOCK, Resampled, clusters_of, pivot_scores, resample_means

REFERENCES = ("target", "donor")
"""Methods that stand for the untouched models."""

_LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval, in the unit of the values."""

    estimate: float
    low: float
    high: float


def means(
    items: pd.DataFrame,
    by: Sequence[str],
    value: str = "score",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of the column `value` with its interval for each group of the columns `by`.

    Returns:
        The columns of `by`, then mean, low, high (in the unit of `value`), items, seeds.
    """
    rows = []
    for labels, group in _groups(items, by):
        wide = pivot_scores(group.assign(all=0), "all", value)
        (drawn,) = resample_means([wide], clusters_of(group), resamples, seed)
        ends = dict(zip(("low", "high"), _ends(drawn.draws[:, 0]), strict=True))
        row = labels | {"mean": drawn.point[0]} | ends
        rows.append(row | {"items": drawn.items, "seeds": drawn.seeds})
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "items", "seeds"])


def differences(
    items: pd.DataFrame,
    baseline: str,
    by: Sequence[str] = (),
    value: str = "score",
    resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of each method minus that of the baseline on the same items, paired by item and seed.

    One draw of seeds and clusters serves all methods of a group. Groups without the baseline are
    left out. `correct_p_values` takes those of all comparisons that belong together.

    Returns:
        The columns of `by`, method, baseline, difference, low, high (in the unit of `value`),
        p_value (see `p_value`), items, seeds.

    Raises:
        ValueError: methods of a group differ in their items or seeds, one has an item twice, or a
            score is NaN.
    """
    rows = []
    for labels, group in _groups(items, by):
        names = [name for name in group["method"].unique() if name != baseline]
        if len(names) == group["method"].nunique():
            continue
        wide = pivot_scores(group, "method", value)[[baseline, *names]]
        (drawn,) = resample_means([wide], clusters_of(group), resamples, seed)
        point, draws = (x[..., 1:] - x[..., :1] for x in (drawn.point, drawn.draws))
        for name, estimate, column in zip(names, point, draws.T, strict=True):
            low, high = _ends(column)
            row = labels | {"method": name, "baseline": baseline, "difference": estimate}
            row |= {"low": low, "high": high, "p_value": p_value(column)}
            rows.append(row | {"items": drawn.items, "seeds": drawn.seeds})
    columns = [*by, "method", "baseline", "difference", "low", "high", "p_value", "items", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def recovery(
    items: pd.DataFrame,
    by: Sequence[str],
    value: str = "score",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Recovered share of the gap, (method - target) / (donor - target) of means, paired by item.

    The rows of the methods `target` and `donor` serve every group of the columns `by`. A column in
    which they have values too, such as the ability, splits them: each ability has its own gap.

    Returns:
        The columns of `by`, recovery, low, high (fractions: 0 the target, 1 the donor; NaN where
        the gap is not clear), gap (donor - target, in the unit of `value`), gap_low, gap_high,
        gap_clear (whether the gap's interval excludes 0), items, seeds.

    Raises:
        ValueError: donor or target are missing, or do not have the same items and seeds as every
            group; or as `differences`.
    """
    references = items[items["method"].isin(REFERENCES)]
    if references["method"].nunique() < 2:
        raise ValueError(f"expected rows of the methods {REFERENCES}, for the gap between them")
    shared = [name for name in by if name != "method" and references[name].notna().all()]
    own, rows = [name for name in by if name not in shared], []
    for labels, part in _groups(items, shared):
        numbers = part.groupby(own, sort=False, dropna=False).ngroup() if own else 0
        part = part.assign(condition=numbers)
        for number, reference in enumerate(REFERENCES):
            part.loc[part["method"] == reference, "condition"] = number - 2  # -2 target, -1 donor
        wide = pivot_scores(part, "condition", value)
        (drawn,) = resample_means([wide], clusters_of(part), resamples, seed)
        first = part.drop_duplicates("condition").set_index("condition")
        for column, condition in enumerate(wide.columns[2:], start=2):
            keys = labels | {name: first.loc[condition, name] for name in own}
            counts = {"items": drawn.items, "seeds": drawn.seeds}
            rows.append(keys | _share(drawn, column) | counts)
    columns = ["recovery", "low", "high", "gap", "gap_low", "gap_high", "gap_clear"]
    return pd.DataFrame(rows, columns=[*by, *columns, "items", "seeds"])


def bootstrap(
    values: Float[np.ndarray, " values"],
    statistic: Callable = np.mean,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `statistic` (called with `axis`) over independent values.

    One value has no interval: its ends are NaN.

    Raises:
        ValueError: no value.
    """
    values = _some(values)
    estimate = float(statistic(values, axis=0))
    if values.size == 1:
        return Interval(estimate, np.nan, np.nan)
    ends = stats.bootstrap(
        (values,), statistic, n_resamples=resamples, batch=max(1, BLOCK // values.size),
        method="percentile", confidence_level=_LEVEL, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(estimate, float(ends.low), float(ends.high))


def bootstrap_table(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """`bootstrap` of a column's mean in each group: by, value, low, high, count (its rows)."""
    rows = [
        (*labels.values(), *bootstrap(group[value].to_numpy()), len(group))
        for labels, group in _groups(table, by)
    ]
    return pd.DataFrame(rows, columns=[*by, value, "low", "high", "count"])


def student_interval(values: Float[np.ndarray, " seeds"]) -> Interval:
    """Mean of one number a training seed, with Student's interval for the mean.

    For numbers that exist once a seed, of which there are too few to resample: with n seeds the
    ends are mean ± t(n - 1) s / sqrt(n), s the standard deviation over n - 1. One seed has no
    interval: its ends are NaN.

    Raises:
        ValueError: no value.
    """
    values = _some(values)
    if values.size == 1 or not np.ptp(values):
        end = np.nan if values.size == 1 else values[0]
        return Interval(float(values[0]), float(end), float(end))
    mean = float(values.mean())
    low, high = stats.t.interval(_LEVEL, values.size - 1, loc=mean, scale=stats.sem(values))
    return Interval(mean, float(low), float(high))


class SeedTest(NamedTuple):
    """Mean difference over seeds with Student's interval, and three two-sided p-values."""

    estimate: float
    low: float
    high: float
    p_t: float
    p_flip: float
    p_equivalent: float


def compare_seeds(differences: Float[np.ndarray, " seeds"], margin: float = np.nan) -> SeedTest:
    """Whether one difference a training seed is zero on average, and whether it is negligible.

    `p_t` is Student's. `p_flip` permutes signs exactly and assumes symmetry alone; with n seeds it
    cannot be below 2 / 2^n, so 5 seeds cannot show a difference at 5 %. `p_equivalent` is that of
    two one-sided t-tests against ±`margin`, in the differences' unit: if it is small, the mean lies
    within the margin. P-values are NaN for one seed, and where all differences are equal.

    Raises:
        ValueError: no difference.
    """
    values = _some(differences)
    interval = student_interval(values)
    if values.size == 1 or not np.ptp(values):
        return SeedTest(*interval, np.nan, np.nan, np.nan)
    flips = stats.permutation_test((values,), np.mean, permutation_type="samples", rng=0)
    sides = [
        stats.ttest_1samp(values, bound, alternative=side).pvalue
        for bound, side in ((-margin, "greater"), (margin, "less"))
    ]
    p_t = stats.ttest_1samp(values, 0).pvalue
    return SeedTest(*interval, float(p_t), float(flips.pvalue), float(max(sides)))


def p_value(draws: Float[np.ndarray, " resamples"]) -> float:
    """Two-sided p-value of no difference, from resamples d: 2 min(P(d <= 0), P(d >= 0)), at most 1.

    One is added to each count and to the number of resamples, so that no p-value is zero; the
    smallest is 2 / (resamples + 1). Source: Davison & Hinkley, Bootstrap Methods and their
    Application (1997), section 4.2 for the added one; it inverts the percentile interval. NaN if
    there is no resample, or one is NaN.
    """
    draws = np.asarray(draws, dtype=float)
    if not draws.size or np.isnan(draws).any():
        return float("nan")
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))


def correct_p_values(
    p_values: Sequence[float] | pd.Series, method: str = "by"
) -> Float[np.ndarray, " tests"]:
    """P-values adjusted for their number, under any dependence.

    "by" bounds the false discovery rate (Benjamini & Yekutieli, 2001, computed by SciPy), "holm"
    the chance of any false discovery (Holm, 1979). NaN marks a test that was not made: it stays
    NaN and does not count. A bootstrap p-value cannot be below 2 / (resamples + 1), so among m
    tests a single difference can only show at 5 % with more than 40 m (1 + 1/2 + ... + 1/m)
    resamples: 1200 for 10 tests, 2900 for 20.

    Raises:
        ValueError: a p-value is outside 0 to 1, or the method is neither.
    """
    if method not in ("by", "holm"):
        raise ValueError(f"unknown correction {method!r}: expected 'by' or 'holm'")
    values = np.array(p_values, dtype=float)
    tested = ~np.isnan(values)
    if ((values[tested] < 0) | (values[tested] > 1)).any():
        raise ValueError(f"p-values must lie between 0 and 1; they are {values.tolist()}")
    if method == "by":
        values[tested] = stats.false_discovery_control(values[tested], method="by")
        return values
    order = np.flatnonzero(tested)[np.argsort(values[tested])]
    factors = np.arange(order.size, 0, -1)  # the smallest counts for all tests
    values[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return values


def _share(drawn: Resampled, column: int) -> dict[str, float]:
    """Recovered share of one column, of which column 0 is the target and column 1 the donor."""
    gap, gaps = drawn.point[1] - drawn.point[0], drawn.draws[:, 1] - drawn.draws[:, 0]
    gap_low, gap_high = _ends(gaps)
    clear = bool(gap_low > 0 or gap_high < 0)
    share, low, high = np.nan, np.nan, np.nan
    if clear:
        usable = gaps != 0  # a resample without a gap, rare beyond the interval, has no ratio
        share = (drawn.point[column] - drawn.point[0]) / gap
        low, high = _ends((drawn.draws[:, column] - drawn.draws[:, 0])[usable] / gaps[usable])
    table = {"recovery": share, "low": low, "high": high, "gap": gap}
    return table | {"gap_low": gap_low, "gap_high": gap_high, "gap_clear": clear}


def _groups(items: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Groups in order of appearance, each under its values of `by`; all rows if `by` is empty."""
    if not by:
        yield {}, items
        return
    for key, group in items.groupby(list(by), sort=False):
        yield dict(zip(by, key, strict=True)), group


def _ends(draws: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def _some(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("an interval needs at least one value; there is none")
    return values
