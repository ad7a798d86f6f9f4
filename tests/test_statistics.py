"""Concentration measures and exact nulls, each against an independent computation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, stats

from actlib.measures.statistics import (
    HALF_NORMAL_GINI,
    gini,
    half_normal_ccdf,
    half_normal_share,
    hypergeometric_jaccard,
    intersection_law,
    jaccard_of,
    seed_interval,
    share_of_top,
    top_count,
)
from actlib.scores import channel_count


def test_shares_of_known_values():
    values = np.array([6.0, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    assert share_of_top(values, (10, 20, 100)) == pytest.approx([0.6, 0.7, 1.0])
    assert share_of_top(np.ones(200), (1, 5, 10)) == pytest.approx([0.01, 0.05, 0.10])
    assert np.isnan(share_of_top(np.zeros(5), (10,))).all()


@pytest.mark.parametrize("values", [[], [1.0, -1.0], [1.0, np.nan]])
def test_shares_and_gini_refuse_what_is_no_score(values):
    for function in (share_of_top, gini):
        with pytest.raises(ValueError, match="non-negative"):
            function(np.array(values))


def test_gini_is_half_the_relative_mean_difference():
    values = np.random.default_rng(0).exponential(size=300)
    pairs = np.abs(values[:, None] - values[None, :]).mean()
    assert gini(values) == pytest.approx(pairs / (2 * values.mean()))
    assert gini(np.ones(50)) == pytest.approx(0)
    assert gini(np.eye(1, 1000)[0]) == pytest.approx(0.999)


@pytest.mark.parametrize("percent", [0.1, 0.3, 1, 5, 7, 10, 29, 33.3, 58, 100])
@pytest.mark.parametrize("total", [1, 10, 100, 1000, 29_999])
def test_count_is_that_of_the_masks(percent, total):
    assert top_count(percent, total) == channel_count(percent, total)


@pytest.mark.parametrize("percent", [0, -1, 100.1, float("nan")])
def test_count_refuses_percents_out_of_range(percent):
    with pytest.raises(ValueError, match="percent must be"):
        top_count(percent, 10)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.10, 0.5, 1.0])
def test_half_normal_share_equals_its_integral(fraction):
    law = stats.halfnorm()
    held, _ = integrate.quad(lambda x: x * law.pdf(x), law.isf(fraction), 40)
    assert half_normal_share(fraction) == pytest.approx(held / law.mean(), rel=1e-6)


def test_half_normal_null_describes_gaussian_differences():
    values = np.abs(np.random.default_rng(0).normal(0, 3, 400_000))
    for percent, share in zip((1, 5, 10), share_of_top(values), strict=True):
        assert share == pytest.approx(half_normal_share(percent / 100), rel=0.01)
    assert gini(values) == pytest.approx(HALF_NORMAL_GINI, rel=0.01)
    for x in (0.1, 1.0, 3.0):
        above = (values > x * values.mean()).mean()
        assert half_normal_ccdf(np.array([x]))[0] == pytest.approx(above, rel=0.02)


@pytest.mark.parametrize("sizes", [(400, 20, 20), (200, 150, 90), (50, 5, 30)])
def test_expected_jaccard_agrees_with_simulation(sizes):
    total, size_a, size_b = sizes
    rng = np.random.default_rng(1)
    order = rng.random((20_000, total)).argsort(axis=1)[:, :size_b]
    common = (order < size_a).sum(axis=1)  # set a is the first channels, set b drawn at random
    drawn = jaccard_of(common, size_a, size_b)
    error = drawn.std() / drawn.size**0.5
    assert hypergeometric_jaccard(*sizes) == pytest.approx(drawn.mean(), abs=4 * error)


def test_expected_jaccard_is_exact_on_a_case_small_enough_to_list():
    a = {0, 1, 2}
    every = [len(a & set(b)) / len(a | set(b)) for b in combinations(range(6), 2)]
    assert hypergeometric_jaccard(6, 3, 2) == pytest.approx(np.mean(every), rel=1e-12)
    assert hypergeometric_jaccard(10, 10, 10) == 1.0
    assert hypergeometric_jaccard(10, 0, 4) == 0.0


def test_large_sizes_agree_with_the_uncut_law():
    total, size_a, size_b = 1_000_000, 50_000, 30_000
    sizes, pmf = intersection_law([total], [size_a], [size_b])
    common = np.arange(size_b + 1)
    uncut = stats.hypergeom.pmf(common, total, size_a, size_b)
    expected = uncut @ jaccard_of(common, size_a, size_b) / uncut.sum()
    assert pmf @ jaccard_of(sizes, size_a, size_b) == pytest.approx(expected, rel=1e-9)


def test_groups_are_convolved_exactly():
    totals, sizes_a, sizes_b = [4, 5, 3], [2, 4, 0], [3, 3, 2]
    sizes, pmf = intersection_law(totals, sizes_a, sizes_b)
    law = dict.fromkeys(range(-1, 13), 0.0) | {0: 1.0}
    for group in zip(totals, sizes_a, sizes_b, strict=True):
        one = {k: float(stats.hypergeom.pmf(k, *group)) for k in range(6)}
        law = {n: sum(one[k] * law.get(n - k, 0.0) for k in one) for n in law}
    found = dict(zip(sizes.tolist(), pmf, strict=True))
    assert all(found.get(n, 0.0) == pytest.approx(p, abs=1e-12) for n, p in law.items())


def test_the_interval_over_seeds_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 3))
    ends = np.array([seed_interval(values) for values in draws])
    covered = ((ends[:, 1] < 3.0) & (3.0 < ends[:, 2])).mean()
    assert covered == pytest.approx(0.95, abs=0.015)
    assert np.allclose(ends[:, 0], draws.mean(axis=1))


def test_one_seed_has_no_interval():
    mean, low, high = seed_interval(np.array([4.0]))
    assert mean == 4.0 and np.isnan([low, high]).all()
    assert seed_interval(np.array([4.0, 4.0])) == (4.0, 4.0, 4.0)
    with pytest.raises(ValueError, match="at least one"):
        seed_interval(np.array([]))


def test_sets_larger_than_their_group_are_refused():
    with pytest.raises(ValueError, match="do not fit into 10"):
        hypergeometric_jaccard(10, 11, 2)
