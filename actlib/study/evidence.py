"""What the rows of a sweep say: recovery curves, controls, picked settings, tuning, merges, causes.

Each function takes the item rows of one part of the sweep (``actlib.study.sweeps.kept``, or rows of
the same columns measured in a notebook) and gives a tidy table. Rules are fixed here, before any
number is seen: settings are picked on validation items, judged on test items, and every comparison
with a control carries a p-value corrected for the number of comparisons in its table.

    rows = sweeps.kept("tiny", "transfer")
    controls(rows, study.lost)          # ACT against every control, at every p
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from actlib.analysis import stats
from actlib.study.tables import ITEM, best_trials, recovery_table, score_means, scored, trial_table

ENDS = ("donor", "target")
PANELS = dict.fromkeys(("random_matched", "random_scaled", "random_uniform"), "random channels")
PANELS |= dict.fromkeys(("weight_difference", "weight_scaled", "task_vector"), "weights")
"""Panel of a method in figures of many; rankings of activations have one, all others the last."""

RESAMPLES = 10_000
"""More than 2000, so that a p-value can stay below 0.05 after correction for many comparisons."""


def rows_of(rows: pd.DataFrame, *labels: str, purpose: str = "test") -> pd.DataFrame:
    """Rows of one purpose with the columns that name an item, the labels and the two scores."""
    names = [name for name in (*ITEM, *labels, "draw") if name in rows]
    return rows.loc[rows["purpose"] == purpose, [*names, "nll", "exact"]]


def curves(rows: pd.DataFrame, cells: Iterable[str], scale: float = 1.0) -> pd.DataFrame:
    """Recovered share of the gap of each method at each p and one scale, over items and seeds.

    Args:
        rows: of the part ``transfer``, with the rows of donor and target.
        cells: abilities whose gap is recovered.
        scale: strength of the transfers.

    Returns:
        method, top_percent, recovery, low, high (fractions), gap and its interval, items, seeds;
        parameters_percent (mean share of the parameters that the masks hold).
    """
    here = rows[rows["cell"].isin(list(cells))]
    ends, moved = here["method"].isin(ENDS), here["scale"] == scale
    items = rows_of(here[ends | moved], "method", "top_percent")
    table = recovery_table(items, ["method", "top_percent"])
    held = rows[rows["scale"] == scale].groupby(["method", "top_percent"])["parameters_percent"]
    return table.merge(held.mean().reset_index(), how="left")


def controls(
    rows: pd.DataFrame, cells: Iterable[str], method: str = "act_global", scale: float = 1.0
) -> pd.DataFrame:
    """One method minus every other at each p, paired by item and seed, on some abilities.

    Returns:
        top_percent, against, difference (of the score, nats per token; above zero the method is
        better), low, high, p_value, p_corrected (over the whole table).
    """
    here = rows[rows["cell"].isin(list(cells)) & (rows["scale"] == scale)]
    found = []
    for percent, group in rows_of(here, "method", "top_percent").groupby("top_percent"):
        found += [{"top_percent": percent, **row} for row in _against(group, method, ("method",))]
    return _with_corrected(found, ["top_percent", "against"])


def settled(
    rows: pd.DataFrame, lost: Sequence[str], retained: Sequence[str], method: str = "act_global"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each method at the setting picked on validation items: what it recovers, and what it costs.

    The criterion is the mean of the scores on lost and on retained abilities, over all seeds; each
    method has as many trials. Only the first draw of a random method is a trial; on test items all
    of its draws at the picked setting count.

    Returns:
        Two tables. First: method, top_percent, scale, trials, recovery, low, high (share of the
        lost abilities' gap), retained, retained_low, retained_high (change of the retained score
        against the target, nats per token). Second: part (lost, retained), against, difference
        (``method`` minus the other), low, high, p_value, p_corrected.
    """
    cells = [*lost, *retained]
    rows = rows[rows["cell"].isin(cells)]
    picked = best_trials(_trials(rows, lost))
    settings = picked[["method", "top_percent", "scale"]]
    chosen = rows.merge(settings) if len(settings) else rows.iloc[:0]
    test = rows_of(pd.concat([chosen, rows[rows["method"].isin(ENDS)]]), "method")
    here = test["cell"].isin(list(lost))
    table = recovery_table(test[here], ["method"])[["method", "recovery", "low", "high"]]
    cost = [
        {"method": row["against"], **_renamed(row, "retained")}
        for row in _against(test[~here], "target", ("method",))
    ]
    compared = [
        {"part": part, **row}
        for part, group in (("lost", test[here]), ("retained", test[~here]))
        for row in _against(group[~group["method"].isin(ENDS)], method, ("method",))
    ]
    result = picked[["method", "top_percent", "scale", "trials"]].merge(table)
    result = result.merge(pd.DataFrame(cost), how="left")
    return result, _with_corrected(compared, ["part", "against"])


def tuned(
    rows: pd.DataFrame, lost: Sequence[str], against: Iterable[str] = ("sft_only", "random_sft")
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Light fine-tuning: mean scores of each arm as it goes on, and each arm against others.

    Returns:
        Two tables. First: measure (nll or exact), part (lost, retained), method, steps, mean (of
        the score: negative NLL, or fraction exact), low, high, items, seeds. Second, of the
        negative NLL: part, steps, method, against, difference, low, high, p_value, p_corrected.
    """
    items = _arm_items(rows, lost)
    means = [
        score_means(items, ["part", "method", "steps"], measure).assign(measure=measure)
        for measure in ("nll", "exact")
    ]
    return pd.concat(means, ignore_index=True), tuned_against(rows, lost, against)


def tuned_against(
    rows: pd.DataFrame, lost: Sequence[str], against: Iterable[str] = ("sft_only", "random_sft")
) -> pd.DataFrame:
    """The second table of `tuned` alone: each arm against others."""
    found = []
    for (part, steps), group in _arm_items(rows, lost).groupby(["part", "steps"]):
        for other in against:
            for row in _against(group, other, ("method",)):
                row["difference"], row["low"], row["high"] = (
                    -row["difference"], -row["high"], -row["low"],
                )  # fmt: skip
                row = {**row, "method": row["against"], "against": other}
                found.append({"part": part, "steps": steps, **row})
    return _with_corrected(found, ["part", "steps", "method", "against"])


def merges(
    rows: pd.DataFrame, specialities: Mapping[int, Mapping[str, Sequence[str]]], method="act_sum"
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Each way of merging at the setting picked on validation items, judged on test items.

    The criterion is the mean over the specialists of the mean score on their abilities, over all
    seeds; each method has as many trials (a plain average of weights has one).

    Args:
        rows: of the part ``merging``.
        specialities: number of specialists merged to their names to their abilities.
        method: the way of merging that the others are compared with.

    Returns:
        Three tables. Settings: specialists, method, top_percent, scale, trials. Scores:
        specialists, ability (a specialist's name), method (or the untouched model's name), mean
        (negative NLL), low, high. Differences: specialists, ability, against, difference (that of
        ``method`` minus the other's), low, high, p_value, p_corrected.
    """
    settings, scores, compared = [], [], []
    for size, abilities in specialities.items():
        here = rows[rows["specialists"] == size]
        owner = {cell: name for name, cells in abilities.items() for cell in cells}
        here = here.assign(ability=here["cell"].map(owner))
        untouched = here[here["method"] == "ends"]
        trials = _merge_trials(here[here["method"] != "ends"])
        picked = best_trials(trials)
        settings.append(picked.assign(specialists=size))
        chosen = here.merge(picked[["method", "top_percent", "scale"]])
        test = rows_of(
            pd.concat([chosen, untouched.assign(method=untouched["model"])]), "ability", "method"
        )
        told = score_means(test, ["ability", "method"], "nll")
        scores.append(told.assign(specialists=size))
        for name, group in test.groupby("ability", sort=False):
            compared += [
                {"specialists": size, "ability": name, **row}
                for row in _against(group, method, ("method",))
            ]
    return (
        pd.concat(settings, ignore_index=True).drop(columns="criterion"),
        pd.concat(scores, ignore_index=True),
        _with_corrected(compared, ["specialists", "ability", "against"]),
    )


def verdicts(table: pd.DataFrame, level: float = 0.05) -> list[str]:
    """Where each difference of a table lies against zero, judged by its corrected p-value.

    Args:
        table: difference, p_corrected (NaN where no test was made).
        level: a corrected p-value below it tells the difference from zero.

    Returns:
        The words of `findings.against`: above, below, not distinguishable from, undefined.
    """
    words = []
    for difference, p_value in zip(table["difference"], table["p_corrected"], strict=True):
        if pd.isna(difference) or pd.isna(p_value):
            words.append("undefined")
        elif p_value >= level or difference == 0:
            words.append("not distinguishable from")
        else:
            words.append("above" if difference > 0 else "below")
    return words


def frontier_rows(rows: pd.DataFrame, lost: Sequence[str], retained: Sequence[str]) -> pd.DataFrame:
    """Rows of one purpose that hold every trial: on test items, or else on validation items.

    A kept sweep judges every trial on both, so its frontier can be drawn on test items. A notebook
    judges only the picked settings on test items; a frontier of its rows has to be drawn on those
    that they were picked on, and flatters every method alike.

    Args:
        rows: method, top_percent, scale, purpose, and the rest of the part ``transfer``; of donor
            and target for both purposes.
        lost: abilities whose items measure what is recovered.
        retained: abilities whose items measure what is retained.

    Returns:
        The rows with the column part, as `actlib.analysis.frontier` takes them.
    """
    parts = dict.fromkeys(lost, "lost") | dict.fromkeys(retained, "retained")
    rows = rows.assign(part=rows["cell"].map(parts)).dropna(subset=["part"])
    moved = rows[~rows["method"].isin(ENDS)]
    trials = {
        purpose: set(map(tuple, group[["method", "top_percent", "scale"]].to_numpy()))
        for purpose, group in moved.groupby("purpose")
    }
    complete = trials.get("test", set()) >= trials.get("validation", set())
    return rows[rows["purpose"] == ("test" if complete else "validation")]


def in_panels(table: pd.DataFrame) -> pd.DataFrame:
    """A table of many methods for panels of at most five, ACT in each of them.

    Args:
        table: method, and what is drawn.

    Returns:
        The rows with the column panel, those of ACT once a panel that has other methods.
    """
    act = table["method"] == "act_global"
    panel = table["method"].map(PANELS).fillna("other choices")
    panel = panel.mask(table["method"].str.startswith("act_"), "rankings")
    order = ["rankings", *dict.fromkeys(PANELS.values()), "other choices"]
    found = set(panel[~act])
    parts = [table[act | (panel == name)].assign(panel=name) for name in order if name in found]
    return pd.concat(parts, ignore_index=True)


def _arm_items(rows: pd.DataFrame, lost: Sequence[str]) -> pd.DataFrame:
    items = rows_of(rows, "method", "steps")
    return items.assign(part=items["cell"].isin(list(lost)).map({True: "lost", False: "retained"}))


def _trials(rows: pd.DataFrame, lost: Sequence[str]) -> pd.DataFrame:
    valid = rows_of(
        rows[~rows["method"].isin(ENDS)], "method", "top_percent", "scale", purpose="validation"
    )
    valid = valid[valid["draw"] == 0] if "draw" in valid else valid
    table = trial_table(valid, lost, ["method", "top_percent", "scale"])
    return table.assign(trials=table.groupby("method")["method"].transform("size"))


def _merge_trials(rows: pd.DataFrame) -> pd.DataFrame:
    labels = ["method", "top_percent", "scale"]
    valid = rows_of(rows, *labels, "ability", purpose="validation")
    valid = valid[valid["draw"] == 0]
    means = valid.assign(criterion=-valid["nll"]).groupby([*labels, "ability"])["criterion"].mean()
    table = means.groupby(labels).mean().reset_index()
    return table.assign(trials=table.groupby("method")["method"].transform("size"))


def _against(items: pd.DataFrame, method: str, by: Sequence[str]) -> list[dict]:
    """``method`` minus each other method, paired by item and seed; draws are averaged first."""
    table = scored(items[[n for n in (*ITEM, *by, "draw", "nll", "exact") if n in items]], "nll")
    found = stats.differences(table, method, resamples=RESAMPLES)
    found = found.rename(columns={"method": "against", "low": "high", "high": "low"})
    turned = ["difference", "low", "high"]  # the other way round: `method` minus the other
    found[turned] = -found[turned]
    return found[["against", *turned, "p_value", "items", "seeds"]].to_dict("records")


def _renamed(row: Mapping, name: str) -> dict:
    """A difference to the untouched model, told as the change from it."""
    ends = {"low": -row["high"], "high": -row["low"]}
    prefix = "" if name == "change" else f"{name}_"
    return {name: -row["difference"], **{f"{prefix}{end}": value for end, value in ends.items()}}


def _with_corrected(rows: list[dict], first: Sequence[str]) -> pd.DataFrame:
    columns = [*first, "difference", "low", "high", "p_value"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_corrected=stats.correct_p_values(table["p_value"]))
