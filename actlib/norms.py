"""Norms of channels' parameters, and with them scores of channels without data.

control = weight_differences(donor, target)     # a control; control.top(5) is a mask
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actlib.channels import channel_modules, channel_sizes, unwrapped
from actlib.pairs import require_pair
from actlib.recording import describe_pair
from actlib.scores import ChannelScores, require_differing
from actlib.transfer import as_matrix
from actlib.vocabulary import shared_rows
from actlib.weights import require_in_memory

_ELEMENTS = 2**20  # at a time, a few megabytes


def weight_differences(donor: nn.Module, target: nn.Module) -> ChannelScores:
    """L2 norm of each channel's parameter difference, bias included: a control without data.

    The magnitudes are the mean of the two models' norms of the channel's parameters. There are no
    means and no stds, since there are no tokens. Everything is computed in float32, summed in
    float64.

    Raises:
        ValueError: the models do not fit, weights of one are offloaded or quantized, or no channel
            differs.
    """
    donor, target = unwrapped(donor), unwrapped(target)
    require_pair(donor, target)
    require_in_memory(donor, target)
    own, donated = dict(target.named_parameters()), dict(donor.named_parameters())
    values = channel_norms(target, donated, own)
    donor_norms, target_norms = (channel_norms(target, each) for each in (donated, own))
    magnitudes = {name: (donor_norms[name] + target_norms[name]) / 2 for name in values}
    require_differing(values, "have the same parameters in every channel")
    metadata = {**describe_pair(donor, target), "method": "weight difference", "tokens": "0"}
    modules = channel_modules(target)
    roles, sizes = {name: each.role for name, each in modules.items()}, channel_sizes(modules)
    return ChannelScores(values, magnitudes, 0, metadata, roles=roles, sizes=sizes)


def channel_norms(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    minus: Mapping[str, Tensor] | None = None,
    modules: set[str] | None = None,
) -> dict[str, Float[Tensor, " channels"]]:
    """L2 norm over all parameters of each channel, of the named modules or all, on the CPU.

    Of the parameters, or of what they differ by from those of `minus`, over the rows of the latter.
    """
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    norms = {}
    for module_name, module in channel_modules(model).items():
        if modules is not None and module_name not in modules:
            continue
        squares = torch.zeros(module.channels, dtype=torch.float64)
        for parameter, dimension in module.parameters().values():
            name = names[id(parameter)]
            # of the rows of `other`, which without `minus` is the matrix itself
            matrix, other = as_matrix(parameters[name]), as_matrix((minus or parameters)[name])
            matrix, step = shared_rows(matrix, other), max(1, _ELEMENTS // other.shape[1])
            for start in range(0, len(other), step):
                rows = slice(start, start + step)
                part = matrix[rows].to(other.device, torch.float32, copy=True)
                if minus is not None:
                    part -= other[rows].to(torch.float32)
                # in float64 the order of the terms, which streaming changes, leaves no trace
                sums = part.square_().sum(dim=1 - dimension, dtype=torch.float64).cpu()
                (squares[rows] if dimension == 0 else squares).add_(sums)
        norms[module_name] = squares.sqrt().float()
    return norms
