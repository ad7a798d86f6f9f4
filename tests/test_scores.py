from dataclasses import replace

import pytest
import torch

from actlib import rankings
from actlib.analysis.style import label_of
from actlib.masks import ChannelMask, channel_count
from actlib.rankings import RANKINGS
from actlib.scores import ChannelScores, pool
from actlib.study import controls

ROLES = {"a": "linear", "b": "norm", "head": "head"}


def tensors(values):
    return {name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()}


def scores_of(values, magnitudes=None, stds=None):
    values = tensors(values)
    ones = {name: torch.ones_like(v) for name, v in values.items()}
    magnitudes = tensors(magnitudes) if magnitudes else ones
    found = {"means": ones, "stds": tensors(stds)} if stds else {}
    return ChannelScores(values, magnitudes, 12, {"donor": "d", "tokens": "12"}, **found)


def picked(mask):
    return {name: chosen.nonzero().flatten().tolist() for name, chosen in mask.channels.items()}


def random_scores():
    generator = torch.Generator().manual_seed(0)
    made = {n: torch.rand(s, generator=generator).tolist() for n, s in (("z", 70), ("a", 130))}
    return scores_of(made)


# Which channels are chosen


@pytest.mark.parametrize("draw", [0, 3, 11])
def test_the_choice_is_that_of_a_stable_sort(draw):
    generator = torch.Generator().manual_seed(draw)
    # From all alike to all different; zeros of both signs and infinities are equal to themselves.
    values = torch.randint(-(2**draw), 2**draw + 1, (3000,), generator=generator).float() / 2
    values[torch.randint(3000, (40,), generator=generator)] = -0.0
    values[torch.randint(3000, (9,), generator=generator)] = torch.inf
    values[torch.randint(3000, (9,), generator=generator)] = -torch.inf
    parts = dict(zip("czab", values.split([1, 1999, 0, 1000]), strict=True))
    scores = ChannelScores(parts, {name: torch.ones_like(part) for name, part in parts.items()}, 1)
    for percent in (0.001, 7.3, 50, 100):
        for end, highest in (("top", True), ("bottom", False)):
            order = torch.sort(values, descending=highest, stable=True).indices
            expected = torch.zeros(3000, dtype=torch.bool)
            expected[order[: channel_count(percent, 3000)]] = True
            found = getattr(scores, end)(percent).channels
            assert torch.equal(torch.cat([*found.values()]), expected)


def test_each_module_gives_its_percent_rounded_down():
    uneven = scores_of({"large": [*range(1, 31)], "small": [1, 2]})
    assert picked(uneven.top(10, "module")) == {"large": [27, 28, 29], "small": []}
    assert picked(uneven.bottom(50, "module")) == {"large": [*range(15)], "small": [0]}
    with pytest.raises(ValueError, match="less than one channel of every module.* 30"):
        uneven.top(3.3333, "module")


def test_without_ranks_the_channels_of_the_other_modules():
    values = {"head": [9.0] * 50, "a": [*range(1, 31)], "b": [*range(20)]}
    scores = replace(scores_of(values), roles=ROLES)
    alone = replace(scores_of({name: values[name] for name in "ab"}), roles=ROLES)
    for name in ("global", "module", "scaled"):
        for end in ("top", "bottom"):
            mask = getattr(scores, end)(10, name, without="head")
            expected = getattr(alone, end)(10, name)
            assert picked(mask) == {"head": [], **picked(expected)}
            assert list(mask.channels) == list(values) and mask.metadata["without"] == "head"
            assert mask.metadata["unranked"] == "head"
    assert scores.top(10, without=["head", "norm"]).channels["a"].sum() == 3
    stated = scores.top(10, "scaled").metadata
    assert (stated["percent"], stated["ranking"], stated["donor"]) == ("10", "scaled", "d")
    assert not {"without", "off"} & stated.keys()


def test_what_cannot_be_ranked_is_refused():
    scores = replace(scores_of({"a": [1.0], "b": [0.0], "head": [3.0]}), roles=ROLES)
    broken = scores_of({"a": [1.0, float("nan")]}, stds={"a": [1.0, float("nan")]})
    whole = scores_of({"a": [1.0, 2.0]})
    for run, message in (
        (lambda: scores.bottom(100.5), "percent must be above 0 and at most 100, got 100.5"),
        (lambda: scores.top(5, "best"), "'best' is none of global, module, scaled"),
        (lambda: scores.top(50, without="lm_head"), "'lm_head' is none of embedding, head, linear"),
        (lambda: scores.top(50, without=ROLES.values()), "no module is left to rank without"),
        (lambda: scores.top(50, without=["linear", "head"]), "scores that are all 0"),
        (lambda: whole.top(50, without="head"), "do not say what their modules are"),
        (lambda: broken.top(50), "NaN"),
        (lambda: whole.relative_to(broken).top(50, "relative"), "NaN"),
        (lambda: whole.relative_to(broken).top(50, "contrast"), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            run()


# Rankings


def test_a_new_ranking_is_one_function(monkeypatch):
    monkeypatch.setitem(RANKINGS, "smallest", None)  # so that it is gone afterwards

    @rankings.ranking("smallest", legend="ACT, smallest", needs=("means",))
    def invert(scores):
        return {name: scores.means[name] - d for name, d in scores.values.items()}

    scores = replace(random_scores(), means={"z": torch.zeros(70), "a": torch.zeros(130)})
    assert scores.top(10, "smallest").digest == scores.bottom(10).digest
    assert label_of("act_smallest") == "ACT, smallest"
    monkeypatch.setitem(RANKINGS, "gain", None)
    rankings.ranking("gain", of="attributions")(lambda scores: scores.values)
    assert controls.kind_of("gain") == "attributions"
    with pytest.raises(ValueError, match='"smallest" needs means, .*moments=True'):
        random_scores().top(10, "smallest")
    with pytest.raises(ValueError, match='ranking "global" is .*; give .*<lambda> another name'):
        rankings.ranking("global")(lambda scores: scores.values)


def test_scaled_counts_in_units_of_the_mean_magnitude_of_the_module():
    scores = scores_of({"a": [1.0, 5.0], "b": [400.0, 600.0]}, {"a": [1.0, 3.0], "b": [200.0] * 2})
    found = scores.ranked("scaled")
    assert (found["a"].tolist(), found["b"].tolist()) == ([0.5, 2.5], [2.0, 3.0])


def test_relative_counts_in_units_of_the_donors_spread_elsewhere():
    values = {"a": [1.0, 8.0, 0.5], "b": [3.0], "silent": [0.0, 3.0]}
    stds = {"a": [1.0, 16.0, 1.0], "b": [1.0], "silent": [0.0, 0.0]}
    scores = scores_of(values, stds={name: [9.0] * len(each) for name, each in values.items()})
    found = scores.relative_to(scores_of(values, stds=stds)).ranked("relative")
    # One hundredth of the mean spread, 6 and 1, is added to each spread.
    torch.testing.assert_close(found["a"], torch.tensor([1 / 1.06, 8 / 16.06, 0.5 / 1.06]))
    torch.testing.assert_close(found["b"], torch.tensor([3 / 1.01]))
    assert found["silent"].tolist() == [0, 0]


def test_contrast_takes_away_what_differs_as_much_elsewhere():
    scores = scores_of({"a": [5.0, 7.0], "b": [1.0, 1.0]}, {"a": [2.0, 4.0], "b": [0.5, 0.5]})
    off = scores_of({"a": [5.0, 1.0], "b": [0.5, 3.0]}, {"a": [90.0] * 2, "b": [90.0] * 2})
    found = scores.relative_to(off).ranked("contrast")
    assert (found["a"].tolist(), found["b"].tolist()) == ([0, 2], [1, -4])


def test_references_are_of_the_same_pair_with_tokens_and_what_a_ranking_needs():
    scores = random_scores()
    for ranking in ("relative", "contrast"):
        with pytest.raises(ValueError, match=f'"{ranking}" needs off.*relative_to'):
            scores.top(5, ranking)
    with pytest.raises(ValueError, match="needs off.stds.*moments=True"):
        scores.relative_to(scores).top(5, "relative")
    with pytest.raises(ValueError, match="the reference is a recording of another model"):
        scores.relative_to(scores_of({"z": [1.0] * 70, "a": [1.0]}))
    with pytest.raises(ValueError, match="answer tokens"):
        scores.relative_to(replace(scores, tokens=0))
    for role in ("donor", "target"):
        ours, theirs, unnamed = (
            replace(scores, metadata={role: name}) for name in ("one", "other", "")
        )
        with pytest.raises(ValueError, match=f"another model: {role} other instead of one; record"):
            ours.relative_to(theirs)
        assert ours.relative_to(unnamed).off is unnamed and unnamed.relative_to(ours).off is ours


# Files, metadata and pools


@pytest.mark.parametrize(("metadata", "entry"), [({"actlib": "mine"}, "'actlib'"), ({"n": 3}, "3")])
def test_metadata_that_no_file_would_give_back_is_refused(metadata, entry):
    row = {"a": torch.ones(1, dtype=torch.bool)}
    for make in (lambda: ChannelScores(row, {}, 1, metadata), lambda: ChannelMask(row, metadata)):
        with pytest.raises(ValueError, match=f"metadata must .*{entry}"):
            make()


def test_round_trip_is_exact_and_leaves_the_reference_out(tmp_path):
    made = {"z": [3.0, 1.0], "a": [2.0]}
    scores = scores_of(made, {"z": [4.0, 5.0], "a": [6.0]}, {"z": [0.1, 0.2], "a": [0.3]})
    scores = replace(scores.relative_to(scores), roles={"z": "head"}, sizes={"z": 3, "a": 1})
    scores.save(tmp_path / "scores.safetensors")
    loaded = ChannelScores.load(tmp_path / "scores.safetensors")
    for part in ("values", "magnitudes", "means", "stds"):
        ours, theirs = getattr(scores, part), getattr(loaded, part)
        assert list(ours) == list(theirs) == ["z", "a"]
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for part in ("tokens", "metadata", "roles", "sizes"):
        assert getattr(loaded, part) == getattr(scores, part)
    assert loaded.off is None


def test_a_pool_adds_up_tokens_and_items_as_often_as_they_were_recorded():
    one, two, three = (
        replace(random_scores(), metadata={"items": items, "data_hash": data}).relative_to(
            random_scores()
        )
        for items, data in (("240", "a"), ("240", "b"), ("3", "c"))
    )
    for parts, items, tokens in (
        ([pool([one, two]), three], "483", "36"),
        ([one, one], "480", "24"),  # whose tokens count twice too
    ):
        found = pool(parts)
        assert (found.metadata["items"], found.metadata["tokens"]) == (items, tokens)
        assert found.off is None
    with pytest.raises(ValueError, match="recordings of different modules cannot be pooled: "):
        pool([one, scores_of({"z": [1.0] * 70})])
