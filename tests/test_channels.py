import pytest
import torch
from torch import nn

from actlib.channels import (
    Layout,
    channel_modules,
    kind_of,
    layer_of,
    tied_modules,
    uncovered_parameters,
)


def test_channels_are_the_last_dimension_of_each_output(family, architecture):
    model = family(architecture)
    found = channel_modules(model)
    widths = {}
    handles = [
        each.module.register_forward_hook(
            lambda _m, _i, output, name=name: widths.update({name: output.shape[-1]})
        )
        for name, each in found.items()
    ]
    model(torch.arange(3, 9)[None])
    for handle in handles:
        handle.remove()
    assert widths == {name: each.channels for name, each in found.items()}


def test_channel_dimension_of_each_parameter_has_the_channels(family, architecture):
    for each in channel_modules(family(architecture)).values():
        for parameter, dimension in each.parameters().values():
            assert parameter.shape[dimension] == each.channels


def test_every_parameter_of_plain_families_is_covered(family, architecture):
    assert uncovered_parameters(family(architecture)) == []


def test_packed_parameters_are_reported(family):
    model = family("llama")
    model.model.layers[0].mlp.experts = nn.Parameter(torch.zeros(2, 16, 16))
    assert uncovered_parameters(model) == ["model.layers.0.mlp.experts"]


def test_layouts_of_embedding_linear_norm_and_conv1d(family):
    layouts = {name: each.layout for name, each in channel_modules(family("qwen2")).items()}
    assert layouts["model.embed_tokens"] is Layout.COLUMN
    assert layouts["lm_head"] is Layout.ROW
    assert layouts["model.norm"] is Layout.ENTRY
    gpt2 = channel_modules(family("gpt2"))
    assert gpt2["transformer.h.0.attn.c_attn"].layout is Layout.COLUMN
    assert gpt2["transformer.h.0.attn.c_attn"].channels == 48


def test_modules_are_found_by_type_under_any_name():
    model = nn.ModuleDict({"odd": nn.Linear(2, 3), "name": nn.LayerNorm(4), "act": nn.ReLU()})
    assert {name: each.channels for name, each in channel_modules(model).items()} == {
        "odd": 3,
        "name": 4,
    }


@pytest.mark.parametrize(("name", "tied"), [("llama", False), ("llama_tied", True)])
def test_tied_modules(family, name, tied):
    assert tied_modules(family(name)) == ([("model.embed_tokens", "lm_head")] if tied else [])


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.13.self_attn.q_proj", 13, "self_attn.q_proj"),
        ("transformer.h.0.ln_1", 0, "ln_1"),
        ("model.layers.2.mlp.experts.7.up", 2, "mlp.experts.up"),
        ("model.embed_tokens", -1, "embed_tokens"),
        ("lm_head", -1, "lm_head"),
    ],
)
def test_layer_and_kind_of_a_name(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)
