"""Merges several specialists into their common base, each giving only its own channels.

    report = merge(base, [(maths, maths_mask, 0.4), (german, german_mask, 0.4)], collisions="sum")
    print(report.collisions, "channels were claimed by more than one donor")
    merge_checkpoint("base", [("maths", maths_mask, 0.4), ("german", other, 0.4)], "merged")

Of each claimed element the base's value becomes base + the combination of scale * (donor - base) by
the collision rule. Models in memory and folders go through the same functions and get the same
bits.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from actlib.cards import describe_step, read_steps
from actlib.channels import unwrapped
from actlib.checkpoint import Checkpoint, open_donor
from actlib.files import require_free
from actlib.masks import ChannelMask, require_fit
from actlib.norms import channel_norms
from actlib.transfer import (
    Change,
    Index,
    as_matrix,
    require_finite,
    require_movable,
    require_scale,
    selections,
    take_elements,
    write_,
)
from actlib.vocabulary import shared_rows
from actlib.weights import copied
from actlib.wording import require_known

Contribution = tuple[nn.Module, ChannelMask, float]
Steps = Float[Tensor, "donors *elements"]
"""scale * (donor - base) of each donor, 0 where it does not claim an element."""
Claimed = Bool[Tensor, "donors *elements"]


def sum_steps(steps: Steps, _claimed: Claimed) -> Float[Tensor, "*elements"]:
    """The sum of the steps, as reported of ACT."""
    # Addition in floats depends on its order. Sorted terms, added one by one, are the same
    # whoever came first and however the elements are cut into chunks.
    return reduce(torch.add, steps.sort(dim=0).values if len(steps) > 2 else steps)


def average(steps: Steps, claimed: Claimed) -> Float[Tensor, "*elements"]:
    """The mean of the steps over the donors that claim an element."""
    return sum_steps(steps, claimed) / claimed.sum(dim=0).clamp_min(1)


RULES = {"sum": sum_steps, "average": average, "largest": average}
"""What the base gets where several donors claim an element.

By "largest", masks lose channels to a larger step before (`_keep_largest`): only exact ties remain.
"""


class Donor(NamedTuple):
    """What a merge needs of one donor: its name in messages, parameters, mask and scale."""

    name: str
    parameters: Mapping[str, Tensor]
    mask: ChannelMask
    scale: float


@dataclass(frozen=True, eq=False)
class MergeReport:
    """What went into a merge.

    Attributes:
        union: channels that some donor gave.
        collisions: number of channels that more than one donor claimed.
        rule: how those were settled.
        model: the merged model; None of a merge of folders.
        folder: the merged model's folder; None of a merge in memory.
    """

    union: ChannelMask
    collisions: int
    rule: str
    model: nn.Module | None = None
    folder: Path | None = None


def merge(
    base: nn.Module, contributions: Sequence[Contribution], collisions: str = "sum"
) -> MergeReport:
    """Merge into a copy of the base, as `merge_` does in place, with the same arguments.

    Edits of the base's outputs, as within `ablated`, are no part of the copy.

    Raises:
        ValueError: as `merge_`, or a forward of the base was replaced by a function that a copy
            would share, such as `torch.compile` of it gives.
    """
    _require_valid(base, contributions, collisions)  # before the costly copy
    model = copied(base)
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in [*hooks.items()]:
                if str(getattr(hook, "__module__", "")).startswith("actlib."):
                    del hooks[key]
    return merge_(model, contributions, collisions)


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
        ValueError: there is no contribution, the rule is unknown, a donor does not fit or is the
            base, parameters are offloaded, a mask is of another model, a scale is not finite, or a
            claimed parameter would be NaN or infinite. Nothing is changed then.
    """
    _require_valid(base, contributions, collisions)
    parameters = dict(unwrapped(base).named_parameters())
    donors = [
        Donor(f"donor {number}", dict(unwrapped(donor).named_parameters()), mask, scale)
        for number, (donor, mask, scale) in enumerate(contributions, start=1)
    ]
    union, collided, change = _combine(base, parameters, donors, collisions)
    write_(base, selections(base, union), change)
    return MergeReport(union, collided, collisions, model=base)


def merge_checkpoint(
    base_dir: str | os.PathLike,
    contributions: Sequence[tuple[str | os.PathLike, ChannelMask, float]],
    output_dir: str | os.PathLike,
    collisions: str = "sum",
) -> MergeReport:
    """Write a copy of a base's folder to which each donor gave the channels of its mask.

    The same values as `merge_`, to the bit, without loading a model. The folder also gets a note
    and a model card, as one of `transfer_checkpoint`.

    Args:
        base_dir: Hugging Face folder with safetensors weights: the donors' common base.
        contributions: a donor's folder, its mask and its scale, each.
        output_dir: folder to write, absent or empty. It appears whole or not at all.
        collisions: "sum", "average" or "largest", for channels that several donors claim.

    Raises:
        ValueError: there is no contribution, the rule is unknown, a folder is absent or holds no
            usable weights, a donor does not fit or is the base, a mask is of another model, a scale
            is not finite, a claimed parameter would be NaN or infinite, or the output is taken.
            Nothing is written then.
    """
    output_dir = Path(output_dir)
    _require_mergeable(contributions, collisions)
    require_free(output_dir)
    base, donors = Checkpoint(base_dir), list[Donor]()
    for number, (donor_dir, mask, scale) in enumerate(contributions, start=1):
        donor, _ = open_donor(donor_dir, base, mask)
        donors.append(Donor(f"donor {number} ({donor.folder})", donor, mask, scale))
    union, collided, change = _combine(base.model, base, donors, collisions)
    settled = {"collisions": collisions, "collided_channels": collided}
    steps = read_steps(base.folder) + [
        describe_step("merge", base.folder, donor, mask, scale, **settled)
        for donor, mask, scale in contributions
    ]
    base.rewrite(output_dir, selections(base.model, union), change, steps)
    return MergeReport(union, collided, collisions, folder=output_dir)


def _combine(
    model: nn.Module, base: Mapping[str, Tensor], donors: Sequence[Donor], rule: str
) -> tuple[ChannelMask, int, Change]:
    """The union of the masks, how many channels collide in it, and the new values."""
    masks = [donor.mask for donor in donors]
    union = ChannelMask(reduce(or_, masks).channels, {"combined": "union"})
    counts = {
        name: torch.stack([mask.channels[name].cpu() for mask in masks]).sum(dim=0)
        for name in union.channels
    }
    collided = sum(int((count > 1).sum()) for count in counts.values())
    if rule == "largest":
        shared = {name for name, count in counts.items() if (count > 1).any()}
        masks = _keep_largest(model, base, donors, shared)
    selected = selections(model, union)
    pairs = [(donor, selections(model, mask)) for donor, mask in zip(donors, masks, strict=True)]

    def change(name: str, matrix: Tensor) -> Iterator[tuple[Index, Tensor]]:
        claimants = [(donor, own[name]) for donor, own in pairs if name in own]
        donated = [shared_rows(as_matrix(donor.parameters[name]), matrix) for donor, _ in claimants]
        for index in selected[name].indices():
            before = take_elements(matrix, index)
            wide = before.to(torch.promote_types(before.dtype, torch.float32))
            claims = [selection.at(index).expand_as(before) for _, selection in claimants]
            claimed = torch.stack(claims).to(wide.device)
            # scaled task vectors, 0 where a donor does not claim the element
            steps = torch.stack([take_elements(rows, index).to(wide) for rows in donated])
            for step, (donor, _) in zip(steps.sub_(wide), claimants, strict=True):
                step.mul_(donor.scale)
            steps.masked_fill_(~claimed, 0)
            values = (wide + RULES[rule](steps, claimed)).to(before.dtype)
            names = [donor.name for donor, _ in claimants]
            sources = {"the base": before} | dict(zip(names, steps, strict=True))
            require_finite(name, values, sources, ", ".join(f"{d.scale:g}" for d, _ in claimants))
            yield index, values

    return union, collided, change


def _keep_largest(
    model: nn.Module, base: Mapping[str, Tensor], donors: Sequence[Donor], shared: set[str]
) -> list[ChannelMask]:
    """Each donor's mask without the channels on which another claimant's step is larger."""
    claims = [
        {name: part.cpu().clone() for name, part in donor.mask.channels.items()} for donor in donors
    ]
    norms = [channel_norms(model, donor.parameters, base, shared) for donor in donors]
    for name in shared:
        steps = [norm[name] * abs(d.scale) for norm, d in zip(norms, donors, strict=True)]
        sizes = torch.stack(steps).nan_to_num(nan=torch.inf)  # refused where it would be written
        sizes = sizes.where(torch.stack([claim[name] for claim in claims]), -1.0)
        for claim, size in zip(claims, sizes, strict=True):
            claim[name] &= size == sizes.amax(dim=0)
    return [ChannelMask(claim) for claim in claims]


def _require_valid(base: nn.Module, contributions: Sequence[Contribution], collisions: str) -> None:
    _require_mergeable(contributions, collisions)
    for donor, mask, _ in contributions:
        require_movable(donor, base)
        require_fit(base, mask)


def _require_mergeable(contributions: Sequence[tuple], collisions: str) -> None:
    require_known("the collision rule", [collisions], RULES)
    if not contributions:
        raise ValueError("there is no contribution to merge")
    for each in contributions:
        if len(each) != 3:
            raise ValueError("a contribution is (donor, mask, scale); give each its scale")
        require_scale(each[2])
