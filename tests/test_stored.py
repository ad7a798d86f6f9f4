import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import actlib.folders.stored
from actlib.folders.stored import stored_weights, structure, tokenizer_of


@pytest.mark.parametrize("shard_size", ["1GB", "5KB"])
def test_every_parameter_is_found_as_loading_finds_it(family, architecture, tmp_path, shard_size):
    model = family(architecture, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    found = stored_weights(tmp_path, structure(tmp_path))
    expected = dict(model.named_parameters())
    assert found.tensors.keys() == expected.keys()
    assert all(torch.equal(found.open(name), value) for name, value in expected.items())
    assert set(found.dtypes.values()) == {torch.bfloat16}
    assert found.wrong == found.otherwise == ()


def test_structure_holds_no_numbers(family, tmp_path):
    family("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert all(parameter.is_meta for parameter in structure(tmp_path).parameters())


def test_missing_and_misshapen_tensors_are_named(family, tmp_path):
    family("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:3].clone()
    save_file(tensors, path, {"format": "pt"})
    found = stored_weights(tmp_path, structure(tmp_path))
    assert set(found.wrong) == {
        "model.norm.weight is nothing in the files, expected 16",
        "lm_head.weight is 3 x 16 in the files, expected 61 x 16",
    }


def test_experts_stored_one_by_one_are_put_together_as_loading_does(tmp_path):
    config = transformers.MixtralConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=12,
    )
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    assert any("experts.11.w1" in name for name in load_file(tmp_path / "model.safetensors"))
    found = stored_weights(tmp_path, structure(tmp_path))
    assert found.wrong == found.otherwise == ()
    expected = dict(model.named_parameters())
    assert found.tensors.keys() == expected.keys()
    assert all(torch.equal(found.open(name), value) for name, value in expected.items())


def test_places_without_a_model_are_one_sentence(tmp_path, family):
    with pytest.raises(ValueError, match="cannot load .*nowhere"):
        structure(tmp_path / "nowhere")
    family().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks model.safetensors"):
        stored_weights(tmp_path, structure(tmp_path))


def test_folder_without_tokenizer_has_none(family, tmp_path):
    family().save_pretrained(tmp_path)
    assert tokenizer_of(tmp_path) is None


@pytest.mark.parametrize("shard_size", ["1GB", "5KB"])
def test_weights_of_the_hub_are_fetched(family, tmp_path, monkeypatch, shard_size):
    model, hub = family("llama"), tmp_path / "hub"
    model.save_pretrained(hub, max_shard_size=shard_size)
    cache = tmp_path / "cache"
    cache.mkdir()

    def fetch(place, file):
        if not (hub / file).is_file():
            raise OSError(f"{place} does not appear to have a file named {file}")
        return shutil.copy(hub / file, cache / file)

    def fetch_shards(place, index):
        for shard in hub.glob("model-*"):
            fetch(place, shard.name)

    monkeypatch.setattr(actlib.folders.stored, "cached_file", fetch)
    monkeypatch.setattr(actlib.folders.stored, "get_checkpoint_shard_files", fetch_shards)
    found = stored_weights("someone/model", structure(hub))
    assert found.folder == cache
    assert torch.equal(found.open("lm_head.weight"), model.lm_head.weight)


def test_weights_that_the_hub_does_not_have_are_one_sentence(family, tmp_path, monkeypatch):
    def fetch(place, file):
        raise OSError("no such file\nand much more")

    monkeypatch.setattr(actlib.folders.stored, "cached_file", fetch)
    family().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot fetch the weights of 'someone/model'.*file$"):
        stored_weights("someone/model", structure(tmp_path))
