"""Patches: the same bits as a transfer, taken back bit for bit; refused where they do not fit."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import contents, random_mask, same_bits, state_of, unchanged

from actlib.channels import channel_modules
from actlib.checkpoint import transfer_checkpoint
from actlib.files import load_tensors, save_tensors
from actlib.patches import apply_patch, inspect_patch, make_patch, revert_patch
from actlib.transfer import selections, transfer_

UP, NORM = "model.layers.1.mlp.up_proj", "model.norm.weight"


def weights(folder):
    return {n: d for n, d in contents(folder).items() if not n.startswith(("actlib", "README"))}


@pytest.fixture
def make(tmp_path):
    """`make(mask, name, target, ...)`: the path of a patch from the donor's folder to another."""

    def made(mask, name="patch", target="target", **options):
        path = tmp_path / "patches" / name
        make_patch(tmp_path / target, tmp_path / "donor", mask, path, **options)
        return path

    return made


@pytest.mark.parametrize(
    ("kind", "dtype", "shard_size"),
    [
        ("llama_tied", torch.float32, "5KB"),
        ("gpt2", torch.bfloat16, "1GB"),
        ("qwen3_moe", torch.bfloat16, "9KB"),  # each expert stored by itself
        ("qwen3_moe", torch.float32, None),  # all in one tensor
    ],
)
def test_applying_is_transferring_and_reverting_is_undoing(
    folders, make, tmp_path, kind, dtype, shard_size
):
    donor, target = folders(kind, dtype, shard_size or "1GB")
    if shard_size is None:
        whole = {name: each.clone() for name, each in target.state_dict().items()}
        save_file(whole, tmp_path / "target" / "model.safetensors", {"format": "pt"})
    mask, original, path = random_mask(target), state_of(target), tmp_path / "made in memory"
    info = make_patch(target, donor, mask, path)
    assert load_file(path).keys() == load_file(make(mask)).keys()
    places = [tmp_path / name for name in ("target", "moved", "out", "back")]
    transfer_checkpoint(places[0], tmp_path / "donor", mask, places[1])
    assert apply_patch(places[0], path, places[2]) == places[2]
    assert weights(places[2]) == weights(places[1]) != weights(places[0])
    assert revert_patch(places[2], path, places[3]) == places[3]
    assert contents(places[3]) == contents(places[0])
    assert apply_patch(target, make(mask)) is None
    patched = state_of(target)
    assert revert_patch(target, path) is None
    assert same_bits(state_of(target), original) and not same_bits(original, patched)
    transfer_(target, donor, mask)
    assert same_bits(state_of(target), patched)
    assert info.tensors == {n: each.size for n, each in selections(target, mask).items()}
    total = sum(parameter.numel() for parameter in target.parameters())
    assert info.parameter_percent == pytest.approx(100 * info.elements / total)
    assert info.bytes == path.stat().st_size


def test_the_metadata_say_what_was_done_and_name_no_local_path(folders, make, tmp_path):
    _, target = folders()
    given = {"donor": "someone/model", "license": "apache-2.0"}
    mask = replace(random_mask(target), metadata={"ranking": "difference"})
    path = make(mask, scale=0.25, metadata=given)
    stated = inspect_patch(path).metadata
    assert stated | given | {"target": "target", "scale": "0.25"} == stated
    assert stated["mask_sha256"] == mask.digest and stated["ranking"] == "difference"
    assert str(tmp_path).encode() not in path.read_bytes()


def test_the_folder_lists_its_patches_and_reverting_gives_its_card_back(folders, make, tmp_path):
    _, target = folders()
    (tmp_path / "target" / "README.md").write_text("its own card")
    names = list(channel_modules(target))
    one, other = (make(random_mask(target, only={names[n]}), f"{n}", scale=n / 4) for n in (1, 2))
    apply_patch(tmp_path / "target", one, tmp_path / "a")
    apply_patch(tmp_path / "a", other, tmp_path / "b")
    revert_patch(tmp_path / "b", one, tmp_path / "c")
    revert_patch(tmp_path / "c", other, tmp_path / "d")
    listed = [json.loads((tmp_path / each / "actlib.json").read_text()) for each in "abc"]
    scales = [[step["scale"] for step in steps] for steps in listed]
    assert scales == [["0.25"], ["0.25", "0.5"], ["0.5"]]
    assert "| patch | donor |" in (tmp_path / "a" / "README.md").read_text()
    assert contents(tmp_path / "d") == contents(tmp_path / "target")


def negated(model):
    """One of the masked values with another sign."""
    row = int(random_mask(model, only={UP}).channels[UP].nonzero()[0])
    model.get_submodule(UP).weight.data[row, 3] *= -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (negated, rf"before the patch .*: {UP}.weight \(.*\); take the model that it was made for"),
        (lambda model: model.bfloat16(), r"torch.float32\).*; take the model"),
        (lambda model: model.model.layers.pop(1), "before the patch .*: model.layers.1"),
    ],
)
def test_another_target_is_refused(folders, make, tmp_path, change, message):
    _, target = folders("llama")
    path = make(random_mask(target))
    change(target)
    with unchanged(target), pytest.raises(ValueError, match=message):
        apply_patch(target, path)
    if change is negated:
        target.save_pretrained(tmp_path / "wrong")
        with pytest.raises(ValueError, match=message):
            apply_patch(tmp_path / "wrong", path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_what_is_not_applied_cannot_be_reverted_but_other_values_may_differ(folders, make):
    _, target = folders("llama")
    path = make(random_mask(target, only={UP}))
    with pytest.raises(ValueError, match="is not applied to this target"):
        revert_patch(target, path)
    target.model.layers[0].mlp.up_proj.weight.data += 1
    apply_patch(target, path)
    with pytest.raises(ValueError, match="is already applied to this target"):
        apply_patch(target, path)
    revert_patch(target, path)


def changed(key, change):
    return lambda tensors, metadata: tensors.update({key: change(tensors[key])})


DAMAGES = [
    (lambda tensors, _: tensors.pop(f"{NORM}.before"), "are missing, or there are others"),
    (lambda tensors, _: tensors.update(x=tensors[f"{NORM}.rows"]), "or there are others"),
    (changed(f"{NORM}.rows", lambda rows: rows[None]), f"the rows or columns of {NORM}"),
    (changed(f"{NORM}.rows", lambda rows: rows & False), f"the values of {NORM}"),
    (changed(f"{NORM}.after", lambda values: values[1:]), f"the values of {NORM}"),
    (changed(f"{NORM}.after", lambda values: values.half()), f"the values of {NORM}"),
    (lambda _, metadata: metadata.update(parameters="0"), "0 parameters of the target"),
    (lambda _, metadata: metadata.update(format="3"), "format 3, and this version of actlib reads"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_a_patch_that_contradicts_itself_is_refused(folders, make, change, message):
    _, target = folders()
    path = make(random_mask(target, 0.5))
    tensors, metadata = load_tensors(path, "AbilityPatch")
    change(tensors, metadata)
    save_tensors(path, "AbilityPatch", tensors, metadata)
    with unchanged(target), pytest.raises(ValueError, match=message):
        apply_patch(target, path)


def test_a_file_that_changes_after_it_was_applied_is_read_again(folders, make):
    _, target = folders()
    path = make(random_mask(target))
    apply_patch(target, path)
    revert_patch(target, path)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    for use in (inspect_patch, lambda path: apply_patch(target, path)):
        with unchanged(target), pytest.raises(ValueError, match="is not a readable AbilityPatch"):
            use(path)


def test_making_refuses_what_cannot_be_made_or_shared(folders, tmp_path):
    donor, target = folders()
    places = tmp_path / "target", tmp_path / "donor"
    (tmp_path / "patches").mkdir()
    out = tmp_path / "patches" / "patch"
    for models, share, path, options, message in (
        (places, 0.3, out, {"metadata": {"scale": "1"}}, "must not use the key 'scale'"),
        (places, 0.3, out, {"metadata": {"year": 2026}}, "must be text, got 'year': 2026"),
        (places, 0.0, out, {}, "no difference between donor and target"),
        ((places[0], donor), 0.3, out, {}, "both be folders, or both be models in memory"),
        ((target, copy.deepcopy(target)), 0.3, out, {}, "no difference between donor and target"),
    ):
        with pytest.raises(ValueError, match=message):
            make_patch(*models, random_mask(target, share), path, **options)
    assert not any((tmp_path / "patches").iterdir())


def test_where_the_result_goes_is_asked_for_and_never_overwritten(folders, make, tmp_path):
    _, target = folders()
    path, before = make(random_mask(target)), contents(tmp_path)
    for arguments, message in (
        ((tmp_path / "target", path), "give `out`, the folder to write"),
        ((target, path, tmp_path / "out"), "with no model in memory"),
        ((tmp_path / "target", path, tmp_path / "target"), "exists and is not empty"),
        ((target, tmp_path / "target" / "model.safetensors"), "holds no actlib data, not Ability"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_patch(*arguments)
    assert contents(tmp_path) == before
