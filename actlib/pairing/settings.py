"""Settings of a configuration that change what a model's channels mean without changing a shape.

    settings_of(model)     # a pair has to agree in these
    doubtful_of(model)     # a pair may differ in these, and is warned of it

Families spell some of them differently; here each has one name. Where a model takes text and other
inputs, the settings are those of its language model.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

_SPELLINGS = {
    "vocab_size": ("vocab_size",),
    "num_attention_heads": ("num_attention_heads",),
    "num_key_value_heads": ("num_key_value_heads", "num_attention_heads"),
    "head_dim": ("head_dim",),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
    "hidden_act": ("hidden_act", "hidden_activation", "activation_function"),
    "num_experts_per_tok": ("num_experts_per_tok", "num_experts_per_token"),
    "norm_topk_prob": ("norm_topk_prob",),
    "query_pre_attn_scalar": ("query_pre_attn_scalar",),
    "attention_multiplier": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "scale_attn_weights": ("scale_attn_weights",),
    "scale_attn_by_inverse_layer_idx": ("scale_attn_by_inverse_layer_idx",),
    "use_parallel_residual": ("use_parallel_residual",),
    "embedding_multiplier": ("embedding_multiplier",),
    "residual_multiplier": ("residual_multiplier",),
    "logits_scaling": ("logits_scaling",),
}
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")


def settings_of(model: nn.Module) -> dict[str, object]:
    """What a pair has to agree in, by name: heads, activation, experts per token and the like.

    Of each setting the first spelling counts that the configuration has. What it does not have is
    left out, and a model without a configuration has no settings. The size of a head is always
    told, since a configuration may leave it to be computed.
    """
    config = getattr(model, "config", None)
    if config is None:
        return {}
    text = text_config(model)
    found = {"model_type": getattr(config, "model_type", None)}
    found |= {name: _first(text, spellings) for name, spellings in _SPELLINGS.items()}
    heads, hidden = found["num_attention_heads"], getattr(text, "hidden_size", None)
    if found["head_dim"] is None and heads and hidden:
        found["head_dim"] = hidden // heads
    rotary = getattr(text, "rope_parameters", None)
    if found["partial_rotary_factor"] is None and isinstance(rotary, Mapping):
        found["partial_rotary_factor"] = rotary.get("partial_rotary_factor", 1.0)
    return {name: value for name, value in found.items() if value is not None}


def doubtful_of(model: nn.Module) -> dict[str, str | None]:
    """What pairs that work may differ in, by name, as text; None where a model lacks it.

    The base of the rotary positions (Qwen2.5 and Qwen2.5-Math, a pair of the paper, differ in it),
    how far back each layer sees, and the epsilon of the norms.
    """
    config = text_config(model)
    epsilon = _first(config, _EPSILONS)
    return {
        "rotary base": _rotary_base(config),
        "sliding window": _window(config),
        "norm epsilon": None if epsilon is None else f"{epsilon:g}",
    }


def text_config(model: nn.Module) -> object | None:
    """Configuration of a model's language model: its own, or the part of it that is about text."""
    config = getattr(model, "config", None)
    narrow = getattr(config, "get_text_config", None)
    return config if narrow is None else narrow(decoder=True)


def _first(config: object, names: tuple[str, ...]) -> Any:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), None)


def _rotary_base(config: object) -> str | None:
    """Rotary base or bases: newer configurations hold them in a dictionary, that may be nested."""

    def bases(found: Any, name: str = "") -> list[str]:
        if isinstance(found, Mapping):
            return [each for key, value in found.items() for each in bases(value, str(key))]
        return [f"{found:g}"] if name == "rope_theta" and found is not None else []

    older = {"rope_theta": getattr(config, "rope_theta", None)}
    found = bases(getattr(config, "rope_parameters", None)) or bases(older)
    return ", ".join(found) or None


def _window(config: object) -> str | None:
    """Length of the window and how many layers have one; None where all see everything."""
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return None
    if layers is None:
        return f"{window} tokens"
    inside = sum(kind == "sliding_attention" for kind in layers)
    return f"{window} tokens in {inside} of {len(layers)} layers" if inside else None
