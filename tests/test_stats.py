"""Bootstrap intervals: coverage on known cases, pairing, and the design over seeds."""

import numpy as np
import pandas as pd
import pytest

from actlib.analysis import stats


def items(scores):
    """Items of a [seeds, items] array, or of one list."""
    grid = np.atleast_2d(np.asarray(scores, dtype=float))
    seed, item = np.indices(grid.shape)
    return pd.DataFrame({"item": item.ravel(), "seed": seed.ravel(), "nll": grid.ravel()})


def recover(moved, target, donor, **options):
    """One row: the share that `moved` recovers."""
    parts = {"moved": moved, "target": target, "donor": donor}
    table = pd.concat([frame.assign(method=name) for name, frame in parts.items()])
    return stats.recovery(table, ["method"], **options).iloc[0]


def covers(truth, table):
    found = stats.means(table, [], resamples=300).iloc[0]
    return found.low <= truth <= found.high


def test_unpaired_items_are_refused():
    one = items([1.0, 0.0, 1.0]).assign(cluster=[0, 0, 1])
    wrong = {
        "same items in the same seeds": [one[:2], one.assign(item=[0, 1, 3])],
        "twice": [pd.concat([one, one])],
        "NaN": [one.assign(nll=[1.0, np.nan, 0.0])],
        "one cluster": [one.assign(cluster=[0, 1, 1]), one.assign(cluster=[0, np.nan, 1])],
    }
    for message, others in wrong.items():
        for other in others:
            both = pd.concat([one.assign(method="a"), other.assign(method="b")])
            with pytest.raises(ValueError, match=message):
                stats.differences(both, "b")
    with pytest.raises(ValueError, match="same items in the same seeds"):
        stats.means(pd.concat([one, one.assign(seed=1, item=[0, 1, 3])]), [])


def test_recovery_of_known_shares():
    rng = np.random.default_rng(0)
    target, donor = rng.normal(0.2, 0.05, 300), rng.normal(0.8, 0.05, 300)
    for share in (0.0, 0.25, 1.0, 1.5):
        moved = items(target + share * (donor - target)).sample(frac=1, random_state=0)
        found = recover(moved, items(target), items(donor))
        assert found.gap_clear and found.recovery == pytest.approx(share)
        # the same items in the same resample: an exact share leaves no uncertainty
        assert (found.low, found.high) == pytest.approx((share, share))
    found = recover(*(items(rng.normal(0, 1, 50)) for _ in range(3)))  # without a clear gap
    assert not found.gap_clear and found.gap_low < 0 < found.gap_high
    assert np.isnan([found.recovery, found.low, found.high]).all()


def test_recovery_covers_the_truth():
    rng, hits = np.random.default_rng(3), 0
    for _ in range(120):
        easy = rng.normal(0, 0.1, 120)
        scores = [(rng.random(120) < p + easy) * 1.0 for p in (0.5, 0.3, 0.7)]
        found = recover(*map(items, scores), resamples=300)
        hits += found.gap_clear and found.low <= 0.5 <= found.high
    assert 0.90 <= hits / 120 <= 0.99


def test_abilities_have_their_own_gap_and_settings_share_it():
    parts = {"target": (0.0, np.nan), "donor": (1.0, np.nan), "act": (0.5, 5), "random": (0.2, 20)}
    tables = []
    for name, (share, percent) in parts.items():
        for ability, gap in (("fr", 2.0), ("ru", -3.0)):
            table = items([share * gap + noise for noise in (0.1, 0.2, 0.4)])
            table = table.assign(method=name, top_percent=percent, ability=ability)
            tables.append(table.assign(item=ability + table["item"].map(str)))
    table = pd.concat(tables)
    apart = stats.recovery(table, ["ability", "method", "top_percent"])
    assert apart["gap"].tolist() == pytest.approx([2, 2, -3, -3])
    assert apart["recovery"].tolist() == pytest.approx([0.5, 0.2, 0.5, 0.2])
    with pytest.raises(ValueError, match="gap between them"):
        stats.recovery(table[table["method"] != "donor"], ["method"])
    lacking = table[(table["ability"] == "fr") | ~table["method"].isin(["donor", "target"])]
    with pytest.raises(ValueError, match="ru lacks rows of"):
        stats.recovery(lacking, ["ability", "method"])
    with pytest.raises(ValueError, match="same items"):
        stats.recovery(table[(table["method"] != "act") | (table["ability"] == "fr")], ["method"])


def test_draws_are_averaged_and_the_baseline_is_taken_away():
    table = pd.concat(
        items([1.0 + shift, 3.0 + shift]).assign(method=name, draw=draw)
        for name, draw, shift in (("a", 0, 0.0), ("b", 0, 1.0), ("b", 1, 2.0), ("c", 0, -1.0))
    )
    found = stats.differences(table, "a")
    assert list(found["method"]) == ["b", "c"] and set(found["baseline"]) == {"a"}
    assert found["difference"].tolist() == [1.5, -1.0] and (found["items"] == 2).all()


def test_a_resample_averages_the_items_it_drew():
    table = items([0.0, 0.0, 0.0, 1.0]).set_index(["seed", "item"])
    clusters = pd.Series(["a", "a", "a", "b"], index=range(4))
    found = stats.resample_means(table, clusters, resamples=4000)
    # of two clusters: a and a (1/4), a and b (1/2, one of four items), b and b (1/4)
    values, counts = np.unique(found.draws, return_counts=True)
    assert values.tolist() == [0, 0.25, 1] and found.point[0] == 0.25
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_intervals_over_clusters_cover():
    rng, hits, naive = np.random.default_rng(7), 0, 0
    for _ in range(120):
        table = items(np.repeat(rng.normal(0, 1, 40), 5) + rng.normal(0, 0.5, 200))
        hits += covers(0, table.assign(cluster=table["item"] // 5))
        naive += covers(0, table)
    assert 0.88 <= hits / 120 <= 0.99 and naive / 120 < 0.8


def test_intervals_over_seeds_cover_where_items_are_shared():
    """Drawing shared items per seed would cover about 75 % of the time."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(100):
        effect = rng.normal(0, 1, (12, 1)) + rng.normal(0, 3, (1, 40))
        hits += covers(0, items(effect + rng.normal(0, 1, (12, 40))))
    assert 0.87 <= hits / 100 <= 1.0
