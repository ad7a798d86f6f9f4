import accelerate
import pytest
import torch
import transformers
from torch import nn

from actlib.channels import (
    channel_modules,
    kind_of,
    layer_of,
    tied_modules,
    uncovered_parameters,
)


def test_packed_parameters_are_reported(family):
    model = family("llama")
    model.model.layers[0].mlp.experts = nn.Parameter(torch.zeros(2, 16, 16))
    assert uncovered_parameters(model) == ["model.layers.0.mlp.experts"]


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
        ("model.vision_tower.encoder.layers.3.mlp.fc1", -1, "mlp.fc1"),
        ("audio_tower.norm", -1, "norm"),
        ("model.embed_tokens", -1, "embed_tokens"),
        ("lm_head", -1, "lm_head"),
    ],
)
def test_layer_and_kind_of_a_name(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)


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
    deeper = channel_modules(nn.ModuleDict({"layer": held}))
    assert [list(each.parameters()) for each in deeper.values()] == [[first], ["down_proj"]]
    assert uncovered_parameters(held) == []


def test_experts_that_hold_a_module_of_their_own_are_packed():
    experts = Experts()
    experts.activation = nn.PReLU()
    assert list(channel_modules(experts)) == ["gate_up_proj", "down_proj"]
    assert uncovered_parameters(experts) == ["activation.weight"]


@pytest.mark.parametrize(
    "experts",
    [
        Experts(is_transposed=True),
        Experts(is_transposed=None),  # of which nothing is said
        Experts(bias=True),
        Experts(has_post_expert_norm=True),
        Experts(first="other_proj"),
    ],
)
def test_experts_in_another_layout_are_listed(experts):
    assert channel_modules(experts) == {}
    assert uncovered_parameters(experts) == [name for name, _ in experts.named_parameters()]


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
        assert (each.role == "norm") == (each.weight.ndim == 1)
        assert (each.role == "expert") == each.is_packed
    routers = roles_of(model).get("router", set())
    moe = any(word in any_architecture for word in ("moe", "mixtral", "gpt_oss", "llama4"))
    assert len(routers) == moe


def test_roles_go_by_what_a_module_is_and_not_by_its_name(family):
    assert roles_of(family("gpt2"))["embedding"] == {"wte", "wpe"}
    shared = channel_modules(family("qwen2_moe"))["model.layers.0.mlp.shared_expert.up_proj"]
    assert shared.role == "linear"
