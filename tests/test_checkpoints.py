import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import contents, random_mask

import actlib.transfer
from actlib.checkpoint import transfer_checkpoint
from actlib.transfer import transfer_


def run(tmp_path, mask, target="target", donor="donor", output="output"):
    return transfer_checkpoint(tmp_path / target, tmp_path / donor, mask, tmp_path / output)


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
    (note,), _card = json.loads(found.pop("actlib.json")), found.pop("README.md")
    assert found == expected
    assert found != before == contents(tmp_path / "target")
    assert (note["donor"], note["target"], note["scale"]) == ("donor", "target", 0.4)
    assert (note["mask_sha256"], note["channels"]) == (mask.digest, mask.count)


def test_stored_names_without_the_model_prefix_are_found(folders, tmp_path):
    donor, target = folders("gpt2")
    mask = random_mask(target)
    path = tmp_path / "target" / "model.safetensors"
    bare = {name.removeprefix("transformer."): t for name, t in load_file(path).items()}
    save_file(bare, path, {"format": "pt"})
    out = run(tmp_path, mask)
    transfer_(target, donor, mask, 0.4)
    after = load_file(out / "model.safetensors")
    assert torch.equal(after["h.1.mlp.c_fc.weight"], target.transformer.h[1].mlp.c_fc.weight)
    assert after.keys() == bare.keys()


def test_a_taken_output_is_refused_and_kept(folders, tmp_path):
    _, target = folders()
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for output in ("target", "file"):
        with pytest.raises(ValueError, match="exists and is not empty"):
            run(tmp_path, random_mask(target), output=output)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_half_made_is_left_after_an_error(folders, tmp_path, monkeypatch, error):
    _, target = folders()
    calls = []

    def fail(before, *_args):
        calls.append(len(list(tmp_path.iterdir())))
        if len(calls) == 4:
            raise error
        return before

    monkeypatch.setattr(actlib.transfer, "interpolate", fail)
    with pytest.raises(error):
        run(tmp_path, random_mask(target))
    assert calls[0] == 3 and {path.name for path in tmp_path.iterdir()} == {"donor", "target"}
