"""One forward pass of a model over a batch: which arguments it takes, where, and what fits in it.

logits = run_model(model, batch, AnswerTokens.of_batch(batch)).logits
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actlib.channels import end_of, unwrapped
from actlib.hooks import KEYS, AnswerTokens, mark_answers


def pad_right(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with each item's real tokens first, where padding changes no causal model.

    So positions need not be passed on, and families that padding on the left changes are right too.

    Raises:
        ValueError: as `mark_answers`, or an item's real tokens are not in one piece.
    """
    mark_answers(batch)
    real = batch["attention_mask"].bool()
    pieces = real[:, 0] + (real[:, 1:] & ~real[:, :-1]).sum(dim=1)
    if (pieces > 1).any():
        raise ValueError("attention_mask must mark the tokens of an item in one piece")
    order = (~real).int().argsort(dim=1, stable=True)[:, : max(1, int(real.sum(dim=1).max()))]
    return {key: batch[key].gather(1, order) for key in KEYS}


def run_model(model: nn.Module, batch: Mapping[str, Tensor], tokens: AnswerTokens) -> Any:
    """One forward pass over a batch, with logits at answer positions only where the model can.

    The batch is padded on the right, see `pad_right`. Other entries of it are ignored.

    Returns:
        What the model returns; logits are [batch, seq, vocabulary] or [batch, positions,
        vocabulary], at the positions of `tokens`.

    Raises:
        ValueError: the model is no causal language model, an item is longer than its context, or a
            token is unknown to it.
    """
    require_room(model, batch)
    _require_causal(model)
    inner: Any = model if isinstance(model, nn.DataParallel) else unwrapped(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # of peft
    device, accepted = input_device(model), inspect.signature(inner.forward).parameters
    options = {"logits_to_keep": tokens.positions.to(device), "use_cache": False}
    return model(
        input_ids=batch["input_ids"].to(device),
        attention_mask=batch["attention_mask"].to(device).long(),
        **{key: value for key, value in options.items() if key in accepted},
    )


def answer_logits(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[AnswerTokens, Float[Tensor, "tokens vocabulary"], Int[Tensor, " tokens"]]:
    """One forward pass, and what it says of the answer tokens, one position before each of them.

    Returns:
        Where the positions lie, their logits in float32, and the answer tokens themselves, all on
        the device of the logits.

    Raises:
        ValueError: as `run_model`, an item has no answer or no prompt before it, or the model gives
            no logits.
    """
    batch = pad_right(batch)
    answers = mark_answers(batch)
    lengths = answers.sum(dim=1)
    # the logits of a token stand one position before it
    before = answers.roll(-1, dims=1)
    before[:, -1] = False
    predicting = before & batch["attention_mask"].bool()
    if not bool(lengths.all()) or not torch.equal(predicting.sum(dim=1), lengths):
        raise ValueError("every item needs an answer span that follows at least one prompt token")
    tokens = AnswerTokens.of_batch({**batch, "answer_mask": predicting})
    output = run_model(model, batch, tokens)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"expected a model that gives logits, got {type(model).__name__}; load it with its LM "
            "head, as AutoModelForCausalLM does"
        )
    tokens = tokens.to(logits.device)
    logits = tokens.select("the logits", logits, logits.shape[-1]).float()
    labels = batch["input_ids"].to(logits.device)[tokens.rows, tokens.columns + 1].long()
    return tokens, logits, labels


def _require_causal(model: nn.Module) -> None:
    """Refuse a model that reads ahead, or puts tokens of its own before the prompt."""
    from transformers import PreTrainedModel  # at hand where a model of it is

    if getattr(getattr(unwrapped(model), "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            "expected a plain model or one with LoRA, got a peft model with a learned prompt: its "
            "own tokens move the answer to other positions"
        )
    inner = next((each for each in model.modules() if isinstance(each, PreTrainedModel)), None)
    if inner is None:
        return
    name, config = type(inner).__name__, inner.config.get_text_config()
    if inner.config.is_encoder_decoder:
        raise ValueError(f"expected a decoder-only language model, and {name} has an encoder too")
    if _reads_ahead(config) or not inner.can_generate():
        raise ValueError(
            f"expected a causal language model with its head, got {name}; load it by "
            "AutoModelForCausalLM (a decoder of an encoder's family with is_decoder=True)"
        )


def _reads_ahead(config: Any) -> bool:
    """Whether what a model says of a token depends on later ones, by its configuration."""
    kind = config.model_type
    # other classes may have the entry too, from an old file, where it means nothing
    is_encoder = hasattr(type(config), "is_decoder") and not config.is_decoder
    return (
        (is_encoder and not kind.startswith(("gpt_neox", "evolla")))
        or kind in ("xlnet", "cpmant")  # whose configurations do not say so
        or not getattr(config, "is_causal", True)
        or not getattr(config, "causal", True)
        or getattr(config, "use_bidirectional_attention", None) in (True, "all")
    )


def input_device(model: nn.Module) -> torch.device:
    """Device on which a model takes its inputs: its embedding's.

    The parts of a model may lie on several devices. Of an embedding that accelerate keeps elsewhere
    between forwards (CPU or disk offload), it is the device on which accelerate runs it.

    Raises:
        ValueError: the embedding is on the meta device and nothing brings it in.
    """
    module = end_of(model, "input") or model
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    hook = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        if getattr(each, "execution_device", None) is not None:
            return torch.device(each.execution_device)
    raise ValueError("the model is on the meta device; load its weights, or offload by accelerate")


def require_room(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    named: Callable[[int], str] = "item {} of a batch".format,
) -> None:
    """Refuse a batch with more tokens than a model has positions, or with tokens unknown to it.

    A model with learned positions fails in an unreadable way beyond its context, one with rotary
    positions answers nonsense there. What the configuration does not say is not checked.

    Raises:
        ValueError: says the limit, and which item (as `named` calls it) is beyond it; or items lie
            on both sides of the length at which longrope takes other factors.
    """
    config: Any = getattr(unwrapped(model), "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    lengths = batch["attention_mask"].sum(dim=1)
    max_positions = getattr(config, "max_position_embeddings", None)
    if isinstance(max_positions, int) and 0 < max_positions < int(lengths.max()):
        raise ValueError(
            f"{named(int(lengths.argmax()))} has {int(lengths.max())} tokens with its answer, and "
            f"the model takes {max_positions} (max_position_embeddings); shorten it or leave it out"
        )
    rope = getattr(config, "rope_parameters", None) or {}  # of all layers, or by type
    for rope_settings in (rope, *(each for each in rope.values() if isinstance(each, Mapping))):
        limit = rope_settings.get("original_max_position_embeddings", math.inf)
        is_scaled = rope_settings.get("rope_type") == "longrope"
        if is_scaled and int(lengths.min()) <= limit < int(lengths.max()):
            raise ValueError(
                f"a batch holds items of up to {limit} tokens and longer ones, and with longrope "
                "the longest sets the rotary factors of all; use a batch size of 1 (--batch-size 1)"
            )
    least, largest = batch["input_ids"].aminmax()
    vocabulary_size = getattr(config, "vocab_size", None)
    if least < 0 or (isinstance(vocabulary_size, int) and 0 < vocabulary_size <= largest):
        raise ValueError(
            f"a batch holds the token {int(least if least < 0 else largest)}, and the model knows "
            f"{vocabulary_size} tokens (vocab_size); use the tokenizer that belongs to the model"
        )
