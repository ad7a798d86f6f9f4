"""Ten lines are a preset: defaults fill in, paths start from the YAML, what is missing is said."""

import json

import pytest
import yaml
from small_study import write_pair

from actlib.questions import abilities_of, load_questions
from actlib.study.old_session import PARTS, Study
from actlib.study.own_pair import DEFAULTS, NEEDED
from actlib.study.presets import CONFIGS, LoadedModel, load_preset
from actlib.study.questions import PURPOSES


@pytest.fixture
def questions(tmp_path):
    """`questions.jsonl` beside the YAML: one ability with a hyphen, one without."""
    rows = [
        {"question": f"{name}: what is {n}?", "answer": f"It is {n}.", "ability": name}
        for n in range(60)
        for name in ("de-maths", "verse")
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def own(tmp_path, questions, small_preset):
    """`own(**changes)`: path of a short preset of tiny models with keys changed, or left out."""
    write_pair(tmp_path, "llama", small_preset)

    def make(**changes):
        raw = {
            "donor": "donor",
            "target": "target",
            "questions": questions.name,
            "lost": ["de-maths"],
            "retained": "verse",
        } | changes
        path = tmp_path / "mine.yaml"
        raw = {key: value for key, value in raw.items() if value is not None}
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return str(path)

    return make


def test_a_pair_and_questions_are_a_whole_preset_from_any_folder(own, tmp_path, monkeypatch):
    path = own()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    preset = load_preset(path)
    assert preset.name == "mine" and preset.cells == ["de-maths", "verse"]
    assert preset.models["donor"] == LoadedModel(load=str(tmp_path / "donor"))
    assert preset.roles.base == "donor" and set(preset.left_out) == {"06", "07"}
    assert preset.judged_models == ["donor", "target"]
    assert preset.grids.model_dump() == DEFAULTS["grids"]


def test_the_short_form_opens_a_study_that_records_and_judges(own, tmp_path, monkeypatch):
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))
    sizes = {"test_items": 3, "recording_items": PARTS}
    study = Study.open(own(evaluation=sizes, dtype="float32"), figures=str(tmp_path / "figures"))
    found = {
        purpose: {row["question"] for cell in study.cells for row in study.items(cell, purpose)}
        for purpose in PURPOSES
    }
    assert all(found.values()) and not set.intersection(*found.values())
    assert all(row["question"].startswith("verse") for row in study.items("verse"))
    assert study.scores("verse").tokens > 0
    assert len(study.judge(study.model("target"), study.cells)) == 6
    # No shipped question is of this ability, so that its own other items stand in.
    source, rows = study.elsewhere("verse", 2)
    assert source == "other_items"
    assert {row["question"] for row in rows} <= found["validation"]
    assert study.elsewhere("de-maths", 2)[0] == "other_source"


def test_long_items_are_left_out_before_a_recording_is_parted(
    own, questions, tmp_path, monkeypatch
):
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))
    sizes = {"recording_items": 2 * PARTS, "max_tokens": 100}
    path = own(evaluation=sizes, dtype="float32")
    study = Study.open(path, figures=str(tmp_path / "figures"))
    long = {row["question"] for row in study.items("verse", "recording")[2::PARTS]}
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    rows = [row | {"answer": "so " * 200} if row["question"] in long else row for row in rows]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    study = Study.open(path, figures=str(tmp_path / "figures"))
    with pytest.warns(UserWarning, match="Left out 2 items longer than 100 tokens"):
        parts = [study.batches("verse", "recording", part) for part in range(PARTS)]
    counts = [sum(len(batch["index"]) for batch in part) for part in parts]
    assert min(counts) >= 1 and sum(counts) == 2 * PARTS - 2


def test_an_ability_is_one_however_its_name_is_stored(own, questions):
    text = questions.read_text(encoding="utf-8")
    questions.write_text(text.replace('verse"', 'poe\u0301sie "'), encoding="utf-8")
    preset = load_preset(own(retained="po\u00e9sie"))
    assert preset.retained == ["po\u00e9sie"]
    assert abilities_of(load_questions(questions)) == ["de-maths", "po\u00e9sie"]
    assert load_preset(own(retained=" poe\u0301sie")).retained == preset.retained


def test_sections_in_part_keep_the_other_defaults(own):
    grids = {"percents": [7], "sft": {"steps": 2}}
    preset = load_preset(own(grids=grids, evaluation={"test_items": 3}, dtype="float32"))
    assert preset.grids.percents == [7]
    assert preset.grids.scales == DEFAULTS["grids"]["scales"]
    assert preset.grids.sft.steps == 2
    assert preset.grids.sft.batch_size == DEFAULTS["grids"]["sft"]["batch_size"]
    assert preset.evaluation.test_items == 3 and preset.dtype == "float32"


def test_with_a_base_specialists_can_be_merged(own, tmp_path):
    preset = load_preset(own(base="base", second_donor="base"))
    assert preset.models["base"].load == str(tmp_path / "base")
    assert preset.roles.specialists == ["donor", "target"] and "06" not in preset.left_out
    assert preset.roles.second_donor == "second_donor"


def test_what_is_no_folder_stays_a_hub_id_with_its_revision(own):
    preset = load_preset(own(donor={"load": "owner/model", "revision": "v2"}))
    assert preset.models["donor"] == LoadedModel(load="owner/model", revision="v2")


def test_a_device_map_is_that_of_every_model(own):
    preset = load_preset(own(device_map="auto", target={"load": "target", "device_map": "cpu"}))
    assert [spec.device_map for spec in preset.models.values()] == ["auto", "cpu"]


@pytest.mark.parametrize("key", [key for key in NEEDED if key != "donor"])
def test_what_is_missing_is_named_with_the_abilities_there_are(own, key):
    with pytest.raises(ValueError, match=f"mine.yaml: missing: {key};") as refusal:
        load_preset(own(**{key: None}))
    assert ("de-maths, verse" in str(refusal.value)) == (key != "questions")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"questions": "absent.jsonl"}, "no file or folder .*absent.jsonl"),
        ({"name": "smol"}, "name.*none of .*smol.*got 'smol'"),
        ({"name": "a/b"}, "name.*got 'a/b'"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"evaluation": {"items": 3}}, "unknown key 'evaluation.items'"),
        ({"donor": {"loud": "x"}}, "donor"),
    ],
)
def test_a_wrong_short_form_is_refused_in_a_sentence(own, change, named):
    with pytest.raises(ValueError, match=named) as refusal:
        load_preset(own(**change))
    assert "mine.yaml" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "- donor\n- target\n", "just words"])
def test_a_yaml_without_keys_is_refused(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="odd.yaml: expected keys with values"):
        load_preset(str(path))


def test_the_full_form_finds_what_lies_beside_it(own, tmp_path):
    raw = yaml.safe_load((CONFIGS / "qwen2.5-7b.yaml").read_text(encoding="utf-8"))
    raw |= {"data": {"path": "questions.jsonl"}, "lost": ["de-maths"], "retained": ["verse"]}
    raw["models"]["general"] = {"load": "donor"}
    own()
    path = tmp_path / "full.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    preset = load_preset(str(path))
    assert preset.models["general"].load == str(tmp_path / "donor")
    assert preset.models["maths"].load == "Qwen/Qwen2.5-Math-7B"
    assert preset.data.path == str(tmp_path / "questions.jsonl")


def test_abilities_come_by_name_or_by_language_and_domain(tmp_path):
    rows = [
        {"ability": "de-maths"},
        {"language": "de", "domain": "maths"},
        {"ability": "verse"},
    ]
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"question": f"q{n}", "answer": "a", **r}) for n, r in enumerate(rows)]
    path.write_text("\n".join(lines))
    items = load_questions(path)
    assert abilities_of(items) == ["de-maths", "verse"]
    path.write_text(lines[0] + '\n{"question": "q", "answer": "a"}')
    with pytest.raises(ValueError, match="rows.jsonl, line 2: needs 'ability'"):
        load_questions(path)
    path.write_text('{"question": "q", "answer": "a"}')  # a file of one ability needs no name
    assert abilities_of(load_questions(path)) == ["und-own"]
