"""Concentration and exact nulls, each against an independent computation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, stats

from actlib.analysis import nulls

SIZES = {"embed": 40, "layers.0.up": 120, "layers.0.norm": 40, "layers.1.up": 120, "head": 300}
KINDS = {"embed": "embed", "head": "head"} | {n: n[9:] for n in SIZES if n.startswith("layers")}
LAYERS = {name: int(name[7]) if name.startswith("layers") else -1 for name in SIZES}
TOTAL = sum(SIZES.values())


def scores(seed=0):
    rng = np.random.default_rng(seed)
    return {name: np.abs(rng.normal(size=size)) for name, size in SIZES.items()}


def mask(seed=0, share=0.1):
    rng = np.random.default_rng(seed)
    return {name: rng.random(size) < share for name, size in SIZES.items()}


def expected_jaccard(total, size_a, size_b):
    sizes, pmf = nulls.intersection_law([total], [size_a], [size_b])
    return pmf @ nulls.jaccard(sizes, size_a, size_b)


def test_shares_of_known_values():
    values = np.array([6.0, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    shares = [nulls.top_share(values, percent) for percent in (10, 20, 29, 100)]
    assert shares == pytest.approx([0.6, 0.7, 0.7, 1.0])
    even = [nulls.top_share(np.ones(100), percent) for percent in (0.1, 29, 58)]
    assert even == pytest.approx([0.01, 0.29, 0.58])  # at least one; safe against binary rounding
    assert np.isnan(nulls.top_share(np.zeros(5), 10)) and np.isnan(nulls.gini(np.zeros(5)))


@pytest.mark.parametrize("values", [[], [1.0, -1.0], [1.0, np.nan]])
def test_shares_and_gini_refuse_what_is_no_score(values):
    for function in (lambda x: nulls.top_share(x, 5), nulls.gini):
        with pytest.raises(ValueError, match="non-negative"):
            function(np.array(values))


def test_gini_is_half_the_relative_mean_difference():
    values = np.random.default_rng(0).exponential(size=300)
    pairs = np.abs(values[:, None] - values[None, :]).mean()
    assert nulls.gini(values) == pytest.approx(pairs / (2 * values.mean()))
    assert nulls.gini(np.ones(50)) == pytest.approx(0)
    assert nulls.gini(np.eye(1, 1000)[0]) == pytest.approx(0.999)


@pytest.mark.parametrize("percent", [0, -1, 100.1, float("nan")])
def test_shares_refuse_percents_out_of_range(percent):
    with pytest.raises(ValueError, match="percent must be"):
        nulls.top_share(np.ones(10), percent)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.10, 0.5, 1.0])
def test_half_normal_share_equals_its_integral(fraction):
    law = stats.halfnorm()
    held, _ = integrate.quad(lambda x: x * law.pdf(x), law.isf(fraction), 40)
    assert nulls.half_normal_share(fraction) == pytest.approx(held / law.mean(), rel=1e-6)


def test_half_normal_null_describes_gaussian_differences():
    values = np.abs(np.random.default_rng(0).normal(0, 3, 400_000))
    for percent in (1, 5, 10):
        share = nulls.top_share(values, percent)
        assert share == pytest.approx(nulls.half_normal_share(percent / 100), rel=0.01)
    assert nulls.gini(values) == pytest.approx(nulls.HALF_NORMAL_GINI, rel=0.01)
    for x in (0.1, 1.0, 3.0):
        above = (values > x * values.mean()).mean()
        assert nulls.half_normal_ccdf(np.array([x]))[0] == pytest.approx(above, rel=0.02)


@pytest.mark.parametrize("sizes", [(400, 20, 20), (200, 150, 90), (50, 5, 30)])
def test_expected_jaccard_agrees_with_simulation(sizes):
    total, size_a, size_b = sizes
    rng = np.random.default_rng(1)
    order = rng.random((20_000, total)).argsort(axis=1)[:, :size_b]
    common = (order < size_a).sum(axis=1)  # set a is the first channels, set b drawn at random
    drawn = nulls.jaccard(common, size_a, size_b)
    error = drawn.std() / drawn.size**0.5
    assert expected_jaccard(*sizes) == pytest.approx(drawn.mean(), abs=4 * error)


def test_expected_jaccard_is_exact_on_a_case_small_enough_to_list():
    a = {0, 1, 2}
    every = [len(a & set(b)) / len(a | set(b)) for b in combinations(range(6), 2)]
    assert expected_jaccard(6, 3, 2) == pytest.approx(np.mean(every), rel=1e-12)
    assert expected_jaccard(10, 10, 10) == 1.0
    assert expected_jaccard(10, 0, 4) == 0.0


def test_large_sizes_agree_with_the_uncut_law():
    total, size_a, size_b = 1_000_000, 50_000, 30_000
    sizes, pmf = nulls.intersection_law([total], [size_a], [size_b])
    common = np.arange(size_b + 1)
    uncut = stats.hypergeom.pmf(common, total, size_a, size_b)
    expected = uncut @ nulls.jaccard(common, size_a, size_b) / uncut.sum()
    assert pmf @ nulls.jaccard(sizes, size_a, size_b) == pytest.approx(expected, rel=1e-9)


def test_groups_are_convolved_exactly():
    totals, sizes_a, sizes_b = [4, 5, 3], [2, 4, 0], [3, 3, 2]
    sizes, pmf = nulls.intersection_law(totals, sizes_a, sizes_b)
    law = dict.fromkeys(range(-1, 13), 0.0) | {0: 1.0}
    for group in zip(totals, sizes_a, sizes_b, strict=True):
        one = {k: float(stats.hypergeom.pmf(k, *group)) for k in range(6)}
        law = {n: sum(one[k] * law.get(n - k, 0.0) for k in one) for n in law}
    found = dict(zip(sizes.tolist(), pmf, strict=True))
    assert all(found.get(n, 0.0) == pytest.approx(p, abs=1e-12) for n, p in law.items())


def test_sets_larger_than_their_group_are_refused():
    with pytest.raises(ValueError, match="do not fit into 10"):
        expected_jaccard(10, 11, 2)


def test_concentration_covers_every_group_with_its_null():
    table = nulls.concentration(scores(), (5, 10))
    assert list(table["channels"]) == [TOTAL] * 2 and list(table["name"]) == ["all"] * 2
    # half-normal scores must look like the half-normal null
    assert table["share_percent"].to_numpy() == pytest.approx(
        table["null_share_percent"].to_numpy(), rel=0.1
    )
    assert table["gini"][0] == pytest.approx(table["null_gini"][0], rel=0.1)
    silent = scores() | {"head": np.zeros(300)}
    kinds = nulls.concentration(silent, (5,), KINDS).set_index("name")
    assert kinds["channels"].to_dict() == {"embed": 40, "up": 240, "norm": 40, "head": 300}
    assert list(kinds.index[kinds["share_percent"].isna()]) == ["head"]


def test_ccdf_counts_channels_at_least_as_large():
    flat = np.concatenate(list(scores().values()))
    table = nulls.ccdf(scores(), points=30)
    for row in table.itertuples():
        assert row.ccdf == pytest.approx((flat >= row.value).mean())
        assert row.value_over_mean == pytest.approx(row.value / flat.mean())
    assert table["ccdf"].min() == pytest.approx(1 / TOTAL) and table["ccdf"].max() == 1
    assert np.abs(table["ccdf"] - table["null_ccdf"]).max() < 0.05
    with pytest.raises(ValueError, match="agree"):
        nulls.ccdf({"head": np.zeros(3)})


def test_composition_counts_each_channel_once():
    chosen = mask()
    table = nulls.composition(chosen, KINDS, LAYERS)
    assert table["channels"].sum() == TOTAL
    assert table["masked"].sum() == sum(x.sum() for x in chosen.values())
    assert table["of_mask_percent"].sum() == pytest.approx(100)
    row = table[(table["kind"] == "up") & (table["layer"] == 1)].iloc[0]
    assert row["masked"] == chosen["layers.1.up"].sum()
    assert row["masked_percent"] == pytest.approx(100 * row["masked"] / 120)
    assert table.loc[table["kind"] == "head", "layer"].tolist() == [-1]


def test_overlap_agrees_with_sets_and_with_the_hypergeometric():
    a, b = mask(0), mask(1, 0.2)
    row = nulls.overlap(a, b)
    sets = [set(np.flatnonzero(np.concatenate(list(x.values())))) for x in (a, b)]
    assert row["intersection"] == len(sets[0] & sets[1])
    assert row["jaccard"] == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    expected = expected_jaccard(TOTAL, len(sets[0]), len(sets[1]))
    assert row["expected_jaccard"] == pytest.approx(expected)
    assert row["null_low"] <= expected <= row["null_high"]
    same = nulls.overlap(a, a)
    assert same["jaccard"] == 1 and same["p_above"] < 1e-12


@pytest.mark.parametrize("per_module", [False, True])
def test_ranges_hold_their_share_of_random_masks(per_module):
    inside = 0
    for seed in range(100):
        row = nulls.overlap(mask(2 * seed), mask(2 * seed + 1), per_module)
        inside += row["null_low"] <= row["jaccard"] <= row["null_high"]
    assert inside >= 90  # 95 nominal, more as the law is discrete


def test_matched_null_takes_shared_modules_for_granted():
    def crowd(seed):
        chosen = np.random.default_rng(seed).random(40) < 0.5
        return {n: np.zeros(size, dtype=bool) for n, size in SIZES.items()} | {"embed": chosen}

    a, b = crowd(0), crowd(1)
    assert nulls.overlap(a, b)["p_above"] < 1e-3
    matched = nulls.overlap(a, b, per_module=True)
    assert matched["null_low"] <= matched["jaccard"] <= matched["null_high"]


def test_overlap_table_is_symmetric():
    table = nulls.overlap_table({"a": mask(0), "b": mask(1, 0.3), "c": mask(2)})
    assert len(table) == 2 * 9
    for null in ("uniform", "matched"):
        part = table[table["null"] == null].set_index(["ability_a", "ability_b"])
        assert part.loc[("a", "b"), "jaccard"] == part.loc[("b", "a"), "jaccard"]
        assert part.loc[("b", "a"), "size_a"] == part.loc[("a", "b"), "size_b"]
        assert part.loc[("c", "c"), "jaccard"] == 1


def test_masks_and_scores_of_other_models_are_refused():
    for function, values in ((nulls.overlap, mask()), (nulls.rank_agreement, scores())):
        with pytest.raises(ValueError, match="1 modules differ, such as 'head'"):
            function(values, values | {"head": np.ones(301, dtype=bool)})


def test_rank_agreement_tells_scale_from_channels():
    def scale_modules(seed):  # modules differ in scale alone; within one, ranks are random
        return {n: x * 10.0**i for i, (n, x) in enumerate(scores(seed).items())}

    same = nulls.rank_agreement(scores(0), scores(0))
    assert same["spearman_global"] == pytest.approx(1) == same["spearman_within"]
    apart = nulls.rank_agreement(scale_modules(0), scale_modules(1))
    assert apart["spearman_global"] > 0.8 and abs(apart["spearman_within"]) < 0.2
    constant = {"head": np.ones(5)}
    assert np.isnan(list(nulls.rank_agreement(constant, constant).values())).all()
