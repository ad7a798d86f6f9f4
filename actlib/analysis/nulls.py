"""How concentrated scores are and how far masks overlap, beside what chance alone gives.

Arrays in, numbers out: `values` and masks are mappings from a module's name to an array over its
channels, such as `ChannelScores.values`, `ChannelScores.ranked("scaled")`, `ChannelMask.channels`.

    nulls.concentration(scores.values, percents=[1, 5])
    nulls.overlap(first.channels, second.channels, per_module=True)
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

HALF_NORMAL_GINI = 2**0.5 - 1
"""Gini coefficient of the half-normal distribution, whatever its scale."""


def top_share(values: Float[np.ndarray, " channels"], percent: float) -> float:
    """Share (fraction) of the values' sum that the top `percent` % hold; NaN if the sum is zero.

    The top are floor(percent / 100 * channels), at least one, safe against binary rounding.

    >>> top_share([1, 1, 1, 1, 6], 20), top_share([1, 1, 1, 1, 6], 40)
    (0.6, 0.7)

    Raises:
        ValueError: no value, a negative or NaN value, or a percent outside (0, 100].
    """
    ordered = _sorted(values)[::-1]
    total = ordered.sum()
    return float(ordered[: _top_count(percent, ordered.size)].sum() / total) if total else np.nan


def gini(values: Float[np.ndarray, " channels"]) -> float:
    """Gini coefficient: 0 when all values are equal, near 1 when one has everything.

    NaN where the sum is zero.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 1])
    (0.0, 0.75)

    Raises:
        ValueError: no value, or a negative or NaN value.
    """
    ordered = _sorted(values)
    ranks = np.arange(1, ordered.size + 1)
    total = ordered.size * ordered.sum()
    return float((2 * ranks - ordered.size - 1) @ ordered / total) if total else np.nan


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


def concentration(
    values: Mapping[str, ArrayLike],
    percents: Iterable[float] = (1, 5, 10),
    groups: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Share of all score that the top channels hold, and Gini, beside the half-normal null.

    Args:
        values: scores of each module.
        percents: sizes of the top, in percent of the group's own channels.
        groups: group of each module, such as its kind; all modules together if None.

    Returns:
        name (of the group, or "all"), top_percent, channels, share_percent, null_share_percent,
        gini, null_gini. Shares are NaN in a group that did not change at all.
    """
    rows = []
    for name, group in _grouped(values, groups).items():
        for percent in percents:
            null = half_normal_share(_top_count(percent, group.size) / group.size)
            row = {"name": name, "top_percent": percent, "channels": group.size}
            row |= {"share_percent": 100 * top_share(group, percent)}
            row |= {"null_share_percent": 100 * null, "gini": gini(group)}
            rows.append(row | {"null_gini": HALF_NORMAL_GINI})
    return pd.DataFrame(rows)


def ccdf(values: Mapping[str, ArrayLike], points: int = 200) -> pd.DataFrame:
    """Complementary CDF of all scores, at ranks evenly spaced in their logarithm.

    So the tail is resolved to one channel.

    Returns:
        value, value_over_mean, ccdf (fraction of the channels with at least this value), null_ccdf
        (the half-normal of the same mean).

    Raises:
        ValueError: every score is zero.
    """
    ordered = _sorted(_grouped(values)["all"])[::-1]
    if not ordered.any():
        raise ValueError("every score is zero: donor and target agree on all answer tokens")
    ranks = np.unique(np.geomspace(1, ordered.size, points).round().astype(int))[::-1]
    value, over_mean = ordered[ranks - 1], ordered[ranks - 1] / ordered.mean()
    table = {"value": value, "value_over_mean": over_mean, "ccdf": ranks / ordered.size}
    return pd.DataFrame(table).assign(null_ccdf=half_normal_ccdf(over_mean))


def jaccard(intersection: int | np.ndarray, size_a: int, size_b: int) -> np.ndarray:
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

    Raises:
        ValueError: a size is negative or above its total.
    """
    first, laws = 0, []
    for total, size_a, size_b in zip(totals, map(int, sizes_a), map(int, sizes_b), strict=True):
        if not (0 <= size_a <= total and 0 <= size_b <= total):
            raise ValueError(f"sets of {size_a} and {size_b} do not fit into {total} channels")
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


def overlap(
    mask_a: Mapping[str, ArrayLike], mask_b: Mapping[str, ArrayLike], per_module: bool = False
) -> dict[str, float]:
    """Jaccard index of two masks against two random masks of their sizes, exactly.

    Args:
        mask_a: chosen channels of each module.
        mask_b: likewise, of the same modules.
        per_module: random masks also have each module's count, the stricter null: that both masks
            favor the same modules is taken for granted. Otherwise they are drawn from all channels.

    Returns:
        channels, size_a, size_b, intersection, jaccard, expected_jaccard, null_low, null_high (the
        range holding 95 % of the null), p_above (the null's chance of at least this much).

    Raises:
        ValueError: the masks do not cover the same modules and channels.
    """
    pairs = _aligned(mask_a, mask_b)
    if not per_module:
        pairs = [tuple(np.concatenate(side) for side in zip(*pairs, strict=True))]
    counts = np.array([(a.size, a.sum(), b.sum(), (a & b).sum()) for a, b in pairs])
    channels, size_a, size_b, common = counts.sum(axis=0).tolist()
    sizes, pmf = intersection_law(*counts.T[:3])
    # the range that holds 95 % of the null
    ends = np.searchsorted(np.cumsum(pmf), [0.025, 0.975])
    low, high = jaccard(sizes[np.minimum(ends, sizes.size - 1)], size_a, size_b)
    row = {"channels": channels, "size_a": size_a, "size_b": size_b, "intersection": common}
    row |= {"jaccard": float(jaccard(common, size_a, size_b))}
    row |= {"expected_jaccard": float(pmf @ jaccard(sizes, size_a, size_b))}
    row |= {"null_low": float(low), "null_high": float(high)}
    return row | {"p_above": float(min(1.0, pmf[sizes >= common].sum()))}


def overlap_table(masks: Mapping[str, Mapping[str, ArrayLike]]) -> pd.DataFrame:
    """Both overlaps of every pair of named masks, each pair in both orders, and with itself.

    Returns:
        ability_a, ability_b, null (uniform, matched: see `per_module`), then those of `overlap`.
    """
    rows = []
    for a, b in combinations_with_replacement(masks, 2):
        for null, per_module in (("uniform", False), ("matched", True)):
            numbers = overlap(masks[a], masks[b], per_module)
            rows.append({"ability_a": a, "ability_b": b, "null": null, **numbers})
            if a != b:
                sizes = {"size_a": numbers["size_b"], "size_b": numbers["size_a"]}
                rows.append({"ability_a": b, "ability_b": a, "null": null, **numbers, **sizes})
    return pd.DataFrame(rows)


def rank_agreement(
    values_a: Mapping[str, ArrayLike],
    values_b: Mapping[str, ArrayLike],
) -> dict[str, float]:
    """Spearman correlations of two scorings, over all channels and within modules.

    Returns:
        spearman_global (much of which is scale between modules), spearman_within (mean over modules
        of the correlation within one, those of constant values left out; NaN if none is left).

    Raises:
        ValueError: the scores do not cover the same modules and channels.
    """
    pairs = _aligned(values_a, values_b)
    within = [_spearman(*pair) for pair in pairs]
    within = [value for value in within if not np.isnan(value)]
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return {
        "spearman_global": _spearman(a, b),
        "spearman_within": float(np.mean(within)) if within else np.nan,
    }


def composition(
    mask: Mapping[str, ArrayLike], kinds: Mapping[str, str], layers: Mapping[str, int]
) -> pd.DataFrame:
    """Where a mask lies: its channels by module kind and layer, in module order.

    Args:
        mask: chosen channels of each module.
        kinds: kind of each module.
        layers: layer of each module, -1 outside the layers.

    Returns:
        kind, layer, channels, masked (counts), masked_percent (of the channels of this kind and
        layer), of_mask_percent (of the mask).
    """
    arrays = {name: np.asarray(chosen) for name, chosen in mask.items()}
    rows = [(kinds[name], layers[name], x.size, int(x.sum())) for name, x in arrays.items()]
    table = pd.DataFrame(rows, columns=["kind", "layer", "channels", "masked"])
    table = table.groupby(["kind", "layer"], sort=False, as_index=False).sum()
    table["masked_percent"] = 100 * table["masked"] / table["channels"]
    return table.assign(of_mask_percent=100 * table["masked"] / max(1, table["masked"].sum()))


def _top_count(percent: float, total: int) -> int:
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be above 0 and at most 100, not {percent}")
    return max(1, int(np.floor(round(percent * total / 100, 9))))


def _sorted(values: Float[np.ndarray, " channels"]) -> Float[np.ndarray, " channels"]:
    values = np.asarray(values, dtype=float).ravel()
    if values.size == 0 or not (values >= 0).all():
        raise ValueError("expected at least one value, all of them non-negative numbers")
    return np.sort(values)


def _grouped(
    values: Mapping[str, ArrayLike], groups: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    for name, array in values.items():
        group = groups[name] if groups else "all"
        parts.setdefault(group, []).append(np.asarray(array, dtype=float).ravel())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _aligned(
    first: Mapping[str, ArrayLike], second: Mapping[str, ArrayLike]
) -> list[tuple[np.ndarray, ...]]:
    """The arrays of both by module, in the first one's order."""
    a, b = ({name: np.asarray(x) for name, x in each.items()} for each in (first, second))
    names = a.keys() | b.keys()
    differing = [n for n in names if n not in a or n not in b or a[n].size != b[n].size]
    if differing:
        raise ValueError(
            f"expected the same modules and channels in both; {len(differing)} modules differ, "
            f"such as {min(differing)!r}"
        )
    return [(a[name], b[name]) for name in a]


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(stats.spearmanr(a, b).statistic)
