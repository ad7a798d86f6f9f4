"""Tables about scores and masks: totals, invariances, and agreement with the nulls."""

import numpy as np
import pytest
import torch

from actlib.masks import ChannelMask
from actlib.measures import analysis
from actlib.measures.statistics import hypergeometric_jaccard
from actlib.scores import ChannelScores

SIZES = {
    "model.embed_tokens": 40,
    "model.layers.0.mlp.up_proj": 120,
    "model.layers.0.norm": 40,
    "model.layers.1.mlp.up_proj": 120,
    "model.layers.1.norm": 40,
    "lm_head": 300,
}


def scores(seed=0, draw=lambda generator, size: torch.randn(size, generator=generator).abs()):
    generator = torch.Generator().manual_seed(seed)
    values = {name: draw(generator, size) for name, size in SIZES.items()}
    return ChannelScores(values, {name: torch.ones(n) for name, n in SIZES.items()}, tokens=7)


def mask(seed=0, share=0.1):
    generator = torch.Generator().manual_seed(seed)
    return ChannelMask(
        {name: torch.rand(size, generator=generator) < share for name, size in SIZES.items()}, {}
    )


def test_concentration_covers_every_group_with_its_null():
    table = analysis.concentration_table(scores(), percents=(5, 10))
    everything = table[table["group"] == "all"]
    assert list(everything["channels"]) == [sum(SIZES.values())] * 2
    assert set(table["name"]) == {"all", "embed_tokens", "mlp.up_proj", "norm", "lm_head", "0", "1"}
    for group in ("kind", "all"):
        rows = table[(table["group"] == group) & (table["top_percent"] == 5)]
        assert rows["channels"].sum() == sum(SIZES.values())
    # half-normal scores must look like the half-normal null
    assert everything["share_percent"].to_numpy() == pytest.approx(
        everything["null_share_percent"].to_numpy(), rel=0.1
    )
    assert everything["gini"].iloc[0] == pytest.approx(everything["null_gini"].iloc[0], rel=0.1)


def test_scaling_undoes_a_module_of_large_scale():
    plain = scores()
    louder = ChannelScores(
        plain.values | {"lm_head": 1000 * plain.values["lm_head"]},
        plain.magnitudes | {"lm_head": 1000 * plain.magnitudes["lm_head"]},
        tokens=7,
    )
    columns = ["share_percent", "gini"]
    raw, scaled, expected = (
        analysis.concentration_table(s, scaled=by)[columns].to_numpy()
        for s, by in ((louder, False), (louder, True), (plain, False))
    )
    assert scaled == pytest.approx(expected, rel=1e-5)
    assert raw[0, 1] > expected[0, 1] + 0.1


def test_scaling_agrees_with_the_scores_own_ranking():
    found = scores()
    found = ChannelScores(
        found.values, {n: torch.rand(s) + i for i, (n, s) in enumerate(SIZES.items())}, 7
    )
    own = torch.cat(list(found.ranked("scaled").values())).numpy()
    table = analysis.ccdf_table(found)
    rows = table[(table["group"] == "all") & (table["ranking"] == "scaled")]
    assert rows["value"].max() == pytest.approx(own.max(), rel=1e-6)


def test_groups_that_did_not_change_have_no_share():
    found = scores()
    found = ChannelScores(found.values | {"lm_head": torch.zeros(300)}, found.magnitudes, 7)
    table = analysis.concentration_table(found).set_index("name")
    assert table.loc["lm_head", "share_percent"].isna().all()
    assert "lm_head" not in set(analysis.ccdf_table(found)["name"])
    still = ChannelScores({n: torch.zeros(s) for n, s in SIZES.items()}, found.magnitudes, 7)
    with pytest.raises(ValueError, match="agree"):
        analysis.ccdf_table(still)


def test_ccdf_counts_channels_at_least_as_large():
    found = scores()
    flat = torch.cat(list(found.values.values())).double().numpy()
    table = analysis.ccdf_table(found, points=30)
    rows = table[(table["group"] == "all") & (table["ranking"] == "raw")]
    for row in rows.itertuples():
        assert row.ccdf == pytest.approx((flat >= row.value).mean())
        assert row.value_over_mean == pytest.approx(row.value / flat.mean())
    assert rows["ccdf"].min() == pytest.approx(1 / flat.size) and rows["ccdf"].max() == 1
    assert np.abs(rows["ccdf"] - rows["null_ccdf"]).max() < 0.05


def test_makeup_counts_each_channel_once():
    chosen = mask()
    table = analysis.mask_makeup(chosen)
    assert table["channels"].sum() == sum(SIZES.values()) and table["masked"].sum() == chosen.count
    assert table["of_mask_percent"].sum() == pytest.approx(100)
    cell = table[(table["kind"] == "mlp.up_proj") & (table["layer"] == 1)].iloc[0]
    assert cell["masked"] == int(chosen.channels["model.layers.1.mlp.up_proj"].sum())
    assert cell["masked_percent"] == pytest.approx(100 * cell["masked"] / 120)
    assert table.loc[table["kind"] == "lm_head", "layer"].tolist() == [-1]


def test_overlap_agrees_with_the_masks_and_the_hypergeometric():
    a, b = mask(0), mask(1, 0.2)
    found = analysis.overlap(a, b)
    assert (
        found["jaccard"] == pytest.approx(a.jaccard(b)) and found["intersection"] == (a & b).count
    )
    expected = hypergeometric_jaccard(sum(SIZES.values()), a.count, b.count)
    assert found["expected_jaccard"] == pytest.approx(expected)
    assert found["null_low"] <= expected <= found["null_high"]
    same = analysis.overlap(a, a)
    assert same["jaccard"] == 1 and same["p_above"] < 1e-12


@pytest.mark.parametrize("null", [analysis.overlap, analysis.matched_overlap])
def test_ranges_hold_their_share_of_random_masks(null):
    inside = 0
    for seed in range(100):
        found = null(mask(2 * seed), mask(2 * seed + 1))
        inside += found["null_low"] <= found["jaccard"] <= found["null_high"]
    assert inside >= 90  # 95 nominal, more as the law is discrete


def test_matched_null_takes_shared_modules_for_granted():
    def crowded(seed):
        channels = {name: torch.zeros(size, dtype=torch.bool) for name, size in SIZES.items()}
        generator = torch.Generator().manual_seed(seed)
        channels["model.layers.0.norm"] = torch.rand(40, generator=generator) < 0.5
        return ChannelMask(channels, {})

    a, b = crowded(0), crowded(1)
    assert analysis.overlap(a, b)["p_above"] < 1e-3
    matched = analysis.matched_overlap(a, b)
    assert matched["null_low"] <= matched["jaccard"] <= matched["null_high"]


def test_overlap_table_is_symmetric():
    table = analysis.overlap_table({"a": mask(0), "b": mask(1, 0.3), "c": mask(2)})
    assert len(table) == 2 * 9
    for null in ("uniform", "matched"):
        part = table[table["null"] == null].set_index(["ability_a", "ability_b"])
        assert part.loc[("a", "b"), "jaccard"] == part.loc[("b", "a"), "jaccard"]
        assert part.loc[("b", "a"), "size_a"] == part.loc[("a", "b"), "size_b"]
        assert part.loc[("c", "c"), "jaccard"] == 1


def test_masks_of_other_models_are_refused():
    other = ChannelMask(mask().channels | {"lm_head": torch.ones(301, dtype=torch.bool)}, {})
    with pytest.raises(ValueError, match="1 modules differ, such as 'lm_head'"):
        analysis.overlap(mask(), other)


def test_rank_agreement_tells_scale_from_channels():
    def ordered(seed):  # modules differ in scale alone; within one, ranks are random
        base, steps = scores(seed), {n: 10.0**i for i, n in enumerate(SIZES)}
        return ChannelScores({n: x * steps[n] for n, x in base.values.items()}, base.magnitudes, 7)

    same = analysis.rank_agreement(scores(0), scores(0), 5)
    assert same["jaccard"] == same["spearman_global"] == 1
    assert same["spearman_within"] == pytest.approx(1)
    apart = analysis.rank_agreement(ordered(0), ordered(1), 5)
    assert apart["spearman_global"] > 0.8 and abs(apart["spearman_within"]) < 0.2
    ranked = analysis.rank_agreement(ordered(0), ordered(0), 5, ranking="scaled")
    assert ranked["jaccard"] == 1 and ranked["size_a"] == int(0.05 * sum(SIZES.values()))
