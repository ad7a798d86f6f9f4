"""Skeletons have the modules of transformers, and the transfer command does without its import."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import actlib.folders.folders
from actlib.channels import channel_modules, tied_modules
from actlib.folders.checkpoints import transfer_checkpoint
from actlib.folders.folders import empty_model
from actlib.folders.headers import SINGLE, stored_tensors
from actlib.folders.skeletons import FAMILIES, skeleton
from actlib.scores import ChannelScores

KNOWN = ("llama", "llama_tied", "smollm", "mistral", "qwen2", "qwen3")
HEAVY = ("transformers", "accelerate", "peft", "datasets", "pandas", "matplotlib", "scipy", "sympy")


def given(folder):
    return json.loads((folder / "config.json").read_text()), stored_tensors(folder)


def described(model):
    modules = {name: (each.channels, each.layout) for name, each in channel_modules(model).items()}
    parameters = model.named_parameters(remove_duplicate=False)
    shapes = {name: tuple(each.shape) for name, each in parameters}
    return list(modules.items()), shapes, tied_modules(model)


@pytest.mark.parametrize("name", KNOWN)
def test_a_skeleton_is_the_model_of_transformers(family, tmp_path, name):
    family(name).save_pretrained(tmp_path, max_shard_size="9KB")
    found = skeleton(*given(tmp_path))
    assert found is not None
    assert described(found) == described(empty_model(tmp_path))


def test_every_known_family_is_compared(family):
    assert {family(name).config.model_type for name in KNOWN} == set(FAMILIES)


def test_a_tied_head_may_be_stored_too(family, tmp_path):
    family("llama_tied").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / SINGLE, {"format": "pt"})
    assert tied_modules(skeleton(*given(tmp_path))) == [("model.embed_tokens", "lm_head")]


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gemma2"},
        {"model_type": ["llama"]},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"attention_bias": True},
        {"auto_map": {"AutoModelForCausalLM": "own.Model"}},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 10**12},
        {"num_attention_heads": 0},
        {"hidden_size": 8},
        {"tie_word_embeddings": None},
        {"vocab_size": None},
    ],
)
def test_whatever_is_unusual_is_left_to_transformers(family, tmp_path, change):
    family("llama").save_pretrained(tmp_path)
    config, stored = given(tmp_path)
    assert skeleton(config, stored) is not None
    assert skeleton(config | change, stored) is None
    name = "model.norm.weight"
    assert skeleton(config, {"extra": stored[name], **stored}) is None
    assert skeleton(config, {key: stored[key] for key in stored if key != name}) is None
    assert skeleton(None, stored) is None


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_the_command_imports_little_and_writes_the_same_bytes(pair, tmp_path, monkeypatch, name):
    for role, model in zip(("donor", "target"), pair(name), strict=True):
        model.save_pretrained(tmp_path / role)
    modules = channel_modules(model)
    drawn = {key: torch.rand(each.channels) for key, each in modules.items()}
    mask = ChannelScores(drawn, drawn, tokens=1).top(30.0)
    mask.save(tmp_path / "mask.safetensors")
    words = ["transfer", "--mask", "mask.safetensors", "--out", "out"]
    words += ["--target", "target", "--donor", "donor"]
    code = (
        "import sys; from actlib.cli import main; status = main(sys.argv[1:]); "
        f"print(*(name for name in {HEAVY} if name in sys.modules)); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()) == (0, ["out"]), done.stderr
    monkeypatch.setattr(actlib.folders.folders, "skeleton", lambda *_: None)
    transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / "slow")
    for path in (tmp_path / "slow").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_pairs_of_different_configurations_are_compared_by_transformers(pair, tmp_path):
    for role, model in zip(("donor", "target"), pair("llama"), strict=True):
        model.config.rms_norm_eps = 1e-6 if role == "donor" else 1e-5
        model.save_pretrained(tmp_path / role)
    drawn = {key: torch.rand(each.channels) for key, each in channel_modules(model).items()}
    mask = ChannelScores(drawn, drawn, tokens=1).top(30.0)
    transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / "out")
    donor = json.loads((tmp_path / "donor" / "config.json").read_text())
    (tmp_path / "donor" / "config.json").write_text(json.dumps(donor | {"hidden_act": "gelu"}))
    with pytest.raises(ValueError, match="hidden_act gelu against silu"):
        transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / "other")
