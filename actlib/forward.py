"""One forward pass of a model over a batch: which arguments it takes, where, and what fits in it.

logits = run_model(model, batch, AnswerTokens.of_batch(batch)).logits
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actlib.hooks import AnswerTokens, answer_positions, trying

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def position_ids_of(attention_mask: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Positions counted from 0 at each item's first real token, so either side may be padded."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)


def run_model(model: nn.Module, batch: Mapping[str, Tensor], tokens: AnswerTokens) -> Any:
    """One forward pass over a batch, with logits at answer positions only where the model can.

    Positions are computed from the attention mask; other entries of the batch are ignored.

    Returns:
        What the model returns; logits are [batch, seq, vocabulary] or [batch, positions,
        vocabulary], at the positions of `tokens`.

    Raises:
        ValueError: an item is longer than the model's context, a token is unknown to it, or items
            are padded on the left and that changes what it computes.
    """
    require_room(model, batch)
    require_side(model, batch)
    return _call(
        model, batch["input_ids"], batch["attention_mask"], logits_to_keep=tokens.positions
    )


def answer_logits(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[AnswerTokens, Float[Tensor, "tokens vocabulary"], Int[Tensor, " tokens"]]:
    """One forward pass, and what it says of the answer tokens, one position before each of them.

    Returns:
        Where the positions lie, their logits in float32, and the answer tokens themselves, all on
        the device of the logits.

    Raises:
        ValueError: as `run_model`, or an item has no answer or no prompt before it.
    """
    answers = answer_positions(batch)
    lengths = answers.sum(dim=1)
    # the logits of a token stand one position before it
    before = answers.roll(-1, dims=1)
    before[:, -1] = False
    predicting = before & batch["attention_mask"].bool()
    if not bool(lengths.all()) or not torch.equal(predicting.sum(dim=1), lengths):
        raise ValueError("every item needs an answer span that follows at least one prompt token")
    tokens = AnswerTokens.of_batch({**batch, "answer_mask": predicting})
    logits = run_model(model, batch, tokens).logits
    tokens = tokens.to(logits.device)
    logits = tokens.select("the logits", logits, logits.shape[-1]).float()
    labels = batch["input_ids"].to(logits.device)[tokens.rows, tokens.columns + 1]
    return tokens, logits, labels


def _call(model: nn.Module, ids: Tensor, attention_mask: Tensor, **options: Tensor) -> Any:
    """Call a model with what its forward takes of positions and options."""
    device = input_device(model)
    attention_mask = attention_mask.to(device).long()
    optional = {"position_ids": position_ids_of(attention_mask), "use_cache": False}
    optional |= {key: value.to(device) for key, value in options.items()}
    accepted = accepted_arguments(model)
    return model(
        input_ids=ids.to(device),
        attention_mask=attention_mask,
        **{key: value for key, value in optional.items() if key in accepted},
    )


def require_side(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """Refuse left padding where it changes what a model computes, as in RecurrentGemma and RWKV.

    Asked once of each model, of a few tokens of the first item that is padded on the left.

    Raises:
        ValueError: names the remedy.
    """
    is_padded = batch["attention_mask"][:, 0] == 0
    if not is_padded.any():
        return
    if model not in _PADDING_CHANGES:
        item = int(is_padded.int().argmax())
        real = batch["attention_mask"][item].bool()
        _PADDING_CHANGES[model] = _left_padding_changes(
            model, batch["input_ids"][item][real][:8], batch["input_ids"][item, :1]
        )
    if _PADDING_CHANGES[model]:
        raise ValueError(
            f"{type(model).__name__} computes something else where an item is padded on the left; "
            "use a batch size of 1 (--batch-size 1), or pad on the right"
        )


_PADDING_CHANGES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def _left_padding_changes(
    model: nn.Module, ids: Int[Tensor, " tokens"], padding: Int[Tensor, " 1"]
) -> bool:
    """Whether an item has other logits padded on the left than on the right.

    What comes after a token is nothing to a causal model. Rounding, and in a mixture of experts a
    token that is sent elsewhere for it, leave the median small.
    """
    pad, real = padding.expand(4), torch.ones_like(ids)
    left, right = torch.cat([pad, ids]), torch.cat([ids, pad])
    none = torch.zeros_like(pad)
    masks = torch.stack([torch.cat([none, real]), torch.cat([real, none])])
    with trying():
        output = _call(model, torch.stack([left, right]), masks)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.shape[:2] != masks.shape:
        return False
    ours, theirs = logits[0, 4:].float(), logits[1, : len(ids)].float()
    error = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)
    return bool(error.nan_to_num().median() > 0.05)


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
