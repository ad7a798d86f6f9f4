"""Reads or edits module outputs, leaving no hook and no changed mode behind.

    tokens = AnswerTokens.of_batch(batch)
    with evaluating(model), output_hooks(model, names, callback):
        run_model(model, batch, tokens)          # callback(name, output) on each call of a module
    with editing_hooks(model, names, edit):
        model(**inputs)                          # edit(name, output) is what the module returns

A batch is a mapping of ``input_ids``, ``attention_mask`` and ``answer_mask``, each [batch, seq],
padded on either side; other entries are ignored. An activation is read at each answer token as an
input, unshifted: at position t it is what the model computes when it has read the answer token t,
not what it computes one position before, where it predicts that token.
"""

import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actlib.wording import list_first

KEYS = ("input_ids", "attention_mask", "answer_mask")
_depth = ContextVar("depth", default=0)
"""How many `rehearsing` blocks enclose the running code."""


@contextmanager
def call_hooks(
    model: nn.Module,
    names: Iterable[str],
    callback: Callable[[str, list, Any], Any],
    *,
    acts_in_rehearsals: bool = False,
) -> Iterator[None]:
    """Call `callback(name, inputs, output)` after each forward of the named modules.

    The hooks go on exit. What the callback returns takes the place of the output; None leaves it.
    The inputs are those given by position, then those given by name, in the order of the call. With
    `acts_in_rehearsals` it is called in rehearsals that begin later, too, and in other threads,
    such as those of `DataParallel`, whose forwards are none of a recording's. Inside the context
    nothing runs compiled, since compiled code passes over hooks.
    """
    modules, own = dict(model.named_modules()), (_depth.get(), threading.get_ident())

    def hook_for(name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            if (_depth.get(), threading.get_ident()) == own or acts_in_rehearsals:
                return callback(name, [*args, *kwargs.values()], output)
            return None

        return hook

    # who has compiled anything has imported dynamo, which takes a second that others are spared
    is_compiling = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if is_compiling else nullcontext()
    with ExitStack() as stack, eager:
        for name in names:
            handle = modules[name].register_forward_hook(hook_for(name), with_kwargs=True)
            stack.enter_context(handle)
        yield


def output_hooks(
    model: nn.Module, names: Iterable[str], callback: Callable[[str, Tensor], None]
) -> AbstractContextManager[None]:
    """Call `callback(name, output)` after each forward; of a tuple with its first entry.

    The output of a norm that is applied to each head gets the memory layout of its input, by which
    `has_heads_first` tells heads from positions.
    """

    def read(name: str, inputs: list, output: Tensor | tuple) -> None:
        output = output[0] if isinstance(output, tuple) else output
        input_shape = getattr(inputs[0], "shape", ()) if inputs else ()
        is_by_head = output.ndim == 4 and input_shape[:3] == output.shape[:3]
        if is_by_head and has_heads_first(inputs[0], output.shape[1]):
            # torch's LayerNorm and Linear give contiguous outputs whatever their inputs
            output = output.transpose(1, 2).contiguous().transpose(1, 2)
        callback(name, output)

    return call_hooks(model, names, read)


@contextmanager
def editing_hooks(
    model: nn.Module, names: Iterable[str], edit: Callable[[str, Tensor], Tensor]
) -> Iterator[None]:
    """Replace what the named modules return by `edit(name, output)`; hooks go on exit.

    Of a module that returns a tuple the first entry is replaced. Hooks run in the order in which
    they were added: those that are added inside this context see the replaced output. If the model
    ran and one of the modules never did, a warning says so on exit: nothing of it was replaced.
    """
    idle, is_idle = dict.fromkeys(names), True

    def note(*_call: object) -> None:
        nonlocal is_idle
        is_idle = False

    def replace(name: str, _inputs: list, output: Tensor | tuple) -> Tensor | tuple:
        idle.pop(name, None)
        if not isinstance(output, tuple):
            return edit(name, output)
        return (edit(name, output[0]), *output[1:])

    edits = call_hooks(model, [*idle], replace, acts_in_rehearsals=True)
    with model.register_forward_hook(note), edits:
        yield
    if idle and not is_idle:
        warnings.warn(
            f"modules that never ran on these inputs stay as they are: {list_first([*idle])}",
            stacklevel=3,
        )


@contextmanager
def rehearsing() -> Iterator[None]:
    """Hide the forwards of this block from hooks that are there outside of it.

    In a rehearsal, edits of outputs act and recordings do not: a recording of a patched model sees
    the patched forward alone, and not the donor's before it.
    """
    before = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(before)


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
            if type(module).train is not nn.Module.train:  # which does more than set the flag
                module.train(training)
        for module, training in flags:
            module.training = training


@dataclass(frozen=True, eq=False)
class AnswerTokens:
    """Where the answer tokens of one batch lie; padding never counts.

    Attributes:
        rows: item of each answer token within the batch, ascending.
        columns: position of each answer token.
        positions: those of the batch that hold an answer token in any item, ascending.
        shape: batch and seq.
    """

    rows: Int[Tensor, " tokens"]
    columns: Int[Tensor, " tokens"]
    positions: Int[Tensor, " positions"]
    shape: tuple[int, int]
    _copies: dict[torch.device, "AnswerTokens"] = field(default_factory=dict, repr=False)

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], first_item: int = 0) -> "AnswerTokens":
        """Find the tokens with both `answer_mask` and `attention_mask` set.

        Raises:
            ValueError: as `mark_answers`, or an item has no answer token; the items are counted
                from `first_item`.
        """
        answers = mark_answers(batch)
        unanswered = (~answers.any(dim=1)).nonzero().flatten()
        if len(unanswered):
            raise ValueError(f"the answer span of item {first_item + int(unanswered[0])} is empty")
        rows, columns = answers.nonzero(as_tuple=True)
        batch_size, seq = answers.shape
        return cls(rows, columns, answers.any(dim=0).nonzero().flatten(), (batch_size, seq))

    def to(self, device: torch.device) -> "AnswerTokens":
        """Copy on a device, once, so that no module waits for the host."""
        if device == self.rows.device:
            return self
        if device not in self._copies:
            rows, columns = self.rows.to(device), self.columns.to(device)
            positions = self.positions.to(device)
            self._copies[device] = AnswerTokens(rows, columns, positions, self.shape)
        return self._copies[device]

    def select(
        self, name: str, output: Float[Tensor, "..."], channels: int
    ) -> Float[Tensor, "entries channels"]:
        """Copy the answer tokens out of one module's output, as `arrange_by_token` sees it.

        There is an entry for each answer token and, of a norm applied to each head, for each head.
        """
        grid = arrange_by_token(name, output, self.shape, len(self.positions), channels)
        tokens, length = self.to(output.device), grid.shape[1]
        columns = tokens.columns
        if length != self.shape[1]:
            columns = torch.searchsorted(tokens.positions, columns)
        # whole rows by one flat index: many times as fast on a CPU as by item and position
        flat_index = tokens.rows * length + columns
        return grid.flatten(0, 1).index_select(0, flat_index).reshape(-1, channels)


def arrange_by_token(
    name: str,
    output: Float[Tensor, "..."],
    shape: tuple[int, int],
    positions: int,
    channels: int,
) -> Float[Tensor, "batch positions heads channels"]:
    """View a module's output by item and position, in whatever order its family has dimensions.

    The output is [batch, seq, channels], the same with the batch flattened into the sequence,
    [seq, channels] or [1, seq, channels] for all items together (learned positions), or [batch,
    positions, channels] behind a model that computes logits at some `positions` only. A norm that
    is applied to each head gives [batch, seq, heads, channels], [batch, heads, seq, channels], or
    all but the channels flattened in the first of these orders. Modules without heads have one.

    Raises:
        ValueError: the output has another shape.
    """
    (batch, seq), original = shape, output
    if output.ndim == 4 and has_heads_first(output, seq):
        output = output.transpose(1, 2)
    if output.ndim == 2 and len(output) == seq:
        output = output[None]
    if output.ndim == 2 and len(output) and len(output) % (batch * seq) == 0:
        output = output.reshape(batch, seq, -1, output.shape[1])
    if output.ndim > 2 and len(output) == 1:
        output = output.expand(batch, *output.shape[1:])
    is_whole = output.ndim > 2 and tuple(output.shape[:2]) == shape
    if (
        output.ndim < 3
        or output.shape[-1] != channels
        or not (is_whole or tuple(output.shape[:-1]) == (batch, positions))
    ):
        raise ValueError(
            f"module {name} returned shape {tuple(original.shape)}, expected {batch} x {seq} x "
            f"{channels} (batch, seq, channels)"
        )
    return output.reshape(*output.shape[:2], -1, channels)


def mark_answers(batch: Mapping[str, Tensor]) -> Bool[Tensor, "batch seq"]:
    """True at real tokens of the answer.

    Raises:
        ValueError: an entry is missing or no tensor, shapes differ, there is no item, or a mask
            holds more than 0 and 1.
    """
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"expected a list of batches, each a mapping; one is a {type(batch).__name__}"
        )
    if missing := [key for key in KEYS if key not in batch]:
        raise ValueError(f"a batch lacks {', '.join(missing)}; it needs {', '.join(KEYS)}")
    shapes = [tuple(getattr(batch[key], "shape", ())) for key in KEYS]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or not math.prod(shapes[0]):
        names = ", ".join(KEYS)
        raise ValueError(f"{names} must be tensors of one shape, batch x seq, and have {shapes}")
    for key in KEYS[1:]:
        invalid = batch[key][(batch[key] != 0) & (batch[key] != 1)]
        if len(invalid):
            raise ValueError(
                f"{key} must hold 0 and 1 alone, and holds {invalid[0].item()}; it takes no "
                "labels, additive masks or numbers of packed items"
            )
    return batch["answer_mask"].bool() & batch["attention_mask"].bool()


def has_heads_first(output: Float[Tensor, "batch _ _ channels"], seq: int) -> bool:
    """Whether the sequence is the third dimension, as in Gemma 3, and not the second.

    Where there are as many heads as positions, memory tells: heads of one token lie side by side,
    in what `output_hooks` give at least, or positions of one channel do, behind a convolution.
    """
    if output.shape[1] == output.shape[2]:
        second, third, channels = output.stride()[1:]
        return (second < third) == (channels <= min(second, third))
    return output.shape[2] == seq
