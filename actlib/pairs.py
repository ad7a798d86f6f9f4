"""Do two models fit? Each reason why channels cannot move between them, in a clause.

    check_pair(donor, target, donor_tokenizer, target_tokenizer)     # [] if they fit
    require_pair(donor, target)                                      # raises otherwise

Quick, since no weight is read; `actlib.reports` says more, for people to read.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from actlib.channels import tied_modules, unwrapped
from actlib.vocabulary import compare_tokenizers, vocabulary_parameters, vocabulary_rows
from actlib.weights import describe_fault
from actlib.wording import list_first

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

# Settings that change what channels mean without changing a shape, by the last part of their names.
_DECISIVE = frozenset(
    "model_type num_attention_heads num_key_value_heads head_dim hidden_act hidden_activation "
    "activation_function partial_rotary_factor rotary_pct num_experts_per_tok "
    "num_experts_per_token norm_topk_prob query_pre_attn_scalar attention_multiplier "
    "attn_logit_softcapping final_logit_softcapping scale_attn_weights "
    "scale_attn_by_inverse_layer_idx use_parallel_residual embedding_multiplier "
    "residual_multiplier logits_scaling logit_scale logits_soft_cap output_logit_soft_cap "
    "moe_router_logit_softcapping scale_embedding scale_emb scale_depth embedding_scale "
    "qk_scale_factor attention_value_scale attention_in_multiplier attention_out_multiplier "
    "key_multiplier mlp_multipliers ssm_multipliers ssm_in_multiplier ssm_out_multiplier "
    "lm_head_multiplier output_multiplier output_gate_type logits_mup_width_multiplier "
    "routed_scaling_factor router_scaling_factor moe_routed_scaling_factor "
    "moe_router_scaling_factor route_scale n_group topk_group topk_method scoring_func".split()
)
# Settings that say nothing of what a model computes, or of which shapes and ties say more.
_SILENT = frozenset(
    "architectures dtype torch_dtype use_cache vocab_size tie_word_embeddings return_dict "
    "transformers_version max_position_embeddings id2label label2id problem_type "
    "quantization_config per_layer_config chunk_size_feed_forward auto_map tokenizer_class "
    "gradient_checkpointing pretraining_tp unsloth_version unsloth_fixed "
    "output_attentions output_hidden_states output_router_logits".split()
)
_SILENT_PARTS = ("_token_id", "dropout", "pdrop", "initializer", "router_aux")


def check_pair(
    donor: nn.Module,
    target: nn.Module,
    donor_tokenizer: "Tokenizer | None" = None,
    target_tokenizer: "Tokenizer | None" = None,
) -> list[str]:
    """Mismatches between two models, one clause each; an empty list means that they fit.

    Compared are architecture, settings, the shape of each parameter, tied tensors, and the
    tokenizers where both are given. Names and weights may differ, and so may what is only warned
    of: the rotary base, special tokens, tokens that one tokenizer adds.

    Where one tokenizer only adds tokens after those of the other, the models may differ in the rows
    of embedding and head. Folders are then compared in the rows that both have, and moved in those
    of tokens that both have; models in memory are brought to that by `fit_vocabulary_` first, of
    whatever sizes they are: what moves them knows no tokenizers.

    Models with weights that are no plain float tensors do not fit: quantized, wrapped by peft.
    """
    return _compare(donor, target, donor_tokenizer, target_tokenizer)[0]


def require_pair(
    donor: nn.Module,
    target: nn.Module,
    donor_tokenizer: "Tokenizer | None" = None,
    target_tokenizer: "Tokenizer | None" = None,
) -> None:
    """Raise ValueError for models that do not fit, and warn where they differ in a little."""
    mismatches, doubts = _compare(donor, target, donor_tokenizer, target_tokenizer)
    if mismatches:
        raise ValueError(f"donor and target do not fit: {list_first(mismatches)}")
    if doubts:
        warnings.warn(f"donor and target differ: {list_first(doubts)}", stacklevel=2)


def _compare(
    donor: nn.Module,
    target: nn.Module,
    donor_tokenizer: "Tokenizer | None",
    target_tokenizer: "Tokenizer | None",
) -> tuple[list[str], list[str]]:
    """What makes two models unfit, and what to think about."""
    sides = {"donor": unwrapped(donor), "target": unwrapped(target)}
    faults = [
        f"in the {side}, {fault}"
        for side, model in sides.items()
        if (fault := describe_fault(model))
    ]
    if faults:  # Names and shapes of such models say nothing more.
        return faults, []
    donor, target = sides.values()
    mismatches, doubts = compare_settings(donor, target)
    mismatches += _shape_mismatches(donor, target)
    ties = [tied_modules(model) for model in sides.values()]
    if ties[0] != ties[1]:
        mismatches.append(
            f"tied modules {ties[0] or 'none'} against {ties[1] or 'none'}; give the tied model a "
            "copy of its embedding as lm_head, or take models that are tied alike"
        )
    rows, is_open = [vocabulary_rows(model) for model in sides.values()], True
    if donor_tokenizer is not None and target_tokenizer is not None:
        tokenizer_mismatches, more = compare_tokenizers(donor_tokenizer, target_tokenizer)
        mismatches, doubts = mismatches + tokenizer_mismatches, doubts + more
        is_open = bool(tokenizer_mismatches)
    if rows[0] != rows[1] and is_open:
        mismatches.append(
            f"vocabulary of {rows[0]} against {rows[1]} rows; if one tokenizer only adds tokens, "
            "save the tokenizers beside the models; of models in memory use fit_vocabulary_; two "
            "passes take one size, so cut the larger model by resize_token_embeddings first"
        )
    return mismatches, doubts


def compare_settings(donor: nn.Module, target: nn.Module) -> tuple[list[str], list[str]]:
    """Settings in which two models differ: those that make them unfit, and those to think about.

    Where models take text and other inputs, the settings are those of the language model. Settings
    that a family holds layer by layer are compared so.
    """
    mismatches: list[str] = []
    doubts: list[str] = []
    classes = [type(model).__name__ for model in (donor, target)]
    if classes[0] != classes[1]:
        mismatches.append(f"architecture {classes[0]} against {classes[1]}")
    settings = [_settings(model) for model in (donor, target)]
    for name in dict.fromkeys([*settings[0], *settings[1]]):
        # A layer without a value of its own has the one of the whole model.
        donor_value, target_value = (
            each.get(name, each.get(name.partition(" of ")[0])) for each in settings
        )
        if donor_value != target_value:
            last = name.partition(" of ")[0].rpartition(".")[2]
            (mismatches if last in _DECISIVE else doubts).append(
                f"{name} {donor_value} against {target_value}"
            )
    return mismatches, doubts


def _settings(model: nn.Module) -> dict[str, object]:
    """Settings of a language model by their common names; ``NAME of layer 3`` for one layer's."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        return {}
    text_config = config.get_text_config(decoder=True)
    common = {family_name: name for name, family_name in text_config.attribute_map.items()}
    settings = {common.get(key, key): value for key, value in _flat(text_config.to_dict())}
    for name in getattr(text_config, "per_layer_attributes", None) or ():
        for layer, layer_config in enumerate(text_config.per_layer_config):
            settings[f"{name} of layer {layer}"] = getattr(layer_config, name, None)
    # What a configuration may leave to be computed.
    heads, hidden = (settings.get(name) for name in ("num_attention_heads", "hidden_size"))
    if isinstance(heads, int) and isinstance(hidden, int) and not settings.get("head_dim"):
        settings["head_dim"] = hidden // heads
    settings["num_key_value_heads"] = settings.get("num_key_value_heads") or heads
    return {
        name: value
        for name, value in settings.items()
        if value is not None and not (name.endswith("partial_rotary_factor") and value == 1)
    }


def _flat(settings: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested settings under dotted names, without those that say nothing of what is computed."""
    for key, value in settings.items():
        name = str(key)
        silent = name in _SILENT or name.startswith("_") or any(p in name for p in _SILENT_PARTS)
        if isinstance(value, Mapping) and not silent:
            yield from _flat(value, f"{prefix}{name}.")
        elif not silent:
            yield f"{prefix}{name}", value


def _shape_mismatches(donor: nn.Module, target: nn.Module) -> list[str]:
    """Parameters whose shapes differ, or that one model lacks.

    Those that belong to no channel, such as experts with biases, are compared too: they never move,
    but models that differ in them do not compute the same things in their channels.
    """
    donor_shapes, target_shapes = dict(_shapes(donor)), dict(_shapes(target))
    return [
        f"{name} {donor_shapes.get(name, 'absent')} against {target_shapes.get(name, 'absent')}"
        for name in dict.fromkeys([*donor_shapes, *target_shapes])
        if donor_shapes.get(name) != target_shapes.get(name)
    ]


def _shapes(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Shape of each parameter; the rows of embedding and head are compared elsewhere."""
    vocabulary = dict(vocabulary_parameters(model))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        sizes = [str(size) for size in parameter.shape]
        if name in vocabulary:
            sizes[0] = "vocabulary"
        yield name, " x ".join(sizes)
