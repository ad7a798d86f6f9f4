"""Tests over training seeds: coverage and false positives by simulation, verdicts case by case."""

import numpy as np
import pandas as pd
import pytest

from actlib.analysis import contrasts, stats
from actlib.analysis.contrasts import compare_seeds, verdict


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_students_interval_covers_and_its_test_keeps_the_level(seeds):
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, seeds))
    ends = np.array([contrasts.student_interval(values) for values in draws])
    covered = ((ends[:, 1] < 3) & (3 < ends[:, 2])).mean()
    assert covered == pytest.approx(0.95, abs=0.015)
    p_values = contrasts._test_means(draws - 3, margin=1)["p_zero"]
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    # the interval and the test are one: it excludes zero where the test is below its level
    assert ((p_values < 0.05) == ((ends[:, 1] > 3) | (ends[:, 2] < 3))).all()


@pytest.mark.parametrize(("seeds", "least"), [(3, 0.15), (5, 0.10), (10, 0.055)])
def test_resampling_few_seeds_has_too_many_false_positives_and_students_t_has_not(seeds, least):
    """Where seeds dominate; the reason for testing over seeds."""
    rng, wrong, student = np.random.default_rng(1), 0, 0
    for _ in range(250):
        effect = np.repeat(rng.normal(0, 1, (seeds, 1)), 20, axis=1)
        seed, item = np.indices(effect.shape)
        table = pd.DataFrame({"seed": seed.ravel(), "item": item.ravel()})
        frames = [table.assign(method="a", nll=effect.ravel()), table.assign(method="b", nll=0)]
        found = stats.differences(pd.concat(frames), "b", resamples=300).iloc[0]
        wrong += found.low > 0 or found.high < 0
        student += compare_seeds(effect[:, 0]).p_zero < 0.05
    assert wrong / 250 > least and student / 250 < 0.08


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_no_verdict_errs_more_often_than_the_level(seeds):
    """At the worst case of each: a true difference of the margin, or of nothing."""
    rng = np.random.default_rng(4)
    for truth, wrong in ((1.0, {"supported", "not supported"}), (0.0, {"partly supported"})):
        values = rng.normal(truth, 0.4, (4000, seeds))
        table = pd.DataFrame(contrasts._test_means(values, 1.0))
        table = table.assign(estimate=values.mean(axis=1), margin=1.0)
        counts = pd.Series(verdict(table)).value_counts(normalize=True)
        for word in wrong:
            assert counts.get(word, 0) < 0.06, (truth, word)


@pytest.mark.parametrize(
    ("differences", "margin", "word"),
    [
        ([0.30, 0.31, 0.29, 0.30], 0.1, "supported"),
        ([0.12, 0.30, 0.20, 0.14], 0.1, "partly supported"),  # above zero, the margin is open
        ([0.02, 0.021, 0.02, 0.019], 0.1, "not supported"),  # above zero, and negligible
        ([0.01, -0.01, 0.02, -0.02], 0.1, "not supported"),  # equivalent to zero
        ([-0.30, -0.31, -0.29, -0.30], 0.1, "not supported"),  # against
        ([0.9, -0.8, 0.1, 0.3], 0.1, "inconclusive"),
        ([0.3, 0.3, 0.3, 0.3], 0.1, "inconclusive"),  # no variance
        ([0.30, 0.31], 0.1, "inconclusive"),  # two seeds
    ],
)
def test_verdicts(differences, margin, word):
    test = compare_seeds(differences, margin=margin)
    assert verdict(test) == word
    assert verdict(pd.DataFrame([test])).tolist() == [word]


def test_below_the_floor_nothing_is_concluded():
    arms = [0.01, 0.0, 0.02, 0.01], [0.0, 0.01, 0.0, 0.0]
    assert verdict(compare_seeds(*arms, margin=0.1)) == "not supported"
    test = compare_seeds(*arms, margin=0.1, floor=0.05)
    assert verdict(test) == "inconclusive" and test.estimate == pytest.approx(0.0075)
    assert verdict(compare_seeds([0.9, 0.8, 0.9], [0, 0, 0.1], 0.1, floor=0.05)) == "supported"


def test_a_test_has_the_numbers_of_its_differences():
    treatment, control = [0.5, 0.7, np.nan, 0.6], [0.1, 0.2, 0.3, 0.4]
    test = compare_seeds(treatment, control, margin=0.1)
    assert test.estimate == pytest.approx(np.mean([0.4, 0.5, 0.2])) and test.seeds == 3
    assert test[:3] == pytest.approx(contrasts.student_interval([0.4, 0.5, 0.2]))
    # of all signs of five seeds, those given and their opposite are as far from zero
    assert compare_seeds([0.2, 0.5, 0.1, 0.3, 0.4]).p_flip == pytest.approx(2 / 2**5)
    with pytest.raises(ValueError, match="at least 0"):
        compare_seeds(treatment, control, margin=-0.1)
    none = compare_seeds([np.nan], [1.0], margin=0.1)
    assert none.seeds == 0 and np.isnan(none.estimate) and verdict(none) == "inconclusive"
    # one seed has no interval
    assert np.isnan(contrasts.student_interval([4.0])[1:]).all()


def test_rows_of_a_seed_count_as_one_number():
    table = pd.DataFrame({"ranking": list("bbbbaa"), "seed": [0, 0, 0, 1, 0, 1]})
    table["jaccard"] = [0.1, 0.2, 0.3, 0.6, 0.5, np.nan]
    found = contrasts.summarize_seeds(table, ["ranking"], "jaccard")
    assert found["jaccard"].tolist() == pytest.approx([0.4, 0.5]) and list(found["seeds"]) == [2, 1]
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx(
        contrasts.student_interval([0.2, 0.6])[1:]
    )
    assert np.isnan(found.loc[1, "low"])


def test_a_contrast_pairs_seeds():
    rows = [(1, "act", 0.5), (0, "act", 0.4), (0, "random", 0.3), (1, "random", np.nan)]
    table = pd.DataFrame(rows, columns=["seed", "method", "recovery"])
    found = contrasts.contrast(table, "sufficient", "act", "random")
    assert found["seed"].tolist() == [0, 1]
    assert found["difference"][0] == pytest.approx(0.1) and np.isnan(found["difference"][1])
    with pytest.raises(ValueError, match="duplicate"):
        contrasts.contrast(pd.concat([table, table]), "sufficient", "act", "random")


def test_holm_by_hand_counts_the_tests_that_were_planned():
    found = contrasts.correct_holm([0.04, 0.01, 0.03])
    assert found == pytest.approx([0.06, 0.03, 0.06])
    found = contrasts.correct_holm([0.04, 0.01, np.nan, 0.03])
    assert found[[0, 1, 3]] == pytest.approx([0.09, 0.04, 0.09]) and np.isnan(found[2])
    assert contrasts.correct_holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_power_of_known_spread_is_that_of_students_test():
    # many pilots tell the spread; the noncentral t gives 0.681 for an effect of one, 8 seeds
    pilots = np.random.default_rng(5).normal(0, 1, 400)
    pilots *= 0.2 / pilots.std(ddof=1)
    found = contrasts.simulate_power(pilots, seeds=8, effect=0.2, margin=0.0)
    assert found["supported"] + found["partly supported"] == pytest.approx(0.681, abs=0.02)


def test_few_pilots_lower_the_power():
    pilots = np.array([0.1, 0.2, 0.3])
    many = 0.2 + 0.1 * np.random.default_rng(6).standard_normal(100)
    few, more = (contrasts.simulate_power(each, 8, 0.2, margin=0.1) for each in (pilots, many))
    assert few["supported"] < more["supported"]
    with pytest.raises(ValueError, match="two pilots"):
        contrasts.simulate_power([0.1], 8, 0.1, 0.1)
