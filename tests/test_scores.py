import pytest
import torch

from actlib.scores import ChannelScores, channel_count


def scores_of(values, magnitudes=None):
    values = {name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()}
    if magnitudes is None:
        magnitudes = {name: torch.ones_like(v) for name, v in values.items()}
    else:
        magnitudes = {name: torch.tensor(v, dtype=torch.float32) for name, v in magnitudes.items()}
    return ChannelScores(values, magnitudes, 12, {"donor": "d", "tokens": "12"})


def picked(mask):
    return {name: chosen.nonzero().flatten().tolist() for name, chosen in mask.channels.items()}


def random_scores():
    generator = torch.Generator().manual_seed(0)
    made = {n: torch.rand(s, generator=generator).tolist() for n, s in (("z", 70), ("a", 130))}
    return scores_of(made)


def test_top_holds_the_highest_scores_of_all_modules_together():
    scores = random_scores()
    flat = torch.cat(list(scores.values.values()))
    for percent in (1, 7.3, 50, 100):
        mask = scores.top(percent)
        chosen = torch.cat(list(mask.channels.values()))
        assert mask.count == int(percent * 2)
        assert percent == 100 or flat[chosen].min() > flat[~chosen].max()


def test_bottom_holds_the_lowest_and_complements_top():
    scores = random_scores()
    assert (scores.top(40) & scores.bottom(60)).count == 0
    assert (scores.top(40) | scores.bottom(60)).count == 200


def test_counts_are_exact_where_floats_are_not():
    assert 29 / 100 * 100 < 29
    assert channel_count(29, 100) == 29
    assert channel_count(0.1, 1000) == 1
    assert channel_count(7, 100) == 7
    assert channel_count(9.99, 100) == 9


def test_at_least_one_channel():
    scores = scores_of({"a": [1.0, 3.0, 2.0]})
    for ranking in ("global", "module", "scaled"):
        assert picked(scores.top(0.001, ranking)) == {"a": [1]}


@pytest.mark.parametrize("percent", [0, -1, 100.01, float("nan"), float("inf")])
def test_percent_out_of_range_is_refused(percent):
    with pytest.raises(ValueError, match="percent must be above 0 and at most 100"):
        random_scores().top(percent)
    with pytest.raises(ValueError, match="percent"):
        random_scores().bottom(percent)


def test_unknown_ranking_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'best', expected one of global, module, scaled"):
        random_scores().top(5, "best")


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        scores_of({"a": [1.0, float("nan")]}).top(50)


@pytest.mark.parametrize("end", ["top", "bottom"])
def test_ties_go_by_module_order_then_index(end):
    scores = scores_of({"z": [1.0] * 3, "a": [1.0] * 3})
    assert picked(getattr(scores, end)(67)) == {"z": [0, 1, 2], "a": [0]}


def test_many_ties_keep_their_order():
    # An unstable sort shuffles equal scores only in long lists.
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 2, (20_000,), generator=generator)
    mask = scores_of({"a": values.tolist()}).top(10)
    assert picked(mask)["a"] == values.nonzero().flatten()[:2000].tolist()


def test_ties_keep_module_order_through_a_file(tmp_path):
    scores_of({"z": [1.0] * 3, "a": [1.0] * 3}).save(tmp_path / "scores")
    assert picked(ChannelScores.load(tmp_path / "scores").top(50)) == {"z": [0, 1, 2], "a": []}


def test_module_ranking_takes_the_floor_in_each_module():
    scores = scores_of({"big": list(range(100, 110)), "small": list(range(25)), "one": [7]})
    mask = scores.top(20, "module")
    assert picked(mask) == {"big": [8, 9], "small": [20, 21, 22, 23, 24], "one": []}


def test_scaled_ranking_ignores_the_unit_of_each_module():
    values = {"a": [1.0, 5.0, 3.0], "b": [4.0, 2.0, 6.0]}
    magnitudes = {"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]}
    scores = scores_of(values, magnitudes)
    larger = scores_of(
        values | {"b": [1000 * v for v in values["b"]]}, magnitudes | {"b": [2000.0] * 3}
    )
    assert picked(scores.top(50, "scaled")) == picked(larger.top(50, "scaled"))
    assert picked(scores.top(50)) != picked(larger.top(50))


def test_scaled_ranking_puts_silent_modules_last():
    scores = scores_of({"a": [0.0, 0.0], "b": [1.0, 2.0]}, {"a": [0.0, 0.0], "b": [1.0, 1.0]})
    assert picked(scores.top(50, "scaled")) == {"a": [], "b": [0, 1]}


def test_round_trip_is_exact(tmp_path):
    scores = random_scores()
    scores.save(tmp_path / "scores.safetensors")
    loaded = ChannelScores.load(tmp_path / "scores.safetensors")
    for part in ("values", "magnitudes"):
        ours, theirs = getattr(scores, part), getattr(loaded, part)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (loaded.tokens, loaded.metadata) == (scores.tokens, scores.metadata)


def test_masks_say_how_they_were_ranked():
    metadata = random_scores().top(5, "scaled").metadata
    assert (metadata["percent"], metadata["ranking"], metadata["donor"]) == ("5", "scaled", "d")
