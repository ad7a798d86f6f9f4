"""Presets: the shipped ones hold, ten lines are a pair, and what is wrong is said by its key."""

from functools import partial

import pytest
from small_study import FAMILY, ROLES, write_own, write_pair, write_preset, write_questions

from actlib.study import recipes
from actlib.study.presets import Evaluation, LightTraining, LoadedModel, load_preset
from actlib.study.questions import load_items
from actlib.study.session import Study


@pytest.fixture
def pair(tmp_path, tokenizer):
    """`pair(**changes)`: path of a pair in ten lines, with keys changed, or left out by None."""
    write_pair(tmp_path, tokenizer)
    write_questions(tmp_path, "de-maths", "verse")
    return partial(write_own, tmp_path, lost=["de-maths"], retained="verse")


@pytest.mark.parametrize("name", ["smol", "tiny"])
def test_the_families_build_offline_from_one_base_and_have_the_items_they_ask_for(name):
    preset = load_preset(name)
    roles, counts = preset.roles, preset.evaluation
    assert not preset.loaded and not preset.left_out
    assert roles.donor in preset.ancestors(roles.target)
    assert all(roles.base in preset.ancestors(model) for model in roles.specialists)
    if roles.second_donor:  # differs from the first by its seed alone
        both = (roles.donor, roles.second_donor)
        first, second = (preset.models[part].model_dump() for part in both)
        assert second.pop("seed_offset") != first.pop("seed_offset")
        assert first == second
    asked = {"validation": counts.validation_items, "test": counts.test_items}
    for split, least in {**asked, "train": counts.recording_items}.items():
        there = [row["ability"] for row in load_items(preset.data.path, split)]
        assert all(there.count(ability) >= least for ability in preset.abilities)
    for spec in preset.models.values():
        assert set(getattr(spec, "abilities", [])) <= set(there)


def test_a_pair_and_questions_are_a_whole_preset_from_any_folder(pair, tmp_path, monkeypatch):
    path = pair()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    preset = load_preset(path)
    assert preset.name == "mine" and preset.abilities == ["de-maths", "verse"]
    assert preset.models["donor"] == LoadedModel(load=str(tmp_path / "donor"))
    assert preset.roles.base == "donor" and set(preset.left_out) == {"06", "07"}
    assert preset.roles.names == ["donor", "target"]
    assert (preset.sft, preset.evaluation) == (LightTraining(), Evaluation())
    assert load_preset(pair(file="qwen2.5.yaml")).name == "qwen2.5"


def test_other_models_of_a_pair_are_optional(pair, tmp_path):
    preset = load_preset(pair(base="base", second_donor="base", device_map="auto", revision="v2"))
    assert preset.models["base"].load == str(tmp_path / "base")
    assert preset.roles.specialists == ["donor", "target"] and "06" not in preset.left_out
    assert preset.roles.second_donor == "second_donor"
    specs = preset.models.values()
    assert {(spec.device_map, spec.revision) for spec in specs} == {("auto", "v2")}
    preset = load_preset(pair(donor={"load": "owner/model", "revision": "v3"}, revision="v2"))
    assert preset.models["donor"] == LoadedModel(load="owner/model", revision="v3")
    assert [preset.revision_of(name) for name in ("donor", "target")] == ["v3", "v2"]


def test_parameters_are_found_by_the_number_of_a_notebook(pair):
    text = "study: {seeds: [3], parameters: {03: {percents: [5]}, '05': {scale: 1}}}\n"
    study = load_preset(pair(text)).study
    assert study.seeds == [3] and study.parameters == {"03": {"percents": [5]}, "05": {"scale": 1}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"target": None}, "missing: target; .* the abilities de-maths, verse"),
        ({"questions": "absent.jsonl"}, "no file or folder .*absent.jsonl"),
        ({"name": "smol"}, "name.*none of .*smol.*got 'smol'"),
        ({"evaluation": {"test_item": 3}}, "evaluation.test_item: there is no such key"),
        ({"retained": ["de-maths"]}, "name de-maths twice"),
        ({"sft": {"learning_rate": float("inf")}}, "sft.learning_rate: .*finite"),
        ({"sft": {"weight_decay": 0.1}}, "sft.weight_decay: notebooks .* leave it out, got 0.1"),
        ({"sft": {"mixed_precision": True}}, "sft.mixed_precision: .* leave it out, got True"),
        ({"lost": [False]}, "lost.0: Input should be a valid string, got False; quote it"),
        ({"text": "lost: [verse]\n"}, "the key 'lost' is given twice"),
        ({"text": "notes: [open\n"}, "is not valid YAML"),
    ],
)
def test_a_wrong_pair_is_refused_in_a_sentence(pair, change, named):
    with pytest.raises(ValueError, match=named) as refusal:
        load_preset(pair(**change))
    assert "mine.yaml" in str(refusal.value) and "\n" not in str(refusal.value)


def test_another_number_of_test_questions_is_checked_like_the_presets(pair):
    path = pair(evaluation={"max_tokens": 9}, sft={"weight_decay": 0.0})
    assert load_preset(path, 7).evaluation == Evaluation(max_tokens=9, test_items=7)
    for number in (0, -5, 2.5):
        with pytest.raises(ValueError, match=f"mine.yaml: test_items: Input .*, got {number}$"):
            Study.open(path, test_items=number)


def test_a_wrong_preset_is_refused_by_name(tmp_path):
    circle = {**FAMILY, "multilingual": {**FAMILY["multilingual"], "start": "forgetful"}}
    for change, named in (
        ({"models": {**FAMILY, "base": {"optimizer": "x"}}}, "base.optimizer: there is no such"),
        ({"roles": {**ROLES, "donor": "nobody", "specialists": [*FAMILY]}}, "'nobody'.*base"),
        ({"models": circle}, "in a circle"),
        ({"models": {**FAMILY, "maths": {"load": "x"}}}, "give maths, a specialist"),
        ({"models": {**FAMILY, "maths": {"load": "x", "abilities": "en"}}}, "'en' is none of"),
    ):
        with pytest.raises(ValueError, match=named):
            load_preset(write_preset(tmp_path / "own.yaml", None, **change))


def test_an_unknown_preset_names_those_there_are_and_one_without_keys_the_file(tmp_path):
    for name in ("nope", "claims", str(tmp_path), str(tmp_path / "absent.yaml")):
        with pytest.raises(ValueError, match="smol, tiny"):
            load_preset(name)
    (tmp_path / "odd.yaml").write_text("- donor\n- target\n")
    with pytest.raises(ValueError, match="odd.yaml.*expected keys"):
        load_preset(str(tmp_path / "odd.yaml"))


def test_the_full_form_finds_what_lies_beside_it(pair, tmp_path):
    pair()
    maths = {"load": "owner/model", "abilities": "en-maths"}
    models = {**FAMILY, "base": {"load": "donor"}, "maths": maths}
    preset = load_preset(write_preset(tmp_path / "full.yaml", "questions.jsonl", models=models))
    assert preset.models["base"].load == str(tmp_path / "donor")
    assert preset.abilities_of("maths") == ["en-maths"]
    assert "abilities" not in preset.models["maths"].model_dump()  # of a model trained from it
    assert recipes.content_digest(preset, "maths", 0) == "owner/model@main en-maths"
    assert preset.data.path == str(tmp_path / "questions.jsonl")
