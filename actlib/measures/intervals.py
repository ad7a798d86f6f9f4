"""Intervals for what is measured on items: bootstrap means, paired differences, recovery.

Items are data frames with the columns `item`, `score` and, where there are several, `seed`; a frame
without `seed` holds for every seed. Items that are not independent, such as one computation asked
in several languages, share a value in the column `cluster`; then clusters are drawn instead of
items, each with all its items. Intervals are percentile bootstraps, fixed by `seed`.

    recovery(transferred_items, target_items, donor_items).estimate
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import false_discovery_control


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval, in the unit of the values."""

    estimate: float
    low: float
    high: float


class Difference(NamedTuple):
    """A difference with its interval, in the unit of the values, and its two-sided p-value."""

    estimate: float
    low: float
    high: float
    p_value: float


class Means(NamedTuple):
    """Means of a table's columns with their resamples, and how many items and seeds they are of."""

    point: Float[np.ndarray, " columns"]
    draws: Float[np.ndarray, "resamples columns"]
    items: int
    seeds: int


class Recovery(NamedTuple):
    """Recovered share of the gap between target and donor, with what is needed to judge it.

    `estimate`, `low` and `high` are fractions of the gap (0 the target, 1 the donor), and NaN where
    the gap's own interval includes zero (`gap_clear` false): there is then nothing to recover.
    """

    estimate: float
    low: float
    high: float
    gap: float
    gap_low: float
    gap_high: float
    gap_clear: bool
    items: int
    seeds: int


def bootstrap_interval(
    values: Float[np.ndarray, " items"],
    statistic: Callable = np.mean,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of `statistic` (called with `axis`) over independent values.

    Raises:
        ValueError: no value.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("a bootstrap needs at least one value.")
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // values.size)  # bounds memory at 16 MB a block
    blocks = [
        statistic(values[rng.integers(values.size, size=(count, values.size))], axis=1)
        for count in _blocks(resamples, rows)
    ]
    return Interval(float(statistic(values, axis=0)), *_ends(np.concatenate(blocks), level))


def score_table(
    items: pd.DataFrame,
    by: list[str],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Mean score with its interval for each group of the columns `by`, in order of appearance.

    Items are resampled; where there are several seeds, seeds too (see `paired_difference`).

    Returns:
        The columns of `by`, then mean, low, high, items, seeds.
    """
    rows = []
    for key, group in items.groupby(list(by), sort=False):
        found = _means([group], resamples, seed)
        ends = _ends(found.draws[:, 0], level)
        rows.append((*key, found.point[0], *ends, found.items, found.seeds))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "items", "seeds"])


def paired_difference(
    items_a: pd.DataFrame,
    items_b: pd.DataFrame,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean score of `a` minus that of `b` on the same items, with a paired bootstrap interval.

    Items are resampled, the same for both; with several seeds, seeds are resampled first. Items
    that all seeds share are drawn once for all of them (a crossed design: their difficulty is
    shared, so drawing them per seed would make intervals too narrow), otherwise within each seed.
    Seeds count equally. With fewer than about five seeds an interval is only a rough one.

    Clusters are drawn in the place of items where there are any, and a resample's mean is over the
    items that it drew, whose number varies.

    Raises:
        ValueError: the frames do not hold the same items and seeds, one holds an item twice, or an
            item is in two clusters or in none.
    """
    return Interval(*paired_test(items_a, items_b, resamples, seed, level)[:3])


def paired_test(
    items_a: pd.DataFrame,
    items_b: pd.DataFrame,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """`paired_difference` and, from the same resamples, the p-value of no difference.

    Raises:
        ValueError: as `paired_difference`.
    """
    point, draws, *_ = _means([items_a, items_b], resamples, seed)
    differences = draws[:, 0] - draws[:, 1]
    ends = _ends(differences, level)
    return Difference(float(point[0] - point[1]), *ends, bootstrap_p(differences))


def bootstrap_p(differences: Float[np.ndarray, " resamples"]) -> float:
    """Two-sided p-value of no difference: 2 min(P(d <= 0), P(d >= 0)), at most 1.

    One is added to each count and to the number of resamples, so that no p-value is zero; the
    smallest is 2 / (resamples + 1). Source: Davison & Hinkley, Bootstrap Methods and their
    Application (1997), section 4.2 for the added one; it inverts the percentile interval. NaN if
    there is no resample, or one is NaN.
    """
    differences = np.asarray(differences, dtype=float)
    if not differences.size or np.isnan(differences).any():
        return float("nan")
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))


def corrected(p_values: Sequence[float] | pd.Series) -> Float[np.ndarray, " tests"]:
    """P-values adjusted for their number, by the false discovery rate under any dependence.

    Benjamini & Yekutieli (2001), computed by SciPy. NaN marks a test that was not made: it stays
    NaN and does not count. A bootstrap p-value cannot be below 2 / (resamples + 1), so among m
    tests a single difference can only show at 5 % with more than 40 m (1 + 1/2 + ... + 1/m)
    resamples: 1200 for 10 tests, 2900 for 20.

    Raises:
        ValueError: a p-value is outside 0 to 1.
    """
    values = np.array(p_values, dtype=float)
    made = ~np.isnan(values)
    if ((values[made] < 0) | (values[made] > 1)).any():
        raise ValueError(f"p-values must lie between 0 and 1; they are {values.tolist()}.")
    values[made] = false_discovery_control(values[made], method="by")
    return values


def recovery(
    items_method: pd.DataFrame,
    items_target: pd.DataFrame,
    items_donor: pd.DataFrame,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Recovery:
    """(method - target) / (donor - target) of mean scores, by paired bootstrap.

    Resampling is that of `paired_difference`, one draw serving all three frames.

    Raises:
        ValueError: the frames do not hold the same items and seeds, or one holds an item twice.
    """
    frames = [items_method, items_target, items_donor]
    (method, target, donor), draws, *counts = _means(frames, resamples, seed)
    gaps = draws[:, 2] - draws[:, 1]
    gap_low, gap_high = _ends(gaps, level)
    clear = bool(gap_low > 0 or gap_high < 0)
    ratio = (np.nan,) * 3
    if clear:
        usable = gaps != 0  # a resample without a gap, rare beyond the interval, has no ratio
        ends = _ends((draws[usable, 0] - draws[usable, 1]) / gaps[usable], level)
        ratio = (float((method - target) / (donor - target)), *ends)
    return Recovery(*ratio, float(donor - target), gap_low, gap_high, clear, *counts)


def joint_means(
    tables: Sequence[pd.DataFrame],
    clusters: pd.Series | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Means]:
    """Mean of every column of each table, and its resamples: see `paired_difference`.

    One draw of items serves all columns of a table, and one draw of seeds serves all tables; the
    items of one table are drawn apart from those of another.

    Args:
        tables: scores, indexed by seed and item, with the same seeds in each.
        clusters: cluster of each item, indexed by item; None if every item is its own.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: tables with other seeds.
    """
    seeds = [sorted(table.index.unique(0)) for table in tables]
    if any(found != seeds[0] for found in seeds[1:]):
        raise ValueError(f"tables drawn jointly must hold the same seeds; they hold {seeds}.")
    parts = [[_units(table.loc[s], clusters) for s in seeds[0]] for table in tables]
    rng = np.random.default_rng(seed)
    blocks: list[list[np.ndarray]] = [[] for _ in tables]
    longest = max(len(sizes) for part in parts for _, sizes in part)
    for count in _blocks(resamples, max(1, 2_000_000 // longest)):
        sizes = len(seeds[0]), len(parts[0][0][1])
        if blocks[0]:
            times, shared = (_drawn(rng, size, count) for size in sizes)
        else:
            times, shared, rng.bit_generator.state = _first_draws(seed, *sizes, count)
        for number, (block, part) in enumerate(zip(blocks, parts, strict=True)):
            shared = _drawn(rng, len(part[0][1]), count) if number else shared
            block.append(_drawn_means(rng, part, times, shared))
    points = [np.mean([t.loc[s].to_numpy().mean(axis=0) for s in seeds[0]], axis=0) for t in tables]
    return [
        Means(point, np.concatenate(block), table.index.unique(1).size, len(seeds[0]))
        for point, block, table in zip(points, blocks, tables, strict=True)
    ]


def _units(table: pd.DataFrame, clusters: pd.Series | None) -> tuple[pd.DataFrame, pd.Series]:
    """What is drawn of one seed: sums of scores [units, columns], and the items in each unit."""
    if clusters is None or clusters.is_unique:
        return table, pd.Series(1, index=table.index)
    groups = table.groupby(clusters.reindex(table.index).to_numpy())
    return groups.sum(), groups.size()


def _drawn(rng: np.random.Generator, size: int, count: int) -> Int[np.ndarray, "count size"]:
    """How often each of `size` things is drawn, when as many are drawn with replacement."""
    return rng.multinomial(size, np.full(size, 1 / size), size=count)


@lru_cache(maxsize=4)
def _first_draws(
    seed: int, seeds: int, units: int, count: int
) -> tuple[np.ndarray, np.ndarray, Mapping[str, Any]]:
    """Draws of seeds and of units, and the generator's state after them.

    Kept, because the many comparisons of one table ask for the same ones.
    """
    rng = np.random.default_rng(seed)
    times, shared = _drawn(rng, seeds, count), _drawn(rng, units, count)
    for each in (times, shared):
        each.flags.writeable = False
    return times, shared, rng.bit_generator.state


def _drawn_means(
    rng: np.random.Generator,
    part: list[tuple[pd.DataFrame, pd.Series]],
    times: Int[np.ndarray, "resamples seeds"],
    shared: Int[np.ndarray, "resamples units"],
) -> Float[np.ndarray, "resamples columns"]:
    """Means over units drawn for one part, `shared` by its seeds if they have the same units."""
    first = part[0][1].index
    crossed = all(sizes.index.equals(first) for _, sizes in part)
    total = np.zeros((len(times), part[0][0].shape[1]))
    for draws, (sums, sizes) in zip(times.T, part, strict=True):
        units = len(sizes)
        nested = None if crossed else rng.multinomial(draws * units, np.full(units, 1 / units))
        weights = draws[:, None] * shared if crossed else nested
        items = weights @ sizes.to_numpy() / np.maximum(draws, 1)  # of one draw of the seed
        total = total + weights @ sums.to_numpy() / np.where(draws > 0, items, 1)[:, None]
    return total / len(part)


def _means(frames: list[pd.DataFrame], resamples: int, seed: int) -> Means:
    """Mean of each frame's scores with its resamples, frames drawn alike."""
    return joint_means([_aligned(frames)], item_clusters(frames), resamples, seed)[0]


def item_clusters(frames: Sequence[pd.DataFrame]) -> pd.Series | None:
    """Cluster of each item, indexed by item; None if no frame has the column `cluster`.

    Raises:
        ValueError: an item is in two clusters or in none.
    """
    told = [frame[["item", "cluster"]] for frame in frames if "cluster" in frame]
    if not told:
        return None
    pairs = pd.concat(told).drop_duplicates()
    items = {item for frame in frames for item in frame["item"].unique()}
    if pairs["cluster"].isna().any() or len(pairs) != len(items):
        raise ValueError(
            f"every item needs one cluster; there are {len(items)} items and {len(pairs)} pairs of "
            f"item and cluster, {pairs['cluster'].isna().sum()} of them without cluster."
        )
    return pairs.set_index("item")["cluster"]


def _aligned(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Scores [seed and item, frames], rows sorted, from frames checked to match."""
    seeds = sorted({s for frame in frames if "seed" in frame for s in frame["seed"]}) or [0]
    columns = []
    for number, frame in enumerate(frames):
        if "seed" not in frame:
            frame = frame[["item", "score"]].merge(pd.DataFrame({"seed": seeds}), how="cross")
        series = frame.set_index(["seed", "item"])["score"].astype(float).sort_index()
        if series.empty or series.isna().any() or not series.index.is_unique:
            raise ValueError(
                f"items {number} are none, hold a NaN score, or one item twice a seed."
            )
        columns.append(series.rename(number))
    if any(not series.index.equals(columns[0].index) for series in columns[1:]):
        sizes = [len(series) for series in columns]
        raise ValueError(f"paired frames must hold the same items and seeds; they hold {sizes}.")
    return pd.concat(columns, axis=1)


def _ends(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _blocks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
