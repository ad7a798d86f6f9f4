"""Activations of the answer tokens: what modules give there, as one forward pass goes along.

    read_activations(model, modules, batch, tokens, callback)   # callback(name, activations)
    features = record_activations(model, batches, mask)         # [items, masked channels]

Of a module they are [entries, channels], an entry for each answer token and, of a norm applied to
each head, for each head of it. Of a packed projection of experts they are `actlib.experts.Routed`.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actlib.channels import ChannelModule, Layout, channel_modules, uncompiled
from actlib.experts import Routed, routed_outputs
from actlib.files import atomic_file
from actlib.forward import run_model
from actlib.hooks import AnswerTokens, call_hooks, evaluating, output_hooks
from actlib.masks import ChannelMask, require_fit
from actlib.weights import require_unwrapped

Activations = Float[Tensor, "entries channels"] | Routed
Calls = dict[str, deque[Activations]]
"""Activations of one batch by module, one entry for each call of it, in order."""


def read_activations(
    model: nn.Module,
    modules: Mapping[str, ChannelModule],
    batch: Mapping[str, Tensor],
    tokens: AnswerTokens,
    callback: Callable[[str, Activations], Any],
) -> None:
    """Run one batch and hand on what each of these modules gives at the answer tokens.

    Nothing is read from the weights, so they may be offloaded, and activations stay on the device
    on which their module runs. A module that runs twice is handed on twice.

    Args:
        model: the model to run.
        modules: the modules to read, by name, of this model or of another like it.
        batch: input_ids and attention_mask.
        tokens: where the answer tokens lie.
        callback: gets a module's name and a copy of what it gives.

    Raises:
        ValueError: a module's output, or the input of experts, is not batch x seq x channels.
    """
    packed = defaultdict[str, list[str]](list)
    for name, each in modules.items():
        if each.layout is Layout.PACKED:
            packed[name.rpartition(".")[0]].append(name)
    plain = [name for name, each in modules.items() if each.layout is not Layout.PACKED]

    def read(name: str, output: Tensor) -> None:
        callback(name, tokens.select(name, output, modules[name].channels))

    def read_experts(name: str, inputs: list, _output: Tensor) -> None:
        # hidden states and the experts chosen, by whatever names the family gives them
        hidden, chosen = (tokens.select(name, each, each.shape[-1]) for each in inputs[:2])
        outputs = routed_outputs(model.get_submodule(name), hidden, chosen)
        for projection in packed[name]:
            callback(projection, outputs[projection.rpartition(".")[2]])

    with ExitStack() as hooks:
        hooks.enter_context(output_hooks(model, plain, read))
        hooks.enter_context(call_hooks(model, packed, read_experts))
        run_model(model, batch, tokens)


def save_activations(activations: Calls, path: Path) -> None:
    """Write the activations of a batch in their own dtype, whole or not at all."""
    tensors = {}
    for name, calls in activations.items():
        for call, each in enumerate(calls):
            parts = each.tensors() if isinstance(each, Routed) else {"": each}
            for part, tensor in parts.items():
                # copies, since both projections of an expert share their routes
                tensors[f"{name}#{call}#{part}"] = tensor.cpu().clone().contiguous()
    with atomic_file(path) as unfinished:
        save_file(tensors, unfinished)


def load_activations(
    path: Path, modules: Mapping[str, ChannelModule], tokens: AnswerTokens
) -> Calls:
    """Read what `save_activations` wrote for these answer tokens of a batch."""
    calls = defaultdict[tuple[str, int], dict[str, Tensor]](dict)
    for key, tensor in load_file(path).items():
        name, call, part = key.split("#")
        calls[name, int(call)][part] = tensor
    activations: Calls = {name: deque() for name in modules}
    for (name, _), parts in sorted(calls.items(), key=lambda each: each[0]):
        total = len(modules[name].weight)
        each: Activations = (
            parts[""] if "" in parts else Routed(**parts, count=len(tokens.rows), total=total)
        )
        activations[name].append(each)
    return activations


def record_activations(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], channels: ChannelMask
) -> Float[Tensor, "items masked"]:
    """Mean activation of each masked channel over each item's answer tokens, in float32.

    Args:
        model: the model to run.
        batches: as for `record_differences`.
        channels: mask of the channels to record, of packed experts too.

    Returns:
        A row for each item, in the order of the batches; a column for each masked channel, in
        module order, then by index; entries in the unit of the activations.

    Raises:
        ValueError: the mask is of another model or empty, there is no batch, an answer span is
            empty, or an activation is NaN or infinite.
    """
    model = uncompiled(model)
    require_unwrapped(model)
    require_fit(model, channels)
    chosen = {name: mask.nonzero().flatten() for name, mask in channels.channels.items()}
    chosen = {name: index for name, index in chosen.items() if len(index)}
    if not chosen:
        raise ValueError("the mask is empty, there is no channel to record")
    rows: list[Tensor] = []
    with evaluating(model):
        for batch in batches:
            tokens = AnswerTokens.of_batch(batch, first_item=sum(map(len, rows)))
            rows.append(_item_means(model, batch, tokens, chosen))
    if not rows:
        raise ValueError("there is no batch to record")
    return torch.cat(rows)


def _item_means(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    tokens: AnswerTokens,
    chosen: Mapping[str, Tensor],
) -> Float[Tensor, "items masked"]:
    items = tokens.shape[0]
    sums: dict[str, Tensor] = {}
    calls = defaultdict[str, int](int)

    def collect(name: str, activations: Activations) -> None:
        device, index = activations.device, chosen[name].to(activations.device)
        rows = tokens.to(device).rows
        sums.setdefault(name, torch.zeros(items, len(index), device=device))
        if isinstance(activations, Routed):
            # sum by item and expert, then [items, experts x outputs]
            groups = rows[activations.tokens] * activations.total + activations.experts
            wide = activations.mapped(Tensor.float).summed(groups, items * activations.total)
            sums[name] += wide.view(items, -1)[:, index]
            calls[name] += 1
        else:
            repeats = len(activations) // len(rows)  # heads of a norm applied to each head
            values = activations[:, index].float()
            sums[name].index_add_(0, rows.repeat_interleave(repeats), values)
            calls[name] += repeats

    modules = channel_modules(model)
    read_activations(model, {name: modules[name] for name in chosen}, batch, tokens, collect)
    # mean over answer tokens of each item
    per_item = torch.bincount(tokens.rows, minlength=items).cpu()[:, None]
    parts = []
    for name, index in chosen.items():
        part = sums[name].cpu() if name in sums else torch.zeros(items, len(index))
        if not part.isfinite().all():
            raise ValueError(f"module {name} gave NaN or infinite activations")
        parts.append(part / (per_item * max(calls[name], 1)))
    return torch.cat(parts, dim=1)
