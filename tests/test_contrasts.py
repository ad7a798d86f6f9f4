"""Tests over training seeds: coverage and false positives by simulation, verdicts case by case."""

import numpy as np
import pandas as pd
import pytest

from actlib.analysis import contrasts
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
    ("differences", "word"),
    [
        ([0.30, 0.31, 0.29, 0.30], "supported"),
        ([0.12, 0.30, 0.20, 0.14], "partly supported"),  # above zero, the margin is open
        ([0.02, 0.021, 0.02, 0.019], "not supported"),  # above zero, and negligible
        ([0.01, -0.01, 0.02, -0.02], "not supported"),  # equivalent to zero
        ([-0.30, -0.31, -0.29, -0.30], "not supported"),  # against
        ([0.9, -0.8, 0.1, 0.3], "inconclusive"),
        ([0.3, 0.3, 0.3, 0.3], "inconclusive"),  # no variance
        ([0.30, 0.31], "inconclusive"),  # two seeds
    ],
)
def test_verdicts(differences, word):
    test = compare_seeds(differences, margin=0.1)
    assert verdict(test) == word
    assert verdict(pd.DataFrame([test])).tolist() == [word]


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


def test_rows_of_a_seed_count_as_one_number_and_one_seed_has_no_interval():
    table = pd.DataFrame({"ranking": list("bbbbaa"), "seed": [0, 0, 0, 1, 0, 1]})
    table["jaccard"] = [0.1, 0.2, 0.3, 0.6, 0.5, np.nan]
    found = contrasts.summarize_seeds(table, ["ranking"], "jaccard")
    both, one = (row[1:4] for row in found.itertuples(index=False))
    assert both == pytest.approx(contrasts.student_interval([0.2, 0.6]))
    assert one == pytest.approx((0.5, np.nan, np.nan), nan_ok=True)
    assert list(found["seeds"]) == [2, 1]


def test_a_contrast_pairs_seeds():
    rows = [(1, "act", 0.5), (0, "act", 0.4), (0, "random", 0.3), (1, "random", np.nan)]
    table = pd.DataFrame(rows, columns=["seed", "method", "recovery"])
    found = contrasts.contrast(table, "sufficient", "act", "random")
    assert found["seed"].tolist() == [0, 1]
    assert found["difference"].tolist() == pytest.approx([0.1, np.nan], nan_ok=True)
    with pytest.raises(ValueError, match="seed 1 has several rows of method .act., expected one"):
        contrasts.contrast(pd.concat([table, table]), "sufficient", "act", "random")


def test_holm_by_hand_counts_the_tests_that_were_planned():
    found = contrasts.correct_holm([0.04, 0.01, np.nan, 0.03])
    assert found == pytest.approx([0.09, 0.04, np.nan, 0.09], nan_ok=True)
    assert contrasts.correct_holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_power_is_that_of_students_test_and_lower_where_few_pilots_tell_the_spread():
    # many pilots tell the spread; the noncentral t gives 0.681 for an effect of one, 8 seeds
    many = np.random.default_rng(5).normal(0, 1, 400)
    many *= 0.2 / many.std(ddof=1)
    found = contrasts.simulate_power(many, seeds=8, effect=0.2, margin=0.0)
    assert found["supported"] + found["partly supported"] == pytest.approx(0.681, abs=0.02)
    few = contrasts.simulate_power([-0.2, 0.0, 0.2], seeds=8, effect=0.2, margin=0.0)
    assert few["supported"] < found["supported"] - 0.05
    with pytest.raises(ValueError, match="two pilots"):
        contrasts.simulate_power([0.1], 8, 0.1, 0.1)
