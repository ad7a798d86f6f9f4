"""Bootstraps over independent values and their p-values: leave with the notebooks that show them.

With few training seeds such p-values mislead (23 % false positives with three seeds at 5 %); see
`actlib.analysis.stats.compare_seeds`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from actlib.analysis.resampling import BLOCK, LEVEL, Interval, groups_of


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
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("an interval needs at least one value; there is none")
    estimate = float(statistic(values, axis=0))
    if values.size == 1:
        return Interval(estimate, np.nan, np.nan)
    ends = stats.bootstrap(
        (values,), statistic, n_resamples=resamples, batch=max(1, BLOCK // values.size),
        method="percentile", confidence_level=1 - LEVEL, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(estimate, float(ends.low), float(ends.high))


def bootstrap_table(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """`bootstrap` of a column's mean in each group: by, value, low, high, count (its rows)."""
    rows = [
        (*labels.values(), *bootstrap(group[value].to_numpy()), len(group))
        for labels, group in groups_of(table, by)
    ]
    return pd.DataFrame(rows, columns=[*by, value, "low", "high", "count"])


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
