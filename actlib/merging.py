"""Merges several specialists into their common base, each giving only its own channels.

report = merge(base, [(maths, maths_mask, 0.4), (german, german_mask, 0.4)], collisions="sum")
print(report.collisions, "channels were claimed by more than one donor")
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from actlib.localize import weight_differences
from actlib.masks import ChannelMask, require_fit
from actlib.pairs import require_pair
from actlib.placement import require_in_memory
from actlib.transfer import Index, require_finite, require_scale, selections

RULES = ("sum", "average", "largest")

Contribution = tuple[nn.Module, ChannelMask, float]


@dataclass(frozen=True, eq=False)
class MergeReport:
    """A merged model and what went into it.

    Attributes:
        model: the merged model.
        union: channels that some donor gave.
        collisions: number of channels that more than one donor claimed.
        rule: how those were settled.
    """

    model: nn.Module
    union: ChannelMask
    collisions: int
    rule: str


def merge(
    base: nn.Module, contributions: Sequence[Contribution], collisions: str = "sum"
) -> MergeReport:
    """Merge into a copy of the base; see `merge_`.

    Raises:
        ValueError: as `merge_`.
    """
    _require_valid(base, contributions, collisions)  # before the costly copy
    return merge_(copy.deepcopy(base), contributions, collisions)


def merge_(
    base: nn.Module, contributions: Sequence[Contribution], collisions: str = "sum"
) -> MergeReport:
    """Add each donor's scaled task vector on the channels of its mask, in place.

    A task vector is donor minus base, taken before the base changes. The result does not depend on
    the order of the contributions, to the bit.

    Args:
        base: the common base of the donors, which is changed.
        contributions: a donor, its mask and its scale, each.
        collisions: for channels that several donors claim, "sum" adds their scaled differences, as
            reported of ACT; "average" takes their mean, which keeps the step small; "largest" keeps
            the donor whose scaled difference has the largest L2 norm over the channel's parameters,
            which keeps one skill whole. Exact ties are averaged, and so are the elements of a tied
            embedding and LM head where one donor's row meets another's column.

    Raises:
        ValueError: there is no contribution, the rule is unknown, a donor does not fit, parameters
            are offloaded, a mask is of another model, or a scale is not finite. Nothing is changed
            then.
    """
    _require_valid(base, contributions, collisions)
    masks = [mask for _, mask, _ in contributions]
    union = ChannelMask(reduce(or_, masks).channels, {"combined": "union"})
    given = _largest(base, contributions) if collisions == "largest" else masks
    chosen = [selections(base, mask) for mask in given]
    parameters = dict(base.named_parameters())
    donated = [dict(donor.named_parameters()) for donor, _, _ in contributions]
    scales = [scale for _, _, scale in contributions]

    def merged(name: str, index: Index) -> Tensor:
        ours, deltas, claims = parameters[name], [], []
        for scale, theirs, parts in zip(scales, donated, chosen, strict=True):
            if name in parts:
                deltas.append(_task_vector(ours, theirs[name], index) * scale)
                claims.append(parts[name].elements()[index].to(ours.device))
        step = combined(torch.stack(deltas), torch.stack(claims), collisions)
        values = (ours[index].to(step.dtype) + step).to(ours.dtype)
        sides = {f"donor {number}": each for number, each in enumerate(deltas, start=1)}
        told = ", ".join(f"{scale:g}" for scale in scales)
        require_finite(name, values, {"base": ours[index], **sides}, told)
        return values

    with torch.no_grad():
        changes = [  # all of them computed before the first is made
            (parameters[name], index, merged(name, index))
            for name, selection in selections(base, union).items()
            for index in selection.pieces()
        ]
        for parameter, index, values in changes:
            parameter[index] = values
    return MergeReport(base, union, count_collisions(masks), collisions)


def require_mergeable(contributions: Sequence[object], collisions: str) -> None:
    """Refuse an unknown rule, and no contributions.

    Raises:
        ValueError: names the rule, or says that there is nothing to merge.
    """
    if collisions not in RULES:
        raise ValueError(
            f"unknown collision rule {collisions!r}, expected one of {', '.join(RULES)}"
        )
    if not contributions:
        raise ValueError("there is no contribution to merge")


def _require_valid(base: nn.Module, contributions: Sequence[Contribution], collisions: str) -> None:
    require_mergeable(contributions, collisions)
    for donor, mask, scale in contributions:
        require_pair(donor, base)
        require_in_memory(donor, base)
        require_fit(base, mask)
        require_scale(scale)


def _task_vector(base: Tensor, donor: Tensor, index: Index) -> Tensor:
    wide = torch.promote_types(base.dtype, torch.float32)
    return donor[index].to(device=base.device, dtype=wide) - base[index].to(wide)


def combined(
    deltas: Float[Tensor, "donors *piece"], claims: Bool[Tensor, "donors *piece"], rule: str
) -> Float[Tensor, "*piece"]:
    """The step that several donors' scaled task vectors make together; see `merge_`.

    Args:
        deltas: scaled task vectors.
        claims: which elements each donor gives; the others do not count.
        rule: how shared claims are settled; for "largest", `claims` has settled them already.
    """
    deltas = torch.where(claims, deltas, 0)
    # Addition in floats depends on its order. Sorted terms, added one by one, are the same whoever
    # came first and however the elements are cut into pieces.
    terms = deltas.sort(dim=0).values if len(deltas) > 2 else deltas
    total = reduce(torch.add, terms.unbind(dim=0))
    return total if rule == "sum" else total / claims.sum(dim=0).clamp_min(1)


def _largest(base: nn.Module, contributions: Sequence[Contribution]) -> list[ChannelMask]:
    norms = [weight_differences(donor, base).values for donor, _, _ in contributions]
    return largest_claims(norms, [(mask, scale) for _, mask, scale in contributions])


def largest_claims(
    norms: Sequence[Mapping[str, Float[Tensor, " channels"]]],
    claims: Sequence[tuple[ChannelMask, float]],
) -> list[ChannelMask]:
    """Each donor's mask without the channels on which another claimant differs more.

    Args:
        norms: each donor's L2 norms of the channels' differences from the base, by module.
        claims: its mask and scale.
    """
    scaled = [
        {
            name: torch.where(chosen.cpu(), norm[name] * abs(scale), -1.0)
            for name, chosen in mask.channels.items()
        }
        for norm, (mask, scale) in zip(norms, claims, strict=True)
    ]
    best = {name: torch.stack([each[name] for each in scaled]).amax(dim=0) for name in scaled[0]}
    return [
        ChannelMask({name: (each[name] == best[name]) & (each[name] >= 0) for name in each})
        for each in scaled
    ]


def count_collisions(masks: Sequence[ChannelMask]) -> int:
    """Number of channels that are in more than one mask."""
    return sum(
        int((torch.stack([mask.channels[name] for mask in masks]).sum(dim=0) > 1).sum())
        for name in masks[0].channels
    )
