import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import actlib.folders.exchanging
import actlib.folders.patches
import actlib.folders.patching
from actlib.channels import channel_modules
from actlib.checkpoint import transfer_checkpoint
from actlib.folders.patch_files import open_patch
from actlib.folders.patches import apply_patch, inspect_patch, make_patch, revert_patch
from actlib.folders.selecting import interpolated, parameter_percent, selections
from actlib.masks import ChannelMask
from actlib.transfer import transfer_


def mask_for(model, share=0.3, modules=None):
    generator = torch.Generator().manual_seed(5)
    channels = {
        name: torch.rand(each.channels, generator=generator) < share
        for name, each in channel_modules(model).items()
    }
    for name in channels if modules is not None else ():
        channels[name] &= name in modules
    return ChannelMask(channels, {"ranking": "difference"})


def halves(model):
    """Two masks that share no element, even where embedding and head are one tensor."""
    names = list(channel_modules(model))
    first = {*names[: len(names) // 2], names[-1]}
    return mask_for(model, modules=first), mask_for(model, modules=set(names) - first)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(folder):
    return {
        name: data
        for name, data in contents(folder).items()
        if not name.startswith(("actlib", "README"))
    }


def bits(model):
    return {name: each.clone() for name, each in model.state_dict().items()}


def same_bits(model, kept):
    return all(
        torch.equal(a.view(torch.uint8), kept[name].view(torch.uint8))
        for name, a in model.state_dict().items()
    )


@pytest.fixture
def folders(pair, tmp_path):
    """`folders(architecture, dtype, shard_size)`: donor and target, also saved under tmp_path."""

    def make(architecture="llama_tied", dtype=torch.float32, shard_size="1GB"):
        donor, target = pair(architecture, dtype)
        donor.save_pretrained(tmp_path / "donor")
        target.save_pretrained(tmp_path / "target", max_shard_size=shard_size)
        return donor, target

    return make


@pytest.fixture
def make(tmp_path):
    """`make(mask, name, target, ...)`: the path of a patch from the donor's folder to the target's.

    The file lies in a folder of its own.
    """

    def made(mask, name="patch", target="target", **options):
        path = tmp_path / "patches" / f"{name}.safetensors"
        make_patch(tmp_path / target, tmp_path / "donor", mask, path, **options)
        return path

    return made


@pytest.mark.parametrize(("dtype", "shard_size"), [(torch.float32, "5KB"), (torch.bfloat16, "1GB")])
def test_applying_is_transferring_and_reverting_is_undoing(
    folders, make, tmp_path, architecture, dtype, shard_size
):
    donor, target = folders(architecture, dtype, shard_size)
    mask, original = mask_for(target), bits(target)
    path = make(mask)
    places = [tmp_path / name for name in ("target", "moved", "out", "back")]
    transfer_checkpoint(places[0], tmp_path / "donor", mask, places[1])
    assert apply_patch(places[0], path, places[2]) == places[2]
    assert weights(places[2]) == weights(places[1]) != weights(places[0])
    assert revert_patch(places[2], path, places[3]) == places[3]
    assert contents(places[3]) == contents(places[0])

    assert apply_patch(target, path) is None
    patched = bits(target)
    assert revert_patch(target, path) is None
    assert same_bits(target, original) and not same_bits(target, patched)
    transfer_(target, donor, mask)
    assert same_bits(target, patched)


@pytest.mark.parametrize("packed", [False, True])
def test_packed_experts_are_patched_however_they_are_stored(folders, make, tmp_path, packed):
    donor, target = folders("qwen3_moe", torch.bfloat16, "9KB")
    if packed:
        for path in (tmp_path / "target").glob("model*"):
            path.unlink()
        tensors = bits(target)
        save_file(tensors, tmp_path / "target" / "model.safetensors", {"format": "pt"})
    mask, original = mask_for(target), bits(target)
    path = make(mask)
    transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / "moved")
    apply_patch(tmp_path / "target", path, tmp_path / "out")
    assert weights(tmp_path / "out") == weights(tmp_path / "moved")
    revert_patch(tmp_path / "out", path, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "target")
    apply_patch(target, path)
    patched = bits(target)
    revert_patch(target, path)
    assert same_bits(target, original)
    transfer_(target, donor, mask)
    assert same_bits(target, patched)


def test_a_newer_format_is_refused(folders, make):
    _, target = folders()
    path = make(mask_for(target))
    for number, message in ((2, "is of format 2, and this version of actlib reads"), ("x", "x")):

        def change(tensors, table, header, number=number):
            header["actlib"] = json.dumps({"kind": "AbilityPatch", "format": number})

        rewritten(path, change)
        with pytest.raises(ValueError, match=message):
            inspect_patch(path)


def test_a_file_that_changed_since_it_was_checked_is_checked_again(folders, make):
    _, target = folders()
    path = make(mask_for(target))
    apply_patch(target, path)
    revert_patch(target, path)
    before, data = bits(target), bytearray(path.read_bytes())
    for place in range(len(data) - 8 * 61, len(data)):
        data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: the values of .* the patch"):
        apply_patch(target, path)
    assert same_bits(target, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_file_holds_the_selected_elements_and_little_more(folders, make, architecture, dtype):
    donor, target = folders(architecture, dtype)
    mask, parameters = mask_for(target, 0.1), dict(target.named_parameters())
    path = make(mask, scale=0.25)
    info, chosen = inspect_patch(path), selections(target, mask)
    assert info.tensors == {name: each.size for name, each in chosen.items()}
    assert info.elements == sum(info.tensors.values())
    assert info.parameter_percent == pytest.approx(parameter_percent(target, mask))
    assert info.bytes == path.stat().st_size and info.reversible
    tensors, donated = load_file(path), dict(donor.named_parameters())
    stored = {"before": 0, "after": 0}
    for name, selection in chosen.items():
        assert torch.equal(tensors[f"{name}.rows"], selection.rows.nonzero().flatten())
        for number, index in enumerate(selection.pieces()):
            old, new = (tensors[f"{name}.{side}.{number}"] for side in stored)
            assert torch.equal(old, parameters[name][index])
            assert torch.equal(new, interpolated(old, donated[name][index], 0.25))
            stored = {side: count + old.numel() for side, count in stored.items()}
    assert stored == {"before": info.elements, "after": info.elements}
    lean = inspect_patch(make(mask, "lean", reversible=False))
    assert info.bytes - lean.bytes >= info.elements * dtype.itemsize


def test_of_a_larger_model_a_patch_is_about_its_percent(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=500, hidden_size=128, intermediate_size=256, num_hidden_layers=2
    )
    for name in ("donor", "target"):
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / name)
    mask = mask_for(transformers.LlamaForCausalLM(config), 0.1)
    whole = (tmp_path / "target" / "model.safetensors").stat().st_size
    info = make_patch(
        tmp_path / "target", tmp_path / "donor", mask, tmp_path / "p", reversible=False
    )
    assert 8 < info.parameter_percent < 12
    assert 0.98 < 100 * info.bytes / whole / info.parameter_percent < 1.3


def test_the_metadata_say_what_was_done_and_name_no_local_path(folders, make, tmp_path):
    _, target = folders()
    mask = mask_for(target)
    path = make(mask, scale=0.25, metadata={"donor": "someone/model", "license": "apache-2.0"})
    info = inspect_patch(path)
    told = info.metadata
    assert (told["donor"], told["target"]) == ("someone/model", "target")
    assert (told["mask_sha256"], told["ranking"]) == (mask.digest, "difference")
    assert float(told["scale"]) == 0.25 and float(told["percent"]) == mask.percent
    assert told["created_with"].startswith(f"actlib {actlib.__version__}, torch ")
    assert told["license"] == "apache-2.0"
    assert str(tmp_path).encode() not in path.read_bytes()
    assert json.loads(json.dumps(info.to_dict()))["elements"] == info.elements
    with pytest.raises(ValueError, match="holds AbilityPatch, not ChannelMask"):
        ChannelMask.load(path)


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"donor": "/models/donor"}, "donor is a local path"),
        ({"donor": "C:\\models"}, "donor is a local path"),
        ({"target": "~/models"}, "target is a local path"),
        ({"scale": "1"}, "scale is set by the patch itself"),
        ({"year": 2026}, "must be text, got 'year': 2026"),
    ],
)
def test_metadata_that_cannot_be_shared_are_refused(folders, make, tmp_path, metadata, named):
    _, target = folders()
    with pytest.raises(ValueError, match=named):
        make(mask_for(target), metadata=metadata)
    assert not (tmp_path / "patches").exists()


def test_patches_of_disjoint_elements_apply_in_either_order(folders, make, architecture):
    donor, target = folders(architecture)
    original, masks = bits(target), halves(target)
    one, other = make(masks[0], "one"), make(masks[1], "other")
    for order in ((one, other), (other, one)):
        for path in order:
            apply_patch(target, path)
        both = bits(target)
        for path in order:  # Not the reverse order: they do not touch each other.
            revert_patch(target, path)
        assert same_bits(target, original)
    transfer_(target, donor, masks[0] | masks[1])
    assert same_bits(target, both)


def test_overlapping_patches_apply_only_in_the_order_in_which_they_were_made(
    folders, make, family, tmp_path
):
    _, target = folders("gpt2")
    original, mask = bits(target), mask_for(target)
    first = make(mask, "first")
    apply_patch(tmp_path / "target", first, tmp_path / "middle")
    second = make(mask_for(target, 0.5), "second", target="middle")
    with pytest.raises(ValueError, match="does not hold the values that it had before the patch"):
        apply_patch(target, second)
    assert same_bits(target, original)
    apply_patch(target, first)
    apply_patch(target, second)
    patched = bits(target)
    with pytest.raises(ValueError, match="does not hold the values that it had after the patch"):
        revert_patch(target, first)
    assert same_bits(target, patched)
    revert_patch(target, second)
    revert_patch(target, first)
    assert same_bits(target, original)


def test_the_folder_lists_its_patches(folders, make, tmp_path):
    _, target = folders()
    masks = halves(target)
    paths = make(masks[0], "one"), make(masks[1], "other", scale=0.5)
    apply_patch(tmp_path / "target", paths[0], tmp_path / "a")
    apply_patch(tmp_path / "a", paths[1], tmp_path / "b")
    revert_patch(tmp_path / "b", paths[0], tmp_path / "c")
    listed = [json.loads((tmp_path / each / "actlib.json").read_text()) for each in "abc"]
    assert [[entry["scale"] for entry in each] for each in listed] == [
        ["0.4"],
        ["0.4", "0.5"],
        ["0.5"],
    ]
    assert listed[2][0]["mask_sha256"] == masks[1].digest
    (tmp_path / "a" / "actlib.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a list of steps"):
        apply_patch(tmp_path / "a", paths[1], tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_target_with_other_values_is_refused_by_name_and_kept(folders, make, tmp_path):
    _, target = folders("llama")
    mask = mask_for(target, modules={"model.layers.1.mlp.up_proj"})
    path, name = make(mask), "model.layers.1.mlp.up_proj.weight"
    row = int(mask.channels["model.layers.1.mlp.up_proj"].nonzero()[0])
    with torch.no_grad():
        target.model.layers[1].mlp.up_proj.weight[row, 3] *= -1
    before = bits(target)
    target.save_pretrained(tmp_path / "wrong")
    with pytest.raises(ValueError, match=name):
        apply_patch(target, path)
    assert same_bits(target, before)
    with pytest.raises(ValueError, match=name):
        apply_patch(tmp_path / "wrong", path, tmp_path / "out")
    assert not [each for each in tmp_path.iterdir() if "out" in each.name]


@pytest.mark.parametrize("block_bytes", [1, 1 << 22])
def test_a_difference_in_the_last_block_leaves_the_model_bit_for_bit(
    folders, make, monkeypatch, architecture, block_bytes
):
    monkeypatch.setattr(actlib.folders.exchanging, "BLOCK_BYTES", block_bytes)
    _, target = folders(architecture)
    mask = mask_for(target)
    path, name = make(mask), list(selections(target, mask))[-1]
    last = dict(target.named_parameters())[name].detach()
    index = list(selections(target, mask)[name].pieces())[-1]
    last[index] = last[index] * torch.tensor(-1.0)
    before = bits(target)
    with pytest.raises(ValueError, match="the values that it had before the patch"):
        apply_patch(target, path)
    assert same_bits(target, before)


def test_an_open_patch_is_switched_on_and_off(folders, make, tmp_path):
    donor, target = folders()
    mask, before = mask_for(target), bits(target)
    path = make(mask)
    with open_patch(path) as patch:
        for _ in range(2):
            apply_patch(target, patch)
            after = bits(target)
            with pytest.raises(ValueError, match=f"the patch {path} is already applied"):
                apply_patch(target, patch)
            revert_patch(target, patch)
            assert same_bits(target, before)
        apply_patch(tmp_path / "target", patch, tmp_path / "out")
    apply_patch(target, path)
    assert same_bits(target, after)


def test_values_beside_the_selected_ones_may_differ(folders, make):
    _, target = folders("llama")
    mask = mask_for(target, modules={"model.layers.1.mlp.up_proj"})
    path = make(mask)
    with torch.no_grad():
        target.model.layers[0].mlp.up_proj.weight += 1
    apply_patch(target, path)


def test_applying_twice_and_reverting_what_is_not_applied_are_said(folders, make, tmp_path):
    _, target = folders()
    path = make(mask_for(target))
    with pytest.raises(ValueError, match="is not applied to this target"):
        revert_patch(target, path)
    apply_patch(target, path)
    with pytest.raises(ValueError, match="is already applied to this target"):
        apply_patch(target, path)
    apply_patch(tmp_path / "target", path, tmp_path / "out")
    with pytest.raises(ValueError, match="is already applied to this target"):
        apply_patch(tmp_path / "out", path, tmp_path / "again")


def test_a_half_applied_patch_counts_neither_as_applied_nor_as_absent(folders, make):
    donor, target = folders()
    mask = mask_for(target)
    path, name = make(mask), list(selections(target, mask))[-1]
    last = selections(target, mask)[name]
    ours, theirs = (dict(model.named_parameters())[name].detach() for model in (target, donor))
    for index in last.pieces():
        ours[index] = interpolated(ours[index], theirs[index], 0.4)
    for use, side in ((apply_patch, "before"), (revert_patch, "after")):
        with pytest.raises(ValueError, match=f"the values that it had {side} the patch"):
            use(target, path)


def test_tensors_of_several_types_stay_aligned(pair, make, tmp_path):
    donor, target = pair("gpt2", torch.bfloat16)
    for name, model in (("donor", donor), ("target", target)):
        model.transformer.h[1].ln_1.float()
        model.save_pretrained(tmp_path / name)
    channels = {
        name: (torch.arange(found.channels) == 0) & name.endswith(("h.0.attn.c_attn", "h.1.ln_1"))
        for name, found in channel_modules(target).items()
    }
    mask = ChannelMask(channels)
    path = make(mask, reversible=False)  # 17 values of two bytes, then those of four
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__")
    assert {entry["dtype"] for entry in entries.values()} == {"I64", "F32", "BF16"}
    for entry in entries.values():
        width = {"I64": 8, "F32": 4, "BF16": 2}[entry["dtype"]]
        assert (8 + length + entry["data_offsets"][0]) % width == 0
    apply_patch(target, path)
    patched = bits(target)
    revert_patch(target, make(mask, "whole"))
    transfer_(target, donor, mask)
    assert same_bits(target, patched)


def test_a_patch_without_the_originals_applies_and_cannot_be_reverted(folders, make):
    donor, target = folders()
    mask = mask_for(target)
    path = make(mask, reversible=False)
    apply_patch(target, path)
    with pytest.raises(ValueError, match="cannot be reverted: it was made without the original"):
        revert_patch(target, path)
    again = type(target)(target.config)
    again.load_state_dict(bits(target))
    revert = make(mask, "whole")
    revert_patch(again, revert)
    transfer_(again, donor, mask)
    assert same_bits(again, bits(target))


def test_other_models_and_types_are_refused(folders, make, family):
    _, target = folders("llama")
    path = make(mask_for(target))
    for other in ("gpt2", "llama_tied"):
        with pytest.raises(ValueError, match="the patch is of a model with .* parameters, this"):
            apply_patch(family(other), path)
    with pytest.raises(ValueError, match="torch.bfloat16, and the patch is made for torch.float32"):
        apply_patch(family("llama", 0, torch.bfloat16), path)
    narrow = family("llama")
    head = narrow.lm_head.weight
    narrow.lm_head.weight = torch.nn.Parameter(head.detach().T.contiguous())
    with pytest.raises(ValueError, match="with lm_head.weight of 61 x 16, this one has none"):
        apply_patch(narrow, path)


def test_a_tied_tensor_stored_twice_moves_in_both_places(folders, make, tmp_path):
    _, target = folders("llama_tied")
    path = tmp_path / "target" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, {"format": "pt"})
    patch = make(mask_for(target))
    apply_patch(tmp_path / "target", patch, tmp_path / "out")
    apply_patch(target, patch)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after["lm_head.weight"], target.lm_head.weight)
    assert torch.equal(after["model.embed_tokens.weight"], target.lm_head.weight)
    tensors["lm_head.weight"] += 1
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match="embed_tokens.weight twice, with different values"):
        make(mask_for(target), "second")


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_cut_off_file_is_refused(folders, make, keep):
    _, target = folders()
    path, before = make(mask_for(target)), bits(target)
    path.write_bytes(path.read_bytes()[:keep])
    for use in (inspect_patch, lambda path: apply_patch(target, path)):
        with pytest.raises(ValueError, match="is not a readable AbilityPatch file"):
            use(path)
    assert same_bits(target, before)


def test_a_flipped_bit_is_refused(folders, make):
    _, target = folders()
    path, before = make(mask_for(target)), bits(target)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: the values of .* the patch"):
        apply_patch(target, path)
    assert same_bits(target, before)


def rewritten(path, change):
    """The patch with its tensors, or the table in its metadata, changed."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors, table = load_file(path), json.loads(header["tensors"])
    change(tensors, table, header)
    save_file(tensors, path, {**header, "tensors": json.dumps(table)})


def spoil(key, value):
    return lambda tensors, table, header: tensors.update({key: value(tensors[key])})


NAME = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (spoil(f"{NAME}.rows", lambda rows: rows - 17), f"the rows of {NAME}"),
        (spoil(f"{NAME}.rows", lambda rows: rows + 16), f"the rows of {NAME}"),
        (spoil(f"{NAME}.rows", lambda rows: rows[1:].clone()), f"the indices of {NAME}"),
        (spoil(f"{NAME}.rows", lambda rows: rows.flip(0)), f"the rows of {NAME}"),
        (
            spoil(f"{NAME}.rows", lambda rows: rows.clamp(rows[1])),
            f"the rows of {NAME}",
        ),
        (spoil(f"{NAME}.after.0", lambda values: values[None].clone()), f"the values of {NAME}"),
        (spoil(f"{NAME}.after.0", lambda values: values.half()), f"the values of {NAME}"),
        (lambda tensors, table, header: table[NAME].pop("shape"), "its metadata: KeyError"),
        (lambda tensors, table, header: table[NAME].update(shape=3), "its metadata: TypeError"),
        (lambda tensors, table, header: header.update(parameters="0"), "its metadata: ZeroDiv"),
    ],
)
def test_a_patch_that_contradicts_itself_is_refused(folders, make, change, named):
    _, target = folders()
    path, before = make(mask_for(target, 0.5)), bits(target)
    rewritten(path, change)
    with pytest.raises(ValueError, match=f"is damaged: {named}"):
        apply_patch(target, path)
    assert same_bits(target, before)


def test_what_is_no_patch_is_refused(folders, make, tmp_path):
    _, target = folders()
    mask_for(target).save(tmp_path / "mask")
    with pytest.raises(ValueError, match="holds ChannelMask, not AbilityPatch"):
        inspect_patch(tmp_path / "mask")
    with pytest.raises(ValueError, match="holds no actlib data, not AbilityPatch"):
        inspect_patch(tmp_path / "target" / "model.safetensors")
    with pytest.raises(ValueError, match="there is no AbilityPatch file"):
        inspect_patch(tmp_path / "nowhere")


def test_making_refuses_what_transferring_refuses_and_empty_masks(folders, make, family, tmp_path):
    _, target = folders()
    mask = mask_for(target)
    with pytest.raises(ValueError, match="the mask is empty"):
        make(mask_for(target, 0.0))
    with pytest.raises(ValueError, match="scale must be a finite number"):
        make(mask, scale=float("nan"))
    with pytest.raises(ValueError, match="there is no model folder .*nowhere"):
        make(mask, target="nowhere")
    with pytest.raises(ValueError, match="a patch is one file, and .* is a folder"):
        make_patch(tmp_path / "target", tmp_path / "donor", mask, tmp_path)
    family("gpt2").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="donor and target do not fit"):
        make(mask, target="other")
    assert not (tmp_path / "patches").exists()


def test_where_the_result_goes_is_asked_for_and_never_overwritten(folders, make, tmp_path):
    _, target = folders()
    path, before = make(mask_for(target)), contents(tmp_path / "target")
    with pytest.raises(ValueError, match="`out` must name the folder to write"):
        apply_patch(tmp_path / "target", path)
    with pytest.raises(ValueError, match="`out` must not be given"):
        apply_patch(target, path, tmp_path / "out")
    with pytest.raises(ValueError, match="exists and is not empty"):
        apply_patch(tmp_path / "target", path, tmp_path / "target")
    with pytest.raises(ValueError, match="there is no model folder .*nowhere"):
        apply_patch(tmp_path / "nowhere", path, tmp_path / "out")
    assert contents(tmp_path / "target") == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_half_made_is_left_after_an_error(folders, make, tmp_path, monkeypatch, error):
    _, target = folders()
    path = make(mask_for(target))
    there = sorted(each.name for each in tmp_path.iterdir())

    def fail(*_args):
        raise error

    monkeypatch.setattr(actlib.folders.patching, "write_changed", fail)
    with pytest.raises(error):
        apply_patch(tmp_path / "target", path, tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == there
    monkeypatch.setattr(actlib.folders.patches, "moved", fail)
    shutil.rmtree(tmp_path / "patches")
    with pytest.raises(error):
        make(mask_for(target))
    assert not any((tmp_path / "patches").iterdir())


def test_the_patched_folder_loads(folders, make, tmp_path):
    _, target = folders("gpt_neox")
    path = make(mask_for(target))
    (tmp_path / "target" / "card.md").write_text("kept")
    apply_patch(tmp_path / "target", path, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    apply_patch(target, path)
    assert same_bits(model, bits(target))
    assert (tmp_path / "out" / "card.md").read_text() == "kept"
