"""Patches: the same bits as a transfer, taken back bit for bit; refused where they do not fit."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import contents, random_mask

import actlib
from actlib.channels import channel_modules
from actlib.checkpoint import transfer_checkpoint
from actlib.files import load_tensors, save_tensors
from actlib.patches import apply_patch, inspect_patch, make_patch, revert_patch
from actlib.transfer import selections, transfer_

UP = "model.layers.1.mlp.up_proj"


def mask_for(model, share=0.3, modules=None, seed=5):
    return replace(random_mask(model, share, seed, modules), metadata={"ranking": "difference"})


def weights(folder):
    return {n: d for n, d in contents(folder).items() if not n.startswith(("actlib", "README"))}


def bits(model):
    return {name: each.view(torch.uint8).clone() for name, each in model.state_dict().items()}


def same(model, before):
    return all(each.equal(before[name]) for name, each in bits(model).items())


@pytest.fixture
def make(tmp_path):
    """`make(mask, name, target, ...)`: the path of a patch from the donor's folder to another."""

    def made(mask, name="patch", target="target", **options):
        path = tmp_path / "patches" / name
        make_patch(tmp_path / target, tmp_path / "donor", mask, path, **options)
        return path

    return made


# The same values as a transfer, and back


@pytest.mark.parametrize(
    ("kind", "dtype", "shard_size"),
    [
        ("llama_tied", torch.float32, "5KB"),
        ("gpt2", torch.bfloat16, "1GB"),
        ("gpt_neox", torch.bfloat16, "5KB"),
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
    mask, original, path = mask_for(target), bits(target), tmp_path / "made in memory"
    info = make_patch(target, donor, mask, path)
    assert load_file(path).keys() == load_file(make(mask)).keys()
    places = [tmp_path / name for name in ("target", "moved", "out", "back")]
    transfer_checkpoint(places[0], tmp_path / "donor", mask, places[1])
    assert apply_patch(places[0], path, places[2]) == places[2]
    assert weights(places[2]) == weights(places[1]) != weights(places[0])
    assert revert_patch(places[2], path, places[3]) == places[3]
    assert contents(places[3]) == contents(places[0])
    assert apply_patch(target, make(mask)) is None
    patched = bits(target)
    assert revert_patch(target, path) is None
    assert same(target, original) and not same(target, patched)
    transfer_(target, donor, mask)
    assert same(target, patched)
    assert info.tensors == {n: each.size for n, each in selections(target, mask).items()}
    total = sum(parameter.numel() for parameter in target.parameters())
    assert info.parameter_percent == pytest.approx(100 * info.elements / total)
    assert info.bytes == path.stat().st_size and info.reversible


def test_a_patch_without_the_originals_is_smaller_and_cannot_be_reverted(folders, make):
    donor, target = folders()
    whole, lean = (
        make(mask_for(target), name, reversible=name == "whole") for name in ("whole", "lean")
    )
    info = inspect_patch(lean)
    assert inspect_patch(whole).bytes - info.bytes > info.elements * 3 and not info.reversible
    apply_patch(target, lean)
    patched = bits(target)
    with pytest.raises(ValueError, match="cannot be reverted: it was made without the original"):
        revert_patch(target, lean)
    assert same(target, patched)
    revert_patch(target, whole)
    transfer_(target, donor, mask_for(target))
    assert same(target, patched)


def test_overlapping_patches_apply_in_the_order_in_which_they_were_made(folders, make, tmp_path):
    _, target = folders("gpt2")
    first = make(mask_for(target), "first")
    apply_patch(tmp_path / "target", first, tmp_path / "middle")
    second = make(mask_for(target, 0.5), "second", target="middle")
    with pytest.raises(ValueError, match="does not hold the values that it had before the patch"):
        apply_patch(target, second)
    apply_patch(target, first)
    apply_patch(target, second)
    with pytest.raises(ValueError, match="does not hold the values that it had after the patch"):
        revert_patch(target, first)
    revert_patch(target, second)
    revert_patch(target, first)


# What patch and folder say


def test_the_metadata_say_what_was_done_and_name_no_local_path(folders, make, tmp_path):
    _, target = folders()
    given = {"donor": "someone/model", "license": "apache-2.0"}
    path = make(mask_for(target), scale=0.25, metadata=given)
    stated = inspect_patch(path).metadata
    assert stated | given | {"target": "target", "scale": "0.25"} == stated
    assert stated["mask_sha256"] == mask_for(target).digest and stated["ranking"] == "difference"
    assert float(stated["percent"]) == mask_for(target).percent
    assert stated["created_with"].startswith(f"actlib {actlib.__version__}, torch ")
    assert str(tmp_path).encode() not in path.read_bytes()
    donor, target = (type(target).from_pretrained(tmp_path / name) for name in ("donor", "target"))
    donor.config._name_or_path = "models/donor"  # a folder that is not below this one
    stated = make_patch(target, donor, mask_for(target), path).metadata
    assert (stated["target"], stated["donor"]) == ("target", "donor")
    donor.config._name_or_path, donor.config._commit_hash = "owner/name", "abc"
    assert make_patch(target, donor, mask_for(target), path).metadata["donor"] == "owner/name"


def test_the_folder_lists_its_patches_and_reverting_gives_its_card_back(folders, make, tmp_path):
    _, target = folders()
    (tmp_path / "target" / "README.md").write_text("its own card")
    names = list(channel_modules(target))
    one, other = (make(mask_for(target, modules={names[n]}), f"{n}", scale=n / 4) for n in (1, 2))
    apply_patch(tmp_path / "target", one, tmp_path / "a")
    apply_patch(tmp_path / "a", other, tmp_path / "b")
    revert_patch(tmp_path / "b", one, tmp_path / "c")
    revert_patch(tmp_path / "c", other, tmp_path / "d")
    listed = [json.loads((tmp_path / each / "actlib.json").read_text()) for each in "abc"]
    scales = [[step["scale"] for step in steps] for steps in listed]
    assert scales == [["0.25"], ["0.25", "0.5"], ["0.5"]]
    assert "| patch | donor |" in (tmp_path / "a" / "README.md").read_text()
    assert contents(tmp_path / "d") == contents(tmp_path / "target")
    (tmp_path / "a" / "actlib.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a list of steps"):
        apply_patch(tmp_path / "a", other, tmp_path / "e")
    assert not (tmp_path / "e").exists()


# What is refused, and changes nothing


def negated(model):
    """One of the masked values with another sign."""
    row = int(mask_for(model, modules={UP}).channels[UP].nonzero()[0])
    model.get_submodule(UP).weight.data[row, 3] *= -1


def transposed(model):
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().T.contiguous())


def offloaded(model):
    model.model.layers[0].to("meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (negated, rf"before the patch .*: {UP}.weight \(.*\); take the model that it was made for"),
        (transposed, r"before the patch .*: lm_head.weight \(61 x 16, torch.float32\)"),
        (offloaded, "parameter model.layers.0.* is offloaded .*folder"),
        (lambda model: model.bfloat16(), r"torch.float32\).*; take the model"),
        (lambda model: model.model.layers.pop(1), "before the patch .*: model.layers.1"),
    ],
)
@pytest.mark.parametrize("reversible", [True, False])
def test_another_target_is_refused(folders, make, tmp_path, change, message, reversible):
    _, target = folders("llama")
    path = make(mask_for(target), reversible=reversible)
    change(target)
    if change is not offloaded:
        before = bits(target)
    with pytest.raises(ValueError, match=message):
        apply_patch(target, path)
    assert change is offloaded or same(target, before)
    if change is negated:
        target.save_pretrained(tmp_path / "wrong")
        with pytest.raises(ValueError, match=message):
            apply_patch(tmp_path / "wrong", path, tmp_path / "out")
        assert not [each for each in tmp_path.iterdir() if "out" in each.name]


def test_what_is_not_applied_cannot_be_reverted_but_other_values_may_differ(folders, make):
    _, target = folders("llama")
    path = make(mask_for(target, modules={UP}))
    with pytest.raises(ValueError, match="is not applied to this target"):
        revert_patch(target, path)
    target.model.layers[0].mlp.up_proj.weight.data += 1
    apply_patch(target, path)
    with pytest.raises(ValueError, match="is already applied to this target"):
        apply_patch(target, path)
    revert_patch(target, path)


def spoil(key, change):
    return lambda tensors, metadata: tensors.update({key: change(tensors[key])})


def lack(name):
    return lambda parts, metadata: (metadata if name in metadata else parts).pop(name)


def add(name, like):
    return lambda tensors, metadata: tensors.update({name: tensors[like]})


NAME, OTHERS = (
    "model.norm.weight",
    "damaged: tensors of a parameter are missing, or there are others",
)
DAMAGES = [
    (lack(f"{NAME}.rows"), f"damaged: the rows or columns of {NAME}"),
    (add(f"{NAME}.notes", f"{NAME}.rows"), OTHERS),
    (lambda tensors, _: tensors.clear(), OTHERS),
    (lambda _, metadata: metadata.update(before_sha256='{"x": "0"}'), OTHERS),
    (lack(f"{NAME}.after"), f"damaged: the values of {NAME}"),
    (lack(f"{NAME}.before"), f"damaged: the original values of {NAME} have no SHA-256"),
    (spoil(f"{NAME}.rows", lambda rows: rows[None]), f"damaged: the rows or columns of {NAME}"),
    (spoil(f"{NAME}.rows", lambda rows: rows & False), f"damaged: the values of {NAME}"),
    (spoil(f"{NAME}.after", lambda values: values[1:]), f"damaged: the values of {NAME}"),
    (spoil(f"{NAME}.after", lambda values: values.half()), f"damaged: the values of {NAME}"),
    (lack("parameters"), "damaged: .*parameters"),
    (lambda _, metadata: metadata.update(parameters="0"), "damaged: .*parameters"),
    (lambda _, metadata: metadata.update(before_sha256="[" * 10**5), "damaged"),
    (lambda _, metadata: metadata.update(before_sha256="7"), "damaged"),
    (lambda _, metadata: metadata.update(format="3"), "of format 3, and this version of actlib"),
    (lack("format"), "of format 1, and this version of actlib"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_a_patch_that_contradicts_itself_is_refused(folders, make, change, message):
    _, target = folders()
    path, before = make(mask_for(target, 0.5)), bits(target)
    tensors, metadata = load_tensors(path, "AbilityPatch")
    change(tensors, metadata)
    save_tensors(path, "AbilityPatch", tensors, metadata)
    with pytest.raises(ValueError, match=message):
        apply_patch(target, path)
    assert same(target, before)


@pytest.mark.parametrize("change", [0, -1, "flip"])
def test_a_cut_off_file_and_a_flipped_bit_are_refused(folders, make, change):
    _, target = folders()
    path, before = make(mask_for(target)), bits(target)
    apply_patch(target, path)  # a whole file, which is not checked again until it changes
    revert_patch(target, path)
    data = bytearray(path.read_bytes())
    data[-2] ^= change == "flip"
    path.write_bytes(data if change == "flip" else data[:change])
    for use in (inspect_patch, lambda path: apply_patch(target, path)):
        with pytest.raises(ValueError, match="is not a readable AbilityPatch file"):
            use(path)
    assert same(target, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": {"scale": "1"}}, "must not use the key 'scale'"),
        ({"metadata": {"format": "1"}}, "must not use the key 'format'"),
        ({"metadata": {"year": 2026}}, "must be text, got 'year': 2026"),
        ({"scale": float("nan")}, "scale must be a finite number"),
        ({"target": "donor"}, "donor and target are the same folder"),
        ({"name": ""}, "a patch is one file, and .* is a folder"),
    ],
)
def test_making_refuses_what_cannot_be_made_or_shared(folders, make, tmp_path, options, message):
    donor, target = folders()
    (tmp_path / "patches").mkdir()
    with pytest.raises(ValueError, match=message):
        make(mask_for(target), **options)
    with pytest.raises(ValueError, match="the mask is empty"):
        make(mask_for(target, 0.0))
    with pytest.raises(ValueError, match="are the same model"):
        make_patch(target, target, mask_for(target), tmp_path / "patches" / "p")
    with pytest.raises(ValueError, match="both be folders, or both be models in memory"):
        make_patch(tmp_path / "target", donor, mask_for(target), tmp_path / "patches" / "p")
    assert not any((tmp_path / "patches").iterdir())


def test_a_patch_that_would_change_no_number_is_refused(folders, tmp_path):
    _, target = folders()
    with pytest.raises(ValueError, match="no difference between donor and target"):
        make_patch(target, copy.deepcopy(target), mask_for(target), tmp_path / "patch")
    assert not (tmp_path / "patch").exists()


def test_where_the_result_goes_is_asked_for_and_never_overwritten(folders, make, tmp_path):
    _, target = folders()
    path, before = make(mask_for(target)), contents(tmp_path)
    mask_for(target).save(tmp_path / "patches" / "mask")
    for arguments, message in (
        ((tmp_path / "target", path), "`out` names the folder to write"),
        ((target, path, tmp_path / "out"), "`out` names .* of no other model"),
        ((tmp_path / "target", path, tmp_path / "target"), "exists and is not empty"),
        ((tmp_path / "nowhere", path, tmp_path / "out"), "there is no model folder .*nowhere"),
        ((target, tmp_path / "patches" / "mask"), "holds ChannelMask, not AbilityPatch"),
        ((target, tmp_path / "target" / "model.safetensors"), "holds no actlib data, not Ability"),
        ((target, tmp_path / "nowhere"), "there is no AbilityPatch file"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_patch(*arguments)
    (tmp_path / "patches" / "mask").unlink()
    assert contents(tmp_path) == before
