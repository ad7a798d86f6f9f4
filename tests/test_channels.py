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
)


class Wrapped(nn.Linear):
    """A linear layer that holds another, as an adapter does."""

    def __init__(self):
        super().__init__(2, 3)
        self.inner = nn.Linear(2, 4)


def test_modules_are_found_by_type_under_any_name_with_their_own_parameters():
    model = nn.ModuleDict({"odd": Wrapped(), "name": nn.LayerNorm(4), "act": nn.ReLU()})
    found = channel_modules(model)
    channels = {name: each.channels for name, each in found.items()}
    assert channels == {"odd": 3, "odd.inner": 4, "name": 4}
    assert set(found["odd"].parameters()) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("name", "expected"), [("llama", []), ("gpt2", [("transformer.wte", "lm_head")])]
)
def test_tied_modules_stay_so_offloaded_or_without_weights(family, name, expected):
    assert tied_modules(family(name)) == expected
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
        ("model.layers.2.mlp.experts.7.up", 2, "mlp.experts.up"),
        ("transformer.wte", -1, "wte"),
        ("model.language_model.layers.3.mlp.up_proj", 3, "mlp.up_proj"),
        ("model.vision_tower.encoder.layers.3.mlp.fc1", -1, "mlp.fc1"),
        ("model.visual.blocks.3.mlp.fc1", -1, "mlp.fc1"),
    ],
)
def test_layer_and_kind_of_a_name(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)


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
    moe = any(word in any_architecture for word in ("moe", "mixtral", "gpt_oss", "llama4", "next"))
    assert len(routers) == moe


def test_roles_go_by_what_a_module_is_and_not_by_its_name(family):
    assert roles_of(family("gpt2"))["embedding"] == {"wte", "wpe"}
    shared = channel_modules(family("qwen2_moe"))["model.layers.0.mlp.shared_expert.up_proj"]
    assert shared.role == "linear"
