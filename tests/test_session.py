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


@pytest.fixture
def session(small_preset, small_store, monkeypatch, tmp_path):
    """The study of the small family, built; its results go to a folder of the test."""
    monkeypatch.setenv("ACT_STORE", str(small_store))
    monkeypatch.setenv("ACT_RESULTS", str(tmp_path / "results"))
    return Study.open(small_preset)


def brought(path, places):
    """A preset of models that lie in folders."""
    models = {name: {"load": str(place)} for name, place in places.items()}
    return write_preset(path, None, models=models)


def test_parts_pooled_give_the_scores_of_one_recording(session):
    pair = session.pair()
    pooled = session.scores(pair, "fr-maths")
    rows = session.questions.items("fr-maths", "recording")
    whole = record_differences(*session.models(pair), batches(session.tokenizer, rows, 8))
    assert pooled.tokens == whole.tokens
    for name, values in whole.values.items():
        torch.testing.assert_close(pooled.values[name], values, rtol=1e-5, atol=1e-7)
    parts = [batches_of_part(session, "fr-maths", part) for part in range(PARTS)]
    assert sum(len(b["input_ids"]) for part in parts for b in part) == len(rows)


def test_kinds_of_scores(session):
    pair = session.pair()
    weights = session.scores(pair, session.lost, "weights")
    expected = weight_differences(*session.models(pair))
    assert all(torch.equal(weights.values[n], v) for n, v in expected.values.items())
    lost = session.scores(pair, "fr-maths", "attributions")
    spared = session.scores(pair, "fr-maths", "attributions", reference=["en-maths"])
    retained = session.scores(pair, "en-maths", "attributions")
    for name, values in spared.values.items():
        torch.testing.assert_close(values, lost.values[name] + retained.values[name])
    assert session.scores(pair, "fr-maths", reference=["en-maths"]).top(5, "contrast").count


def test_an_item_has_one_score_whatever_is_evaluated_beside_it(session):
    (model,) = session.models(session.group(0, "donor"))
    both = session.evaluate(model, session.abilities)
    alone = session.evaluate(model, ["en-maths"])
    same = both[both["ability"] == "en-maths"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, alone)
    assert (both["score"] == -both["nll"]).all() and both["item"].is_unique
    assert session.evaluate(model, ["en-maths"], "validation")["item"].nunique() == 4


def test_weights_trained_again_in_the_same_folder_give_new_scores(
    small_preset, small_store, monkeypatch, tmp_path
):
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))
    built = Study.open(small_preset).store / "unused"
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
    assert again.pair() != first and not built.exists()
    after = again.scores(again.pair(), "fr-maths")
    assert any(not torch.equal(before.values[n], v) for n, v in after.values.items())


def test_settings_are_collected_and_kept(session):
    pair = session.pair()

    @cached
    def moved(pair, method, top_percent, draw, scale):
        donor, target = session.models(pair)
        mask = controls.choose(method, top_percent, session.scores(pair, "fr-maths"), draw)
        with transferred(target, donor, mask, scale):
            return session.evaluate(target, ["fr-maths"])

    grid = list(controls.settings(["act_module", "random_module"], [5, 50], draws=2))
    table = session.collect(moved, grid, pair=[pair], scale=[0.5, 1.0])
    keys = ["method", "top_percent", "draw", "scale", "seed"]
    assert len(table[keys].drop_duplicates()) == (2 + 4) * 2
    assert table.groupby(keys)["item"].nunique().eq(8).all()
    again = session.collect(moved, grid, pair=[pair], scale=[0.5, 1.0])
    pd.testing.assert_frame_equal(again, table)
    donor, target = session.models(pair)
    untouched = session.evaluate(session.model("target"), ["fr-maths"])
    pd.testing.assert_frame_equal(session.evaluate(target, ["fr-maths"]), untouched)


@pytest.mark.parametrize("method", [m for m in controls.CHOICES if "attribution" not in m])
def test_every_method_takes_its_share(session, method):
    pair = session.pair()
    kind = controls.kind_of(method)
    scores = session.scores(
        pair, session.lost, kind, reference=session.retained * (kind != "weights")
    )
    mask = controls.choose(method, 20, scores)
    total = sum(chosen.numel() for chosen in mask.channels.values())
    share = {"all_rows": 100, "act_no_head": None, "random_equal_difference": None}.get(method, 20)
    if share is not None:
        assert mask.count == pytest.approx(share / 100 * total, abs=len(mask.channels))
    if method.startswith("random"):
        again, other = (controls.choose(method, 20, scores, draw) for draw in (0, 1))
        assert again.digest == mask.digest != other.digest


def test_random_channels_of_equal_difference(session):
    scores = session.scores(session.pair(), session.lost)
    mask = scores.top(20, "module")
    drawn = controls.draw_equal_difference(scores, mask, draw=1)
    for name, chosen in drawn.channels.items():
        values = scores.values[name].double()
        wanted = values[mask.channels[name]].sum()
        reached = values[chosen].sum()
        assert reached >= wanted * (1 - 1e-9)
        if chosen.any():
            assert reached - values[chosen].max() <= wanted


def test_the_size_of_a_mask(session):
    donor, target = session.models(session.pair())
    mask = session.scores(session.pair(), session.lost).top(10)
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


def test_single_parameters_move_and_come_back(session):
    donor, target = session.models(session.pair())
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
        (lambda s: s.questions.items("fr-maths", "training"), "unknown purpose"),
        (lambda s: controls.choose("best", 5, s.scores(s.pair(), "fr-maths")), "unknown method"),
        (lambda s: controls.choose_entries(*s.models(s.pair())), "either a count"),
        (lambda s: controls.choose_entries(*s.models(s.pair()), count=10**9), "count must be"),
    ],
)
def test_refusals(session, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(session)


def test_sentences_are_held_to_their_numbers_in_the_kept_run_alone(session, monkeypatch):
    session.holds(False)
    monkeypatch.setenv("ACT_KEPT_RUN", session.preset.name)
    session.holds(True)
    with pytest.raises(AssertionError, match="no longer fits"):
        session.holds(False)


def test_results_are_tables_with_their_provenance(session):
    table = session.save_table(pd.DataFrame({"seed": [0], "x": [1 / 3]}), "tab03_x")
    assert pd.read_csv(session.results / "tab03_x.csv").shape == table.shape
    assert (session.results / "provenance.json").is_file()
