"""When a claim holds: one rule a claim, fixed in its docstring before the sweeps were read.

A rule takes the tables that `actlib.study.evidence`, the sweep or a notebook give, and returns what
they show in words, with intervals and null, and a verdict. "Above" and "below" mean a p-value under
0.05 after correction for the number of comparisons of its table where there are p-values, otherwise
an interval that excludes the null. Thresholds are ours: the abstract names no number but the 5 %.

    sufficient(evidence.curves(rows, lost), evidence.controls(rows, lost)).verdict
"""

from collections.abc import Sequence

import pandas as pd

from actlib.analysis.contrasts import student_interval
from actlib.analysis.old_stats import bootstrap
from actlib.analysis.resampling import Interval
from actlib.analysis.style import label_of
from actlib.study.evidence import verdicts
from actlib.study.findings import (
    HOLDS,
    NOT_SEEN,
    Finding,
    against,
    count,
    every,
    in_part,
    interval,
    span,
    tally,
)

ALPHA = 0.05
PERCENT = 5.0
"""Share of the channels that the abstract calls typical, in percent."""

SMALL = 20.0
"""Largest share that still counts as few channels here, in percent."""

MERGERS = ("task_arithmetic", "ties", "dare_linear", "mean_weights")


class Missing(Exception):
    """What a rule needs is not there; the message tells what, in a few words."""


def sides(table: pd.DataFrame, value: str = "difference") -> list[str]:
    """Where each row's difference lies: above zero, below it, or alike (no clear difference).

    Args:
        table: the column ``value``, and p_corrected, or else low and high.
        value: the column of differences.
    """
    if "p_corrected" in table:
        words = verdicts(table.rename(columns={value: "difference"}), ALPHA)
    else:
        rows = table[[value, "low", "high"]].itertuples(index=False)
        words = [against(estimate, low, high, 0) for estimate, low, high in rows]
    return [word if word in ("above", "below") else "alike" for word in words]


def premise(forgotten: pd.DataFrame, lost: Sequence[str]) -> Finding:
    """The target's answer NLL lies above the donor's.

    Holds if it does on every lost ability; in part if on some and below on none.

    Args:
        forgotten: cell, measure (nll), target_minus_donor (nats per token), low, high.
        lost: the abilities that the target is said to have lost.
    """
    rows = forgotten[(forgotten["measure"] == "nll") & forgotten["cell"].isin(list(lost))]
    gaps = _some(rows, "scores on lost abilities")["target_minus_donor"]
    told = sides(rows, "target_minus_donor")
    shown = (
        f"target's answer NLL is above the donor's on {count(told, 'above')} lost abilities, by "
        f"{span(gaps, 2)} nats per token"
    )
    ends = f"{rows['low'].min():.2f} to {rows['high'].max():.2f}"
    brief = f"{span(gaps, 2)} nats a token lost (intervals from {ends}; 0 if nothing was)"
    return Finding(shown, every(told, f"on {count(told, 'above')} abilities"), brief)


def concentrated(rows: pd.DataFrame) -> Finding:
    """The top 5 % of the channels hold more of the summed score than under a half-normal law.

    The half-normal is what differences without structure give. Holds if they do on all seeds, for
    raw scores and for scores scaled by module; in part if for one of the two.

    Args:
        rows: of the sweep's part ``channels``, method concentration: seed, top_percent, ranking
            (raw, scaled), share_percent, null_share_percent.
    """
    rows = rows[(rows["method"] == "concentration") & (rows["top_percent"] == PERCENT)]
    rows = _some(rows, "concentration at 5 %")
    parts = {name: rows[rows["ranking"] == name] for name in ("raw", "scaled")}
    above = {n: (r["share_percent"] > r["null_share_percent"]).all() for n, r in parts.items()}
    held = {
        name: interval(*student_interval(part["share_percent"].to_numpy()), 1)
        for name, part in parts.items()
    }
    null = f"{rows['null_share_percent'].mean():.1f} %"
    shown = (
        f"top 5 % hold {held['raw']} % of the summed score, {held['scaled']} % once scaled by "
        f"module (Student's interval over {_seeds(rows)}); half-normal {null}"
    )
    brief = f"top 5 % hold {held['raw']} %, {held['scaled']} % once scaled; null {null}"
    if all(above.values()):
        return Finding(shown, HOLDS, brief)
    if above["raw"]:
        how = "raw activations only, mostly differences of scale between modules"
        return Finding(shown, in_part(how), brief)
    return Finding(shown, in_part("scaled by module only") if above["scaled"] else NOT_SEEN, brief)


def disentangled(channels: pd.DataFrame, specificity: pd.DataFrame) -> Finding:
    """Abilities have channels of their own, by overlap and by cause.

    (a) Jaccard of two abilities' top 5 % in the paper's ranking, over pairs and seeds. (b) Moving
    an ability's own channels recovers it better than moving another ability's. Holds if (a) is not
    above matched chance and all comparisons of (b) are above. In part if the interval of (a) lies
    below that of split halves of one ability, or (b) is above more often than below.

    Args:
        channels: rows of the sweep's part ``channels``, methods overlap and halves.
        specificity: as `evidence.specificity` gives it; other (ability, or random: not compared
            here), own_minus_other, and p_corrected or else low and high.
    """
    halves, pairs, chance, excess = _overlaps(channels, "global")
    told = sides(
        _some(specificity[specificity["other"] != "random"], "comparisons of abilities"),
        "own_minus_other",
    )
    shown = (
        f"masks of two abilities overlap {interval(*pairs)} (split halves {halves.estimate:.2f}, "
        f"matched chance {chance:.2f}); own channels against another ability's: {tally(told)}"
    )
    brief = f"overlap {interval(*pairs)}; split halves {halves.estimate:.2f}, chance {chance:.2f}"
    more = told.count("above") > told.count("below")
    if excess.low <= 0 and set(told) == {"above"}:
        return Finding(shown, HOLDS, brief)
    how = ["masks overlap less than split halves"] * (pairs.high < halves.low)
    how += [f"own channels better in {count(told, 'above')}"] * more
    return Finding(shown, in_part("; ".join(how)) if how else NOT_SEEN, brief)


def sufficient(curves: pd.DataFrame, controls: pd.DataFrame) -> Finding:
    """Few channels bring the ability back, better than as many random ones.

    At full strength, on the lost abilities. Holds if the recovered share's interval at 5 % lies
    above one half, and the paper's ranking is above matched random channels at every p of 20 % or
    less. In part if it is above them at some p and below at none.

    Args:
        curves: as `evidence.curves` gives them.
        controls: as `evidence.controls` gives them.
    """
    at = curves[curves["top_percent"] == PERCENT].set_index("method")
    _some(at.loc[at.index.isin(["act_global"])], "transfer at 5 %")
    ends = ["recovery", "low", "high"]
    act, random = at.loc["act_global", ends], at.loc["random_matched", ends]
    rows = controls[controls["against"] == "random_matched"].sort_values("top_percent")
    told = dict(zip(rows["top_percent"], sides(rows), strict=True))
    better = ", ".join(f"{p:g}" for p, side in told.items() if side == "above")
    shown = (
        f"5 % of the channels recover {interval(*act)} of the gap, matched random ones "
        f"{interval(*random)}; ACT is above them at p = {better or 'none'} (of "
        f"{', '.join(f'{p:g}' for p in told)} %)"
    )
    brief = f"5 % recover {interval(*act)}; random channels {interval(*random)}"
    ahead = all(side == "above" for p, side in told.items() if p <= SMALL)
    if act["low"] > 0.5 and ahead:
        return Finding(shown, HOLDS, brief)
    if not better or "below" in told.values():
        return Finding(shown, NOT_SEEN, brief)
    only = f", but 5 % recover only {act['recovery']:.2f}" if not act["low"] > 0.5 else " only"
    return Finding(shown, in_part(f"better than random channels at p = {better} %{only}"), brief)


def stable(channels: pd.DataFrame) -> Finding:
    """Other inputs of the same ability give the same channels.

    Jaccard of the top 5 % of two halves of one ability's inputs, in the paper's ranking. Holds if
    its interval over abilities and seeds lies above that of two abilities, and it exceeds matched
    chance; in part if only the second. The scaled ranking is told, and not judged.

    Args:
        channels: rows of the sweep's part ``channels``, methods overlap and halves.
    """
    halves, pairs, chance, _ = _overlaps(channels, "global")
    rows = _channel_rows(channels, "halves", "global")
    beyond = bootstrap((rows["jaccard"] - rows["expected_jaccard"]).to_numpy())
    scaled, others, *_ = _overlaps(channels, "scaled")
    shown = (
        f"split halves overlap {interval(*halves)}, two abilities {interval(*pairs)}, matched "
        f"chance {rows['expected_jaccard'].mean():.2f} (Jaccard, {_seeds(rows)}); scaled ranking "
        f"{scaled.estimate:.2f} and {others.estimate:.2f}"
    )
    null = f"{rows['expected_jaccard'].mean():.2f}"
    brief = f"split halves {interval(*halves)}; two abilities {interval(*pairs)}, chance {null}"
    if not beyond.low > 0:
        return Finding(shown, NOT_SEEN, brief)
    how = in_part("above chance, but not above two abilities")
    return Finding(shown, HOLDS if halves.low > pairs.high else how, brief)


def recovers(areas: pd.DataFrame, settled: pd.DataFrame) -> Finding:
    """ACT's frontier of recovered and retained encloses more area than those of two controls.

    These are matched random channels and the interpolation of all weights; on test items, over all
    trials. Holds if more than both; in part if more than one of them.

    Args:
        areas: as `frontier.frontier_areas` gives them, against ``act_global``.
        settled: the first table of `evidence.settled`, told and not judged.
    """
    if areas["area"].isna().any():
        unclear = "no clear gap between donor and target, so no area"
        return Finding(unclear, NOT_SEEN, unclear)
    at = areas.set_index("method")
    picked = settled.set_index("method").loc["act_global"]
    others = {"random_matched": "matched random channels", "interpolation": "interpolation"}
    told = {
        name: ("above" if -row.difference > 0 else "below") if row.p_corrected < ALPHA else "alike"
        for name, row in ((name, at.loc[name]) for name in others)
    }
    size = {n: interval(*at.loc[n, ["area", "low", "high"]]) for n in ("act_global", *others)}
    brief = (
        f"area {size['act_global']}; random channels {size['random_matched']}, interpolation "
        f"{size['interpolation']}"
    )
    shown = (
        f"area under the frontier {size['act_global']}, matched random "
        f"{size['random_matched']}, interpolation {size['interpolation']}; at its picked setting "
        f"ACT recovers {picked['recovery']:.2f} for "
        f"{interval(*picked[['retained', 'retained_low', 'retained_high']])} nats retained"
    )
    how = ", ".join(f"{word} {others[name]}" for name, word in told.items())
    return Finding(shown, every(list(told.values()), how, mixed=True), brief)


def light_sft(compared: pd.DataFrame) -> Finding:
    """Light fine-tuning after the transfer ends better than without it, at its last step.

    Holds if it is above fine-tuning alone on lost abilities and not below it on retained ones, and
    above random channels then fine-tuned on lost ones. In part if above fine-tuning alone on lost.

    Args:
        compared: the second table of `evidence.tuned`.
    """
    last = compared[compared["steps"] == compared["steps"].max()]
    rows = _some(last[last["method"] == "act_sft"], "arms of fine-tuning")
    rows = rows.assign(side=sides(rows)).set_index(["part", "against"])
    keys = [("lost", "sft_only"), ("lost", "random_sft"), ("retained", "sft_only")]
    lost, random, kept = (rows.loc[key] for key in keys)
    told = [interval(*row[["difference", "low", "high"]]) for row in (lost, random, kept)]
    shown = (
        f"after {last['steps'].max():g} steps, lost abilities {told[0]} nats against SFT alone, "
        f"{told[1]} against random channels, then SFT; retained ones {told[2]} against SFT alone"
    )
    brief = f"{told[0]} nats over SFT alone; {told[1]} over random channels, then SFT"
    if lost["side"] != "above":
        return Finding(shown, NOT_SEEN, brief)
    fails = ["no better than random channels"] * (random["side"] != "above")
    fails += ["worse on retained abilities"] * (kept["side"] == "below")
    how = f"better than SFT alone, but {' and '.join(fails)}"
    return Finding(shown, in_part(how) if fails else HOLDS, brief)


def merges(compared: pd.DataFrame) -> Finding:
    """The union of masks merges better than random unions, and no worse than other methods.

    Each comparison is on one specialist's abilities, in merges of two and of three. Holds if the
    union (sum) is above matched random unions in all, and below task arithmetic, TIES, DARE and the
    average of weights in none. In part if above random unions in some and below them in none.

    Args:
        compared: the third table of `evidence.merges`.
    """
    told = {
        name: sides(rows)
        for name, rows in compared.groupby("against", sort=False)
        if name in ("random_matched", *MERGERS)
    }
    random = _some(told.get("random_matched", []), "random unions")
    names = {"random_matched": "random unions"}
    counts = []
    for name, words in told.items():
        numbers = (str(words.count(word)) for word in ("above", "alike", "below"))
        counts.append(f"{names.get(str(name), label_of(name))} {'/'.join(numbers)}")
    shown = (
        f"union above/alike/below on the abilities of {len(random)} specialists, in merges of two "
        f"or three: {', '.join(counts)}"
    )
    unions = compared[compared["against"] == "random_matched"]
    brief = f"{_least_and_most(unions)} nats over random unions"
    below = [label_of(name) for name in MERGERS if "below" in told.get(name, [])]
    if set(random) == {"above"} and not below:
        return Finding(shown, HOLDS, brief)
    if "above" not in random or "below" in random:
        return Finding(shown, NOT_SEEN, brief)
    how = f"above random unions in {count(random, 'above')}"
    return Finding(shown, in_part(how + f"; below {', '.join(below)} in some" * bool(below)), brief)


def causal(compared: pd.DataFrame) -> Finding:
    """The channels act: patched they bring the ability back, ablated they break it.

    Not a claim of the paper. On lost abilities, the paper's ranking against matched random
    channels. Holds if every patch is above and every ablation in the donor below; in part if some
    are and none goes the other way.

    Args:
        compared: the second table of `evidence.effects`.
    """
    lost = (compared["part"] == "lost") & (compared["method"] == "act_global")
    rows = _some(compared[lost & (compared["against"] == "random_matched")], "interventions")
    turned = {"above": "below", "below": "above", "alike": "alike"}
    parts = {"patched into the target": rows["how"] == "patch"}
    parts["ablated in the donor"] = ~parts["patched into the target"]
    spans, told = [], []
    for name, here in parts.items():
        words = sides(rows[here])
        if "ablated" in name:
            words = [turned[word] for word in words]
        verb = "do more harm" if "ablated" in name else "bring more back"
        told_span = span(rows[here]["difference"], 2)
        spans.append(f"{name}, they {verb} in {count(words, 'above')} ({told_span} nats)")
        told += words
    how = f"as claimed in {count(told, 'above')} interventions"
    shown = f"against matched random channels: {'; '.join(spans)}"
    patch = rows["how"] == "patch"
    brief = (
        f"against random channels, patched {_least_and_most(rows[patch])}, "
        f"ablated {_least_and_most(rows[~patch])} nats"
    )
    return Finding(shown, every(told, how), brief)


def _least_and_most(compared: pd.DataFrame) -> str:
    """The smallest and the largest difference of a table, each with its interval."""
    rows = compared.sort_values("difference")
    ends = rows.iloc[[0, -1]][["difference", "low", "high"]].to_numpy()
    return " to ".join(interval(*row) for row in ends)


def _overlaps(channels: pd.DataFrame, ranking: str) -> tuple[Interval, Interval, float, Interval]:
    """Overlap of split halves and of two abilities, the latter's chance, and how far beyond it."""
    halves = _channel_rows(channels, "halves", ranking)["jaccard"]
    pairs = _channel_rows(channels, "overlap", ranking)
    pairs = pairs[pairs["null"] == "matched"]
    excess = pairs["jaccard"] - pairs["expected_jaccard"]
    found = (bootstrap(values.to_numpy()) for values in (halves, pairs["jaccard"], excess))
    of_halves, of_pairs, beyond = found
    return of_halves, of_pairs, float(pairs["expected_jaccard"].mean()), beyond


def _channel_rows(channels: pd.DataFrame, method: str, ranking: str) -> pd.DataFrame:
    here = (channels["method"] == method) & (channels["ranking"] == ranking)
    return _some(channels[here], f"{method} in the {ranking} ranking")


def _some(rows, what: str):
    """The rows, unless there is none.

    Raises:
        Missing: there is none.
    """
    if len(rows) == 0:
        raise Missing(f"no {what}")
    return rows


def _seeds(rows: pd.DataFrame) -> str:
    number = rows["seed"].nunique()
    return f"{number} seed" + "s" * (number != 1)
