"""Marks the best channels: how many a percent is, and which they are.

    mark_best({"norm": values}, percent=5)    # module name to bool [channels]

Ties go by module order, then by channel index.
"""

import math
from collections.abc import Mapping
from fractions import Fraction

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def require_percent(*percents: float) -> None:
    """Raise ValueError for a percent that is not above 0 and up to 100."""
    for percent in percents:
        if not 0 < percent <= 100:
            raise ValueError(f"percent must be above 0 and at most 100, got {percent:g}")


def channel_count(percent: float, channels: int, least: int = 1) -> int:
    """Floor of percent/100 times the channels, but no less than `least`.

    Computed in fractions of the decimal number, since 29 / 100 * 100 in floats is below 29.

    Raises:
        ValueError: the percent is not above 0 and up to 100.
    """
    require_percent(percent)
    return max(least, int(Fraction(str(float(percent))) * channels / 100))


def mark_best(
    values: Mapping[str, Float[Tensor, " channels"]],
    percent: float,
    *,
    highest: bool = True,
    per_module: bool = False,
) -> dict[str, Bool[Tensor, " channels"]]:
    """Mark the best channels of all modules together, or of each module.

    Raises:
        ValueError: the percent is out of range, or less than one channel of every module.
    """
    sizes = {name: part.numel() for name, part in values.items()}
    if not per_module:
        flat = torch.cat(list(values.values()))
        best = _best(flat, channel_count(percent, flat.numel()), highest)
        parts = zip(values, best.split(list(sizes.values())), strict=True)
        return {name: part.clone() for name, part in parts}
    counts = {name: channel_count(percent, size, least=0) for name, size in sizes.items()}
    if not any(counts.values()):
        largest = max(sizes.values())
        least = math.ceil(100 / largest * 1e4) / 1e4
        raise ValueError(
            f"{percent:g} % is less than one channel of every module, the largest of which has "
            f'{largest}; ranking "module" needs at least {least:g} %'
        )
    return {name: _best(part, counts[name], highest) for name, part in values.items()}


def _best(values: Float[Tensor, " channels"], count: int, highest: bool) -> Tensor:
    """Mark the `count` best values; of those equal to the last of them, the first in order."""
    selected = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    selected[values.sort(descending=highest, stable=True).indices[:count]] = True
    return selected
