"""Presets: the shipped ones hold, a wrong one is refused by the name of what is wrong."""

import copy

import pytest
import yaml

from actlib.study.presets import (
    CONFIGS,
    SHIPPED,
    LoadedModel,
    TunedModel,
    WheelModel,
    load_preset,
    preset_file,
)
from actlib.study.questions import load_items


@pytest.fixture
def own(tmp_path):
    """`own(change)`: path of the tiny preset's YAML after `change` edited it in place."""

    def make(change):
        raw = copy.deepcopy(yaml.safe_load((CONFIGS / "tiny.yaml").read_text(encoding="utf-8")))
        change(raw)
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return str(path)

    return make


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_presets_are_valid_and_named_like_their_files(name):
    preset = load_preset(name)
    assert preset.name == name
    assert not set(preset.lost) & set(preset.retained)


def test_the_two_families_that_build_offline_are_there():
    assert {"smol", "tiny"} <= set(SHIPPED)
    for name in ("smol", "tiny"):
        preset = load_preset(name)
        assert not [spec for spec in preset.models.values() if isinstance(spec, LoadedModel)]
    assert isinstance(load_preset("smol").models["base"], WheelModel)


@pytest.mark.parametrize("name", ["smol", "tiny"])
def test_the_target_descends_from_the_donor_and_both_from_the_base(name):
    preset = load_preset(name)
    roles = preset.roles
    assert roles.donor in preset.ancestors(roles.target)
    assert all(roles.base in preset.ancestors(model) for model in roles.specialists)
    # A second donor differs from the first by its seed alone.
    first, second = (preset.models[part].model_dump() for part in (roles.donor, roles.second_donor))
    assert second.pop("seed_offset") != first.pop("seed_offset")
    assert first == second


@pytest.mark.parametrize("name", ["smol", "tiny"])
def test_the_data_hold_the_items_that_are_asked_for(name):
    preset = load_preset(name)
    counts = preset.evaluation
    asked = {"validation": counts.validation_items, "test": counts.test_items}
    for split, least in {**asked, "train": counts.recording_items}.items():
        items = load_items(preset.data.path, split=split, tasks=preset.data.tasks)
        held = [f"{row['language']}-{row['domain']}" for row in items]
        assert all(held.count(cell) >= least for cell in preset.cells)


@pytest.mark.parametrize("name", ["smol", "tiny"])
def test_models_train_on_known_cells_of_the_presets_languages(name):
    preset = load_preset(name)
    items = load_items(preset.data.path, split="train", languages=preset.data.languages)
    held = {f"{row['language']}-{row['domain']}" for row in items}
    assert set(preset.cells) <= held
    for spec in preset.models.values():
        assert set(getattr(spec, "cells", [])) <= held


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda raw: raw.update(colour="red"), "unknown key 'colour'"),
        (lambda raw: raw["evaluation"].update(items=3), "unknown key 'evaluation.items'"),
        (lambda raw: raw["models"]["maths"].update(optimizer="x"), "'models.maths.optimizer'"),
        (lambda raw: raw["grids"]["sft"].update(momentum=1), "unknown key 'grids.sft.momentum'"),
        (lambda raw: raw["roles"].update(donor="nobody"), "'nobody'.*multilingual"),
        (lambda raw: raw["roles"].update(specialists=["maths", "nobody"]), "'nobody'"),
        (lambda raw: raw["roles"].update(specialists=["maths"]), "roles.specialists"),
        (lambda raw: raw["models"]["maths"].update(start="nobody"), "'nobody'"),
        (lambda raw: raw["grids"].update(percents=[0]), "grids.percents"),
        (lambda raw: raw["grids"].update(percents=[101]), "grids.percents"),
        (lambda raw: raw.update(seeds=[]), "seeds"),
        (lambda raw: raw.update(dtype="float8"), "dtype"),
        (lambda raw: raw.update(lost=["xx-maths"]), "'xx'.*en, de, es, fr, ru"),
        (lambda raw: raw.update(retained=["en-cooking"]), "'cooking'.*maths, science"),
        (lambda raw: raw["data"].update(languages=["xx"]), "'xx'"),
        (lambda raw: raw["data"].update(tasks=["poetry"]), "'poetry'.*sum_words"),
        (lambda raw: raw.pop("roles"), "roles"),
    ],
)
def test_a_wrong_preset_is_refused_by_name(own, change, named):
    with pytest.raises(ValueError, match=named) as refusal:
        load_preset(own(change))
    assert "own.yaml" in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_unknown_preset_names_those_there_are(tmp_path):
    for name in ("nope", str(tmp_path)):
        with pytest.raises(ValueError, match="smol, tiny"):
            load_preset(name)
    with pytest.raises(ValueError, match="no such file as .*absent.yaml"):
        load_preset(str(tmp_path / "absent.yaml"))


def test_broken_yaml_is_a_sentence_about_the_file(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: [unclosed")
    with pytest.raises(ValueError, match="broken.yaml is not valid YAML"):
        load_preset(str(path))


def test_a_preset_is_found_by_name_and_by_path(own):
    path = own(lambda raw: raw.update(name="mine"))
    assert load_preset(path).name == "mine"
    assert preset_file("tiny") == CONFIGS / "tiny.yaml"


@pytest.mark.parametrize("role", ["donor", "target", "base"])
def test_a_model_given_by_hand_takes_the_role_alone(role):
    before, after = load_preset("tiny"), load_preset("tiny", **{role: "models/mine"})
    assert after.models[getattr(after.roles, role)] == LoadedModel(load="models/mine")
    others = {"donor", "target", "base"} - {role}
    assert all(getattr(after.roles, name) == getattr(before.roles, name) for name in others)
    assert after.name != before.name  # nothing is mixed up in the artifacts
    assert {name: after.models[name] for name in before.models} == before.models


def test_a_donor_given_by_hand_replaces_the_one_that_is_merged_and_has_no_twin():
    before, after = load_preset("tiny"), load_preset("tiny", donor="models/mine")
    assert before.roles.donor in before.roles.specialists
    assert before.roles.donor not in after.roles.specialists
    assert after.roles.donor in after.roles.specialists
    assert after.roles.second_donor is None


def test_data_given_by_hand_replace_the_presets_and_empty_overrides_change_nothing(tmp_path):
    assert load_preset("tiny", data=str(tmp_path)).data.path == str(tmp_path)
    assert load_preset("tiny", donor="", target="", base="", data="") == load_preset("tiny")


def test_an_unknown_override_is_refused():
    with pytest.raises(ValueError, match="'teacher'.*donor, target, base, data"):
        load_preset("tiny", teacher="models/mine")


def test_a_preset_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_preset("tiny").name = "other"


def test_ancestors_come_nearest_first():
    preset = load_preset("tiny")
    chain = preset.ancestors("forgetful")
    starts = [preset.models[name].start for name in ["forgetful", *chain[:-1]]]
    assert chain == starts == ["multilingual", "base"]
    assert not isinstance(preset.models[chain[-1]], TunedModel)


def test_models_that_start_from_each_other_are_refused(tmp_path):
    raw = yaml.safe_load((CONFIGS / "smol.yaml").read_text(encoding="utf-8"))
    raw["models"]["multilingual"]["start"] = "forgetful"
    path = tmp_path / "circle.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ValueError, match="start from each other in a circle"):
        load_preset(str(path))
