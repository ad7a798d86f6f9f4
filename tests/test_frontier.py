"""Frontiers: areas by hand, shares of known models, and a bootstrap that draws all alike."""

import numpy as np
import pandas as pd
import pytest

from actlib.analysis import frontier, stats
from actlib.analysis.frontier import frontier_areas, frontier_table, hypervolume, undominated


def made(trials, noise=0.0, seeds=2, size=40, copies=1, gap=2.0):
    """Items of trials placed at (recovered, kept): {(method, percent, scale): (r, k)}."""
    rng = np.random.default_rng(0)
    ends = {("donor", np.nan, np.nan): (1, 0), ("target", np.nan, np.nan): (0, 1)}
    hard = {part: 3 + rng.normal(0, 1, size) for part in ("lost", "retained")}
    frames = []
    for (method, percent, scale), places in (ends | trials).items():
        for part, place in zip(hard, places, strict=True):
            for seed in range(seeds):
                nll = hard[part] - gap * place + rng.normal(0, noise, size)
                frame = pd.DataFrame({"nll": np.repeat(nll, copies)})
                frame["item"] = [f"{part}/{number}" for number in frame.index]
                frame["cluster"] = [f"{part}-{number // copies}" for number in frame.index]
                labels = {"method": method, "top_percent": percent, "scale": scale}
                frames.append(frame.assign(part=part, seed=seed, **labels))
    return pd.concat(frames, ignore_index=True)


TRIALS = {
    ("act_global", 5, 0.5): (0.5, 0.9),
    ("act_global", 5, 1.0): (0.8, 0.4),
    ("act_global", 20, 1.0): (0.7, 0.3),  # dominated
    ("random_matched", 5, 1.0): (0.5, 0.5),
    ("interpolation", 100, 0.5): (1.2, -0.3),
}


def test_hypervolume_of_two_points_by_hand():
    # kept 0.9 at height 0.5, and of kept 0.4 another 0.3
    area = 0.9 * 0.5 + 0.4 * 0.3
    assert hypervolume([0.5, 0.8], [0.9, 0.4]) == pytest.approx(area)
    assert hypervolume([0.8, 0.5], [0.4, 0.9]) == pytest.approx(area)
    assert hypervolume([0.8, 0.5, 0.7], [0.4, 0.9, 0.3]) == pytest.approx(area)


def test_hypervolume_is_clipped_to_the_unit_square():
    assert hypervolume([2.0], [3.0]) == 1
    assert hypervolume([1.2, -0.5], [-0.3, 0.5]) == 0
    assert hypervolume([0.0, 1.0], [1.0, 0.0]) == 0  # the two untouched models
    assert np.isnan(hypervolume([0.5, np.nan], [0.5, 0.5]))


def test_hypervolume_is_the_covered_share_of_random_points():
    rng = np.random.default_rng(0)
    recovered, kept = rng.normal(0.5, 0.4, (2, 6, 5))
    x, y = rng.random((2, 40_000, 1))
    for row, area in enumerate(hypervolume(recovered, kept)):
        covered = ((x <= kept[row]) & (y <= recovered[row])).any(axis=1).mean()
        assert area == pytest.approx(covered, abs=0.01)


def test_more_trials_never_shrink_the_area():
    recovered, kept = np.random.default_rng(0).random((2, 12))
    areas = [hypervolume(recovered[:count], kept[:count]) for count in range(1, 13)]
    assert (np.diff(areas) >= 0).all() and areas[-1] > areas[0]


def test_points_are_undominated_unless_another_is_nowhere_worse():
    points = np.array([[0.5, 0.9], [0.8, 0.4], [0.7, 0.3], [0.8, 0.3], [0.5, 0.9]])
    assert undominated(points).tolist() == [True, True, False, False, True]


def test_the_table_finds_where_trials_were_put():
    table = frontier_table(made(TRIALS))
    keys = table[["method", "top_percent", "scale"]]
    assert list(keys.itertuples(index=False, name=None)) == list(TRIALS)
    assert np.allclose(table[["recovered", "retained"]], list(TRIALS.values()))
    assert table["on_frontier"].tolist() == [True, True, False, True, True]
    assert table["gap_clear"].all()


def test_areas_are_those_of_the_trials_and_exact_without_noise():
    found = frontier_areas(made(TRIALS)).set_index("method")
    assert found["trials"].to_dict() == {"act_global": 3, "random_matched": 1, "interpolation": 1}
    assert found["area"].tolist() == pytest.approx([0.57, 0.25, 0])
    # shares of the same items in the same resample: nothing is uncertain
    assert np.allclose(found[["low", "high"]], found[["area", "area"]])
    assert found["difference"].tolist()[1:] == pytest.approx([-0.32, -0.57])
    assert found.loc["act_global", ["difference", "p_value", "p_corrected"]].isna().all()
    smallest = 2 / 10_001
    assert found["p_value"].tolist()[1:] == pytest.approx([smallest] * 2)
    assert found["p_corrected"].tolist()[1:] == pytest.approx([smallest * 1.5] * 2)
    assert (found["items"] == 80).all() and (found["seeds"] == 2).all()


def test_the_same_trials_under_two_names_do_not_differ():
    trials = {(method, 5, 1.0): (0.6, 0.6) for method in ("act_global", "twin", "noisy")}
    items = made(trials, noise=0.5)
    act = items[items["method"] == "act_global"]
    items = pd.concat([items[items["method"] != "twin"], act.assign(method="twin")])
    found = frontier_areas(items).set_index("method")
    assert found.loc["twin", ["difference_low", "difference_high"]].tolist() == [0, 0]
    assert found.loc["twin", "p_value"] == 1
    # an equal method with noise of its own: paired with ACT, yet uncertain
    assert found.loc["noisy", "difference_low"] < 0 < found.loc["noisy", "difference_high"]
    assert found.loc["noisy", "p_value"] > 0.05


def test_intervals_of_areas_widen_with_noise_and_with_copies():
    trials = {("act_global", 5, 1.0): (0.6, 0.6)}

    def width(**options):
        row = frontier_areas(made(trials, seeds=1, **options), resamples=2000)
        return float((row["high"] - row["low"]).iloc[0])

    plain = width(noise=0.5)
    assert width(noise=1.0) > 1.6 * plain
    clustered = made(trials, noise=0.5, seeds=1, copies=4)
    honest = frontier_areas(clustered)
    naive = frontier_areas(clustered.drop(columns="cluster"))
    assert (honest["high"] - honest["low"])[0] == pytest.approx(plain, rel=0.1)
    assert (naive["high"] - naive["low"])[0] == pytest.approx(plain / 2, rel=0.15)


def test_seeds_are_drawn_jointly_for_lost_and_retained_items():
    # each seed is (0.9, 0.3) or (0.3, 0.9): over seeds, one axis pays for the other
    items = pd.concat(
        made({("act_global", 5, 1.0): place}, seeds=1).assign(seed=seed)
        for seed, place in enumerate([(0.9, 0.3), (0.3, 0.9)] * 5)
    )
    found = frontier_areas(items)
    # with b of ten seeds of the first kind, (0.3 + 0.06 b) (0.9 - 0.06 b): at most 0.36, never
    # above; seeds drawn apart would reach 0.48 x 0.9 and more
    assert found["area"][0] == pytest.approx(0.36) and found["high"][0] <= 0.36 + 1e-9


def test_draws_of_random_methods_are_averaged():
    items = made({("random_matched", 5, 1.0): (0.4, 0.5), ("act_global", 5, 1.0): (0.7, 0.7)})
    first = items[items["method"] == "random_matched"]
    fixed = items[items["method"] != "random_matched"].assign(draw=np.nan)
    shift = first["part"].map({"lost": 0.4, "retained": 0.0})  # 0.2 of the gap
    second = first.assign(nll=first["nll"] - shift, draw=1)
    table = frontier_table(pd.concat([fixed, first.assign(draw=0), second]))
    row = table[table["method"] == "random_matched"]
    assert row[["recovered", "retained"]].to_numpy() == pytest.approx(np.array([[0.5, 0.5]]))
    assert len(table) == 2


@pytest.mark.parametrize("place", [(1, 1.0), (1, 2.0)], ids=["no gap", "donor better"])
def test_without_a_gap_on_retained_items_nothing_is_kept(place):
    items = made(TRIALS, noise=0.3)
    donor = (items["method"] == "donor") & (items["part"] == "retained")
    items.loc[donor, "nll"] -= 2.0 * place[1]
    table = frontier_table(items)
    assert not table["gap_clear"].any() and not table["on_frontier"].any()
    assert table["retained"].isna().all() and table["recovered"].notna().all()
    areas = frontier_areas(items)
    assert areas[["area", "low", "difference", "p_value", "p_corrected"]].isna().all(axis=None)


def test_one_trial_a_method_agrees_with_a_paired_test_on_lost_items():
    # the area is recovered times kept, and kept is 1: what differs is what is recovered
    trials = {("act_global", 5, 1.0): (0.6, 1.0), ("random_matched", 5, 1.0): (0.45, 1.0)}
    items = made(trials, noise=0.8)
    lost = items[items["part"] == "lost"].assign(score=lambda t: -t["nll"] / 2)
    lost = lost[lost["method"].isin(["act_global", "random_matched"])]
    expected = stats.differences(lost, "act_global").iloc[0]
    same = items.loc[
        (items["method"] == "target") & (items["part"] == "retained"), "nll"
    ].to_numpy()
    for name in ("act_global", "random_matched"):
        items.loc[(items["method"] == name) & (items["part"] == "retained"), "nll"] = same
    found = frontier_areas(items).set_index("method").loc["random_matched"]
    ends = found[["difference", "difference_low", "difference_high"]].tolist()
    assert ends == pytest.approx([expected[n] for n in ("difference", "low", "high")], abs=0.03)
    assert (found["p_value"] < 0.05) == (expected.p_value < 0.05)


def test_input_that_cannot_be_drawn_is_refused():
    items = made(TRIALS)
    act = items[items["method"] == "act_global"]
    cases = [
        (items.drop(columns="nll"), "nll"),
        (items[items["method"] != "donor"], "donor"),
        (items[items["part"] == "lost"], "parts"),
        (items[~((items["method"] == "interpolation") & (items["part"] == "lost"))], "both parts"),
        (items.drop(index=items.index[-1]), "same items"),
        (pd.concat([items, act]), "twice"),
        (items.assign(nll=np.nan), "NaN"),
        (items.assign(purpose=["test"] * (len(items) - 1) + ["validation"]), "purpose"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            frontier_table(wrong)
    with pytest.raises(ValueError, match="no trial is of the method 'ties'"):
        frontier_areas(items, baseline="ties")


def curves():
    rows = [("act", 0, p, p / 100) for p in (20, 50, 80)]
    rows += [("act", 1, 20, 0.0), ("act", 1, 50, 1.0), ("act", 1, 80, 0.0), ("act", 1, 5, 9.0)]
    rows += [("random", 0, p, value) for p in (20, 50, 80) for value in (0.1, 0.3)]
    return pd.DataFrame(rows, columns=["method", "seed", "percent", "recovery"])


def test_the_area_is_the_mean_height_between_two_sizes():
    found = frontier.area_over(curves(), ["method", "seed"], "percent", "recovery", 20, 80)
    assert list(found["method"]) == ["act", "act", "random"]
    assert found["recovery"].tolist() == pytest.approx([0.5, 0.5, 0.2])
    holes = curves().query("not (method == 'act' and seed == 0 and percent == 50)")
    found = frontier.area_over(holes, ["method", "seed"], "percent", "recovery", 20, 80)
    assert np.isnan(found["recovery"][0]) and found["recovery"][1] == 0.5
    with pytest.raises(ValueError, match="no row has percent 20 and 90"):
        frontier.area_over(holes, ["method", "seed"], "percent", "recovery", 20, 90)


def test_methods_are_read_at_an_equal_distance_and_not_beyond_their_points():
    found = frontier.value_at(curves(), ["method", "seed"], "percent", "recovery", 35)
    assert found["recovery"].tolist() == pytest.approx([0.35, 0.5, 0.2])
    found = frontier.value_at(curves(), ["method", "seed"], "percent", "recovery", 10)
    assert np.isnan(found["recovery"][0]) and found["recovery"][1] == pytest.approx(6.0)
