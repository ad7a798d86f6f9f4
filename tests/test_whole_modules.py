import pytest
import torch

from actlib.controls.choices import whole_modules
from actlib.masks import require_fit
from actlib.parameters import weight_differences
from actlib.rankings import RANKINGS
from actlib.scores import ChannelScores


def scores_of(sizes, levels, magnitudes=None):
    """One score for all channels of a module."""
    values = {n: torch.full((s,), float(levels[n])) for n, s in sizes.items()}
    units = {n: torch.full((s,), float((magnitudes or {}).get(n, 1))) for n, s in sizes.items()}
    return ChannelScores(values, units, 9, {"donor": "d"})


def taken(mask):
    return [name for name, chosen in mask.channels.items() if chosen.any()]


SIZES = {"a": 10, "big": 60, "b": 20, "c": 10}


def test_the_best_modules_that_fit_are_taken_whole():
    scores = scores_of(SIZES, {"a": 1, "big": 4, "b": 3, "c": 2})
    mask = whole_modules(scores, 35)
    assert taken(mask) == ["b", "c"]  # big does not fit, then b and c do, and a no longer
    assert all(chosen.all() or not chosen.any() for chosen in mask.channels.values())
    assert mask.count == 30
    assert taken(whole_modules(scores, 85)) == ["big", "b"]


def test_a_module_goes_by_its_mean_not_its_best_channel():
    scores = scores_of({"a": 10, "b": 10}, {"a": 1, "b": 2})
    scores.values["a"][0] = 9.0
    assert taken(whole_modules(scores, 50)) == ["b"]
    scores.values["a"][0] = 90.0
    assert taken(whole_modules(scores, 50)) == ["a"]


def test_modules_are_compared_in_their_own_units_unless_asked_otherwise():
    scores = scores_of({"a": 10, "b": 10}, {"a": 100, "b": 2}, {"a": 1000, "b": 1})
    assert taken(whole_modules(scores, 50)) == ["b"]
    assert taken(whole_modules(scores, 50, "global")) == ["a"]


def test_every_ranking_can_order_the_modules_even_below_zero():
    scores = scores_of({"a": 10, "b": 10}, {"a": 1, "b": 2})
    off = scores_of({"a": 10, "b": 10}, {"a": 2, "b": 5})
    stds = {"a": torch.full((10,), 1.0), "b": torch.full((10,), 10.0)}
    off = ChannelScores(off.values, off.magnitudes, 9, stds=stds)
    names = [name for name, rule in RANKINGS.items() if rule.of == "differences"]
    found = {r: taken(whole_modules(scores.relative_to(off), 50, r)) for r in names}
    assert found.pop("contrast") == ["a"]  # -1 against -3
    assert found.pop("relative") == ["a"]  # 1 against 2 tenths
    assert set(map(tuple, found.values())) == {("b",)}
    with pytest.raises(ValueError, match="relative_to"):
        whole_modules(scores, 50, "contrast")


def test_ties_go_by_module_order():
    alike = scores_of({"z": 5, "a": 5, "b": 5}, {"z": 1, "a": 1, "b": 1})
    assert taken(whole_modules(alike, 67)) == ["z", "a"]


@pytest.mark.parametrize("percent", [6, 10, 25, 50, 90, 100])
def test_never_more_channels_than_a_mask_of_single_ones(pair, architecture, percent):
    scores = weight_differences(*pair(architecture))
    mask = whole_modules(scores, percent)
    count = scores.top(percent).count
    assert 0 < mask.count <= count
    left_out = [chosen.numel() for chosen in mask.channels.values() if not chosen.any()]
    assert all(size > count - mask.count for size in left_out)
    assert all(chosen.all() or not chosen.any() for chosen in mask.channels.values())
    require_fit(pair(architecture)[1], mask)


def test_the_mask_says_what_it_is():
    metadata = whole_modules(scores_of(SIZES, dict.fromkeys(SIZES, 1)), 20).metadata
    assert metadata["control"] == "whole modules"
    assert (metadata["percent"], metadata["ranking"], metadata["donor"]) == ("20", "scaled", "d")


def test_too_few_channels_for_any_module_give_an_empty_mask():
    scores = scores_of(SIZES, dict.fromkeys(SIZES, 1))
    assert whole_modules(scores, 9).count == 0 < whole_modules(scores, 10).count
    with pytest.raises(ValueError, match="percent must be above 0"):
        whole_modules(scores, 0)
