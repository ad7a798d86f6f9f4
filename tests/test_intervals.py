"""Bootstrap intervals: coverage on known cases, pairing, and the design over seeds."""

import numpy as np
import pandas as pd
import pytest

from actlib.intervals import bootstrap_interval, paired_difference, recovery, score_table


def items(scores, seeds=None):
    """Items of a [seeds, items] array, or of one list if `seeds` is None."""
    grid = np.atleast_2d(np.asarray(scores, dtype=float))
    seed, item = np.indices(grid.shape)
    table = pd.DataFrame({"item": item.ravel(), "seed": seed.ravel(), "score": grid.ravel()})
    return table if seeds is not None or len(grid) > 1 else table.drop(columns="seed")


def test_interval_covers_the_mean_at_its_level():
    rng = np.random.default_rng(0)
    hits = 0
    for number in range(400):
        found = bootstrap_interval(rng.exponential(size=80), resamples=400, seed=number)
        hits += found.low <= 1.0 <= found.high
    # 95 % nominal; percentile intervals of skewed samples of 80 run a little under
    assert 0.90 <= hits / 400 <= 0.975


def test_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = bootstrap_interval(values, resamples=4000)
    assert found.estimate == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)
    narrow = bootstrap_interval(values, resamples=4000, level=0.5)
    assert narrow.high - narrow.low < 0.5 * (found.high - found.low)


def test_interval_of_another_statistic_is_fixed_by_its_seed():
    values = np.random.default_rng(2).exponential(size=101)
    first, again = (bootstrap_interval(values, np.median, seed=3) for _ in range(2))
    assert first == again and first.estimate == np.median(values)
    assert first != bootstrap_interval(values, np.median, seed=4)
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(np.array([]))


def test_paired_difference_removes_shared_difficulty():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 5, 200)
    a, b = items(difficulty + 0.5 + rng.normal(0, 0.1, 200)), items(difficulty)
    found = paired_difference(a, b.sample(frac=1, random_state=0))  # order must not matter
    assert found.estimate == pytest.approx(0.5, abs=0.05)
    assert found.high - found.low < 0.05


def test_unpaired_frames_are_refused():
    one = items([1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="same items"):
        paired_difference(one, items([1.0, 0.0]))
    with pytest.raises(ValueError, match="twice"):
        paired_difference(one, pd.concat([one, one]))
    with pytest.raises(ValueError, match="NaN"):
        paired_difference(one, one.assign(score=[1.0, np.nan, 0.0]))


def test_recovery_of_known_shares():
    rng = np.random.default_rng(0)
    target, donor = rng.normal(0.2, 0.05, 300), rng.normal(0.8, 0.05, 300)
    for share in (0.0, 0.25, 1.0, 1.5):
        moved = items(target + share * (donor - target))
        found = recovery(moved, items(target), items(donor))
        assert found.gap_clear and found.items == 300 and found.seeds == 1
        assert found.estimate == pytest.approx(share)
        # the same items in the same resample: an exact share leaves no uncertainty
        assert (found.low, found.high) == pytest.approx((share, share))


def test_recovery_covers_the_truth():
    rng, hits = np.random.default_rng(3), 0
    for number in range(120):
        easy = rng.normal(0, 0.1, 120)
        scores = [(rng.random(120) < p + easy) * 1.0 for p in (0.5, 0.3, 0.7)]
        found = recovery(*map(items, scores), resamples=300, seed=number)
        hits += found.gap_clear and found.low <= 0.5 <= found.high
    assert 0.90 <= hits / 120 <= 0.99


def test_recovery_works_where_lower_is_better():
    nll = np.random.default_rng(0).normal(3, 0.1, 100)
    found = recovery(items(nll - 1), items(nll), items(nll - 2))
    assert found.estimate == pytest.approx(0.5) and found.gap < 0 and found.gap_clear


def test_recovery_of_an_unclear_gap_is_undefined():
    rng = np.random.default_rng(0)
    found = recovery(*(items(rng.normal(0, 1, 50)) for _ in range(3)))
    assert not found.gap_clear and found.gap_low < 0 < found.gap_high
    assert np.isnan([found.estimate, found.low, found.high]).all()


def covered(crossed, datasets=100):
    """How often the interval of a mean over 12 seeds covers 0, with effects of seed and item."""
    rng, hits = np.random.default_rng(5), 0
    for number in range(datasets):
        seed_effect = rng.normal(0, 1, (12, 1))
        item_effect = rng.normal(0, 3, (1, 40) if crossed else (12, 40))
        table = items(seed_effect + item_effect + rng.normal(0, 1, (12, 40)))
        if not crossed:
            table["item"] += 1000 * table["seed"]
        low, high = score_table(table.assign(all=0), ["all"], 300, number).loc[0, ["low", "high"]]
        hits += low <= 0 <= high
    return hits / datasets


@pytest.mark.parametrize("crossed", [True, False])
def test_intervals_over_seeds_cover_in_both_designs(crossed):
    # drawing shared items per seed would cover about 75 % of the time in the crossed design
    assert 0.87 <= covered(crossed) <= 1.0


def test_a_frame_without_seeds_holds_for_each():
    scores = np.random.default_rng(0).random((3, 50))
    target = np.zeros(50)
    short = paired_difference(items(scores), items(target))
    spelled_out = paired_difference(items(scores), items(np.tile(target, (3, 1))))
    assert short == spelled_out and short.estimate == pytest.approx(scores.mean())


def test_seeds_count_equally_and_widen_the_interval():
    rng = np.random.default_rng(0)
    table = pd.concat([items(rng.normal(m, 0.1, 60), 1).assign(seed=m) for m in (0, 1, 2, 3, 4)])
    pooled = bootstrap_interval(table["score"].to_numpy())
    found = score_table(table.assign(model="m"), ["model"]).iloc[0]
    assert found["mean"] == pytest.approx(pooled.estimate) and found["seeds"] == 5
    assert found["high"] - found["low"] > 3 * (pooled.high - pooled.low)


def test_score_table_keeps_groups_apart_and_in_order():
    table = pd.concat(
        [items([v] * 10).assign(model=m, language="de") for m, v in (("b", 1.0), ("a", 0.25))]
    )
    found = score_table(table, ["model", "language"])
    assert list(found["model"]) == ["b", "a"] and list(found["mean"]) == [1.0, 0.25]
    assert (found["low"] == found["mean"]).all() and (found["items"] == 10).all()
