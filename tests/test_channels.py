import accelerate
import pytest
import torch
import transformers
from torch import nn

from actlib.channels import (
    Layout,
    channel_modules,
    kind_of,
    layer_of,
    tied_modules,
    tower_of,
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


def test_each_module_has_the_name_under_which_it_is_found(family, architecture):
    model = family(architecture)
    for name, each in channel_modules(model).items():
        assert each.name == name and each.module is model.get_submodule(name)


class Wrapped(nn.Linear):
    """A linear layer that holds another, as an adapter does."""

    def __init__(self):
        super().__init__(2, 3)
        self.inner = nn.Linear(2, 4)


def test_parameters_of_a_module_within_are_those_of_the_module_within():
    found = channel_modules(nn.ModuleDict({"outer": Wrapped()}))
    assert {name: each.channels for name, each in found.items()} == {"outer": 3, "outer.inner": 4}
    assert set(found["outer"].parameters()) == {"weight", "bias"}


def test_modules_are_found_by_type_under_any_name():
    model = nn.ModuleDict({"odd": nn.Linear(2, 3), "name": nn.LayerNorm(4), "act": nn.ReLU()})
    assert {name: each.channels for name, each in channel_modules(model).items()} == {
        "odd": 3,
        "name": 4,
    }


@pytest.mark.parametrize(("name", "tied"), [("llama", False), ("llama_tied", True)])
def test_tied_modules(family, name, tied):
    assert tied_modules(family(name)) == ([("model.embed_tokens", "lm_head")] if tied else [])


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2"])
def test_offloaded_modules_stay_tied(family, name):
    expected = tied_modules(family(name))
    offloaded = accelerate.cpu_offload(family(name), execution_device="cpu")
    assert next(offloaded.parameters()).is_meta
    assert tied_modules(offloaded) == expected
    with torch.device("meta"):
        described = transformers.AutoModelForCausalLM.from_config(offloaded.config)
    assert tied_modules(described) == expected


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.13.self_attn.q_proj", 13, "self_attn.q_proj"),
        ("transformer.h.0.ln_1", 0, "ln_1"),
        ("model.layers.2.mlp.experts.7.up", 2, "mlp.experts.up"),
        ("model.layers.4.mlp.experts.gate_up_proj", 4, "mlp.experts.gate_up_proj"),
        ("transformer.h.11.attn.c_attn", 11, "attn.c_attn"),
        ("transformer.wte", -1, "wte"),
        ("gpt_neox.layers.5.attention.query_key_value", 5, "attention.query_key_value"),
        ("gpt_neox.final_layer_norm", -1, "final_layer_norm"),
        ("model.language_model.layers.3.mlp.up_proj", 3, "mlp.up_proj"),
        (
            "model.vision_tower.vision_model.encoder.layers.3.mlp.fc1",
            3,
            "vision_tower.mlp.fc1",
        ),
        ("audio_tower.norm", -1, "audio_tower.norm"),
        ("vision_blocks.3.mlp.fc1", 3, "vision_blocks.mlp.fc1"),
        ("model.layers.3.vision_proj", 3, "vision_proj"),
        ("model.embed_tokens", -1, "embed_tokens"),
        ("lm_head", -1, "lm_head"),
    ],
)
def test_layer_and_kind_of_a_name(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)
    towers = [part for part in ("vision_tower", "audio_tower", "vision_blocks") if part in name]
    assert tower_of(name) == "".join(towers)


def test_packed_experts_have_a_channel_for_each_row_of_each_expert(family):
    model = family("mixtral")
    found = channel_modules(model)
    experts = model.model.layers[1].mlp.experts
    for name, parameter in experts.named_parameters():
        each = found[f"model.layers.1.mlp.experts.{name}"]
        assert each.layout is Layout.PACKED
        assert each.module is experts and each.weight is parameter
        assert each.channels == parameter.shape[0] * parameter.shape[1]
        assert each.parameters() == {name: (parameter, 0)}
        assert each.name == f"model.layers.1.mlp.experts.{name}"
    assert "model.layers.1.mlp.experts" not in found


class Experts(nn.Module):
    """Experts as the decorator of transformers leaves them, with other things said of them."""

    def __init__(self, first="gate_up_proj", bias=False, **said):
        super().__init__()
        setattr(self, first, nn.Parameter(torch.zeros(3, 4, 2)))
        self.down_proj = nn.Parameter(torch.zeros(3, 2, 2))
        if bias:
            self.down_proj_bias = nn.Parameter(torch.zeros(3, 2))
        plain = {"has_gate": first == "gate_up_proj", "has_bias": bias, "is_transposed": False}
        vars(self).update(plain | {"has_post_expert_norm": False} | said)


@pytest.mark.parametrize("first", ["gate_up_proj", "up_proj"])
def test_experts_with_and_without_a_gate_are_packed(first):
    channels = {name: each.channels for name, each in channel_modules(Experts(first)).items()}
    assert channels == {first: 12, "down_proj": 6}
    held = nn.ModuleDict({"mlp": Experts(first)})
    assert list(channel_modules(held)) == [f"mlp.{first}", "mlp.down_proj"]
    assert uncovered_parameters(held) == []


def test_experts_that_hold_a_module_of_their_own_are_packed():
    experts = Experts()
    experts.activation = nn.PReLU()
    assert list(channel_modules(experts)) == ["gate_up_proj", "down_proj"]
    assert uncovered_parameters(experts) == ["activation.weight"]


def test_experts_of_which_nothing_is_said_are_listed():
    experts = Experts()
    del experts.is_transposed
    assert channel_modules(experts) == {}
    assert uncovered_parameters(experts) == ["gate_up_proj", "down_proj"]


@pytest.mark.parametrize(
    "experts",
    [
        Experts(is_transposed=True),
        Experts(is_transposed=None),
        Experts(bias=True),
        Experts(has_post_expert_norm=True),
        Experts(first="other_proj"),
    ],
)
def test_experts_in_another_layout_are_listed(experts):
    assert channel_modules(experts) == {}
    assert uncovered_parameters(experts) == [name for name, _ in experts.named_parameters()]


def test_a_router_has_a_channel_for_each_expert(family):
    found = channel_modules(family("qwen2_moe"))
    router = found["model.layers.0.mlp.gate"]
    assert (router.channels, router.layout) == (4, Layout.ROW)
    biased = channel_modules(family("gpt_oss"))["model.layers.0.mlp.router"]
    assert set(biased.parameters()) == {"weight", "bias"}
    shared = found["model.layers.0.mlp.shared_expert_gate"]
    assert (shared.channels, shared.layout) == (1, Layout.ROW)


class OddRouter(nn.Module):
    def __init__(self, **parameters):
        super().__init__()
        for name, shape in parameters.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))


@pytest.mark.parametrize("parameters", [{"weight": 3}, {"weight": (3, 2), "scale": (2,)}])
def test_a_router_that_is_no_single_matrix_is_listed(parameters):
    router = OddRouter(**parameters)
    assert channel_modules(router) == {}
    assert uncovered_parameters(router) == list(parameters)


def roles_of(model):
    roles = {}
    for name, each in channel_modules(model).items():
        roles.setdefault(each.role, set()).add(kind_of(name))
    return roles


def test_every_family_has_one_head_and_its_other_roles(family, any_architecture):
    model = family(any_architecture)
    modules = channel_modules(model)
    heads = [each.module for each in modules.values() if each.role == "head"]
    assert heads == [model.get_output_embeddings()]
    assert modules[next(iter(modules))].role == "embedding"
    for each in modules.values():
        assert (each.role == "norm") == (each.layout is Layout.ENTRY)
        assert (each.role == "expert") == (each.layout is Layout.PACKED)
    routers = roles_of(model).get("router", set())
    moe = any(word in any_architecture for word in ("moe", "mixtral", "gpt_oss", "llama4"))
    assert len(routers) == moe


def test_roles_go_by_what_a_module_is_and_not_by_its_name(family):
    assert roles_of(family("gpt2"))["embedding"] == {"wte", "wpe"}
    experts = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)) for _ in range(3)])
    parts = {"chooses": nn.Linear(4, 3), "branches": experts, "other": nn.Linear(4, 4)}
    roles = roles_of(nn.ModuleDict({"block": nn.ModuleDict(parts)}))
    assert {role: len(kinds) for role, kinds in roles.items()} == {
        "router": 1,
        "expert": 1,
        "linear": 1,
    }
    shared = channel_modules(family("qwen2_moe"))["model.layers.0.mlp.shared_expert.up_proj"]
    assert shared.role == "linear"


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_a_norm_that_adds_one_to_its_weight_has_its_entries_as_channels(family, architecture):
    model = family(architecture)
    each = channel_modules(model)["model.norm"]
    assert each.layout is Layout.ENTRY
    assert each.parameters() == {"weight": (model.model.norm.weight, 0)}


@pytest.mark.parametrize(
    ("architecture", "channels"), [("qwen3", 6), ("gemma3", 6), ("olmo2", 16), ("qwen3_moe", 6)]
)
def test_a_norm_of_queries_has_the_channels_of_its_weight(family, architecture, channels):
    each = channel_modules(family(architecture))["model.layers.1.self_attn.q_norm"]
    assert (each.channels, each.layout) == (channels, Layout.ENTRY)


@pytest.mark.parametrize(
    ("architecture", "name", "channels"),
    [
        ("phi3", "model.layers.0.self_attn.qkv_proj", 32),
        ("phi3", "model.layers.0.mlp.gate_up_proj", 48),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value", 48),
        ("gpt2", "transformer.h.0.attn.c_attn", 48),
    ],
)
def test_a_fused_projection_is_one_module(family, architecture, name, channels):
    assert channel_modules(family(architecture))[name].channels == channels
