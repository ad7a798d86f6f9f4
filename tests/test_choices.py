"""Ways to choose channels: masks of one size, controls that are fair, and refusals."""

import pytest
import torch

from actlib import weight_differences
from actlib.controls import choices
from actlib.scores import ChannelScores

NOT_OF_ONE_SIZE = {"act_module", "whole_modules"}  # they round down


@pytest.fixture
def made():
    """Scores of three modules of unlike size and spread."""
    generator = torch.Generator().manual_seed(5)
    sizes = {"a": (40, 1.0), "b": (25, 3.0), "c": (60, 0.2)}
    values = {
        name: torch.rand(size, generator=generator) * spread
        for name, (size, spread) in sizes.items()
    }
    return ChannelScores(values, {name: part + 1 for name, part in values.items()}, tokens=9)


@pytest.fixture
def compared(made):
    """The same scores with an off-ability recording of other values attached."""
    generator = torch.Generator().manual_seed(6)
    values = {
        name: torch.rand(len(part), generator=generator) for name, part in made.values.items()
    }
    stds = {name: part + 0.1 for name, part in values.items()}
    zeros = {name: torch.zeros_like(part) for name, part in values.items()}
    return made.relative_to(ChannelScores(values, made.magnitudes, 9, {}, zeros, stds))


def per_module(mask):
    return {name: int(part.sum()) for name, part in mask.channels.items()}


def test_masks_of_all_methods_have_one_size(study, models):
    weights, scores = weight_differences(*models), study.scores(study.lost, off=study.retained)
    methods = [method for method in choices.METHODS if method != "all_rows"]
    for percent in (7, 50):
        made = choices.masks_by_method(scores, weights, percent, draws=2, methods=methods)
        made = list(made)
        assert {method for method, _, _ in made} == set(methods)
        expected = scores.top(percent).count
        for method, _, mask in made:
            assert mask.count <= expected if method in NOT_OF_ONE_SIZE else mask.count == expected
            assert list(mask.channels) == list(scores.values)


def test_the_matched_control_has_the_mask_s_make_up_and_its_draws_differ(made):
    found = choices.masks_by_method(
        made, None, 20, draws=4, methods=["act_global", "random_matched", "random_uniform"]
    )
    found = list(found)
    (act,) = [mask for method, _, mask in found if method == "act_global"]
    matched = [mask for method, _, mask in found if method == "random_matched"]
    uniform = [mask for method, _, mask in found if method == "random_uniform"]
    assert all(per_module(mask) == per_module(act) for mask in matched)
    assert any(per_module(mask) != per_module(act) for mask in uniform)
    assert [draw for method, draw, _ in found if method == "random_matched"] == [0, 1, 2, 3]
    for masks in (matched, uniform):
        assert len({mask.digest for mask in [act, *masks]}) == 5


def test_random_scaled_matches_the_scaled_ranking_and_not_the_paper_s(made):
    scaled, drawn = made.top(20, "scaled"), choices.chosen("random_scaled", 20, made)
    assert per_module(drawn) == per_module(scaled) != per_module(made.top(20))


def test_weights_rank_by_themselves(made, compared):
    weights = ChannelScores(made.values, made.magnitudes, 0)
    for method, ranking in choices.WEIGHT_RANKINGS.items():
        mask = choices.chosen(method, 10, compared, weights)
        assert mask.digest == made.top(10, ranking).digest


def test_each_ranking_means_what_it_says(made, compared):
    found = {
        method: mask
        for method, _, mask in choices.masks_by_method(
            compared, None, 10, methods=[*choices.ACT_RANKINGS, "bottom", "all_rows"]
        )
    }
    flat = torch.cat(list(made.values.values()))
    chosen = torch.cat(list(found["act_global"].channels.values()))
    assert flat[chosen].min() >= flat[~chosen].max()
    lowest = torch.cat(list(found["bottom"].channels.values()))
    assert flat[lowest].max() <= flat[~lowest].min()
    assert per_module(found["act_module"]) == {"a": 4, "b": 2, "c": 6}
    assert found["all_rows"].count == flat.numel() == choices.everything(made).count


def test_an_unknown_method_or_weights_that_are_missing_are_refused(made):
    for method in ("magic", "weight_difference"):
        with pytest.raises(ValueError, match=method):
            list(choices.masks_by_method(made, None, 10, methods=[method]))


def test_random_unions_are_independent_and_keep_each_make_up(made):
    masks = {"one": made.top(20), "two": made.top(20)}
    drawn = choices.random_instead(masks)
    assert all(per_module(drawn[name]) == per_module(masks[name]) for name in masks)
    again = choices.random_instead(masks, draw=1)
    everyone = [*drawn.values(), *again.values()]
    assert len({mask.digest for mask in everyone}) == 4
