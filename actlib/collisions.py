"""What several donors' claims to one channel amount to: the collision rules of a merge.

    step = combine(deltas, claims, "average")    # of shared elements, see `merging.merge_`

A rule is a name in `RULES`; "sum" and "average" combine the donors' steps element by element, while
"largest" takes claims back beforehand.
"""

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actlib.masks import ChannelMask

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


def largest_claims(
    norms: Sequence[Mapping[str, Float[Tensor, " channels"]]],
    masks: Sequence[ChannelMask],
    scales: Sequence[float],
) -> list[ChannelMask]:
    """Each donor's mask without the channels on which another claimant's step is larger.

    Args:
        norms: of each donor's task vectors, in the modules where several claim a channel.
        masks: the claims.
        scales: by which the steps are scaled.
    """
    claimed = [{name: own.cpu().clone() for name, own in mask.channels.items()} for mask in masks]
    for name in norms[0]:
        sizes = torch.stack(
            [norm[name] * abs(scale) for norm, scale in zip(norms, scales, strict=True)]
        )
        sizes = sizes.nan_to_num(nan=torch.inf)  # which is refused where it would be written
        sizes = sizes.where(torch.stack([each[name] for each in claimed]), -1.0)
        for own, size in zip(claimed, sizes, strict=True):
            own[name] &= size == sizes.amax(dim=0)
    return [ChannelMask(each) for each in claimed]
