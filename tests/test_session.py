"""A study keeps its purposes apart, its parts add up, and what it keeps belongs to its models."""

import copy
import shutil

import pandas as pd
import pytest
import torch
from small_study import write_preset

from actlib import record_differences, transferred, weight_differences
from actlib.masks import ChannelMask
from actlib.prompts import batches
from actlib.study import controls
from actlib.study.cache import cached
from actlib.study.recorded import PARTS, batches_of_part
from actlib.study.session import Study
from actlib.transfer import as_matrix, selections


def brought(path, places):
    """A preset of models that lie in folders."""
    models = {name: {"load": str(place)} for name, place in places.items()}
    return write_preset(path, None, models=models)


def test_parts_pooled_give_the_scores_of_one_recording(study):
    pair = study.pair()
    pooled = study.scores(pair, "fr-maths")
    rows = study.questions.items("fr-maths", "recording")
    whole = record_differences(*study.models(pair), batches(study.tokenizer, rows, 8))
    assert pooled.tokens == whole.tokens
    for name, values in whole.values.items():
        torch.testing.assert_close(pooled.values[name], values, rtol=1e-5, atol=1e-7)
    parts = [batches_of_part(study, "fr-maths", part) for part in range(PARTS)]
    assert sum(len(b["input_ids"]) for part in parts for b in part) == len(rows)


def test_kinds_of_scores(study):
    pair = study.pair()
    weights = study.scores(pair, study.lost, "weights")
    expected = weight_differences(*study.models(pair))
    assert all(torch.equal(weights.values[n], v) for n, v in expected.values.items())
    lost = study.scores(pair, "fr-maths", "attributions")
    spared = study.scores(pair, "fr-maths", "attributions", reference=["en-maths"])
    retained = study.scores(pair, "en-maths", "attributions")
    for name, values in spared.values.items():
        torch.testing.assert_close(values, lost.values[name] + retained.values[name])
    assert study.scores(pair, "fr-maths", reference=["en-maths"]).top(5, "contrast").count


def test_an_item_has_one_score_whatever_is_evaluated_beside_it(study):
    (model,) = study.models(study.group(0, "donor"))
    both = study.evaluate(model, study.abilities)
    alone = study.evaluate(model, ["en-maths"])
    same = both[both["ability"] == "en-maths"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, alone)
    assert both["item"].is_unique
    assert study.evaluate(model, ["en-maths"], "validation")["item"].nunique() == 4


def test_weights_trained_again_in_the_same_folder_give_new_scores(
    small_preset, small_store, monkeypatch, tmp_path
):
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))
    places = {}
    for name in ("multilingual", "forgetful", "base", "maths"):
        places[name] = tmp_path / name
        shutil.copytree(small_store / "small" / "models" / f"{name}-seed0", places[name])
    preset = brought(tmp_path / "own.yaml", places)
    study = Study.open(preset)
    before, first = study.scores(study.pair(), "fr-maths"), study.pair()
    model = copy.deepcopy(study.model("donor"))
    with torch.no_grad():
        next(iter(model.parameters())).add_(0.1)
    model.save_pretrained(places["multilingual"])
    again = Study.open(preset)
    assert again.pair() != first
    after = again.scores(again.pair(), "fr-maths")
    assert any(not torch.equal(before.values[n], v) for n, v in after.values.items())


def test_settings_are_collected_and_kept(study):
    pair = study.pair()

    @cached
    def moved(pair, method, top_percent, draw, scale):
        donor, target = study.models(pair)
        mask = controls.choose(method, top_percent, study.scores(pair, "fr-maths"), draw)
        with transferred(target, donor, mask, scale):
            return study.evaluate(target, ["fr-maths"])

    grid = list(controls.settings(["act_module", "random_module"], [5, 50], draws=2))
    table = study.collect(moved, grid, pair=[pair], scale=[0.5, 1.0])
    keys = ["method", "top_percent", "draw", "scale", "seed"]
    assert len(table[keys].drop_duplicates()) == (2 + 4) * 2
    assert table.groupby(keys)["item"].nunique().eq(8).all()
    again = study.collect(moved, grid, pair=[pair], scale=[0.5, 1.0])
    pd.testing.assert_frame_equal(again, table)
    donor, target = study.models(pair)
    untouched = study.evaluate(study.model("target"), ["fr-maths"])
    pd.testing.assert_frame_equal(study.evaluate(target, ["fr-maths"]), untouched)


@pytest.mark.parametrize("method", [m for m in controls.CHOICES if "attribution" not in m])
def test_every_method_takes_its_share(study, method):
    pair = study.pair()
    kind = controls.kind_of(method)
    scores = study.scores(pair, study.lost, kind, reference=study.retained * (kind != "weights"))
    mask = controls.choose(method, 20, scores)
    total = sum(chosen.numel() for chosen in mask.channels.values())
    others = ["act_no_head", "random_no_head", "random_equal_difference"]  # of fewer channels
    share = ({"all_rows": 100} | dict.fromkeys(others)).get(method, 20)
    if share is not None:
        assert mask.count == pytest.approx(share / 100 * total, abs=len(mask.channels))
    if method.startswith("random"):
        again, other = (controls.choose(method, 20, scores, draw) for draw in (0, 1))
        assert again.digest == mask.digest != other.digest


def test_random_channels_of_equal_difference(study):
    scores = study.scores(study.pair(), study.lost)
    mask = scores.top(20, "module")
    drawn = controls.draw_equal_difference(scores, mask, draw=1)
    for name, chosen in drawn.channels.items():
        values = scores.values[name].double()
        wanted = values[mask.channels[name]].sum()
        reached = values[chosen].sum()
        assert reached >= wanted * (1 - 1e-9)
        if chosen.any():
            assert reached - values[chosen].max() <= wanted


def test_the_size_of_a_mask(study):
    donor, target = study.models(study.pair())
    mask = study.scores(study.pair(), study.lost).top(10)
    size = controls.measure_size(target, donor, mask, scale=0.5)
    moved = whole = count = total = 0.0
    theirs, chosen = dict(donor.named_parameters()), selections(target, mask)
    for name, parameter in target.named_parameters():
        squares = as_matrix((theirs[name] - parameter).double().square())
        whole, total = whole + squares.sum(), total + parameter.numel()
        if name in chosen:
            here = chosen[name].rows[:, None] | chosen[name].columns[None]
            moved, count = moved + squares[here].sum(), count + here.sum()
    assert size["parameters_percent"] == pytest.approx(100 * float(count) / total)
    assert size["displacement_percent"] == pytest.approx(25 * float(moved / whole), rel=1e-5)
    everything = ChannelMask({n: torch.ones_like(c) for n, c in mask.channels.items()})
    full = controls.measure_size(target, donor, everything)
    assert full["displacement_percent"] == pytest.approx(100)


def test_the_largest_mask_within_a_budget(study):
    donor, target = study.models(study.pair())
    scores = study.scores(study.pair(), study.lost)

    def size_of(mask):
        return max(controls.measure_size(target, donor, mask).values())

    for method in ("act_global", "act_module"):
        mask = controls.choose_within(method, 30, scores, donor, target)
        assert size_of(mask) <= 30 < size_of(controls.choose(method, mask.percent + 2, scores))
    with pytest.raises(ValueError, match="channels by act_global moves more than 1e-09 %"):
        controls.choose_within("act_global", 1e-9, scores, donor, target)


def test_single_parameters_move_and_come_back(study):
    donor, target = study.models(study.pair())
    before = [parameter.clone() for parameter in target.parameters()]
    entries = controls.choose_entries(donor, target, count=500)
    assert sum(int(chosen.sum()) for chosen in entries.values()) == 500
    theirs = dict(donor.named_parameters())
    gaps = {n: (theirs[n] - p).detach().abs() for n, p in target.named_parameters()}
    least = min(float(gaps[n][c].min()) for n, c in entries.items() if c.any())
    assert least >= max(float(gaps[n][~c].max()) for n, c in entries.items() if (~c).any())
    with controls.entries_transferred(target, donor, entries):
        for name, parameter in target.named_parameters():
            torch.testing.assert_close(parameter[entries[name]], theirs[name][entries[name]])
    assert all(map(torch.equal, target.parameters(), before))
    share = controls.choose_entries(donor, target, displacement=0.3)
    moved = sum(float(gaps[n][c].double().square().sum()) for n, c in share.items())
    whole = sum(float(gap.double().square().sum()) for gap in gaps.values())
    assert moved / whole == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda s: s.group(0, "nobody"), "unknown model 'nobody'"),
        (lambda s: s.questions.items("fr-maths", "training"), "purpose .training. is none of"),
        (lambda s: controls.choose("best", 5, s.scores(s.pair(), "fr-maths")), "'best' is none of"),
        (lambda s: controls.choose_entries(*s.models(s.pair())), "either a count"),
        (lambda s: controls.choose_entries(*s.models(s.pair()), count=10**9), "count must be"),
    ],
)
def test_refusals(study, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(study)


def test_sentences_are_held_to_their_numbers_in_the_kept_run_alone(study, monkeypatch):
    study.holds(lambda: 1 / 0)
    monkeypatch.setenv("ACT_KEPT_RUN", study.preset.name)
    study.holds(lambda: True)
    with pytest.raises(AssertionError, match="no longer fits"):
        study.holds(lambda: False)


def test_the_tokenizer_is_of_the_models_that_are_asked_for(study, monkeypatch):
    """Not of the preset's first seed, whose models would be built for nothing."""
    seeds = []
    place = Study.place
    monkeypatch.setattr(Study, "place", lambda self, role, seed=0: seeds.append(seed) or folder)
    folder = place(study, "donor")
    study.group(7, "base")
    assert study.tokenizer is not None and seeds == [7]
