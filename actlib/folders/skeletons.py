"""The empty model of a folder of a common family, without importing transformers.

    model = skeleton(config, stored)     # None: ask transformers

Importing the models of transformers takes several times as long as moving channels of 2 GB. For the
families below, names and shapes of all parameters follow from a few entries of the
configuration. A skeleton is given only where the files hold just these tensors; for any other
folder, and to say what is wrong with one, transformers is asked. Tests hold each family's skeleton
to the model of transformers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from actlib.folders.headers import StoredTensor

Tensors = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class _Family:
    """What sets a family apart from Llama.

    Attributes:
        architecture: its class in transformers.
        biases: projections that have one always; of the others the configuration says.
        head_norms: query and key of each head are normalized.
    """

    architecture: str
    biases: frozenset[str] = frozenset()
    head_norms: bool = False


FAMILIES = {
    "llama": _Family("LlamaForCausalLM"),
    "mistral": _Family("MistralForCausalLM"),
    "qwen2": _Family("Qwen2ForCausalLM", frozenset(("q_proj", "k_proj", "v_proj"))),
    "qwen3": _Family("Qwen3ForCausalLM", head_norms=True),
}
"""Families that are known here, by the `model_type` of their configuration."""

_HEADS = ("num_attention_heads", "num_key_value_heads")
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", *_HEADS)
# Where one of these is set, parameters may be others or lie otherwise.
_BEYOND = ("auto_map", "quantization_config", "attention_bias", "mlp_bias")


class Skeleton(nn.Module):
    """Modules and parameters of a model under their names, on the meta device; it cannot run."""


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Draw nothing: on the meta device that would import sympy."""


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Draw nothing, as above."""


class _Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, device="meta"))


def skeleton(
    config: Mapping[str, Any] | None, stored: Mapping[str, StoredTensor]
) -> Skeleton | None:
    """The model that a configuration describes, if its files hold its tensors and no others.

    Args:
        config: content of `config.json`.
        stored: tensors of the files, by name.

    Returns:
        The skeleton; None where the family is not known here or anything is unusual.
    """
    family = FAMILIES.get(str((config or {}).get("model_type")))
    if config is None or family is None or any(config.get(entry) for entry in _BEYOND):
        return None
    sizes = [config.get(entry) for entry in _SIZES]
    usual = config.get("architectures") == [family.architecture]
    usual = usual and isinstance(config.get("tie_word_embeddings"), bool)
    if not usual or not all(isinstance(size, int) and 0 < size for size in sizes):
        return None
    if config["num_hidden_layers"] > len(stored):
        return None
    expected = dict(_tensors(config, family))
    found = {name: tensor.shape for name, tensor in stored.items()}
    tied = config["tie_word_embeddings"]
    if tied:  # The head may be stored as well.
        found.setdefault("lm_head.weight", expected["lm_head.weight"])
    return _built(expected, tied=tied) if found == expected else None


def _tensors(config: Mapping[str, Any], family: _Family) -> Tensors:
    """Names and shapes in the order of transformers."""
    hidden, inner, layers, words, heads, groups = (config[entry] for entry in _SIZES)
    size = config.get("head_dim") or hidden // heads
    outputs = {"q_proj": heads * size, "k_proj": groups * size, "v_proj": groups * size}
    yield "model.embed_tokens.weight", (words, hidden)
    for layer in range(layers):
        here = f"model.layers.{layer}"
        for name, rows in outputs.items():
            yield f"{here}.self_attn.{name}.weight", (rows, hidden)
            if name in family.biases:
                yield f"{here}.self_attn.{name}.bias", (rows,)
        yield f"{here}.self_attn.o_proj.weight", (hidden, heads * size)
        for name in ("q_norm", "k_norm") if family.head_norms else ():
            yield f"{here}.self_attn.{name}.weight", (size,)
        yield f"{here}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{here}.mlp.up_proj.weight", (inner, hidden)
        yield f"{here}.mlp.down_proj.weight", (hidden, inner)
        yield f"{here}.input_layernorm.weight", (hidden,)
        yield f"{here}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (words, hidden)


def _built(tensors: Mapping[str, tuple[int, ...]], *, tied: bool) -> Skeleton:
    whole = Skeleton()
    for key, shape in tensors.items():
        name, _, own = key.rpartition(".")
        if own == "weight":
            _place(whole, name, _module(name, shape, has_bias=f"{name}.bias" in tensors))
    if tied:
        whole.get_submodule("lm_head").weight = whole.get_parameter("model.embed_tokens.weight")
    return whole


def _module(name: str, shape: tuple[int, ...], *, has_bias: bool) -> nn.Module:
    if len(shape) == 1:
        return _Norm(*shape)
    if name.endswith("embed_tokens"):
        return _Embedding(shape[0], shape[1], device="meta")
    return _Linear(shape[1], shape[0], bias=has_bias, device="meta")


def _place(whole: nn.Module, name: str, module: nn.Module) -> None:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(whole, part):
            whole.add_module(part, nn.Module())
        whole = whole.get_submodule(part)
    whole.add_module(last, module)
