"""The floor under a time: bytes and floating-point operations, from shapes, at measured rates."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from actlib.channels import Layout, channel_modules
from actlib.hooks import AnswerTokens
from actlib.masks import ChannelMask
from actlib.transfer import selections
from benchmarks.shapes import Batches

_LINE = 64  # bytes that a processor moves at once


def copy_rate(quick: bool = False) -> float:
    """Bytes read and written per second by a copy in memory, larger than any cache unless quick."""
    size = 1 << (20 if quick else 28)
    source, goal = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    return 2 * size / _best_time(lambda: goal.copy_(source))


def matmul_rate(dtype: torch.dtype, tokens: int, width: int, outputs: int) -> float:
    """Floating-point operations per second of a linear layer of that shape."""
    layer = nn.Linear(width, outputs, bias=False, dtype=dtype)
    inputs = torch.randn(tokens, width).to(dtype)
    with torch.no_grad():
        return 2 * tokens * width * outputs / _best_time(lambda: layer(inputs))


def forward_operations(model: PreTrainedModel, batches: Batches) -> float:
    """Operations of the matrix products of one forward pass: linear layers and attention.

    2 x tokens x weights of each linear layer, whose LM head sees answer positions only, and
    4 x layers x tokens^2 x width of attention, padding included.
    """
    head = model.get_output_embeddings()
    linear = [
        found.module
        for found in channel_modules(model).values()
        if found.layout is Layout.ROW and found.module is not head
    ]
    weights = sum(module.weight.numel() for module in linear)
    total = 0.0
    for batch in batches:
        items, length = batch["input_ids"].shape
        kept = len(AnswerTokens.of_batch(batch).kept)
        attention = 4 * model.config.num_hidden_layers * length**2 * model.config.hidden_size
        total += items * (2 * length * weights + attention + 2 * kept * head.weight.numel())
    return total


def recorded_bytes(model: PreTrainedModel, batches: Batches) -> int:
    """Bytes that any recording moves beside the forwards.

    The donor's answer activations are read, kept and read again, and the target's are read: four
    times their size. What sums need is negligible.
    """
    channels = sum(found.channels for found in channel_modules(model).values())
    tokens = sum(len(AnswerTokens.of_batch(batch).rows) for batch in batches)
    return 4 * tokens * channels * next(model.parameters()).element_size()


def moved_bytes(model: nn.Module, mask: ChannelMask, element_size: int = 2) -> int:
    """Bytes of the masked elements, read from donor and target and written once."""
    held = sum(selection.size for selection in selections(model, mask).values())
    return 3 * held * element_size


def patched_bytes(model: nn.Module, mask: ChannelMask, element_size: int = 2) -> int:
    """Bytes that pass between memory and cache where masked elements are compared and replaced.

    The model's are read to be compared and replaced while they lie in the cache, and are written
    back, by whole cache lines; so columns of a matrix move every line that holds one of them. The
    patch's values of both sides are read once.
    """
    lines = held = 0
    for selection in selections(model, mask).values():
        held += selection.size
        rows = int(selection.rows.sum())
        width = selection.shape[-1] * element_size
        if selection.columns is None:
            lines += rows * element_size
            continue
        per_line = max(1, _LINE // element_size)
        columns = selection.columns.nonzero().flatten()
        touched = len((columns // per_line).unique()) * _LINE
        lines += rows * width + (len(selection.rows) - rows) * min(width, touched)
    return 2 * lines + 2 * held * element_size


def _best_time(run: Callable[[], Tensor], runs: int = 7) -> float:
    """The shortest of several runs: a floor is what the machine can do undisturbed."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])
