"""Means of items and their bootstrap resamples, by training seed and by cluster of items.

A table of items has one row an item: `item`, a measure such as `nll` and, where there are any,
`seed` (training), `draw` (of a random method; draws are averaged) and `cluster`: items that are not
independent, such as one computation asked in several languages, share one, and clusters are then
drawn in the place of items.

    wide = pivot_scores(items, "method")
    drawn = resample_means(wide, clusters_of(items))    # drawn.draws: [resamples, methods]

Seeds are drawn first, then clusters, once for all seeds (a crossed design: an item's difficulty is
shared, so drawing it per seed would make intervals too narrow). Seeds count equally. With fewer
than about five seeds an interval is only a rough one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

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


def pivot_scores(items: pd.DataFrame, column: str, value: str = "nll") -> pd.DataFrame:
    """Scores by seed and item (rows) and by the values of `column`, draws averaged.

    Raises:
        ValueError: a score is missing or NaN, or an item occurs twice a seed and draw.
    """
    items = items if "seed" in items else items.assign(seed=0)
    keys = [column, "seed", "item"]
    if items.duplicated([*keys, *(["draw"] if "draw" in items else [])]).any():
        raise ValueError(f"one {column} has an item twice in a seed and draw; leave one row each")
    wide = items[value].astype(float).groupby([items[key] for key in keys]).mean().unstack(column)
    seeds = wide.index.unique("seed")
    missing = int(wide.isna().sum().sum())
    crossed = len(wide) == len(seeds) * wide.index.unique("item").size
    if wide.empty or missing or not crossed or items[value].isna().any():
        raise ValueError(
            f"every {column} must have the same items in the same seeds, and no NaN; {missing} of "
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
    wide: pd.DataFrame, clusters: pd.Series | None = None, resamples: int = 2000
) -> Resampled:
    """Mean of every column, and its resamples by seed and cluster: one draw serves all columns.

    A resample's mean is over the items that it drew, whose number varies where clusters differ in
    size. Draws are fixed.

    Args:
        wide: scores by seed and item (rows), as `pivot_scores` gives them.
        clusters: cluster of each item, indexed by item; None if every item is its own.
        resamples: number of draws.
    """
    seeds, items = wide.index.unique("seed"), wide.index.unique("item")
    scores = wide.to_numpy().reshape(len(seeds), len(items), wide.shape[1])
    labels = np.arange(len(items))
    if clusters is not None and not clusters.is_unique:
        labels = clusters.reindex(items).to_numpy()
    names, unit = np.unique(labels, return_inverse=True)
    # what is drawn: sums of scores [seeds, units, columns], and the items in each unit
    member = unit == np.arange(len(names))[:, None]
    sums, sizes = member @ scores, member.sum(axis=1)
    rng, blocks, rows = np.random.default_rng(0), [], max(1, BLOCK // len(sizes))
    for start in range(0, resamples, rows):
        # how often each seed, and each unit, is drawn
        counts = [
            rng.multinomial(n, np.full(n, 1 / n), size=min(rows, resamples - start))
            for n in (len(seeds), len(sizes))
        ]
        by_seed = (counts[1] @ sums) / (counts[1] @ sizes)[:, None]
        blocks.append(np.einsum("rs,src->rc", counts[0], by_seed) / len(seeds))
    point = scores.mean(axis=1).mean(axis=0)
    return Resampled(point, np.concatenate(blocks), len(items), len(seeds))


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
