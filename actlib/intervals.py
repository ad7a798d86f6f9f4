"""Intervals for what is measured on items: bootstrap means, paired differences, recovery.

Items are data frames with the columns `item`, `score` and, where there are several, `seed`; a frame
without `seed` holds for every seed. Intervals are percentile bootstraps, fixed by `seed`.

    recovery(transferred_items, target_items, donor_items).estimate
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval, in the unit of the values."""

    estimate: float
    low: float
    high: float


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
        point, draws, counts = _resampled_means([group], resamples, seed)
        rows.append((*key, point[0], *_ends(draws[:, 0], level), *counts))
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

    Raises:
        ValueError: the frames do not hold the same items and seeds, or one holds an item twice.
    """
    point, draws, _ = _resampled_means([items_a, items_b], resamples, seed)
    return Interval(float(point[0] - point[1]), *_ends(draws[:, 0] - draws[:, 1], level))


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
    (method, target, donor), draws, counts = _resampled_means(frames, resamples, seed)
    gaps = draws[:, 2] - draws[:, 1]
    gap_low, gap_high = _ends(gaps, level)
    clear = bool(gap_low > 0 or gap_high < 0)
    ratio = (np.nan,) * 3
    if clear:
        usable = gaps != 0  # a resample without a gap, rare beyond the interval, has no ratio
        ends = _ends((draws[usable, 0] - draws[usable, 1]) / gaps[usable], level)
        ratio = (float((method - target) / (donor - target)), *ends)
    return Recovery(*ratio, float(donor - target), gap_low, gap_high, clear, *counts)


def _resampled_means(
    frames: list[pd.DataFrame], resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Mean of each frame's scores, its resamples [resamples, frames], and (items, seeds)."""
    by_seed = _aligned(frames)
    rng = np.random.default_rng(seed)
    seeds, first = len(by_seed), by_seed[0].index
    crossed = all(table.index.equals(first) for table in by_seed)
    point = np.mean([table.to_numpy().mean(axis=0) for table in by_seed], axis=0)
    blocks = []
    for count in _blocks(resamples, max(1, 2_000_000 // max(map(len, by_seed)))):
        seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        shared = rng.multinomial(len(first), np.full(len(first), 1 / len(first)), size=count)
        total = 0.0
        for draws, table in zip(seed_weights.T, by_seed, strict=True):
            size = len(table)
            nested = None if crossed else rng.multinomial(draws * size, np.full(size, 1 / size))
            weights = draws[:, None] * shared if crossed else nested
            total = total + weights @ table.to_numpy() / size
        blocks.append(total / seeds)
    return point, np.concatenate(blocks), (len({i for t in by_seed for i in t.index}), seeds)


def _aligned(frames: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """One table [items, frames] a seed, rows sorted by item, from frames checked to match."""
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
    table = pd.concat(columns, axis=1)
    return [table.loc[value] for value in seeds]


def _ends(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _blocks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
