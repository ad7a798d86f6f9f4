"""Means of items and their bootstrap resamples, by training seed and by cluster of items.

A table of items has one row an item: `item`, a score and, where there are any, `seed` (training),
`draw` (of a random method; draws are averaged) and `cluster`: items that are not independent, such
as one computation asked in several languages, share one, and clusters are then drawn in the place
of items.

    wide = pivot_scores(items, "method")
    (drawn,) = resample_means([wide], clusters_of(items))    # drawn.draws: [resamples, methods]

Seeds are drawn first. Items that all seeds share are drawn once for all of them (a crossed design:
their difficulty is shared, so drawing them per seed would make intervals too narrow), otherwise
within each seed. Seeds count equally. With fewer than about five seeds an interval is only a rough
one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

LEVEL = 0.05
"""Of all tests; intervals hold 1 - LEVEL."""

BLOCK = 2_000_000
"""Numbers drawn at a time, which bounds memory at 16 MB."""


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval, in the unit of the values."""

    estimate: float
    low: float
    high: float


class Resampled(NamedTuple):
    """Means of a table's columns with their resamples, and how many items and seeds they are of."""

    point: Float[np.ndarray, " columns"]
    draws: Float[np.ndarray, "resamples columns"]
    items: int
    seeds: int


def pivot_scores(items: pd.DataFrame, column: str, value: str = "score") -> pd.DataFrame:
    """Scores by seed and item (rows) and by the values of `column`, draws averaged.

    Raises:
        ValueError: a score is missing or NaN, or an item occurs twice a seed and draw.
    """
    items = items if "seed" in items else items.assign(seed=0)
    keys = [column, "seed", "item"]
    if items.duplicated([*keys, *(["draw"] if "draw" in items else [])]).any():
        raise ValueError(f"one {column} has an item twice in a seed and draw; leave one row each")
    wide = items[value].astype(float).groupby([items[key] for key in keys]).mean().unstack(column)
    missing = int(wide.isna().sum().sum())
    if wide.empty or missing or items[value].isna().any():
        raise ValueError(
            f"every {column} must have the same items and seeds, and no NaN; {missing} of "
            f"{wide.size} scores are missing"
        )
    return wide


def clusters_of(items: pd.DataFrame) -> pd.Series | None:
    """Cluster of each item, indexed by item; None without the column `cluster`.

    Raises:
        ValueError: an item is in two clusters or in none.
    """
    if "cluster" not in items:
        return None
    pairs = items[["item", "cluster"]].drop_duplicates()
    if pairs["cluster"].isna().any() or pairs["item"].duplicated().any():
        raise ValueError(
            f"every item needs one cluster; there are {pairs['item'].nunique()} items and "
            f"{len(pairs)} pairs of item and cluster, {pairs['cluster'].isna().sum()} without one"
        )
    return pairs.set_index("item")["cluster"]


def resample_means(
    tables: Sequence[pd.DataFrame],
    clusters: pd.Series | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Resampled]:
    """Mean of every column of each table, and its resamples by seed and cluster.

    One draw of items serves all columns of a table, and one draw of seeds serves all tables; the
    items of one table are drawn apart from those of another. A resample's mean is over the items
    that it drew, whose number varies where clusters differ in size.

    Args:
        tables: scores, indexed by seed and item, with the same seeds in each; see `pivot_scores`.
        clusters: cluster of each item, indexed by item; None if every item is its own.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: tables with other seeds.
    """
    seeds = [sorted(table.index.unique(0)) for table in tables]
    if any(other != seeds[0] for other in seeds[1:]):
        raise ValueError(f"tables drawn jointly must have the same seeds; they have {seeds}")
    parts = [[_sum_units(table.loc[s], clusters) for s in seeds[0]] for table in tables]
    longest = max(len(sizes) for part in parts for _, sizes in part)
    rng = np.random.default_rng(seed)
    blocks: list[list[np.ndarray]] = [[] for _ in tables]
    rows = max(1, BLOCK // longest)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        times = _draw_counts(rng, len(seeds[0]), count)
        for block, part in zip(blocks, parts, strict=True):
            block.append(_average(rng, part, times))
    points = [np.mean([t.loc[s].to_numpy().mean(axis=0) for s in seeds[0]], axis=0) for t in tables]
    return [
        Resampled(point, np.concatenate(block), table.index.unique(1).size, len(seeds[0]))
        for point, block, table in zip(points, blocks, tables, strict=True)
    ]


def _sum_units(table: pd.DataFrame, clusters: pd.Series | None) -> tuple[pd.DataFrame, pd.Series]:
    """What is drawn of one seed: sums of scores [units, columns], and the items in each unit."""
    if clusters is None or clusters.is_unique:
        return table, pd.Series(1, index=table.index)
    groups = table.groupby(clusters.reindex(table.index).to_numpy())
    return groups.sum(), groups.size()


def _draw_counts(rng: np.random.Generator, size: int, count: int) -> Int[np.ndarray, "count size"]:
    """How often each of `size` things is drawn, when as many are drawn with replacement."""
    return rng.multinomial(size, np.full(size, 1 / size), size=count)


def _average(
    rng: np.random.Generator,
    part: list[tuple[pd.DataFrame, pd.Series]],
    times: Int[np.ndarray, "resamples seeds"],
) -> Float[np.ndarray, "resamples columns"]:
    """Means over drawn units of one table; seeds share the draw if they have the same units."""
    first = part[0][1].index
    crossed = all(sizes.index.equals(first) for _, sizes in part)
    shared = _draw_counts(rng, len(first), len(times))
    total = np.zeros((len(times), part[0][0].shape[1]))
    for draws, (sums, sizes) in zip(times.T, part, strict=True):
        # how often each unit counts, in all draws of this seed together
        units = len(sizes)
        nested = None if crossed else rng.multinomial(draws * units, np.full(units, 1 / units))
        weights = draws[:, None] * shared if crossed else nested
        # mean over the items drawn, times the draws of the seed
        items = weights @ sizes.to_numpy() / np.maximum(draws, 1)
        total += weights @ sums.to_numpy() / np.where(draws > 0, items, 1)[:, None]
    return total / len(part)


def groups_of(table: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Groups in order of appearance, each under its values of `by`; all rows if `by` is empty."""
    if not by:
        yield {}, table
        return
    for key, group in table.groupby(list(by), sort=False):
        yield dict(zip(by, key, strict=True)), group


def ends_of(draws: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """Ends of the percentile interval."""
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
