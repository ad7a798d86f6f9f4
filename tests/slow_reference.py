"""Scores and moved elements the slow way: everything stored, one item and token at a time.

Nothing here comes from `actlib`, so that the two can be compared.
"""

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

HEADS_FIRST = ("gemma3",)
"""Families whose norms of queries and keys get the heads before the tokens."""


def hook_count(model):
    """Hooks of every kind on all modules, and forwards that were put over their own."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in vars(module))
        for module in model.modules()
    )


def packed_experts(model):
    """Name of each module that holds all experts in one tensor a projection, plain ones only."""
    return [
        name
        for name, module in model.named_modules()
        if {key for key, _ in module.named_parameters(recurse=False)}
        == {"gate_up_proj", "down_proj"}
        and not getattr(module, "is_transposed", True)
    ]


@torch.no_grad()
def activations_of(model, ids, heads_first=False):
    """Output of each module for one unpadded item: [tokens, entries, channels], by name.

    An entry is one of the heads of a norm that is applied to each head, else there is one entry.
    """
    inputs, outputs, handles = {}, {}, []

    def keep(name):
        def hook(_module, given, output):
            inputs[name] = given[0].clone() if given else None
            # Copies, since a model may go on to change an output in place.
            outputs[name] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(keep(name)))
    model(ids[None])
    for handle in handles:
        handle.remove()
    found = {}
    for name, output in outputs.items():
        if name in packed_experts(model):
            parent = name.removesuffix(".experts")
            logits = outputs[f"{parent}.gate"]
            hidden = inputs[f"{parent}.gate"].reshape(len(ids), -1)
            found |= _experts(name, model, hidden, logits.reshape(len(ids), -1))
        else:
            turned = output.transpose(1, 2) if heads_first and output.ndim == 4 else output
            found[name] = turned.reshape(len(ids), -1, output.shape[-1]).double()
    return found


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


def answer_activations(model, items, heads_first=False):
    """All activations of all answer tokens: [entries, channels], by module."""
    stored = {}
    for ids, answer in items:
        for name, outputs in activations_of(model, ids, heads_first).items():
            stored.setdefault(name, []).append(outputs[answer].flatten(0, 1))
    return {name: torch.cat(parts) for name, parts in stored.items()}


def expected_scores(donor, target, items, heads_first=False):
    """Values, magnitudes, donor's means and stds, by module, from everything at once."""
    ours, theirs = (answer_activations(model, items, heads_first) for model in (donor, target))
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
