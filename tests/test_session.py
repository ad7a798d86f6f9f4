"""A study keeps its purposes apart, its parts add up, and what it keeps belongs to its models."""

import shutil

import pandas as pd
import pytest
import torch
from small_study import write_preset

from actlib import record_differences, weight_differences
from actlib.masks import ChannelMask
from actlib.prompts import batches
from actlib.study import controls, recorded, sources
from actlib.study.recorded import PARTS, batches_of_part
from actlib.study.session import Study
from actlib.transfer import as_matrix, selections


def test_parts_pooled_give_the_scores_of_one_recording(study):
    pair = study.pair()
    pooled = study.scores(pair, "fr-maths")
    rows = study.questions.items("fr-maths", "recording")
    whole = record_differences(*study.models(pair), batches(study.tokenizer, rows, 8))
    assert pooled.tokens == whole.tokens
    torch.testing.assert_close(pooled.values, whole.values, rtol=1e-5, atol=1e-7)


def test_the_tokenizer_is_the_targets_whatever_group_was_asked_for(study):
    study.group(0, "target", "base")
    assert study.tokenizer.name_or_path == str(study.place("target"))


def test_every_part_has_its_share_of_all_tasks(study, monkeypatch):
    monkeypatch.setattr(recorded, "batches", lambda tokenizer, rows, size: rows)
    parts = [batches_of_part(study, "fr-maths", part) for part in range(PARTS)]
    assert len({tuple(sorted(row["task"] for row in part)) for part in parts}) == 1
    assert len({row["id"] for part in parts for row in part}) == sum(map(len, parts)) > PARTS


def test_scores_are_kept_by_the_code_that_asks_and_records(study, tmp_path, monkeypatch):
    ignore = shutil.ignore_patterns("__pycache__")
    package = shutil.copytree(sources.PACKAGE, tmp_path / "actlib", ignore=ignore)
    monkeypatch.setattr(sources, "PACKAGE", package)
    monkeypatch.setattr(recorded, "__file__", str(package / "study" / "recorded.py"))
    monkeypatch.setattr(recorded, "_record", lambda *_: None)

    def place_after(file="study/recorded.py", old="", new=""):
        text = (package / file).read_text()
        assert old in text
        (package / file).write_text(text.replace(old, new) if old else text)
        sources._read.cache_clear()
        return recorded.recorded_files(study, study.pair(), ["fr-maths"], [0], "differences")

    places = [
        place_after(),
        place_after(old="PARTS = 6", new="PARTS = 5"),
        place_after(old="rows[part::PARTS]", new="rows[: part + 1]"),
        place_after("study/questions.py", "zip_longest(*groups", "zip(*groups"),  # of `spread`
        place_after("study/questions.py", "% 3 == third", "% 4 == third"),  # of `partition`
        place_after("recording.py", "Records how", "Measures how"),  # a docstring
        place_after("attribution.py", "\nimport torch\n", "\nimport sys, torch\n"),
    ]
    sources._read.cache_clear()
    assert len({str(place) for place in places}) == 5 and places[-1] == places[-2] == places[-3]


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
    same = both[both["ability"] == "en-maths"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, study.evaluate(model, ["en-maths"]))
    assert both["item"].is_unique


def test_weights_trained_again_in_the_same_folder_give_new_scores(
    small_preset, small_store, monkeypatch, tmp_path
):
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))
    for name in ("multilingual", "forgetful", "base", "maths"):
        shutil.copytree(small_store / "small" / "models" / f"{name}-seed0", tmp_path / name)
    models = {p.name: {"load": str(p), "abilities": "en-maths"} for p in tmp_path.iterdir()}
    preset = write_preset(tmp_path / "own.yaml", None, models=models)
    study = Study.open(preset)
    before, first = study.scores(study.pair(), "fr-maths"), study.pair()
    model = study.model("donor")
    with torch.no_grad():
        next(iter(model.parameters())).add_(0.1)
    model.save_pretrained(tmp_path / "multilingual")
    again = Study.open(preset)
    assert again.pair() != first
    after = again.scores(again.pair(), "fr-maths")
    assert any(not torch.equal(before.values[n], v) for n, v in after.values.items())


def test_settings_are_combined_with_values(study):
    settings = [{"method": "act", "draw": 0}, {"method": "random", "draw": 1}]
    table = study.collect(lambda **setting: pd.DataFrame([setting]), settings, scale=[0.5, 1], n=3)
    rows = [(0.5, 3, "act", 0), (0.5, 3, "random", 1), (1, 3, "act", 0), (1, 3, "random", 1)]
    assert [*table.itertuples(index=False, name=None)] == rows


def test_every_method_takes_its_share(study):
    others = ["act_no_head", "random_no_head", "random_equal_difference"]  # of fewer channels
    shares = {"all_rows": 100} | dict.fromkeys(others)
    ranked = ["act_global", "act_module", "act_scaled", "act_relative", "act_contrast"]
    for method in [*ranked, *(m for m in controls.CHOICES if "attribution" not in m)]:
        kind = controls.kind_of(method)
        reference = study.retained * (kind != "weights")
        scores = study.scores(study.pair(), study.lost, kind, reference=reference)
        mask, share = controls.choose(method, 20, scores), shares.get(method, 20)
        if share is not None:
            expected = pytest.approx(share / 100 * mask.total, abs=len(mask.channels))
            assert mask.count == expected, method
        if method.startswith("random"):
            again, other = (controls.choose(method, 20, scores, draw) for draw in (0, 1))
            assert again.digest == mask.digest != other.digest, method


def test_random_channels_of_equal_difference(study):
    scores = study.scores(study.pair(), study.lost)
    mask = scores.top(20, "module")
    drawn = controls.draw_equal_difference(scores, mask, draw=1)
    for name, chosen in drawn.channels.items():
        values = scores.values[name].double()
        wanted, reached = values[mask.channels[name]].sum(), values[chosen].sum()
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


@pytest.mark.parametrize("method", ["act_global", "act_module"])
def test_the_largest_mask_within_a_budget(study, method):
    donor, target = study.models(study.pair())
    scores = study.scores(study.pair(), study.lost)
    mask = controls.choose_within(method, 30, scores, donor, target)
    more = controls.choose(method, mask.percent + 2, scores)
    sizes = [max(controls.measure_size(target, donor, each).values()) for each in (mask, more)]
    assert sizes[0] <= 30 < sizes[1]
    assert controls.choose_within(method, 100, scores, donor, target).percent == 100


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


def test_sentences_are_held_to_their_numbers_in_the_kept_run_alone(study, monkeypatch):
    study.holds(lambda: 1 / 0)
    monkeypatch.setenv("ACT_KEPT_RUN", study.preset.name)
    with pytest.raises(AssertionError, match="no longer fits"):
        study.holds(lambda: False)
