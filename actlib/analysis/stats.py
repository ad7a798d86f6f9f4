"""Statistics of items: means, paired differences, recovered shares, with bootstrap intervals.

    recovered = stats.recovery(items, by=["method", "top_percent", "seed"], value="exact")
    changes = stats.differences(items, baseline="target")    # method - target, by item and seed

A table of items has one row an item: `item`, a measure such as `nll` and, where there are any,
`seed` (training), `draw` (of a random method; draws are averaged) and `cluster`: items that are not
independent, such as one computation asked in several languages, share one, and clusters are then
drawn in the place of items.

Intervals are 95 % percentile bootstraps. Seeds are drawn first, then clusters, once for all seeds
(a crossed design: an item's difficulty is shared, so drawing it per seed would make intervals too
narrow). Seeds count equally. With fewer than about five seeds an interval is only a rough one: it
describes, and `actlib.analysis.contrasts` tests.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from actlib.analysis.contrasts import LEVEL, groups_of

REFERENCES = ("target", "donor")
"""Methods that stand for the untouched models."""


class Resampled(NamedTuple):
    """Means of a table's columns with their resamples, and how many items and seeds they are of."""

    point: Float[np.ndarray, " columns"]
    draws: Float[np.ndarray, "resamples columns"]
    counts: dict[str, int]


def means(
    items: pd.DataFrame,
    by: Sequence[str],
    value: str = "nll",
    resamples: int = 2000,
) -> pd.DataFrame:
    """Mean of the column `value` with its interval for each group of the columns `by`.

    Returns:
        The columns of `by`, then mean, low, high (in the unit of `value`), items, seeds.

    Raises:
        ValueError: as `differences`.
    """
    rows = []
    for labels, group in groups_of(items, by):
        wide = _pivot_scores(group.assign(all=0), "all", value)
        drawn = resample_means(wide, _clusters_of(group), resamples)
        low, high = _ends_of(drawn.draws[:, 0])
        rows.append(labels | {"mean": drawn.point[0], "low": low, "high": high} | drawn.counts)
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "items", "seeds"])


def differences(
    items: pd.DataFrame, baseline: str, by: Sequence[str] = (), value: str = "nll"
) -> pd.DataFrame:
    """Mean of each method minus that of the baseline on the same items, paired by item and seed.

    One draw of seeds and clusters serves all methods of a group. Groups without the baseline are
    left out.

    Returns:
        The columns of `by`, method, baseline, difference, low, high (in the unit of `value`),
        items, seeds.

    Raises:
        ValueError: methods of a group differ in their items or seeds, one has an item twice, a
            score is NaN, or an item is in two clusters or in none.
    """
    rows = []
    for labels, group in groups_of(items, by):
        names = [name for name in group["method"].unique() if name != baseline]
        if len(names) == group["method"].nunique():
            continue
        wide = _pivot_scores(group, "method", value)[[baseline, *names]]
        drawn = resample_means(wide, _clusters_of(group))
        point, draws = (x[..., 1:] - x[..., :1] for x in (drawn.point, drawn.draws))
        for name, estimate, column in zip(names, point, draws.T, strict=True):
            low, high = _ends_of(column)
            row = labels | {"method": name, "baseline": baseline, "difference": estimate}
            rows.append(row | {"low": low, "high": high} | drawn.counts)
    numbers = ["difference", "low", "high", "items", "seeds"]
    return pd.DataFrame(rows, columns=[*by, "method", "baseline", *numbers])


def recovery(
    items: pd.DataFrame,
    by: Sequence[str],
    value: str = "nll",
    resamples: int = 2000,
) -> pd.DataFrame:
    """Recovered share of the gap, (method - target) / (donor - target) of means, paired by item.

    The rows of the methods `target` and `donor` serve every group of the columns `by`. A column in
    which they have values too, such as the ability or the seed, splits them: each ability has its
    own gap.

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
    for labels, part in groups_of(items, shared):
        numbers = part.groupby(own, sort=False, dropna=False).ngroup() if own else 0
        part = part.assign(condition=numbers)
        for number, reference in enumerate(REFERENCES):
            part.loc[part["method"] == reference, "condition"] = number - 2  # -2 target, -1 donor
        wide = _pivot_scores(part, "condition", value)
        if [*wide.columns[:2]] != [-2, -1]:
            where = ", ".join(map(str, labels.values()))
            raise ValueError(f"{where} lacks rows of {REFERENCES}, for the gap between them")
        drawn = resample_means(wide, _clusters_of(part), resamples)
        first = part.drop_duplicates("condition").set_index("condition")
        for column, condition in enumerate(wide.columns[2:], start=2):
            keys = labels | {name: first.loc[condition, name] for name in own}
            rows.append(keys | _share(drawn, column) | drawn.counts)
    columns = ["recovery", "low", "high", "gap", "gap_low", "gap_high", "gap_clear"]
    return pd.DataFrame(rows, columns=[*by, *columns, "items", "seeds"])


def _share(drawn: Resampled, column: int) -> dict[str, float]:
    """Recovered share of one column, of which column 0 is the target and column 1 the donor."""
    gap, gaps = drawn.point[1] - drawn.point[0], drawn.draws[:, 1] - drawn.draws[:, 0]
    gap_low, gap_high = _ends_of(gaps)
    clear = bool(gap_low > 0 or gap_high < 0)
    share, low, high = np.nan, np.nan, np.nan
    if clear:
        usable = gaps != 0  # a resample without a gap, rare beyond the interval, has no ratio
        share = (drawn.point[column] - drawn.point[0]) / gap
        low, high = _ends_of((drawn.draws[:, column] - drawn.draws[:, 0])[usable] / gaps[usable])
    table = {"recovery": share, "low": low, "high": high, "gap": gap}
    return table | {"gap_low": gap_low, "gap_high": gap_high, "gap_clear": clear}


def _pivot_scores(items: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """Scores by seed and item (rows) and by the values of `column`, draws averaged."""
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


def _clusters_of(items: pd.DataFrame) -> pd.Series | None:
    """Cluster of each item, indexed by item; None without the column `cluster`."""
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
        wide: scores by seed and item (rows), a column each; no NaN.
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
    # how often each seed, and each unit, is drawn
    rng = np.random.default_rng(0)
    seed_counts, unit_counts = (
        rng.multinomial(n, np.full(n, 1 / n), size=resamples) for n in (len(seeds), len(sizes))
    )
    by_seed = (unit_counts @ sums) / (unit_counts @ sizes)[:, None]
    draws = np.einsum("rs,src->rc", seed_counts, by_seed) / len(seeds)
    point = scores.mean(axis=1).mean(axis=0)
    return Resampled(point, draws, {"items": len(items), "seeds": len(seeds)})


def _ends_of(draws: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """Ends of the percentile interval."""
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
