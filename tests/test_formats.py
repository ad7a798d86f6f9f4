"""What other tools read: masks as JSON, patches as sparse state dicts, transfers as merges."""

import copy
import json
import re
import subprocess
import venv
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import random_mask

import actlib
from actlib.checkpoint import transfer_checkpoint
from actlib.masks import ChannelMask
from actlib.patches import make_patch
from actlib.sparse import patch_of_sparse, sparse_values


def test_a_mask_goes_to_json_and_back(tmp_path):
    channels = {"zebra": torch.tensor([True, False, True]), "apple": torch.tensor([False] * 2)}
    mask, path = ChannelMask(channels, {"ability": "Übung"}), tmp_path / "mask.json"
    mask.save(path)
    modules = json.loads(path.read_text())["modules"]
    assert modules["zebra"] == {"channels": 3, "masked": [0, 2]}
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding="utf-8")
    loaded = ChannelMask.load(path)
    assert loaded.digest == mask.digest and loaded.metadata == mask.metadata
    assert list(loaded.channels) == ["zebra", "apple"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"modules": {"a": 3}}'),
        '{"modules": {"a": {"channels": 2, "masked": [2]}}}',
        '{"modules": {"a": {"channels": 2, "masked": [-1]}}}',
        '{"modules": {"a": {"channels": 2, "masked": [true]}}}',
        '{"modules": {"a": {"channels": 2, "masked": [0]}, "a": {"channels": 2, "masked": [1]}}}',
        '{"modules": {}, "metadata": {"actlib": "x"}}',
    ],
)
def test_what_is_no_mask_in_json_is_one_sentence(tmp_path, text):
    (tmp_path / "mask.json").write_text(text)
    with pytest.raises(ValueError, match=r"is no mask in JSON: (?!None).*docs/formats.md"):
        ChannelMask.load(tmp_path / "mask.json")


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "qwen3_moe"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_patch_goes_to_a_sparse_state_dict_and_back(folders, tmp_path, kind, in_memory):
    donor, target = folders(kind)
    path, back = tmp_path / "patch.safetensors", tmp_path / "back.safetensors"
    make_patch(target, donor, random_mask(target, 0.3, 5), path)
    save_file(sparse_values(path), tmp_path / "sparse.safetensors")
    sparse = load_file(tmp_path / "sparse.safetensors")
    patch_of_sparse(target if in_memory else tmp_path / "target", sparse, back)
    ours, theirs = load_file(path), load_file(back)
    assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)

    # what a tool without actlib does
    plain = {name: each.clone() for name, each in target.named_parameters()}
    for name in (key.removesuffix(".indices") for key in sparse if key.endswith(".indices")):
        assert (sparse[f"{name}.indices"].diff() > 0).all()
        plain[name].data.view(-1)[sparse[f"{name}.indices"]] = sparse[f"{name}.values"]
    actlib.apply_patch(target, back)
    assert all(each.equal(plain[name]) for name, each in target.named_parameters())


def test_sparse_values_that_are_no_patch_of_the_target_are_refused(folders, tmp_path):
    _, target = folders("llama")
    name, path = "model.norm.weight", tmp_path / "patch.safetensors"
    good = {f"{name}.indices": torch.tensor([1, 3]), f"{name}.values": torch.ones(2)}
    for tensors, message in (
        ({key.replace("model", "other"): each for key, each in good.items()}, "no parameter oth"),
        ({key.replace("model.norm", "lm_head"): each for key, each in good.items()}, "whole rows"),
        (good | {f"{name}.values": torch.ones(2).half()}, "in torch.float32"),
        (good | {f"{name}.values": torch.tensor([1.0, torch.nan])}, "NaN or infinite"),
        (good | {f"{name}.indices": torch.tensor([1, 16])}, "within its elements"),
        (good | {f"{name}.indices": torch.tensor([3, 3])}, "with a place of its own"),
        (good | {f"{name}.indices": torch.tensor([3.0, 4.0])}, "a whole number"),
        (good | {"x.values": torch.ones(1)}, "and nothing else"),
    ):
        with pytest.raises(ValueError, match=message):
            patch_of_sparse(target, tensors, path)
    with pytest.raises(ValueError, match="is offloaded"):
        patch_of_sparse(copy.deepcopy(target).to("meta"), good, path)
    weights = load_file(tmp_path / "target" / "model.safetensors")
    weights.pop(name)
    save_file(weights, tmp_path / "target" / "model.safetensors")
    with pytest.raises(ValueError, match=f"target's files .*{name}"):
        patch_of_sparse(tmp_path / "target", good, path)
    assert not path.exists()


def test_task_arithmetic_of_a_transferred_folder_is_a_transfer(folders, tmp_path):
    _, target = folders("llama")
    mask = random_mask(target, 0.3, 5)
    for name, scale in (("moved", 1.0), ("scaled", 0.4)):
        transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / name, scale)
    models = ("target", "moved", "scaled")
    base, moved, scaled = (load_file(tmp_path / each / "model.safetensors") for each in models)
    for name in base:
        merged = base[name] + 0.4 * (moved[name] - base[name])
        torch.testing.assert_close(merged, scaled[name], rtol=1e-6, atol=1e-7)
    assert not all(moved[name].equal(base[name]) for name in base)


@pytest.mark.slow
def test_mergekit_moves_the_same_by_the_pages_recipe(folders, tmp_path):
    """It is installed in an environment of its own, which takes a package index and minutes."""
    programs = tmp_path / "mergekit" / "bin"
    venv.create(programs.parent, with_pip=True)
    asked = [f"{n}=={version(n).partition('+')[0]}" for n in ("torch", "transformers")]
    installed = subprocess.run([programs / "pip", "install", "--quiet", *asked, "mergekit==0.1.5"])
    if installed.returncode:
        pytest.skip("mergekit could not be installed here")
    _, target = folders("llama", torch.bfloat16)
    mask = random_mask(target, 0.3, 5)
    for name, scale in (("moved", 1.0), ("scaled", 0.4)):
        transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / name, scale)
    page = (Path(__file__).parents[1] / "docs/formats.md").read_text(encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(re.search("```yaml\n(.+?)```", page, re.DOTALL)[1])
    command = [programs / "mergekit-yaml", "--no-copy-tokenizer", "recipe.yaml", "out"]
    subprocess.run(command, cwd=tmp_path, check=True)
    names = ("target", "moved", "scaled", "out")
    files = [next((tmp_path / each).glob("*.safetensors")) for each in names]
    before, moved, scaled, theirs = map(load_file, files)
    for name, ours in scaled.items():
        stays = moved[name] == before[name]
        assert theirs[name][stays].equal(before[name][stays]), name
        wide = before[name].float().abs() + moved[name].float().abs()
        apart = (theirs[name].float() - ours.float()).abs()
        assert (apart <= 2**-7 * wide).all(), name  # bfloat16 rounds the difference and the sum
