"""Runs a model and reads module outputs, leaving no hook and no changed mode behind.

tokens = AnswerTokens.of_batch(batch)
with evaluating(model), output_hooks(model, names, callback):
    run_model(model, batch, tokens)          # callback(name, output) on each call of a module
with call_hooks(model, names, callback):     # callback(name, inputs, output)
    model(**inputs)
with editing_hooks(model, names, edit):
    model(**inputs)                          # edit(name, output) is what the module returns
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actlib.contexts import require_room
from actlib.placement import input_device

_rehearsals = ContextVar("rehearsals", default=0)  # how many are going on, one within the other


@contextmanager
def call_hooks(
    model: nn.Module, names: Iterable[str], callback: Callable[[str, list, Tensor], None]
) -> Iterator[None]:
    """Call `callback(name, inputs, output)` after each forward of the named modules.

    The hooks go on exit. The inputs are those given by position, then those given by name, in the
    order of the call. A module that returns a tuple is read at its first entry. Forwards of a
    `rehearsing` block that is entered later are not seen.
    """
    modules = dict(model.named_modules())
    depth = _rehearsals.get()

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict, output: Tensor | tuple) -> None:
            if _rehearsals.get() == depth:
                first = output[0] if isinstance(output, tuple) else output
                callback(name, [*args, *kwargs.values()], first)

        return hook

    with ExitStack() as handles:
        for name in names:
            handle = modules[name].register_forward_hook(hook_for(name), with_kwargs=True)
            handles.enter_context(handle)
        yield


@contextmanager
def output_hooks(
    model: nn.Module, names: Iterable[str], callback: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """As `call_hooks`, but call `callback(name, output)`."""
    with call_hooks(model, names, lambda name, _inputs, output: callback(name, output)):
        yield


@contextmanager
def editing_hooks(
    model: nn.Module, names: Iterable[str], edit: Callable[[str, Tensor], Tensor]
) -> Iterator[None]:
    """Replace what the named modules return by `edit(name, output)`; hooks go on exit.

    Of a module that returns a tuple the first entry is replaced; the other entries and the tuple's
    type stay. Hooks run in the order in which they were added: those that are added inside this
    context see the replaced output.
    """
    modules = dict(model.named_modules())

    def hook_for(name: str) -> Callable[..., Tensor | tuple]:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
            if not isinstance(output, tuple):
                return edit(name, output)
            make = getattr(output, "_make", type(output))  # a named tuple takes entries one by one
            return make((edit(name, output[0]), *output[1:]))

        return hook

    with ExitStack() as handles:
        for name in names:
            handles.enter_context(modules[name].register_forward_hook(hook_for(name)))
        yield


@contextmanager
def rehearsing() -> Iterator[None]:
    """Forwards in this block prepare another: `output_hooks` from outside of it do not see them.

    So recording a model whose forward is preceded by one that an intervention needs counts the
    intervened forward alone.
    """
    before = _rehearsals.set(_rehearsals.get() + 1)
    try:
        yield
    finally:
        _rehearsals.reset(before)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module gets its own training flag back on exit."""
    flags = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def position_ids_of(attention_mask: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Positions counted from 0 at each item's first real token, so either side may be padded."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a module gives at the answer tokens: rows of its output, which are not copied yet.

    Attributes:
        flat: the output, a row for each position; the model's memory, not to be changed.
        rows: the answer tokens among them, ascending; None if all are.
    """

    flat: Float[Tensor, "positions channels"]
    rows: Int[Tensor, " tokens"] | None

    def tensor(self) -> Float[Tensor, "tokens channels"]:
        """The answer tokens alone: a copy, or the output itself if all positions are."""
        return self.flat if self.rows is None else self.flat.index_select(0, self.rows)


@dataclass(frozen=True, eq=False)
class AnswerTokens:
    """Where the answer tokens of one batch lie; padding never counts.

    Attributes:
        rows: item of each answer token within the batch, ascending.
        columns: position of each answer token.
        kept: positions of the batch that hold an answer token in any item, ascending.
        shape: batch and seq.
    """

    rows: Int[Tensor, " tokens"]
    columns: Int[Tensor, " tokens"]
    kept: Int[Tensor, " kept"]
    shape: tuple[int, int]

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], first_item: int = 0) -> "AnswerTokens":
        """Find the tokens with both `answer_mask` and `attention_mask` set.

        Args:
            batch: input_ids, attention_mask and answer_mask.
            first_item: number of the batch's first item, for messages.

        Raises:
            ValueError: an entry is missing or of another shape, or an item has no answer token.
        """
        wanted = answer_positions(batch)
        counts = wanted.sum(dim=1)
        if not counts.all():
            item = first_item + int((counts == 0).nonzero()[0])
            raise ValueError(f"the answer span of item {item} is empty")
        rows, columns = wanted.nonzero(as_tuple=True)
        batch_size, seq = wanted.shape
        return cls(rows, columns, wanted.any(dim=0).nonzero().flatten(), (batch_size, seq))

    def to(self, device: torch.device) -> "AnswerTokens":
        """Copy on a device."""
        parts = (self.rows, self.columns, self.kept)
        rows, columns, kept = (part.to(device) for part in parts)
        return AnswerTokens(rows, columns, kept, self.shape)

    @cached_property
    def flat(self) -> Int[Tensor, " tokens"]:
        """Place of each answer token where the batch is flattened into the sequence."""
        return self.rows * self.shape[1] + self.columns

    @cached_property
    def flat_kept(self) -> Int[Tensor, " tokens"]:
        """The same among the kept positions alone."""
        return self.rows * len(self.kept) + torch.searchsorted(self.kept, self.columns)

    def select(self, name: str, output: Tensor, channels: int) -> Answers:
        """The answer tokens out of one module's output.

        The output is [batch, seq, channels], the same with the batch flattened into the sequence,
        or [batch, kept, channels] behind a model that computes logits at `kept` only. Norms applied
        to each head, [batch, seq, heads, channels] or [batch, heads, seq, channels], give each
        head's entry as a token of its own.

        Raises:
            ValueError: the output has another shape.
        """
        (batch, seq), shape = self.shape, tuple(output.shape)
        if shape[-1:] == (channels,):
            # Whole rows by one flat index: many times as fast on a CPU as by item and position.
            if len(shape) == 3 and shape[:2] == self.shape:
                return _answers(output.flatten(0, 1), self.flat)
            if shape[:-1] == (batch * seq,):
                return _answers(output, self.flat)
            if shape[:-1] == (batch, len(self.kept)):
                return _answers(output.flatten(0, 1), self.flat_kept)
            if len(shape) == 4:
                by_token = output.transpose(1, 2) if _has_heads_first(output, seq) else output
                if tuple(by_token.shape[:2]) == self.shape:
                    heads = _answers(by_token.flatten(0, 1), self.flat).tensor()
                    return Answers(heads.reshape(-1, channels), None)
        raise ValueError(
            f"module {name} returned shape {shape}, expected "
            f"{batch} x {seq} x {channels} (batch, seq, channels)"
        )


def answer_positions(batch: Mapping[str, Tensor]) -> Bool[Tensor, "batch seq"]:
    """True at real tokens of the answer.

    Raises:
        ValueError: an entry is missing, or their shapes differ.
    """
    keys = ("input_ids", "attention_mask", "answer_mask")
    missing = [key for key in keys if key not in batch]
    if missing:
        raise ValueError(f"a batch lacks {', '.join(missing)}; it needs {', '.join(keys)}")
    shapes = [tuple(batch[key].shape) for key in keys]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"{', '.join(keys)} need one shape, batch x seq, and have {shapes}")
    return batch["answer_mask"].bool() & batch["attention_mask"].bool()


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


def _answers(flat: Tensor, rows: Int[Tensor, " tokens"]) -> Answers:
    """Rows by ascending numbers, each at most once: no numbers where they are all."""
    return Answers(flat, None if rows.shape[0] == flat.shape[0] else rows)


def _has_heads_first(output: Float[Tensor, "batch _ _ channels"], seq: int) -> bool:
    """Whether the sequence is the third dimension, as in Gemma 3, and not the second.

    Where there are as many heads as positions, memory tells: heads of one token lie side by side.
    """
    if output.shape[1] == output.shape[2]:
        return output.stride(1) < output.stride(2)
    return output.shape[2] == seq
