"""Scores and moved elements the slow way: everything stored, one item and token at a time.

Nothing here comes from `actlib`, so that the two can be compared.
"""

import inspect
from collections import defaultdict

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

HEADS_FIRST = ("gemma3_text", "phi")
"""Families whose norms of queries and keys get the heads before the tokens."""


def hook_count(model):
    """Hooks of every kind on all modules, and forwards that were put over their own."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in vars(module))
        for module in model.modules()
    )


@torch.no_grad()
def run(model, ids, hook=None, names=()):
    """Logits of one item, while `hook(name, inputs, output)` reads or replaces what modules give.

    Of a tuple it gets the first entry; None leaves the output as it is.
    """

    def call(name):
        def inner(_module, inputs, output):
            first = output[0] if isinstance(output, tuple) else output
            new = hook(name, inputs, first)
            new = first if new is None else new
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return inner

    options = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    handles = [model.get_submodule(n).register_forward_hook(call(n)) for n in names]
    try:
        return model(**options).logits
    finally:
        for handle in handles:
            handle.remove()


def packed_experts(model):
    """Name of each module that holds all experts in one tensor a projection, plain ones only."""
    return [
        name
        for name, module in model.named_modules()
        if {key for key, _ in module.named_parameters(recurse=False)}
        == {"gate_up_proj", "down_proj"}
        and not getattr(module, "is_transposed", True)
    ]


def activations_of(model, ids, names=None):
    """Output of each module for one unpadded item: [tokens, entries, channels], by name.

    An entry is a call of the module, or one of the heads of a norm that is applied to each head.
    """
    packed = packed_experts(model) if names is None else []
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = names or {name.rpartition(".")[0] for name in parameters} - {*packed}
    inputs, calls = {}, defaultdict(list)

    def keep(name, given, output):
        if name.endswith(".gate"):  # routers, whose inputs the experts share
            inputs[name] = given[0].clone()
        # Copies, since a model may go on to change an output in place.
        calls[name].append(by_token(model, output.clone(), len(ids)))

    run(model, ids, keep, names)
    found = {name: torch.cat(each, dim=1) for name, each in calls.items()}
    for name in packed:
        gate = f"{name.removesuffix('.experts')}.gate"
        found |= _experts(name, model, inputs[gate].reshape(len(ids), -1), found[gate][:, 0])
    return found


def by_token(model, output, length):
    """[tokens, entries, channels], wherever a family has its heads."""
    is_by_head = output.ndim == 4 and output.shape[2] == length
    if is_by_head and (output.shape[1] != length or model.config.model_type in HEADS_FIRST):
        output = output.transpose(1, 2)
    return output.reshape(length, -1, output.shape[-1]).double()


@torch.no_grad()
def _experts(name, model, hidden, logits):
    """Outputs of both projections of every expert; 0 where a token did not go to the expert."""
    module, kept = model.get_submodule(name), model.config.num_experts_per_tok
    experts = range(len(module.gate_up_proj))
    first, last = (
        torch.zeros(len(hidden), len(weight), weight.shape[1])
        for weight in (module.gate_up_proj, module.down_proj)
    )
    for token, state in enumerate(hidden):
        for expert in sorted(experts, key=lambda each: -float(logits[token, each]))[:kept]:  # noqa: B023
            first[token, expert] = module.gate_up_proj[expert] @ state
            gate, up = first[token, expert].chunk(2)
            last[token, expert] = module.down_proj[expert] @ (nn.functional.silu(gate) * up)
    return {
        f"{name}.{projection}": outputs.reshape(len(hidden), 1, -1).double()
        for projection, outputs in (("gate_up_proj", first), ("down_proj", last))
    }


def answer_activations(model, items, names=None):
    """All activations of all answer tokens: [entries, channels], by module."""
    stored = defaultdict(list)
    for ids, answer in items:
        for name, outputs in activations_of(model, ids, names).items():
            stored[name].append(outputs[answer].flatten(0, 1))
    return {name: torch.cat(parts) for name, parts in stored.items()}


def expected_scores(donor, target, items, names=None):
    """Values, magnitudes, donor's means and stds, by module, from everything at once."""
    ours, theirs = (answer_activations(model, items, names) for model in (donor, target))
    return {
        "values": {name: (ours[name] - theirs[name]).abs().mean(0) for name in theirs},
        "magnitudes": {
            name: (ours[name].abs() + theirs[name].abs()).mean(0) / 2 for name in theirs
        },
        "means": {name: ours[name].mean(0) for name in theirs},
        "stds": {name: ours[name].std(0, correction=0) for name in theirs},
    }


def moving_elements(model, mask):
    """Which elements of each parameter a mask moves, marked channel by channel."""
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    moving = {id(each): torch.zeros(each.shape, dtype=torch.bool) for each in parameters.values()}
    for name, chosen in mask.channels.items():
        for channel in chosen.nonzero().flatten().tolist():
            if name in parameters:  # packed experts, which are no module
                rows = parameters[name].shape[1]
                moving[id(parameters[name])][channel // rows, channel % rows] = True
                continue
            for parameter in modules[name].parameters(recurse=False):
                columns = isinstance(modules[name], nn.Embedding | Conv1D) and parameter.ndim == 2
                moving[id(parameter)][(slice(None), channel) if columns else channel] = True
    return {name: moving[id(parameter)] for name, parameter in parameters.items()}


@torch.no_grad()
def slow_nll(model, ids, answer):
    """Mean over answer tokens of -log p, one item alone, from all logits."""
    likelihood = model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
    losses = [-likelihood[n - 1, ids[n]] for n in range(len(ids)) if answer[n]]
    return float(torch.stack(losses).mean())
