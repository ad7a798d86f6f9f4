"""Tables about scores and masks: concentration, make-up, overlap and agreement, with their nulls.

Takes anything with `.values` and `.magnitudes` (scores) or `.channels` (masks) that map a module's
name to an array, and returns tidy data frames for `actlib.plotting`. Shares are in percent
and say so in their column's name; Jaccard indices are fractions.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from actlib.channels import kind_of, layer_of, tower_of
from actlib.measures.intervals import bootstrap_interval
from actlib.measures.statistics import (
    HALF_NORMAL_GINI,
    gini,
    half_normal_ccdf,
    half_normal_share,
    intersection_law,
    jaccard_of,
    share_of_top,
    top_count,
)


def concentration_table(
    scores, percents: Iterable[float] = (1, 5, 10), scaled: bool = False
) -> pd.DataFrame:
    """Share of all score held by the top channels, and Gini, overall, by module kind and by layer.

    Both come beside their value under the half-normal null (see `half_normal_share`).

    Args:
        scores: Channel scores.
        percents: Sizes of the top, in percent of the group's own channels.
        scaled: Divide each module's values by its mean activation magnitude first, so that modules
            of large scale (logits above all) do not make the whole look concentrated.

    Returns:
        group (all, kind, layer), name, ranking (raw, scaled), top_percent, channels, share_percent,
        null_share_percent, gini, null_gini. Shares are NaN in a group that did not change at all.
    """
    rows = []
    for group, name, values in _groups(_module_values(scores, scaled)):
        shares = share_of_top(values, percents)
        for percent, share in zip(percents, shares, strict=True):
            null = half_normal_share(top_count(percent, values.size) / values.size)
            row: dict[str, str | float]
            row = {"group": group, "name": name, "ranking": _ranking(scaled)}
            row |= {"top_percent": percent, "channels": values.size}
            row |= {"share_percent": 100 * share, "null_share_percent": 100 * null}
            rows.append(row | {"gini": gini(values), "null_gini": HALF_NORMAL_GINI})
    return pd.DataFrame(rows)


def shares(
    scores, percents: Iterable[float] = (1, 5, 10), scaled: bool = False
) -> Float[np.ndarray, " percents"]:
    """Fraction of all score that the top channels of the whole model hold, for each percent."""
    values = np.concatenate(list(_module_values(scores, scaled).values()))
    return np.asarray(share_of_top(values, percents))


def ccdf_table(scores, points: int = 200) -> pd.DataFrame:
    """Complementary CDF of the scores, raw and scaled, overall, by module kind and by layer.

    Sampled at ranks evenly spaced in their logarithm, so that the tail is resolved to one channel.

    Returns:
        group, name, ranking (raw, scaled), value, value_over_mean (value / the group's mean), ccdf
        (fraction of the group's channels with at least this value), null_ccdf (the half-normal of
        the same mean). A group that did not change at all is left out.
    """
    tables = []
    for scaled in (False, True):
        for group, name, values in _groups(_module_values(scores, scaled)):
            if values.mean() == 0:
                continue
            ranks = np.unique(np.geomspace(1, values.size, points).round().astype(int))[::-1]
            value = np.sort(values)[::-1][ranks - 1]
            columns = {"group": group, "name": name, "ranking": _ranking(scaled), "value": value}
            columns |= {"value_over_mean": value / values.mean(), "ccdf": ranks / values.size}
            tables.append(pd.DataFrame(columns))
    if not tables:
        raise ValueError("every score is zero: donor and target agree on all answer tokens.")
    table = pd.concat(tables, ignore_index=True)
    return table.assign(null_ccdf=half_normal_ccdf(table["value_over_mean"].to_numpy()))


def mask_makeup(mask) -> pd.DataFrame:
    """Where a mask lies: its channels by module kind and layer, in module order.

    Returns:
        kind, layer (-1 outside the layers), channels, masked (counts), masked_percent (of the
        cell's channels), of_mask_percent (of the mask).
    """
    rows = [
        (kind_of(name), layer_of(name), chosen.size, int(chosen.sum()))
        for name, chosen in _mask_arrays(mask).items()
    ]
    table = pd.DataFrame(rows, columns=["kind", "layer", "channels", "masked"])
    table = table.groupby(["kind", "layer"], sort=False, as_index=False).sum()
    masked_percent = 100 * table["masked"] / table["channels"]
    of_mask_percent = 100 * table["masked"] / max(1, table["masked"].sum())
    return table.assign(masked_percent=masked_percent, of_mask_percent=of_mask_percent)


def overlap(mask_a, mask_b, level: float = 0.95) -> dict[str, float]:
    """Jaccard index of two masks against two random masks of their sizes, exactly.

    Null: both drawn uniformly from all channels, so that the intersection is hypergeometric.

    Returns:
        channels, size_a, size_b, intersection, jaccard, expected_jaccard, null_low, null_high (the
        range holding `level` of the null), p_above (the null's chance of at least this much).

    Raises:
        ValueError: the masks do not cover the same modules and channels.
    """
    a, b = _same_layout(mask_a, mask_b)
    groups = [(np.concatenate([*a.values()]), np.concatenate([*b.values()]))]
    return _against_null(groups, level)


def matched_overlap(mask_a, mask_b, level: float = 0.95) -> dict[str, float]:
    """As `overlap`, against random masks that also keep each module's count.

    The stricter null: that both masks favor the same modules is taken for granted, and only the
    choice of channels within modules counts. Exact, a sum of independent hypergeometrics.
    """
    a, b = _same_layout(mask_a, mask_b)
    return _against_null([(a[name], b[name]) for name in a], level)


def overlap_table(masks: Mapping[str, object], level: float = 0.95) -> pd.DataFrame:
    """Both overlaps of every pair of named masks, each pair in both orders, and with itself.

    Returns:
        ability_a, ability_b, null (uniform, matched), then the entries of `overlap`.
    """
    rows = []
    for a, b in combinations_with_replacement(masks, 2):
        for null, function in (("uniform", overlap), ("matched", matched_overlap)):
            found = function(masks[a], masks[b], level)
            rows.append({"ability_a": a, "ability_b": b, "null": null, **found})
            if a != b:
                sizes = {"size_a": found["size_b"], "size_b": found["size_a"]}
                rows.append({"ability_a": b, "ability_b": a, "null": null, **found, **sizes})
    return pd.DataFrame(rows)


def rank_agreement(scores_a, scores_b, percent: float, ranking: str = "global") -> dict[str, float]:
    """How far two scorings agree: in their top, over all channels, and within modules.

    Returns:
        top_percent, the entries of `overlap` of the two tops, spearman_global (over all channels,
        much of which is scale between modules), spearman_within (mean over modules of the
        correlation within one, modules with constant values left out; NaN if none is left).

    Raises:
        ValueError: the scores do not cover the same modules and channels.
    """
    tops = overlap(scores_a.top(percent, ranking), scores_b.top(percent, ranking))
    a, b = (
        {name: np.asarray(part, dtype=float) for name, part in scores.ranked(ranking).items()}
        for scores in (scores_a, scores_b)
    )
    within = [_spearman(a[name], b[name]) for name in a]
    within = [value for value in within if not np.isnan(value)]
    everything = _spearman(np.concatenate([*a.values()]), np.concatenate([*b.values()]))
    return {"top_percent": percent, **tops, "spearman_global": everything} | {
        "spearman_within": float(np.mean(within)) if within else float("nan")
    }


def mean_table(table: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean of a column in each group, with a bootstrap interval over the group's rows.

    Returns:
        The columns of ``by``, the value's own name, low, high, count (rows of the group).
    """
    rows = []
    for key, group in table.groupby(by, sort=False):
        found = bootstrap_interval(group[value].to_numpy())
        rows.append((*key, *found, len(group)))
    return pd.DataFrame(rows, columns=[*by, value, "low", "high", "count"])


def _against_null(groups: list[tuple[np.ndarray, np.ndarray]], level: float) -> dict[str, float]:
    """Observed Jaccard, and its law when sizes are fixed within each group of channels."""
    size_a, size_b = (int(sum(group[side].sum() for group in groups)) for side in (0, 1))
    observed = int(sum((a & b).sum() for a, b in groups))
    sizes, pmf = intersection_law(
        [a.size for a, _ in groups], [a.sum() for a, _ in groups], [b.sum() for _, b in groups]
    )
    cumulative = np.cumsum(pmf)
    ends = np.searchsorted(cumulative, [(1 - level) / 2, (1 + level) / 2])
    low, high = sizes[np.minimum(ends, sizes.size - 1)]
    return {
        "channels": sum(a.size for a, _ in groups),
        "size_a": size_a,
        "size_b": size_b,
        "intersection": observed,
        "jaccard": float(jaccard_of(observed, size_a, size_b)),
        "expected_jaccard": float(pmf @ jaccard_of(sizes, size_a, size_b)),
        "null_low": float(jaccard_of(low, size_a, size_b)),
        "null_high": float(jaccard_of(high, size_a, size_b)),
        "p_above": float(min(1.0, pmf[sizes >= observed].sum())),
    }


def _module_values(scores, scaled: bool) -> dict[str, Float[np.ndarray, " channels"]]:
    """Each module's scores as float64, over its mean magnitude if `scaled` (0 where that is 0)."""
    values = {name: np.asarray(x, dtype=float).ravel() for name, x in scores.values.items()}
    if not scaled:
        return values
    scales = {name: float(np.mean(np.asarray(scores.magnitudes[name]))) for name in values}
    return {n: x / scales[n] if scales[n] > 0 else np.zeros_like(x) for n, x in values.items()}


def _groups(values: dict[str, np.ndarray]) -> list[tuple[str, str, np.ndarray]]:
    """All values, then by module kind, then by layer of the language model."""
    parts: dict[tuple[str, str], list[np.ndarray]] = {("all", "all"): [*values.values()]}
    for name, array in values.items():
        parts.setdefault(("kind", kind_of(name)), []).append(array)
    for name, array in values.items():
        if layer_of(name) >= 0 and not tower_of(name):
            parts.setdefault(("layer", str(layer_of(name))), []).append(array)
    return [(group, name, np.concatenate(arrays)) for (group, name), arrays in parts.items()]


def _ranking(scaled: bool) -> str:
    return "scaled" if scaled else "raw"


def _mask_arrays(mask) -> dict[str, Bool[np.ndarray, " channels"]]:
    return {name: np.asarray(chosen, dtype=bool) for name, chosen in mask.channels.items()}


def _same_layout(mask_a, mask_b) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    a, b = _mask_arrays(mask_a), _mask_arrays(mask_b)
    differing = [
        n for n in a.keys() | b.keys() if n not in a or n not in b or a[n].size != b[n].size
    ]
    if differing:
        raise ValueError(
            f"the masks must cover the same channels; {len(differing)} modules differ, "
            f"such as {min(differing)!r}."
        )
    return a, b


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)
