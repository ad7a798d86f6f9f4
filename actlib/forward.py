"""One forward pass of a model over a batch: which arguments it takes, where, and what fits in it.

logits = run_model(model, batch, AnswerTokens.of_batch(batch)).logits
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actlib.channels import end_of, unwrapped
from actlib.hooks import AnswerTokens, mark_answers, rehearsing


def position_ids_of(attention_mask: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Positions counted from 0 at each item's first real token, so either side may be padded."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)


def run_model(model: nn.Module, batch: Mapping[str, Tensor], tokens: AnswerTokens) -> Any:
    """One forward pass over a batch, with logits at answer positions only where the model can.

    Positions are computed from the attention mask where padding or a gap comes before a token, or
    where the last one sets rotary factors, and else left to the model, whose family may count from
    another number than 0. What cannot be seen from outside is tried once of each model, on a few
    tokens of the batch: whether later tokens change what it says of earlier ones, and whether
    padding on the left does. Other entries of the batch are ignored.

    Returns:
        What the model returns; logits are [batch, seq, vocabulary] or [batch, positions,
        vocabulary], at the positions of `tokens`.

    Raises:
        ValueError: the model is no causal language model, an item is longer than its context, a
            token is unknown to it, or items are padded on the left and that changes what it
            computes.
    """
    require_room(model, batch)
    _require_causal(model, batch)
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
        ValueError: as `run_model`, an item has no answer or no prompt before it, or the model gives
            no logits.
    """
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
    labels = batch["input_ids"].to(logits.device)[tokens.rows, tokens.columns + 1]
    return tokens, logits, labels


def _call(model: nn.Module, ids: Tensor, attention_mask: Tensor, **options: Tensor) -> Any:
    """Call a model with what its forward takes of positions and options."""
    device, positions = input_device(model), position_ids_of(attention_mask)
    optional: dict[str, Any] = {key: value.to(device) for key, value in options.items()}
    optional["use_cache"] = False
    moved = positions != torch.arange(ids.shape[1], device=ids.device)
    if moved[attention_mask.bool()].any() or (moved.any() and _ropes(model, "longrope", "dynamic")):
        optional["position_ids"] = positions.to(device)
    accepted = _accepted_arguments(model)
    optional = {key: value for key, value in optional.items() if key in accepted}
    attention_mask = attention_mask.to(device).long()
    return model(input_ids=ids.to(device), attention_mask=attention_mask, **optional)


_SAME: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()
"""What was tried of a model: whether it says the same of tokens before others, or padded."""


def _require_causal(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """Refuse a model that reads ahead, and left padding where it changes what a model computes.

    The model is asked about up to eight tokens before as many others, and again before different
    ones: a causal one says the same of the first ones. Where a batch is padded on the left, it is
    then asked with four pads behind them and before them.
    """
    name, config = type(model).__name__, getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"expected a decoder-only language model, and {name} has an encoder too")
    tried, padded = _SAME.setdefault(model, {}), batch["attention_mask"][:, 0] == 0
    item = int(padded.int().argmax())
    real = batch["attention_mask"][item].bool()
    ids, one = batch["input_ids"][item][real][:8], torch.ones_like
    if "before others" not in tried:
        # what comes after differs at each place
        texts = [torch.cat([ids, each]) for each in (ids, (ids == 0).to(ids))]
        tried["before others"] = _says_the_same(model, *((text, one(text)) for text in texts))
    if not tried["before others"]:
        raise ValueError(
            f"expected a causal language model, and what {name} says of a token depends on later "
            "ones; load a decoder (of an encoder's family with is_decoder=True, if trained so)"
        )
    if padded.any() and "padded" not in tried:
        padding = batch["input_ids"][item, :1].expand(4)
        left, right = torch.cat([padding, ids]), torch.cat([ids, padding])
        mask = torch.cat([torch.zeros_like(padding), one(ids)])
        tried["padded"] = _says_the_same(model, (right, mask.flip(0)), (left, mask))
    if padded.any() and not tried["padded"]:
        raise ValueError(
            f"{name} computes something else where an item is padded on the left; use a batch size "
            "of 1 (--batch-size 1), or pad on the right"
        )


@torch.no_grad()
def _says_the_same(model: nn.Module, *texts: tuple[Tensor, Tensor]) -> bool:
    """Whether the first eight real tokens of two texts, ids and mask [seq], have the same logits.

    Texts of one length are rounded alike, whatever the precision of the model's own autocast. What
    rounding is left, and in a mixture of experts a token that is sent elsewhere for it, leave the
    median of the errors small. A model without logits is asked for its last states.
    """
    with rehearsing(trial=True), torch.autocast(input_device(model).type, enabled=False):
        outputs = [_call(model, ids[None], mask[None]) for ids, mask in texts]
    logits = [
        getattr(output, "logits", getattr(output, "last_hidden_state", output))
        for output in outputs
    ]
    if not isinstance(logits[0], Tensor) or logits[0].shape[:2] != (1, len(texts[0][0])):
        return True  # no model whose logits can be asked
    first, second = (
        each[0][mask.bool().to(each.device)][:8].float()
        for each, (_, mask) in zip(logits, texts, strict=True)
    )
    errors = ((second - first).norm(dim=-1) / first.norm(dim=-1)).nan_to_num()
    is_wide = next(model.parameters()).dtype in (torch.float32, torch.float64)
    return bool(errors.median() < (0.001 if is_wide else 0.05))


def _accepted_arguments(model: nn.Module) -> set[str]:
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
    passes_on = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    if not passes_on or isinstance(model, PreTrainedModel):
        return set(parameters)
    inner = next((each for each in model.modules() if isinstance(each, PreTrainedModel)), None)
    added = inspect.signature(inner.forward).parameters if inner else ["position_ids"]
    return {*parameters, *added}


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
    config = _text_config(model)
    lengths = batch["attention_mask"].sum(dim=1)
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < int(lengths.max()):
        raise ValueError(
            f"{named(int(lengths.argmax()))} has {int(lengths.max())} tokens with its answer, and "
            f"the model takes {most} (max_position_embeddings); shorten it or leave it out"
        )
    for rope in _ropes(model, "longrope"):
        limit = rope["original_max_position_embeddings"]
        if int(lengths.min()) <= limit < int(lengths.max()):
            raise ValueError(
                f"a batch holds items of up to {limit} tokens and longer ones, and with longrope "
                "the longest sets the rotary factors of all; use a batch size of 1 (--batch-size 1)"
            )
    known, (least, largest) = getattr(config, "vocab_size", None), batch["input_ids"].aminmax()
    if least < 0 or (isinstance(known, int) and 0 < known <= largest):
        raise ValueError(
            f"a batch holds the token {int(least if least < 0 else largest)}, and the model knows "
            f"{known} tokens (vocab_size); use the tokenizer that belongs to the model"
        )


def _text_config(model: nn.Module) -> Any:
    config: Any = getattr(unwrapped(model), "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _ropes(model: nn.Module, *kinds: str) -> list[Mapping[str, Any]]:
    """Settings of a model's rotary positions that are of some kinds: of all layers, or by type."""
    rope = getattr(_text_config(model), "rope_parameters", None) or {}
    parts = [rope, *(each for each in rope.values() if isinstance(each, Mapping))]
    return [each for each in parts if each.get("rope_type") in kinds]
