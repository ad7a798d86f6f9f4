"""Scores of channels without data, from the parameters alone.

control = weight_differences(donor, target)     # a control; control.top(5) is a mask
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actlib.channels import channel_modules, unwrapped
from actlib.pairs import require_pair
from actlib.recording import describe_pair
from actlib.scores import ChannelScores, require_differing
from actlib.transfer import as_matrix
from actlib.vocabulary import shared_rows
from actlib.weights import require_in_memory

_ELEMENTS = 2**20  # at a time, a few megabytes


def weight_differences(donor: nn.Module, target: nn.Module) -> ChannelScores:
    """L2 norm of each channel's parameter difference, bias included: a control without data.

    There are no magnitudes, no means and no stds, since there are no tokens. Everything is computed
    in float32, summed in float64.

    Raises:
        ValueError: the models do not fit, weights of one are offloaded or quantized, or no channel
            differs.
    """
    donor, target = unwrapped(donor), unwrapped(target)
    require_pair(donor, target)
    require_in_memory(donor, target)
    values = difference_norms(
        target, dict(donor.named_parameters()), dict(target.named_parameters())
    )
    require_differing(values, "have the same parameters in every channel")
    metadata = {**describe_pair(donor, target), "method": "weight difference", "tokens": "0"}
    roles = {name: each.role for name, each in channel_modules(target).items()}
    return ChannelScores(values, {}, 0, metadata, roles=roles)


def difference_norms(
    model: nn.Module,
    donor: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    only: set[str] | None = None,
) -> dict[str, Float[Tensor, " channels"]]:
    """L2 norm of donor minus target over all parameters of each channel, on the CPU.

    Of all modules or `only` some, and of the rows of the vocabulary that the target has.
    """
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    norms = {}
    for module_name, module in channel_modules(model).items():
        if only is not None and module_name not in only:
            continue
        squares = torch.zeros(module.channels, dtype=torch.float64)
        for parameter, dimension in module.parameters().values():
            name = names[id(parameter)]
            own = as_matrix(target[name])
            donated = shared_rows(as_matrix(donor[name]), own)
            step = max(1, _ELEMENTS // own.shape[1])
            for start in range(0, len(own), step):
                rows = slice(start, start + step)
                delta = donated[rows].to(own.device, torch.float32, copy=True)
                delta -= own[rows].to(torch.float32)
                # in float64 the order of the terms, which streaming changes, leaves no trace
                sums = delta.square_().sum(dim=1 - dimension, dtype=torch.float64).cpu()
                (squares[rows] if dimension == 0 else squares).add_(sums)
        norms[module_name] = squares.sqrt().float()
    return norms
