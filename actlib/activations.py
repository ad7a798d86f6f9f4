"""Activations of the answer tokens: what modules give there, as one forward pass goes along.

    read_activations(model, modules, batch, tokens, callback)   # callback(name, activations)
    features = record_activations(model, batches, mask)         # [items, masked channels]

Of a module they are [entries, channels], an entry for each answer token and, of a norm applied to
each head, for each head of it.

Of a packed projection of experts they are [tokens, experts, outputs], sparse in the first two: the
output of an expert's projection (of the last one before the router's weight) where the router sent
the token to that expert, and 0 where it did not. So of two models, one of which sends a token to an
expert and the other elsewhere, the first one's whole activation counts as their difference. Ours;
the paper has no experts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float, Int
from torch import Tensor, nn

from actlib.channels import ChannelModule, channel_modules, packed_projections, unwrapped
from actlib.forward import pad_right, run_model
from actlib.hooks import AnswerTokens, call_hooks, evaluating, output_hooks
from actlib.masks import ChannelMask, require_fit

Activations = Float[Tensor, "entries channels"] | Float[Tensor, "tokens experts outputs"]


def read_activations(
    model: nn.Module,
    modules: Mapping[str, ChannelModule],
    batch: Mapping[str, Tensor],
    tokens: AnswerTokens,
    callback: Callable[[str, Activations], Any],
) -> None:
    """Run one batch and hand on what each of these modules gives at the answer tokens.

    Activations are copies and stay on the device on which their module runs. A module that runs
    twice is handed on twice. The modules may be those of another model like this one.

    Raises:
        ValueError: as `run_model`; a module's output, or the input of experts, is not batch x seq x
            channels.
    """
    packed = defaultdict[str, list[str]](list)
    for name, each in modules.items():
        if each.is_packed:
            packed[name.rpartition(".")[0]].append(name)
    plain = [name for name, each in modules.items() if not each.is_packed]

    def read(name: str, output: Tensor) -> None:
        callback(name, tokens.select(name, output, modules[name].channels))

    def read_experts(name: str, inputs: list, _output: Tensor) -> None:
        # hidden states and the experts chosen, by whatever names the family gives them
        hidden, chosen = (tokens.select(name, each, each.shape[-1]) for each in inputs[:2])
        outputs = routed_outputs(model.get_submodule(name), hidden, chosen)
        for projection in packed[name]:
            callback(projection, outputs[projection.rpartition(".")[2]])

    with output_hooks(model, plain, read), call_hooks(model, packed, read_experts):
        run_model(model, batch, tokens)


def routed_outputs(
    experts: nn.Module, hidden: Float[Tensor, "tokens d"], chosen: Int[Tensor, "tokens k"]
) -> dict[str, Float[Tensor, "tokens experts outputs"]]:
    """Compute the projections of packed experts again, for some tokens, from the experts' inputs.

    So it does not matter by which implementation (eager, batched_mm, grouped_mm) the model runs
    them. Weights that accelerate offloads are brought in once more. A GPU is waited for once.

    Returns:
        Own name of each projection, such as ``down_proj``, to its outputs.
    """
    order = chosen.flatten().sort(stable=True).indices
    tokens, numbers = order // chosen.shape[1], chosen.flatten()[order]
    with align_module_device(experts):
        (first, into), (last, out) = packed_projections(experts).items()
        gate: Any = experts._apply_gate if experts.has_gate else experts.act_fn
        groups = hidden[tokens].split(torch.bincount(numbers, minlength=len(into)).tolist())
        inner, outer = list[Tensor](), list[Tensor]()
        for number, rows in enumerate(groups):
            if len(rows):  # some activation functions cannot take none
                inner.append(nn.functional.linear(rows.to(into.dtype), into[number]))
                outer.append(nn.functional.linear(gate(inner[-1]), out[number]))
    outputs, indices = dict[str, Tensor](), torch.stack([tokens, numbers])
    for name, values in ((first, torch.cat(inner)), (last, torch.cat(outer))):
        shape = len(hidden), len(into), values.shape[1]
        outputs[name] = torch.sparse_coo_tensor(indices, values, shape, check_invariants=False)
    return outputs


def record_activations(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], channels: ChannelMask
) -> Float[Tensor, "items masked"]:
    """Mean activation of each masked channel over each item's answer tokens, in float32.

    Args:
        model: the model to run.
        batches: mappings of input_ids, attention_mask and answer_mask, each [batch, seq], padded on
            either side; other entries are ignored.
        channels: mask of the channels to record, of packed experts too.

    Returns:
        A row for each item, in the order of the batches; a column for each masked channel, in
        module order, then by index; entries in the unit of the activations.

    Raises:
        ValueError: the mask is of another model or empty, there is no batch, an answer span is
            empty, a masked module never runs, or an activation is NaN or infinite.
    """
    model = unwrapped(model)
    require_fit(model, channels)
    modules, chosen, rows = channel_modules(model), channels.indices(), list[Tensor]()
    if not chosen:
        raise ValueError("the mask is empty, there is no channel to record")
    with evaluating(model):
        for batch in map(pad_right, batches):
            tokens = AnswerTokens.of_batch(batch, first_item=sum(map(len, rows)))
            calls = defaultdict[str, list[Tensor]](list)

            def add(name: str, activations: Activations) -> None:
                calls[name].append(_sum_by_item(activations, tokens, chosen[name]))  # noqa: B023

            read_activations(model, {name: modules[name] for name in chosen}, batch, tokens, add)
            # mean over answer tokens of each item
            rows.append(torch.cat([_mean_of_items(name, calls[name]) for name in chosen], dim=1))
    if not rows:
        raise ValueError("there is no batch to record")
    return torch.cat(rows)


def _sum_by_item(
    activations: Activations, tokens: AnswerTokens, index: Tensor
) -> Float[Tensor, "items entries_and_masked"]:
    """How many entries an item has, and their sums on some channels."""
    items, device = tokens.shape[0], activations.device
    rows, index = tokens.to(device).rows, index.to(device)
    if activations.is_sparse:  # 0 for an expert to which a token was not sent
        activations = activations.to_dense().flatten(1)
    entries = nn.functional.pad(activations[:, index].float(), (1, 0), value=1.0)
    # where a norm is applied to each head, the heads of a token are entries
    entry_items = rows.repeat_interleave(len(activations) // len(rows))
    return entries.new_zeros(items, entries.shape[1]).index_add_(0, entry_items, entries)


def _mean_of_items(name: str, calls: list[Tensor]) -> Float[Tensor, "items masked"]:
    if not calls:
        raise ValueError(f"module {name} never ran on these inputs; leave it out of the mask")
    sums = torch.stack(calls).sum(dim=0).cpu()
    require_sound(sums, f"activations of module {name} are")
    return sums[:, 1:] / sums[:, :1]


def require_sound(values: Tensor, what: str) -> None:
    """Raise ValueError for recorded numbers that are NaN or infinite; `what` opens the sentence."""
    if not values.isfinite().all():
        raise ValueError(
            f"{what} NaN or infinite; look at the weights with `actlib check`, or record in "
            "float32 (--dtype float32)"
        )
