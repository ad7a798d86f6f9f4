"""Statistics of items: means, paired differences, recovered shares, with bootstrap intervals.

    recovered = stats.recovery(items, by=["method", "top_percent", "seed"], value="exact")
    changes = stats.differences(items, baseline="target")    # method - target, by item and seed

Intervals are 95 % percentile bootstraps; `actlib.analysis.resampling` says how seeds and items are
drawn, and what a table of items is. They describe; `actlib.analysis.contrasts` tests. Scores are
better the higher they are.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from actlib.analysis.contrasts import compare_seeds
from actlib.analysis.resampling import (
    Resampled,
    clusters_of,
    ends_of,
    groups_of,
    pivot_scores,
    resample_means,
)

REFERENCES = ("target", "donor")
"""Methods that stand for the untouched models."""


def means(
    items: pd.DataFrame,
    by: Sequence[str],
    value: str = "nll",
    resamples: int = 2000,
) -> pd.DataFrame:
    """Mean of the column `value` with its interval for each group of the columns `by`.

    Returns:
        The columns of `by`, then mean, low, high (in the unit of `value`), items, seeds.
    """
    rows = []
    for labels, group in groups_of(items, by):
        wide = pivot_scores(group.assign(all=0), "all", value)
        drawn = resample_means(wide, clusters_of(group), resamples)
        low, high = ends_of(drawn.draws[:, 0])
        row = labels | {"mean": drawn.point[0], "low": low, "high": high}
        rows.append(row | {"items": drawn.items, "seeds": drawn.seeds})
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "items", "seeds"])


def differences(
    items: pd.DataFrame,
    baseline: str,
    by: Sequence[str] = (),
    value: str = "nll",
    resamples: int = 2000,
) -> pd.DataFrame:
    """Mean of each method minus that of the baseline on the same items, paired by item and seed.

    One draw of seeds and clusters serves all methods of a group. Groups without the baseline are
    left out.

    Returns:
        The columns of `by`, method, baseline, difference, low, high (in the unit of `value`),
        p_t (Student's t over the seeds' mean differences, NaN for fewer than three seeds), items,
        seeds.

    Raises:
        ValueError: methods of a group differ in their items or seeds, one has an item twice, or a
            score is NaN.
    """
    rows = []
    for labels, group in groups_of(items, by):
        names = [name for name in group["method"].unique() if name != baseline]
        if len(names) == group["method"].nunique():
            continue
        wide = pivot_scores(group, "method", value)[[baseline, *names]]
        drawn = resample_means(wide, clusters_of(group), resamples)
        point, draws = (x[..., 1:] - x[..., :1] for x in (drawn.point, drawn.draws))
        by_seed = wide.groupby(level="seed").mean()
        for name, estimate, column in zip(names, point, draws.T, strict=True):
            low, high = ends_of(column)
            row = labels | {"method": name, "baseline": baseline, "difference": estimate}
            test = compare_seeds(by_seed[name], by_seed[baseline])
            row |= {"low": low, "high": high, "p_t": test.p_zero}
            rows.append(row | {"items": drawn.items, "seeds": drawn.seeds})
    numbers = ["difference", "low", "high", "p_t", "items", "seeds"]
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
        wide = pivot_scores(part, "condition", value)
        drawn = resample_means(wide, clusters_of(part), resamples)
        first = part.drop_duplicates("condition").set_index("condition")
        for column, condition in enumerate(wide.columns[2:], start=2):
            keys = labels | {name: first.loc[condition, name] for name in own}
            counts = {"items": drawn.items, "seeds": drawn.seeds}
            rows.append(keys | _share(drawn, column) | counts)
    columns = ["recovery", "low", "high", "gap", "gap_low", "gap_high", "gap_clear"]
    return pd.DataFrame(rows, columns=[*by, *columns, "items", "seeds"])


def _share(drawn: Resampled, column: int) -> dict[str, float]:
    """Recovered share of one column, of which column 0 is the target and column 1 the donor."""
    gap, gaps = drawn.point[1] - drawn.point[0], drawn.draws[:, 1] - drawn.draws[:, 0]
    gap_low, gap_high = ends_of(gaps)
    clear = bool(gap_low > 0 or gap_high < 0)
    share, low, high = np.nan, np.nan, np.nan
    if clear:
        usable = gaps != 0  # a resample without a gap, rare beyond the interval, has no ratio
        share = (drawn.point[column] - drawn.point[0]) / gap
        low, high = ends_of((drawn.draws[:, column] - drawn.draws[:, 0])[usable] / gaps[usable])
    table = {"recovery": share, "low": low, "high": high, "gap": gap}
    return table | {"gap_low": gap_low, "gap_high": gap_high, "gap_clear": clear}
