"""One forward pass of a model over a batch: which arguments it takes, where, and what fits in it.

logits = run_model(model, batch, AnswerTokens.of_batch(batch)).logits
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from actlib.hooks import AnswerTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def position_ids_of(attention_mask: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Positions counted from 0 at each item's first real token, so either side may be padded."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)


def run_model(model: nn.Module, batch: Mapping[str, Tensor], tokens: AnswerTokens) -> Any:
    """One forward pass over a batch, with logits at answer positions only where the model can.

    Positions are computed from the attention mask; other entries of the batch are ignored.

    Returns:
        What the model returns; logits are [batch, seq, vocabulary] or [batch, kept, vocabulary].

    Raises:
        ValueError: an item is longer than the model's context, or a token is unknown to it.
    """
    require_room(model, batch)
    device = input_device(model)
    attention_mask = batch["attention_mask"].to(device).long()
    optional = {
        "position_ids": position_ids_of(attention_mask),
        "use_cache": False,
        "logits_to_keep": tokens.kept.to(device),
    }
    accepted = accepted_arguments(model)
    return model(
        input_ids=batch["input_ids"].to(device),
        attention_mask=attention_mask,
        **{key: value for key, value in optional.items() if key in accepted},
    )


def accepted_arguments(model: nn.Module) -> set[str]:
    """Names of what a model's forward takes.

    A wrapper that passes everything on, such as peft's, takes what the model inside it takes, or
    position ids at least: a left-padded batch without them gives other numbers, silently.

    Raises:
        ValueError: the model puts learned tokens before the prompt.
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            "expected a plain model or one with LoRA, got a peft model with a learned prompt: its "
            "own tokens move the answer to other positions"
        )
    from transformers import PreTrainedModel  # at hand where a model of it is

    parameters = inspect.signature(model.forward).parameters
    accepted = set(parameters)
    if isinstance(model, PreTrainedModel) or "position_ids" in accepted:
        return accepted
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        inner = next((each for each in model.modules() if isinstance(each, PreTrainedModel)), None)
        accepted |= set(inspect.signature(inner.forward).parameters) if inner else {"position_ids"}
    return accepted


def input_device(model: nn.Module) -> torch.device:
    """Device on which a model takes its inputs: its embedding's.

    The parts of a model may lie on several devices. Of an embedding that accelerate keeps elsewhere
    between forwards (CPU or disk offload), it is the device on which accelerate runs it.

    Raises:
        ValueError: the embedding is on the meta device and nothing brings it in.
    """
    try:
        embedding = cast("PreTrainedModel", model).get_input_embeddings()
    except (AttributeError, NotImplementedError):  # no model of transformers, or one without
        embedding = None
    module = model if embedding is None else embedding
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
    positions answers nonsense there. The limits are `max_position_embeddings` and `vocab_size` of
    the configuration; what that does not say is not checked.

    Args:
        model: the model that is to run.
        batch: input_ids and attention_mask, each [batch, seq].
        named: what to call the item of that number in the batch.

    Raises:
        ValueError: names the item, its tokens and the limit.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < batch["attention_mask"].shape[1]:
        lengths = batch["attention_mask"].sum(dim=1)
        if int(lengths.max()) > most:
            raise ValueError(
                f"{named(int(lengths.argmax()))} has {int(lengths.max())} tokens with its answer, "
                f"and the model takes {most} (max_position_embeddings); shorten it or leave it out"
            )
    known, largest = getattr(config, "vocab_size", None), int(batch["input_ids"].max())
    if isinstance(known, int) and 0 < known <= largest:
        raise ValueError(
            f"a batch holds the token {largest}, and the model knows {known} tokens (vocab_size); "
            "use the tokenizer that belongs to the model"
        )
