"""Tables of results from the items that were judged: one row a group, with interval and number.

    recovered = recovery_table(items, ["method", "top_percent"])

Items are the rows of ``Study.judge`` with labels, of one run or of the kept sweep. Scores are
"higher is better": the negative answer NLL (nats per answer token), and exact match.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from actlib.analysis import stats

ITEM = ["seed", "purpose", "cell", "item", "cluster"]
"""Columns that name an item."""


def scored(items: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Rows with ``score``, higher is better: ``nll`` negated, or ``exact``; draws are averaged.

    Raises:
        ValueError: the measure is unknown.
    """
    if measure not in ("nll", "exact"):
        raise ValueError(f"unknown measure {measure!r}: expected nll or exact")
    table = items.assign(score=-items["nll"] if measure == "nll" else items["exact"])
    keys = [name for name in table if name not in ("draw", "nll", "exact", "score")]
    return table.groupby(keys, sort=False, as_index=False, dropna=False)[["score"]].mean()


def recovery_table(items: pd.DataFrame, by: Sequence[str], measure: str = "nll") -> pd.DataFrame:
    """`actlib.analysis.stats.recovery` of a measure."""
    return stats.recovery(scored(items, measure), by)


def difference_table(
    items: pd.DataFrame, by: Sequence[str], against: str, measure: str = "nll"
) -> pd.DataFrame:
    """`actlib.analysis.stats.differences` of a measure, above zero where the method is better."""
    table = stats.differences(scored(items, measure), against, by, resamples=2000)
    return table[[*by, "method", "difference", "low", "high"]]


def score_means(items: pd.DataFrame, by: Sequence[str], measure: str) -> pd.DataFrame:
    """Mean score of each group of columns with its interval; higher is better."""
    return stats.means(scored(items, measure), by)


def trial_table(items: pd.DataFrame, lost: Iterable[str], by: Sequence[str]) -> pd.DataFrame:
    """Each trial's mean score (negative NLL) on lost and retained abilities, and their mean.

    Returns:
        The columns of ``by``, recovered, retained, criterion (the mean of the two).
    """
    part = items["cell"].isin(list(lost)).map({True: "recovered", False: "retained"})
    table = items.assign(part=part, score=-items["nll"])
    means = table.groupby([*by, "part"], sort=False)["score"].mean().unstack("part")
    return means.assign(criterion=means.mean(axis=1)).reset_index().rename_axis(columns=None)


def best_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The trial with the highest criterion of each method."""
    best = trials.groupby("method", sort=False)["criterion"].idxmax()
    return trials.loc[best].reset_index(drop=True)
