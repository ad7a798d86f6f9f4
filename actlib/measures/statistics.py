"""How concentrated a set of numbers is, and what chance alone gives: shares, Gini, exact nulls.

Plain arrays in, numbers out; nothing here knows models or masks, and nothing imports torch.
`actlib.measures.analysis` applies these to scores and masks.
"""

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
from jaxtyping import Float
from scipy import stats

HALF_NORMAL_GINI = 2**0.5 - 1
"""Gini coefficient of the half-normal distribution, whatever its scale."""


def top_count(percent: float, total: int) -> int:
    """Floor of `percent`/100 * `total`, at least one; safe against binary rounding (29 % of 100).

    >>> top_count(5, 1000), top_count(29, 100), top_count(0.1, 10)
    (50, 29, 1)

    Raises:
        ValueError: `percent` is outside (0, 100].
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be above 0 and at most 100, not {percent}.")
    return max(1, int(np.floor(round(percent * total / 100, 9))))


def share_of_top(
    values: Float[np.ndarray, " channels"], percents: Iterable[float] = (1, 5, 10)
) -> Float[np.ndarray, " percents"]:
    """Share (fraction) of the values' sum that the top `percents` % of them hold.

    NaN where the sum is zero.

    >>> share_of_top([1, 1, 1, 1, 6], percents=[20, 40]).tolist()
    [0.6, 0.7]

    Raises:
        ValueError: no value, a negative or NaN value, or a percent outside (0, 100].
    """
    ordered = np.sort(_non_negative(values))[::-1]
    held = np.array([ordered[: top_count(percent, ordered.size)].sum() for percent in percents])
    return held / ordered.sum() if ordered.sum() > 0 else np.full(held.shape, np.nan)


def gini(values: Float[np.ndarray, " channels"]) -> float:
    """Gini coefficient: 0 when all values are equal, near 1 when one holds everything.

    NaN where the sum is zero.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 1])
    (0.0, 0.75)

    Raises:
        ValueError: no value, or a negative or NaN value.
    """
    ordered = np.sort(_non_negative(values))
    if ordered.sum() == 0:
        return float("nan")
    ranks = np.arange(1, ordered.size + 1)
    centered = 2 * ranks - ordered.size - 1
    return float(centered @ ordered / (ordered.size * ordered.sum()))


def half_normal_share(fraction: float) -> float:
    """Share of the sum that the top `fraction` of a half-normal population holds, exactly.

    The half-normal is |d| for Gaussian d of one variance: what a difference that prefers no channel
    looks like. With q its upper quantile, the share is E[X; X > q] / E[X] = exp(-q^2 / 2).
    It is the generous null: when d also varies between tokens, their mean |d| is more even still.

    >>> round(half_normal_share(0.05), 4)
    0.1465
    """
    return float(np.exp(-(stats.norm.isf(fraction / 2) ** 2) / 2))


def half_normal_ccdf(
    values_over_mean: Float[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """P(X > x) of a half-normal X of mean one."""
    return 2 * stats.norm.sf(np.asarray(values_over_mean) * (2 / np.pi) ** 0.5)


def jaccard_of(intersection: int | np.ndarray, size_a: int, size_b: int) -> np.ndarray:
    """Jaccard index of two sets from their sizes and their intersection; 0 if both are empty."""
    return np.asarray(intersection) / np.maximum(size_a + size_b - np.asarray(intersection), 1)


def intersection_law(
    totals: Sequence[int], sizes_a: Sequence[int], sizes_b: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Law of the intersection of two random sets whose sizes are fixed in each of several groups.

    In one group it is hypergeometric; over groups, the sum of independent ones, convolved exactly
    (supports cut at 12 standard deviations, far below double precision).

    Returns:
        The possible sizes of the intersection, and their probabilities.
    """
    first, laws = 0, []
    for total, size_a, size_b in zip(totals, map(int, sizes_a), map(int, sizes_b), strict=True):
        if not (0 <= size_a <= total and 0 <= size_b <= total):
            raise ValueError(f"sets of {size_a} and {size_b} do not fit into {total} channels.")
        if not size_a or not size_b:
            continue
        mean = size_a * size_b / total
        variance = mean * (total - size_a) * (total - size_b) / (total * max(1, total - 1))
        reach = 12 * (variance**0.5 + 1)
        low = max(0, size_a + size_b - total, int(mean - reach))
        high = min(size_a, size_b, int(mean + reach))
        first += low
        laws.append(stats.hypergeom.pmf(np.arange(low, high + 1), total, size_a, size_b))
    pmf = reduce(np.convolve, laws, np.ones(1))
    return first + np.arange(pmf.size), pmf / pmf.sum()


def hypergeometric_jaccard(total: int, size_a: int, size_b: int) -> float:
    """Exact expected Jaccard index of two independent random sets of given sizes out of `total`.

    >>> round(hypergeometric_jaccard(1000, 50, 50), 4)
    0.0259

    Raises:
        ValueError: a size is negative or above `total`.
    """
    sizes, pmf = intersection_law([total], [size_a], [size_b])
    return float(pmf @ jaccard_of(sizes, size_a, size_b))


def seed_interval(
    values: Float[np.ndarray, " seeds"], level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of one number a training seed, with Student's interval for the mean.

    For numbers that exist once a seed, of which there are too few to resample: with n seeds the
    ends are mean ± t(n - 1) s / sqrt(n), s the standard deviation over n - 1. One seed has no
    interval: its ends are NaN.

    Raises:
        ValueError: no value.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("an interval over seeds needs at least one value; there is none")
    mean = float(values.mean())
    if values.size == 1 or not values.std():
        return (mean, np.nan, np.nan) if values.size == 1 else (mean, mean, mean)
    low, high = stats.t.interval(level, values.size - 1, loc=mean, scale=stats.sem(values))
    return mean, float(low), float(high)


def _non_negative(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float).ravel()
    if values.size == 0 or not (values >= 0).all():
        raise ValueError("expected at least one value, all of them non-negative numbers.")
    return values
