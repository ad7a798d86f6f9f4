"""A study keeps its purposes apart, its parts add up, and bad input ends in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_study import PRESET, write_pair, write_preset

from actlib import record_differences
from actlib.study.old_session import PARTS, Study
from actlib.study.presets import CONFIGS, ROOT
from actlib.study.questions import PURPOSES, load_items

BENCHMARKS = ROOT.parent / "shared" / "data"
EXAMS_CELLS = {"lost": ["bg-science", "hr-science"], "retained": ["tr-science"]}


@pytest.fixture
def open_study(small_preset, small_store, monkeypatch, tmp_path):
    """`open_study(start, data, **changes)`: a study like the preset `start`, with keys changed."""
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))

    def make(start=None, data=None, given=(), **changes):
        path = write_preset(tmp_path / "own.yaml", data, start, **changes)
        return Study.open(path, figures=str(tmp_path / "figures"), **dict(given))

    return make


@pytest.fixture
def pair(small_preset, tmp_path):
    """`pair(architecture)`: folders of a donor, target and base with random weights."""
    return lambda architecture="qwen2": write_pair(tmp_path / "own", architecture, small_preset)


def few(name, recording=PARTS, **counts):
    """A shipped preset with so few items that a test can judge them all."""
    raw = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    wanted = {"validation_items": 2, "test_items": 2, "recording_items": recording}
    raw["evaluation"] |= wanted | counts
    return raw


def questions(rows):
    return {row["question"] for row in rows}


def test_no_question_serves_two_purposes_or_is_trained_on(study):
    trained = questions(study.training([*study.cells, "en-science"], 0))
    found = {p: questions(r for c in study.cells for r in study.items(c, p)) for p in PURPOSES}
    assert not found["test"] & (trained | found["recording"] | found["validation"])
    assert not found["validation"] & (trained | found["recording"])


@pytest.mark.parametrize("name", ["smol", "tiny"])
def test_the_shipped_studies_never_test_what_they_train(name):
    study = Study.open(name)
    tested = {(r["task"], *r["operands"]) for c in study.cells for r in study.items(c, "test")}
    everything = load_items(ROOT / study.preset.data.path, split="train")
    assert not tested & {(row["task"], *row["operands"]) for row in everything}


def test_a_cell_gives_as_many_items_of_each_task_as_the_preset_says(study):
    counts = study.preset.evaluation
    for purpose in PURPOSES:
        rows = study.items("fr-maths", purpose)
        assert len(rows) == getattr(counts, f"{purpose}_items")
        assert {f"{r['language']}-{r['domain']}" for r in rows} == {"fr-maths"}
        tasks = [row["task"] for row in rows]
        assert len(set(tasks)) == 2
        assert tasks.count(tasks[0]) == len(tasks) / 2


def test_parts_pooled_are_one_recording_of_all_items(study):
    models = study.model("donor"), study.model("target")
    once = record_differences(*models, study.batches("fr-maths", "recording"))
    pooled = study.scores("fr-maths")
    assert pooled.tokens == once.tokens
    assert list(pooled.values) == list(once.values)
    for name in once.values:
        for kind in ("values", "magnitudes"):
            found, wanted = getattr(pooled, kind)[name], getattr(once, kind)[name]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_parts_are_disjoint_and_cells_pool_by_their_tokens(study):
    whole = study.scores(study.lost)
    halves = [study.scores(study.lost, parts=part) for part in ([0, 2, 4], [1, 3, 5])]
    cells = [study.scores(cell) for cell in study.lost]
    for pieces in (halves, cells):
        assert sum(piece.tokens for piece in pieces) == whole.tokens
        for name, values in whole.values.items():
            mean = sum(piece.values[name] * (piece.tokens / whole.tokens) for piece in pieces)
            torch.testing.assert_close(mean, values, atol=1e-5, rtol=1e-5)
    counts = [len(study.items("fr-maths", "recording")[part::PARTS]) for part in range(PARTS)]
    assert sum(counts) == study.preset.evaluation.recording_items


def test_scores_are_recorded_once_and_anew_for_other_items(open_study, pair, monkeypatch):
    places, calls = pair(), []

    def note(*arguments, **settings):
        calls.append(settings["metadata"]["ability"])
        return record_differences(*arguments, **settings)

    monkeypatch.setattr("actlib.study.old_session.record_differences", note)
    study = open_study(few("tiny"), given=places)
    first, again = study.scores("fr-maths"), study.scores("fr-maths")
    assert calls == ["fr-maths"] * PARTS
    assert all(first.values[name].equal(again.values[name]) for name in first.values)
    assert first.metadata["donor"] == Path(places["donor"]).name
    assert first.metadata["ability"] == "fr-maths"
    other = open_study(few("tiny", recording=2 * PARTS), given=places)
    assert other.scores("fr-maths").tokens > first.tokens
    assert len(calls) == 2 * PARTS


def test_judging_names_cells_items_and_labels(study):
    table = study.judge(study.model("target"), study.cells, "validation", method="x", seed=3)
    count = study.preset.evaluation.validation_items
    assert len(table) == count * len(study.cells)
    assert table["item"].is_unique
    assert set(table["cell"]) == set(study.cells)
    assert set(table["method"]) == {"x"} and set(table["seed"]) == {3}
    assert table["exact"].isin([0, 1]).all() and (table["nll"] > 0).all()
    alone = study.judge(study.model("target"), [study.cells[1]], "validation")
    same = table[table["cell"] == study.cells[1]]
    np.testing.assert_allclose(alone["nll"], same["nll"], atol=1e-5)


def test_roles_and_names_mean_the_same_model(study):
    assert study.name_of("donor") == study.name_of("multilingual") == "multilingual"
    assert study.folder("donor") == study.folder("multilingual")
    donor, target = study.model("donor"), study.model("target")
    assert donor.dtype == torch.float32 and not donor.training
    pairs = zip(donor.parameters(), target.parameters(), strict=True)
    assert any(not a.equal(b) for a, b in pairs)
    assert study.model("donor", dtype="bfloat16").dtype == torch.bfloat16
    assert study.abilities_of("multilingual") == study.lost
    assert study.abilities_of("maths") == study.retained


def test_tables_are_kept_beside_the_figures_and_the_run_describes_itself(study, tmp_path):
    table = study.save_table(study.describe().reset_index(), "tab00_run")
    assert (tmp_path / "figures" / "tab00_run.csv").is_file()
    told = dict(zip(table["index"], table[""], strict=True))
    assert told["preset"] == "small"
    assert told["donor"] == "multilingual" and told["specialists"] == "multilingual, maths"
    assert {"device", "torch", "transformers", "actlib"} <= set(told)


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda study: study.model("teacher"), "unknown model 'teacher'.*multilingual"),
        (lambda study: study.folder("second_donor"), "unknown model 'second_donor'"),
        (lambda study: study.scores("fr-maths", donor="nobody"), "unknown model 'nobody'"),
        (lambda study: study.items("fr-maths", "play"), "unknown purpose 'play'.*recording"),
        (lambda study: study.items("xx-maths"), "'xx-maths'.*en-maths"),
        (lambda study: study.items("fr-cooking"), "'fr-cooking'.*fr-maths"),
        (lambda study: study.items("fr"), "ability 'fr'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(study, act, named):
    with pytest.raises(ValueError, match=named) as refusal:
        act(study)
    assert "\n" not in str(refusal.value)


def test_unknown_presets_and_absent_folders_are_refused_before_anything_is_made(
    open_study, pair, tmp_path
):
    with pytest.raises(ValueError, match="unknown preset 'nope'.*smol, tiny"):
        Study.open("nope")
    (tmp_path / "empty").mkdir()
    for place, named in {
        str(tmp_path / "absent"): "no model folder",
        "./absent": "no model folder",
        "a/b/absent": "no model folder",
        str(tmp_path / "empty"): "holds no config.json",
    }.items():
        with pytest.raises(ValueError, match=named) as refusal:
            Study.open("tiny", donor=place)
        assert place in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "store").exists()


def test_a_name_that_is_neither_folder_nor_on_the_hub_is_one_sentence(open_study, pair):
    study = open_study(few("tiny"), given={**pair(), "donor": "models/absent"})
    with pytest.raises(ValueError, match="models/absent") as refusal:
        study.model("donor")
    assert "\n" not in str(refusal.value)
    study = open_study(few("tiny"), given={**pair(), "target": "models/absent"})
    with pytest.raises(ValueError, match="models/absent"):
        study.tokenizer()


def test_models_that_do_not_fit_are_refused_and_no_score_is_left(open_study, pair, tmp_path):
    places = pair("qwen2")
    config = Path(places["donor"]) / "config.json"
    smaller = json.loads(config.read_text()) | {"num_hidden_layers": 1}
    smaller["layer_types"] = smaller["layer_types"][:1]
    config.write_text(json.dumps(smaller))
    study = open_study(few("tiny"), given=places)
    with pytest.raises(ValueError, match="module"):
        study.scores("fr-maths")
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_another_tokenizer_is_refused_too(open_study, pair):
    places = pair()
    path = Path(places["donor"]) / "tokenizer.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = told["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer"):
        open_study(few("tiny"), given=places).scores("fr-maths")


def write_lines(path, rows):
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def check_external(study, cells):
    """Recording, validation and test items of data without splits are apart and usable."""
    found = {p: questions(r for c in cells for r in study.items(c, p)) for p in PURPOSES}
    assert all(found.values())
    assert not found["recording"] & found["test"] and not found["validation"] & found["test"]
    trained = questions(study.training(cells, 0))
    assert trained and not trained & (found["test"] | found["validation"])
    scores = study.scores(cells[0])
    assert scores.tokens > 0
    judged = study.judge(study.model("target"), cells)
    assert np.isfinite(judged["nll"]).all() and set(judged["cell"]) == set(cells)


def test_a_users_own_lines(open_study, pair, tmp_path):
    rows = [
        {"question": f"Rakamı yaz: {n}", "answer": f"Rakam {n}.", "language": code, "domain": name}
        for n in range(60)
        for code, name in (("tr", "digits"), ("az", "numbers"))
    ]
    rows = [row | {"question": f"{row['language']}: {row['question']}"} for row in rows]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    cells = {"lost": ["tr-digits"], "retained": ["az-numbers"]}
    own = few("tiny") | cells | {"data": {"path": str(path)}}
    study = open_study(own, given=pair())
    check_external(study, study.cells)
    # The path as a parameter says the same, where the YAML's cells are of no shipped language.
    path_again = write_lines(tmp_path / "again.jsonl", rows)
    study = open_study(own, given={**pair(), "data": str(path_again)})
    assert study.items("tr-digits")


@pytest.mark.parametrize(
    ("folder", "cells"),
    [
        ("mgsm", {"lost": ["sw-maths", "te-maths"], "retained": ["en-maths"]}),
        ("exams/science_dev.jsonl", EXAMS_CELLS),
    ],
)
def test_benchmarks_as_they_lie(open_study, pair, folder, cells):
    if not (BENCHMARKS / folder).exists():
        pytest.skip(f"no {folder} beside the project")
    given = {**pair(), "data": str(Path("..") / "shared" / "data" / folder)}
    own = few("tiny") | cells | {"data": {"path": "replaced"}}
    check_external(open_study(own, given=given), [*cells["lost"], *cells["retained"]])


def test_too_few_items_to_record_in_parts_is_said(open_study, pair, tmp_path):
    common = {"answer": "a", "language": "tr", "domain": "d"}
    rows = [common | {"question": f"q {n}"} for n in range(9)]
    path = write_lines(tmp_path / "few.jsonl", rows)
    cells = {"lost": ["tr-d"], "retained": ["az-d"]}
    study = open_study(few("tiny") | cells | {"data": {"path": str(path)}}, given=pair())
    with pytest.raises(ValueError, match=f"'tr-d'.*{PARTS}"):
        study.scores("tr-d")


def test_data_that_cannot_be_read_are_named(open_study, pair, tmp_path):
    given = {**pair(), "data": str(tmp_path / "absent.jsonl")}
    with pytest.raises(ValueError, match="absent.jsonl"):
        open_study(few("tiny"), given=given).items("fr-maths")


def test_the_small_preset_is_valid(open_study):
    assert open_study(PRESET).preset.name == "small"
