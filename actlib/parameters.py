"""What the parameters alone tell: scores of channels without data, and which model it is.

control = weight_differences(donor, target)     # a control; control.top(5) is a mask
digest_parameters(model)                        # SHA-256
"""

import hashlib

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float
from torch import Tensor, nn

from actlib.channels import ChannelModule, channel_modules, require_in_memory, uncompiled
from actlib.files import digest_tensors
from actlib.pairs import require_pair
from actlib.recording import describe_model, describe_pair
from actlib.scores import ChannelScores
from actlib.weights import require_float_weights


def weight_differences(donor: nn.Module, target: nn.Module) -> ChannelScores:
    """L2 norm of each channel's parameter difference, bias included: a control without data.

    The magnitudes are the mean of the two models' norms of the channel's parameters. There are no
    means and no stds, since there are no tokens. Everything is computed in float32, summed in
    float64.

    Raises:
        ValueError: the models do not fit, or weights of one are offloaded or quantized.
    """
    donor, target = uncompiled(donor), uncompiled(target)
    require_pair(donor, target)
    require_float_weights(donor, target)
    require_in_memory(donor, target)
    ours, theirs = channel_modules(donor), channel_modules(target)
    values, magnitudes = {}, {}
    with torch.no_grad():
        for name in theirs:
            pairs = _parameter_pairs(ours[name], theirs[name])
            norms = [_norm([pair[side] for pair in pairs]) for side in (0, 1)]
            values[name] = _norm([a - b for a, b in pairs])
            magnitudes[name] = (norms[0] + norms[1]) / 2
    metadata = describe_pair(describe_model(donor), describe_model(target))
    metadata |= {"method": "weight difference", "tokens": "0"}
    roles = {name: each.role for name, each in theirs.items()}
    return ChannelScores(values, magnitudes, 0, metadata, roles=roles)


def digest_parameters(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers and of the configuration; offloaded ones are read."""
    state = hashlib.sha256()
    for name, module in model.named_modules():
        with align_module_device(module):
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            state.update(f"{name} {digest_tensors(dict(own))}".encode())
    config = getattr(model, "config", None)
    state.update(config.to_json_string().encode() if config is not None else b"")
    return state.hexdigest()


def _parameter_pairs(ours: ChannelModule, theirs: ChannelModule) -> list[tuple[Tensor, Tensor]]:
    """Parameters of both modules as float32 [channels, numbers] on the target's device."""
    others = ours.parameters()
    pairs = []
    for key, (parameter, dimension) in theirs.parameters().items():
        both = (others[key][0].detach().to(parameter.device), parameter.detach())
        by_channel = (tensor.float().movedim(dimension, 0) for tensor in both)
        one, other = (tensor.reshape(theirs.channels, -1) for tensor in by_channel)
        pairs.append((one, other))
    return pairs


def _norm(parts: list[Float[Tensor, "channels _"]]) -> Float[Tensor, " channels"]:
    # In float64 the order of the terms, which streaming from files changes, leaves no trace.
    squares = (part.square().sum(dim=1, dtype=torch.float64) for part in parts)
    return sum(squares, torch.zeros(())).sqrt().float().cpu()
