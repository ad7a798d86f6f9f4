"""What several donors' claims to one channel amount to: the collision rules of a merge.

    step = combine(deltas, claims, "average")    # of shared elements, see `merging.merge_`

A rule is a name in `RULES`; "sum" and "average" combine the donors' steps element by element, while
"largest" takes claims back beforehand.
"""

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actlib.channels import channel_modules
from actlib.checkpoint import rows_of
from actlib.masks import ChannelMask
from actlib.transfer import selections
from actlib.vocabulary import shared_rows

RULES = ("sum", "average", "largest")


def combine(
    deltas: Float[Tensor, "donors *elements"], claims: Bool[Tensor, "donors *elements"], rule: str
) -> Float[Tensor, "*elements"]:
    """The step that several donors' scaled task vectors make together; see `merge_`.

    Args:
        deltas: scaled task vectors.
        claims: which elements each donor gives; the others do not count.
        rule: how shared claims are settled; for "largest", `claims` has settled them already.
    """
    deltas = torch.where(claims, deltas, 0)
    # Addition in floats depends on its order. Sorted terms, added one by one, are the same whoever
    # came first and however the elements are cut into chunks.
    terms = deltas.sort(dim=0).values if len(deltas) > 2 else deltas
    total = reduce(torch.add, terms.unbind(dim=0))
    return total if rule == "sum" else total / claims.sum(dim=0).clamp_min(1)


def channel_norms(
    model: nn.Module, base: Mapping[str, Tensor], donor: Mapping[str, Tensor], mask: ChannelMask
) -> dict[str, Float[Tensor, " channels"]]:
    """L2 norms of the masked channels' differences, as of `weight_differences`; 0 elsewhere."""
    squares: dict[str, tuple[Tensor, Tensor]] = {}
    for name, selection in selections(model, mask).items():
        sides = (selection.rows, selection.columns)
        rows, columns = (torch.zeros(len(side), dtype=torch.float64) for side in sides)
        ours = rows_of(base, name, 0, len(rows))
        theirs = shared_rows(rows_of(donor, name, 0, len(rows)), ours)
        for index in selection.indices():
            square = (theirs[index].to(ours.device).float() - ours[index].float()).square()
            square = square.double().cpu()
            if len(index) == 1:  # whole rows, which cross all columns
                rows[index] += square.sum(dim=1)
                columns += square.sum(dim=0)
            else:
                columns[index[1]] += square.sum(dim=0)
        squares[name] = rows, columns
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    norms = {}
    for module_name, module in channel_modules(model).items():
        total = torch.zeros(module.channels, dtype=torch.float64)
        for parameter, dimension in module.parameters().values():
            if names[id(parameter)] in squares:
                total += squares[names[id(parameter)]][dimension]
        masked = mask.channels[module_name].cpu()
        norms[module_name] = torch.where(masked, total, 0.0).sqrt().float()
    return norms


def largest_claims(
    norms: Sequence[Mapping[str, Float[Tensor, " channels"]]],
    masks: Sequence[ChannelMask],
    scales: Sequence[float],
) -> list[ChannelMask]:
    """Each donor's mask without the channels on which another claimant's step is larger."""
    sizes = [
        {
            name: torch.where(channels.cpu(), norm[name] * abs(scale), -1.0)
            for name, channels in mask.channels.items()
        }
        for norm, mask, scale in zip(norms, masks, scales, strict=True)
    ]
    largest = {name: torch.stack([each[name] for each in sizes]).amax(dim=0) for name in sizes[0]}
    return [
        ChannelMask({name: (each[name] == largest[name]) & (each[name] >= 0) for name in each})
        for each in sizes
    ]


def claims_per_channel(masks: Sequence[ChannelMask]) -> dict[str, Int[Tensor, " channels"]]:
    """How many of the masks have each channel."""
    return {
        name: torch.stack([mask.channels[name].cpu() for mask in masks]).sum(dim=0)
        for name in masks[0].channels
    }


def count_collisions(masks: Sequence[ChannelMask]) -> int:
    """Number of channels that are in more than one mask."""
    return sum(int((count > 1).sum()) for count in claims_per_channel(masks).values())
