"""What training seeds say: one number a seed and method, compared, tested, and put in a verdict.

    recovered = stats.recovery(items, by=["method", "seed"], value="exact")
    table = contrast(recovered, "sufficient", treatment="act_module", control="random_module")
    test = compare_seeds(table["treatment"], table["control"], margin=0.05)
    verdict(test)

The seed is the unit: items of one seed share its models. Resampling three seeds sees a difference
where there is none in 25 % of cases at a level of 5 %, Student's t in 5 %.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.05
"""Of all tests; intervals hold 1 - LEVEL."""
VERDICTS = ("supported", "partly supported", "not supported", "inconclusive")
"""What `verdict` says."""


def groups_of(table: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Groups in order of appearance, each under its values of `by`, NaN among them; or all rows."""
    if not by:
        yield {}, table
        return
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        yield dict(zip(by, key, strict=True)), group


def student_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Mean of one number a training seed, and the ends of Student's 95 % interval over seeds.

    That is mean ± t(n-1) s / sqrt(n), in the unit of the values.

    One seed has no interval: its ends are NaN. Without a seed the mean is NaN too.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.size < 2 or not np.ptp(numbers):
        mean = float(numbers[0]) if numbers.size else np.nan
        end = mean if numbers.size > 1 else np.nan
        return mean, end, end
    mean, error = float(numbers.mean()), stats.sem(numbers)
    low, high = stats.t.interval(1 - LEVEL, numbers.size - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def summarize_seeds(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean of a column over seeds, of the mean of each seed's rows, with Student's interval.

    So rows of one seed that are not independent, such as overlaps of pairs of abilities, count as
    one number.

    Returns:
        The columns of `by`, the column `value`, low, high (NaN for one seed), seeds.
    """
    rows = []
    for labels, group in groups_of(table, by):
        values = group.groupby("seed")[value].mean().dropna()
        rows.append((*labels.values(), *student_interval(values), len(values)))
    return pd.DataFrame(rows, columns=[*by, value, "low", "high", "seeds"])


def contrast(
    table: pd.DataFrame,
    claim: str,
    treatment: str,
    control: str,
    value: str = "recovery",
    by: str = "method",
) -> pd.DataFrame:
    """The primary contrast of a claim: one row a training seed, treatment minus control.

    Args:
        table: `value` by seed and by the column `by`, one row each.
        claim: key in `configs/claims.yaml`.
        treatment: value of the column `by`.
        control: value of the column `by` that is taken away.
        value: column that is compared.
        by: column that holds treatment or control.

    Returns:
        claim, seed, treatment, control, difference (the last three in the unit of `value`; NaN
        where a seed has no number, such as no clear gap, and with a warning where no seed has
        treatment or control).

    Raises:
        ValueError: a seed has a number twice.
    """
    for seed, arm in table[["seed", by]][table.duplicated(["seed", by])].to_numpy():
        there = f"seed {seed} has several rows of {by} {arm!r}, expected one"
        raise ValueError(f"{there}; average them by seed and {by}, or choose one setting")
    wide = table.pivot(index="seed", columns=by, values=value)
    if missing := [each for each in (treatment, control) if each not in wide]:
        there = f"no row has {by} {' or '.join(missing)}, but {', '.join(map(str, wide)) or 'none'}"
        warnings.warn(f"the primary contrast of {claim!r} was not measured: {there}", stacklevel=2)
        wide = wide.reindex(columns=[treatment, control])
    pair = pd.DataFrame({"treatment": wide[treatment], "control": wide[control]}, dtype=float)
    pair = pair.assign(difference=pair["treatment"] - pair["control"]).reset_index()
    return pair.assign(claim=claim)[["claim", "seed", "treatment", "control", "difference"]]


class SeedTest(NamedTuple):
    """Mean difference over seeds, Student's 95 % interval, and two-sided p-values over seeds.

    `p_zero` is Student's of a mean of zero, `p_margin` of a mean of the margin, `p_equivalent` the
    larger of two one-sided ones: if it is small, the mean lies within ± the margin. `p_flip` is of
    a mean of zero by sign flips (all of them up to 13 seeds, else 9,999 draws): it assumes symmetry
    alone and cannot be below 2 / 2^seeds, so 5 seeds cannot show a difference at 5 %.
    """

    estimate: float
    low: float
    high: float
    margin: float
    seeds: int
    p_zero: float = np.nan
    p_margin: float = np.nan
    p_equivalent: float = np.nan
    p_flip: float = np.nan


def compare_seeds(
    treatment: ArrayLike, control: ArrayLike = 0.0, margin: float = np.nan, floor: float = -np.inf
) -> SeedTest:
    """Mean of treatment minus control, one number each a training seed, tested over seeds.

    Args:
        treatment: its number of each seed; seeds with NaN in either do not count.
        control: its number of each seed, in the same order; 0 if treatment is a difference already.
        margin: least difference that matters, in the unit of the numbers.
        floor: where neither mean reaches it, there is nothing to compare.

    Returns:
        The test. Its p-values are NaN for fewer than three seeds, where all differences are equal,
        and below the floor; without a seed its other numbers are NaN too.

    Raises:
        ValueError: the margin is negative.
    """
    if margin < 0:
        raise ValueError(f"a margin is at least 0, not {margin}")
    arms = np.array(np.broadcast_arrays(treatment, control), dtype=float)
    arms = arms[:, ~np.isnan(arms).any(axis=0)]
    values = arms[0] - arms[1]
    test = SeedTest(*student_interval(values), margin, values.size)
    if values.size < 3 or np.ptp(values) < 1e-12 or arms.mean(axis=1).max() < floor:
        return test
    flips = stats.permutation_test((values,), np.mean, permutation_type="samples", rng=0)
    p_values: dict[str, Any] = {name: float(p) for name, p in _test_means(values, margin).items()}
    return test._replace(**p_values, p_flip=float(flips.pvalue))


def correct_holm(p_values: ArrayLike) -> Float[np.ndarray, " tests"]:
    """P-values by Holm (1979): the chance of any false discovery is bounded, however they depend.

    NaN, a test that could not be made, stays NaN and counts: what was planned is corrected for.
    """
    values = np.array(p_values, dtype=float)
    order = np.argsort(values)  # NaN comes last
    factors = np.arange(values.size, 0, -1)  # the smallest counts for all tests
    values[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return values


def verdict(test: SeedTest | pd.DataFrame, level: float = LEVEL):
    """What a contrast says of the claim that its difference is above zero.

    In this order, each at `level` (where Holm corrects p-values, by the corrected ones):

    - *supported*: the mean is above the margin (`p_margin`: without correction, the whole 95 %
      interval is above the margin);
    - *not supported*: the mean is below zero (`p_zero`), or within ± the margin (`p_equivalent`): a
      difference too small to matter is no support even where it is clearly above zero;
    - *partly supported*: the mean is above zero (`p_zero`), whether above the margin is open;
    - *inconclusive*: none of these, or no test (fewer than three seeds, no variance, below the
      floor).

    Args:
        test: of `compare_seeds`, or a table with its fields as columns.
        level: of the tests.

    Returns:
        One of `VERDICTS`; for a table an array of them.
    """
    differs = np.asarray(test.p_zero) < level
    estimate = np.asarray(test.estimate)
    supported = (np.asarray(test.p_margin) < level) & (estimate > np.asarray(test.margin))
    refuted = (np.asarray(test.p_equivalent) < level) | (differs & (estimate < 0))
    words = ["supported", "not supported", "partly supported"]
    verdicts = np.select([supported, refuted, differs], words, default="inconclusive")
    return verdicts if verdicts.ndim else str(verdicts)


def simulate_power(
    pilots: ArrayLike, seeds: int, effect: float, margin: float, level: float = LEVEL
) -> pd.Series:
    """How often each verdict comes out of `seeds` seeds if the true mean difference is `effect`.

    By 4,000 simulations with normal differences. A few pilots hardly tell the standard deviation,
    so each simulation draws its own, s sqrt((n - 1) / chi2(n - 1)) from n pilots of standard
    deviation s: honest, and pessimistic.

    Args:
        pilots: one difference a pilot seed; their mean is not used.
        seeds: training seeds of the study to come.
        effect: true mean difference.
        margin: of the verdict, in the same unit.
        level: of the tests; 0.05 / 8 is Holm's hardest step among eight claims.

    Returns:
        Share of simulations by verdict.

    Raises:
        ValueError: fewer than two pilots, pilots that do not differ, or fewer than three seeds.
    """
    known = np.asarray(pilots, dtype=float)
    if known.size < 2 or seeds < 3 or not np.ptp(known):
        raise ValueError("power needs two pilots that differ, and at least three seeds")
    rng, freedom = np.random.default_rng(0), known.size - 1
    std = known.std(ddof=1) * np.sqrt(freedom / rng.chisquare(freedom, (4000, 1)))
    values = effect + std * rng.standard_normal((4000, seeds))
    table = pd.DataFrame(_test_means(values, margin)).assign(margin=margin)
    verdicts = pd.Series(verdict(table.assign(estimate=values.mean(axis=1)), level))
    return verdicts.value_counts(normalize=True).reindex(VERDICTS, fill_value=0.0)


def _test_means(values: Float[np.ndarray, "*draws seeds"], margin: float) -> dict[str, np.ndarray]:
    """Student's p-values over the last axis; see `SeedTest`."""

    def against(mean: float, side: str = "two-sided") -> np.ndarray:
        return stats.ttest_1samp(values, mean, axis=-1, alternative=side).pvalue

    equivalent = np.maximum(against(-margin, "greater"), against(margin, "less"))
    return {"p_zero": against(0), "p_margin": against(margin), "p_equivalent": equivalent}
