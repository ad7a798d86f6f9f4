"""Scores of channels without data, from the parameters alone.

control = weight_differences(donor, target)     # a control; control.top(5) is a mask
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actlib.channels import channel_modules, unwrapped
from actlib.pairs import require_pair
from actlib.recording import describe_pair
from actlib.scores import ChannelScores, require_differing
from actlib.transfer import Rows, as_matrix, rows_of
from actlib.vocabulary import shared_rows
from actlib.weights import require_in_memory

_ELEMENTS = 2**24  # at a time


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
    donor_rows, target_rows = rows_of(donor), rows_of(target)
    readers = differences(donor_rows, target_rows), donor_rows, target_rows
    values, donor_norms, target_norms = (channel_norms(target, rows) for rows in readers)
    magnitudes = {name: (donor_norms[name] + target_norms[name]) / 2 for name in values}
    require_differing(values, "have the same parameters in every channel")
    metadata = {**describe_pair(donor, target), "method": "weight difference", "tokens": "0"}
    roles = {name: each.role for name, each in channel_modules(target).items()}
    return ChannelScores(values, magnitudes, 0, metadata, roles=roles)


def differences(donor: Rows, target: Rows) -> Rows:
    """Donor minus target in float32, on the target's device, over the rows that both have."""

    def rows(name: str, start: int, stop: int) -> Float[Tensor, "rows columns"]:
        target_rows = target(name, start, stop)
        donor_rows = shared_rows(donor(name, start, stop), target_rows).to(target_rows.device)
        return donor_rows.float() - target_rows.float()

    return rows


def channel_norms(
    model: nn.Module, rows: Rows, modules: set[str] | None = None
) -> dict[str, Float[Tensor, " channels"]]:
    """L2 norm over all parameters of each channel, of the named modules or all, on the CPU.

    The numbers, such as differences of two models, are read a stretch of rows at a time.
    """
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    norms = {}
    for module_name, module in channel_modules(model).items():
        if modules is not None and module_name not in modules:
            continue
        squares = torch.zeros(module.channels, dtype=torch.float64)
        for parameter, dimension in module.parameters().values():
            length, columns = as_matrix(parameter).shape
            step = max(1, _ELEMENTS // columns)
            for start in range(0, length, step):
                part = rows(names[id(parameter)], start, start + step).float().square()
                # in float64 the order of the terms, which streaming changes, leaves no trace
                sums = part.sum(dim=1 - dimension, dtype=torch.float64).cpu()
                (squares[start : start + step] if dimension == 0 else squares).add_(sums)
        norms[module_name] = squares.sqrt().float()
    return norms
