import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import contents, random_mask

import actlib.transfer
from actlib.checkpoint import transfer_checkpoint
from actlib.transfer import transfer_


def run(tmp_path, mask, **changes):
    names = {"target_dir": "target", "donor_dir": "donor", "output_dir": "output"} | changes
    scale = names.pop("scale", 0.4)
    return transfer_checkpoint(
        **{key: tmp_path / name for key, name in names.items()}, mask=mask, scale=scale
    )


@pytest.mark.parametrize(("dtype", "shard_size"), [(torch.float32, "5KB"), (torch.bfloat16, "1GB")])
def test_same_bytes_as_in_memory(folders, tmp_path, any_architecture, dtype, shard_size):
    donor, target = folders(any_architecture, dtype, shard_size, donor_size="8KB")
    mask = random_mask(target)
    before = contents(tmp_path / "target")
    assert any("index" in name for name in before) == (shard_size == "5KB")
    assert run(tmp_path, mask) == tmp_path / "output"
    transfer_(target, donor, mask, 0.4)
    target.save_pretrained(tmp_path / "memory", max_shard_size=shard_size)
    found, expected = contents(tmp_path / "output"), contents(tmp_path / "memory")
    for name in ("actlib.json", "README.md"):
        found.pop(name)
    assert found == expected
    assert found != before == contents(tmp_path / "target")


def test_experts_of_either_storage_move_to_either(folders, tmp_path):
    """Donor and target, each stored expert by expert or packed, all give the same values."""
    donor, target = folders("mixtral", torch.bfloat16, shard_size="9KB")
    mask = random_mask(target)
    for name, model in (("donor", donor), ("target", target)):
        packed = tmp_path / f"{name} packed"
        shutil.copytree(tmp_path / name, packed, ignore=shutil.ignore_patterns("model*"))
        tensors = {key: each.clone() for key, each in model.state_dict().items()}
        save_file(tensors, packed / "model.safetensors", {"format": "pt"})
    transfer_(target, donor, mask, 0.4)
    for number, ours in enumerate(("target", "target packed")):
        for theirs in ("donor", "donor packed"):
            out = f"out {number} {theirs}"
            run(tmp_path, mask, target_dir=ours, donor_dir=theirs, output_dir=out)
            names = {path.name for path in (tmp_path / ours).iterdir()}
            found = {path.name for path in (tmp_path / out).iterdir()}
            assert found == names | {"actlib.json", "README.md"}
            loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / out)
            for key, value in target.state_dict().items():
                assert torch.equal(loaded.state_dict()[key], value), key


def test_shards_beside_a_single_file_are_left_out(folders, tmp_path):
    donor, target = folders("llama", shard_size="5KB")
    mask = random_mask(target)
    target.save_pretrained(tmp_path / "single")
    for path in (tmp_path / "target").glob("model*"):
        shutil.copy(path, tmp_path / "single" / path.name)
    run(tmp_path, mask, target_dir="single")
    assert [path.name for path in (tmp_path / "output").glob("model*")] == ["model.safetensors"]
    transfer_(target, donor, mask, 0.4)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "output")
    assert torch.equal(loaded.lm_head.weight, target.lm_head.weight)


def test_output_loads_and_says_what_was_done(folders, tmp_path):
    _, target = folders()
    mask = random_mask(target)
    (tmp_path / "target" / "pytorch_model.bin").write_text("the target's weights, not the output's")
    run(tmp_path, mask, scale=0.25)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "output")
    assert type(model) is type(target)
    (note,) = json.loads((tmp_path / "output" / "actlib.json").read_text())
    assert note["mask_sha256"] == mask.digest
    assert (note["scale"], note["channels"], note["percent"]) == (0.25, mask.count, mask.percent)
    assert note["donor"].endswith("donor") and note["target"].endswith("target")
    assert not (tmp_path / "output" / "pytorch_model.bin").exists()


def test_stored_names_without_the_model_prefix_are_found(folders, tmp_path):
    donor, target = folders("gpt2")
    mask = random_mask(target)
    path = tmp_path / "target" / "model.safetensors"
    bare = {name.removeprefix("transformer."): t for name, t in load_file(path).items()}
    save_file(bare, path, {"format": "pt"})
    run(tmp_path, mask)
    transfer_(target, donor, mask, 0.4)
    after = load_file(tmp_path / "output" / "model.safetensors")
    assert torch.equal(after["h.1.mlp.c_fc.weight"], target.transformer.h[1].mlp.c_fc.weight)
    assert after.keys() == bare.keys()


def only_inputs(tmp_path):
    return {path.name for path in tmp_path.iterdir()} <= {"donor", "target"}


def test_taken_output_is_refused_and_kept(folders, tmp_path):
    _, target = folders()
    mask = random_mask(target)
    before = contents(tmp_path / "target")
    with pytest.raises(ValueError, match="exists and is not empty"):
        run(tmp_path, mask, output_dir="target")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty"):
        run(tmp_path, mask, output_dir="file")
    assert contents(tmp_path / "target") == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("role", ["donor", "target"])
def test_an_output_within_a_folder_of_the_pair_is_refused(folders, tmp_path, role):
    _, target = folders()
    before = contents(tmp_path / role)
    with pytest.raises(ValueError, match=f"lies in the model folder .*{role}, which stays as it"):
        run(tmp_path, random_mask(target), output_dir=f"{role}/new/out")
    assert contents(tmp_path / role) == before


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_half_made_is_left_after_an_error(folders, tmp_path, monkeypatch, error):
    _, target = folders()
    mask = random_mask(target)
    calls = []

    def fail(before, *_args):
        calls.append(1)
        if len(calls) == 4:
            assert len(list(tmp_path.iterdir())) == 3
            raise error
        return before

    monkeypatch.setattr(actlib.transfer, "interpolate", fail)
    with pytest.raises(error):
        run(tmp_path, mask)
    assert only_inputs(tmp_path)
