import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    Transpose,
    WeightConverter,
)

from actlib.folders.folders import empty_model, open_folder
from actlib.folders.headers import SINGLE, stored_tensors
from actlib.folders.layouts import layout_of
from actlib.transfer import Selection

EXPERTS = "model.layers.1.mlp.experts"


def rewrite(folder, change):
    """The folder's only weight file with other tensors."""
    save_file(change(load_file(folder / SINGLE)), folder / SINGLE, {"format": "pt"})


def layout(folder):
    return layout_of(stored_tensors(folder), empty_model(folder))


def test_every_parameter_of_every_family_is_found(family, any_architecture, tmp_path):
    model = family(any_architecture)
    model.save_pretrained(tmp_path, max_shard_size="9KB")
    found = layout(tmp_path)
    for name, value in model.named_parameters():
        if name not in found.converted:
            assert found.parameters[name].shape == value.shape
            assert torch.equal(found.parameters[name].open(tmp_path), value), name
    assert not found.converted or any_architecture in ("gpt_oss", "llama4")


def test_experts_are_lined_up_in_the_order_of_their_numbers(tmp_path):
    config = transformers.MixtralConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=11,
    )
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    found = layout(tmp_path).parameters[f"{EXPERTS}.gate_up_proj"]
    assert len(found.parts) == 22 and found.origins[:3] == (0, 8, 16)
    assert torch.equal(found.open(tmp_path), model.model.layers[1].mlp.experts.gate_up_proj)


def test_experts_stored_packed_are_one_part(family, tmp_path):
    model = family("qwen3_moe")
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda _: {key: each.clone() for key, each in model.state_dict().items()})
    found = layout(tmp_path)
    assert len(found.parameters[f"{EXPERTS}.gate_up_proj"].parts) == 1
    for name, value in model.named_parameters():
        assert torch.equal(found.parameters[name].open(tmp_path), value)


def located(folder, name, shape):
    count = torch.Size(shape[:-1]).numel()
    rows, columns = torch.ones(count, dtype=torch.bool), torch.zeros(shape[-1], dtype=torch.bool)
    return open_folder(folder).located(Selection(name, shape, rows, columns), "donor")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("experts.1.w1", "hold .*gate_up_proj with parts missing; expected its own rows"),
        ("experts.3", "gate_up_proj is 3 x 48 x 16 of F32, expected 4 x 48 x 16 of a float type"),
        ("experts", "the donor's files hold no tensor .*gate_up_proj"),
    ],
)
def test_experts_that_are_missing_are_named(family, tmp_path, lost, message):
    family("mixtral").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda held: {n: t for n, t in held.items() if f".{lost}." not in n})
    with pytest.raises(ValueError, match=message):
        located(tmp_path, f"{EXPERTS}.gate_up_proj", (4, 48, 16))


def test_experts_of_two_types_are_refused(family, tmp_path):
    family("mixtral").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda held: {n: t.half() if ".2.w1." in n else t for n, t in held.items()})
    with pytest.raises(ValueError, match="of F16/F32, expected 4 x 48 x 16 of a float type"):
        located(tmp_path, f"{EXPERTS}.gate_up_proj", (4, 48, 16))


@pytest.mark.parametrize(
    ("operations", "parts"),
    [([Concatenate(dim=0)], 2), ([Concatenate(dim=1)], None), ([Transpose(0, 1)], None)],
)
def test_only_conversions_that_line_up_rows_are_followed(
    family, tmp_path, monkeypatch, operations, parts
):
    """`phi3` holds gate and up in one tensor; here its files hold them apart."""
    model = family("phi3")
    model.save_pretrained(tmp_path)

    def split(held):
        apart = {}
        for name, tensor in held.items():
            if "gate_up_proj" in name:
                gate, up = tensor.chunk(2)
                apart[name.replace("gate_up", "gate")] = gate.clone()
                apart[name.replace("gate_up", "up")] = up.clone()
            else:
                apart[name] = tensor
        return apart

    rewrite(tmp_path, split)
    converter = WeightConverter(["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_up_proj", operations)
    monkeypatch.setattr(
        conversion_mapping, "get_model_conversion_mapping", lambda _model: [converter]
    )
    name = "model.layers.0.mlp.gate_up_proj.weight"
    if parts:
        (found,) = located(tmp_path, name, (48, 16))
        assert torch.equal(found.open(tmp_path), model.model.layers[0].mlp.gate_up_proj.weight)
    else:
        with pytest.raises(ValueError, match=r"in a form that loading converts \(\w+\)"):
            located(tmp_path, name, (48, 16))


def test_packing_along_another_dimension_is_refused(family, tmp_path, monkeypatch):
    family("mixtral").save_pretrained(tmp_path)
    mapping = conversion_mapping.get_model_conversion_mapping

    def other(model):
        found = mapping(model)
        for each in found:
            if isinstance(each, WeightConverter):
                each.operations[:] = [MergeModulelist(dim=1)]
        return found

    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", other)
    with pytest.raises(ValueError, match="converts .MergeModulelist.; expected its own rows"):
        located(tmp_path, f"{EXPERTS}.down_proj", (4, 16, 24))
