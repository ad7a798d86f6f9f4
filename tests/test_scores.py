from dataclasses import replace

import pytest
import torch

from actlib import rankings
from actlib.analysis.style import label_of
from actlib.files import save_tensors
from actlib.masks import ChannelMask, channel_count
from actlib.rankings import RANKINGS
from actlib.scores import ChannelScores, pool


def tensors(values):
    return {name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()}


def scores_of(values, magnitudes=None, stds=None):
    values = tensors(values)
    ones = {name: torch.ones_like(v) for name, v in values.items()}
    magnitudes = tensors(magnitudes) if magnitudes else ones
    found = {"means": ones, "stds": tensors(stds)} if stds else {}
    return ChannelScores(values, magnitudes, 12, {"donor": "d", "tokens": "12"}, **found)


def flat(values):
    return torch.cat(list(values.values()))


def picked(mask):
    return {name: chosen.nonzero().flatten().tolist() for name, chosen in mask.channels.items()}


def random_scores():
    generator = torch.Generator().manual_seed(0)
    made = {n: torch.rand(s, generator=generator).tolist() for n, s in (("z", 70), ("a", 130))}
    return scores_of(made)


def test_a_percent_below_one_channel_of_every_module_is_refused_with_the_least_that_works():
    scores = ChannelScores({f"m{n}": torch.arange(1.0, 8) for n in range(300)}, {}, 1)
    with pytest.raises(ValueError, match=r"largest of which has 7; .* at least 14.2858 %"):
        scores.top(14.2857, "module")
    assert scores.top(14.2858, "module").count == 300
    uneven = scores_of({"large": [*range(1, 31)], "small": [1, 2]})
    with pytest.raises(ValueError, match="at least 3.3334 %"):
        uneven.bottom(3.3333, "module")
    assert picked(uneven.bottom(3.3334, "module")) == {"large": [0], "small": []}
    for percent in (0, 100.5):
        with pytest.raises(ValueError, match="percent must be above 0 and at most 100, got"):
            uneven.top(percent)


def test_scores_that_are_all_zero_are_refused():
    for ranking in ("global", "module"):
        with pytest.raises(ValueError, match="all 0"):
            scores_of({"a": [0.0, 0.0], "b": [0.0]}).top(100, ranking)
    with pytest.raises(ValueError, match="all 0"):
        replace(scores_of({"a": [0.0], "head": [1.0]}), roles=ROLES).top(100, without="head")


ROLES = {"a": "linear", "b": "norm", "head": "head"}


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
    assert "without" not in scores.top(10).metadata


def test_without_takes_what_a_module_is():
    scores = replace(scores_of({"a": [1.0], "b": [2.0], "head": [3.0]}), roles=ROLES)
    for without, message in (
        ("lm_head", "'lm_head' is none of embedding, head, linear, norm, router, expert"),
        (["head", "norm", "linear"], "no module is left to rank without head, norm, linear"),
    ):
        with pytest.raises(ValueError, match=message):
            scores.top(50, without=without)
    with pytest.raises(ValueError, match="do not say what their modules are; record them again"):
        replace(scores, roles={}).top(50, without="head")


def test_a_new_ranking_is_one_function(monkeypatch):
    monkeypatch.setitem(RANKINGS, "smallest", None)  # so that it is gone afterwards

    @rankings.ranking("smallest", legend="ACT, smallest", needs=("means",))
    def invert(scores):
        return {name: scores.means[name] - d for name, d in scores.values.items()}

    scores = replace(random_scores(), means={"z": torch.zeros(70), "a": torch.zeros(130)})
    assert scores.top(10, "smallest").digest == scores.bottom(10).digest
    assert label_of("act_smallest") == "ACT, smallest"
    with pytest.raises(ValueError, match='"smallest" needs means, .*moments=True'):
        random_scores().top(10, "smallest")


def test_a_ranking_is_replaced_by_itself_alone(monkeypatch):
    monkeypatch.setitem(RANKINGS, "own", None)  # so that it is gone afterwards

    def registered(factor):  # as a cell of a notebook that is run again
        @rankings.ranking("own")
        def own(scores):
            return {name: factor * d for name, d in scores.values.items()}

    registered(1), registered(-1)
    scores = random_scores()
    assert scores.top(10, "own").digest == scores.bottom(10).digest
    for name in ("own", "global"):
        with pytest.raises(ValueError, match=f'ranking "{name}" is .*; give .*<lambda> another'):
            rankings.ranking(name)(lambda scores: scores.values)
    assert RANKINGS["global"].formula is rankings.rank_differences


@pytest.mark.parametrize(
    ("metadata", "message"), [({"actlib": "mine"}, "'actlib'"), ({"n": 3}, "'n': 3")]
)
def test_metadata_that_no_file_would_give_back_is_refused(tmp_path, metadata, message):
    row = torch.ones(1, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"metadata must .*{message}"):
        ChannelScores({"a": row.float()}, {}, 1, metadata)
    with pytest.raises(ValueError, match=f"metadata must .*{message}"):
        ChannelMask({"a": row}, metadata)
    with pytest.raises(ValueError, match=f"metadata must .*{message}"):
        save_tensors(tmp_path / "file", "ChannelMask", {"a": row}, metadata)
    assert not list(tmp_path.iterdir())


def test_unknown_ranking_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'best' is none of global, module, scaled"):
        random_scores().top(5, "best")


def test_nan_scores_are_refused():
    broken = scores_of({"a": [1.0, float("nan")]}, stds={"a": [1.0, float("nan")]})
    whole = scores_of({"a": [1.0, 2.0]})
    with pytest.raises(ValueError, match="NaN"):
        broken.top(50)
    for ranking in ("relative", "contrast"):
        with pytest.raises(ValueError, match="NaN"):
            whole.relative_to(broken).top(50, ranking)


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
    for percent in (0.001, 1, 7.3, 50, 99.99, 100):
        for end, highest in (("top", True), ("bottom", False)):
            order = torch.sort(values, descending=highest, stable=True).indices
            expected = torch.zeros(3000, dtype=torch.bool)
            expected[order[: channel_count(percent, 3000)]] = True
            assert torch.equal(flat(getattr(scores, end)(percent).channels), expected)


def test_scaled_ranking_ignores_the_unit_of_each_module():
    values = {"a": [1.0, 5.0, 3.0], "b": [4.0, 2.0, 6.0]}
    magnitudes = {"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]}
    scores = scores_of(values, magnitudes)
    larger = scores_of(
        values | {"b": [1000 * v for v in values["b"]]}, magnitudes | {"b": [2000.0] * 3}
    )
    assert picked(scores.top(50, "scaled")) == picked(larger.top(50, "scaled"))
    assert picked(scores.top(50)) != picked(larger.top(50))


def test_round_trip_is_exact(tmp_path):
    made = {"z": [3.0, 1.0], "a": [2.0]}
    scores = scores_of(made, {"z": [4.0, 5.0], "a": [6.0]}, {"z": [0.1, 0.2], "a": [0.3]})
    scores.save(tmp_path / "scores.safetensors")
    loaded = ChannelScores.load(tmp_path / "scores.safetensors")
    for part in ("values", "magnitudes", "means", "stds"):
        ours, theirs = getattr(scores, part), getattr(loaded, part)
        assert list(ours) == list(theirs) == ["z", "a"]
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (loaded.tokens, loaded.metadata) == (scores.tokens, scores.metadata)


@pytest.mark.parametrize("key", ["actlib.roles", "actlib.sizes"])
@pytest.mark.parametrize("stated", ["[]", "3", '{"a": null}', "[" * 100_000, "x"])
def test_what_a_file_states_of_its_modules_is_checked(tmp_path, key, stated):
    metadata = {"tokens": "1", key: stated}
    save_tensors(tmp_path / "scores", "ChannelScores", {"values:a": torch.ones(2)}, metadata)
    with pytest.raises(ValueError, match="is a damaged ChannelScores file.*record the scores"):
        ChannelScores.load(tmp_path / "scores")


def test_masks_say_how_they_were_ranked():
    metadata = random_scores().top(5, "scaled").metadata
    assert (metadata["percent"], metadata["ranking"], metadata["donor"]) == ("5", "scaled", "d")
    assert "off" not in metadata
    off = replace(scores_of({"z": [0.0] * 70, "a": [0.0] * 130}), metadata={"data_hash": "abc"})
    assert random_scores().relative_to(off).top(5, "contrast").metadata["off"] == "abc"


def test_relative_counts_in_units_of_the_donors_spread_elsewhere():
    scores = scores_of({"a": [1.0, 8.0, 0.5], "b": [3.0]}, stds={"a": [9.0] * 3, "b": [9.0]})
    off = scores_of({"a": [5.0] * 3, "b": [5.0]}, stds={"a": [1.0, 16.0, 1.0], "b": [1.0]})
    found = scores.relative_to(off).ranked("relative")
    # One hundredth of the mean spread, 6 and 1, is added to each spread.
    torch.testing.assert_close(found["a"], torch.tensor([1 / 1.06, 8 / 16.06, 0.5 / 1.06]))
    torch.testing.assert_close(found["b"], torch.tensor([3 / 1.01]))


def test_relative_gives_dead_channels_nothing():
    values = {"a": [0.0, 1e-7, 1.0, 2.0], "silent": [0.0, 3.0]}
    stds = {"a": [0.0, 0.0, 1.0, 1.0], "silent": [0.0, 0.0]}
    scores = scores_of(values).relative_to(scores_of(values, stds=stds))
    found = scores.ranked("relative")
    assert found["a"][0] == 0
    assert 0 < found["a"][1] < 1e-4 < found["a"][2]
    assert found["silent"].tolist() == [0, 0]


def test_contrast_takes_away_what_differs_as_much_elsewhere():
    scores = scores_of({"a": [5.0, 7.0], "b": [1.0, 1.0]}, {"a": [2.0, 4.0], "b": [0.5, 0.5]})
    off = scores_of({"a": [5.0, 1.0], "b": [0.5, 3.0]}, {"a": [90.0] * 2, "b": [90.0] * 2})
    found = scores.relative_to(off).ranked("contrast")
    assert found["a"].tolist() == [0, 2]
    assert found["b"].tolist() == [1, -4]
    assert picked(scores.relative_to(off).top(50, "contrast")) == {"a": [1], "b": [0]}
    assert picked(scores.relative_to(off).bottom(25, "contrast")) == {"a": [], "b": [1]}


def test_rankings_ask_for_their_reference():
    scores = random_scores()
    for ranking in ("relative", "contrast"):
        with pytest.raises(ValueError, match=f'"{ranking}" needs off.*relative_to'):
            scores.top(5, ranking)
    zeros = scores_of({"z": [0.0] * 70, "a": [0.0] * 130})
    plain = scores.relative_to(zeros)
    assert plain.top(5, "contrast").count == 10
    with pytest.raises(ValueError, match="needs off.stds.*moments=True"):
        plain.top(5, "relative")


def test_references_of_other_layouts_or_without_tokens_are_refused():
    scores = scores_of({"a": [1.0, 2.0], "b": [1.0]})
    for other in ({"a": [1.0, 2.0]}, {"a": [1.0], "b": [1.0]}, {"a": [1.0, 2.0], "c": [1.0]}):
        with pytest.raises(ValueError, match="the reference is a recording of another model"):
            scores.relative_to(scores_of(other))
    with pytest.raises(ValueError, match="answer tokens"):
        scores.relative_to(replace(scores, tokens=0))


@pytest.mark.parametrize("role", ["donor", "target"])
def test_a_reference_of_another_pair_is_refused(role):
    ours, theirs, unnamed = (
        replace(random_scores(), metadata={role: name}) for name in ("one", "other", "")
    )
    with pytest.raises(ValueError, match=f"another model: {role} other instead of one; record"):
        ours.relative_to(theirs)
    assert ours.relative_to(unnamed).off is unnamed and unnamed.relative_to(ours).off is ours


def test_neither_files_nor_pools_keep_the_reference(tmp_path):
    scores = random_scores().relative_to(random_scores())
    scores.save(tmp_path / "scores")
    assert ChannelScores.load(tmp_path / "scores").off is None
    assert pool([scores, scores]).off is None


def test_a_pool_adds_up_tokens_and_items_as_often_as_they_were_recorded():
    def recorded(items, data):
        metadata = {"items": items, "data_hash": data, "ability": "maths"}
        return replace(random_scores(), metadata=metadata)

    parts = [recorded("240", "a"), recorded("240", "b"), recorded("3", "c")]
    for given, items, tokens in (
        (parts[:2], "480", "24"),
        ([pool(parts[:2]), parts[2]], "483", "36"),
        ([parts[0]] * 2, "480", "24"),  # whose tokens count twice too
        ([parts[0], random_scores()], "240,", "24"),
    ):
        found = pool(given)
        assert (found.metadata["items"], found.metadata["tokens"]) == (items, tokens)


@pytest.mark.parametrize("other", [{"a": [1.0]}, {"b": [1.0, 2.0]}, {"a": [1.0, 2.0], "b": [1.0]}])
def test_recordings_of_different_modules_do_not_pool(other):
    ours = scores_of({"a": [1.0, 2.0]})
    for parts in ([ours, scores_of(other)], [scores_of(other), ours]):
        with pytest.raises(ValueError, match="recordings of different modules cannot be pooled: "):
            pool(parts)
