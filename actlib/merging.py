"""Merges several specialists into their common base, each giving only its own channels.

    report = merge(base, [(maths, maths_mask, 0.4), (german, german_mask, 0.4)], collisions="sum")
    print(report.collisions, "channels were claimed by more than one donor")
    merge_checkpoint("base", [("maths", maths_mask, 0.4), ("german", other, 0.4)], "merged")

Of each claimed element the base's value becomes base + the combination of scale * (donor - base) by
the collision rule. Models in memory and folders go through the same functions and get the same
bits.
"""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actlib.cards import describe_step, read_steps, write_card
from actlib.channels import require_in_memory
from actlib.checkpoint import Checkpoint, require_matching, rows_of
from actlib.collisions import (
    RULES,
    channel_norms,
    claims_per_channel,
    combine,
    count_collisions,
    largest_claims,
)
from actlib.files import atomic_folder, require_free
from actlib.masks import ChannelMask, require_fit
from actlib.pairs import require_pair
from actlib.transfer import Index, Selection, as_matrix, require_finite, require_scale, selections
from actlib.vocabulary import shared_rows

Contribution = tuple[nn.Module, ChannelMask, float]


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
    parameters = dict(base.named_parameters())
    donated = [dict(donor.named_parameters()) for donor, _, _ in contributions]
    names = [f"donor {number}" for number in range(1, len(donated) + 1)]
    union, donors = _settle(base, parameters, donated, names, contributions, collisions)
    collided = count_collisions([mask for _, mask, _ in contributions])
    changes = [  # all of them computed before the first is made
        (matrix, index, values)
        for name, selection in selections(base, union).items()
        for matrix in [as_matrix(parameters[name])]
        for index, values in _merge_rows(name, 0, matrix, selection, donors, collisions)
    ]
    for matrix, index, values in changes:
        matrix[index] = values
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
        ValueError: as `transfer_checkpoint`; the rule is unknown, or there is no contribution.
            Nothing is written then.
    """
    output_dir = Path(output_dir)
    _require_mergeable(contributions, collisions)
    require_free(output_dir)
    base, donated = Checkpoint(base_dir), []
    for donor_dir, mask, scale in contributions:
        donated.append(Checkpoint(donor_dir))
        require_matching(donated[-1], base)
        require_fit(base.model, mask)
        require_scale(scale)
    for donor, (_, mask, _) in zip(donated, contributions, strict=True):
        donor.require(selections(base.model, mask), "donor")
        base.require(selections(base.model, mask), "base")
    names = [str(donor.folder) for donor in donated]
    union, donors = _settle(base.model, base, donated, names, contributions, collisions)
    collided = count_collisions([mask for _, mask, _ in contributions])
    report = MergeReport(union, collided, collisions, folder=output_dir)
    settled = {"collisions": collisions, "collided_channels": collided}
    steps = read_steps(base.folder) + [
        describe_step("merge", base.folder, donor, mask, scale, **settled)
        for donor, mask, scale in contributions
    ]

    selected = selections(base.model, union)

    def change(name: str, start: int, matrix: Tensor) -> Iterator[tuple[Index, Tensor]]:
        part = selected[name].between(start, start + len(matrix))
        return _merge_rows(name, start, matrix, part, donors, collisions)

    with atomic_folder(output_dir) as unfinished:
        base.rewrite(unfinished, selected, change)
        write_card(unfinished, steps)
    return report


@dataclass(frozen=True, eq=False)
class _Donor:
    """What one donor gives.

    Attributes:
        name: what to call it in an error.
        parameters: by name, in memory or in files.
        scale: the paper's lambda.
        claims: the elements that it gives of each parameter.
    """

    name: str
    parameters: Mapping[str, Tensor]
    scale: float
    claims: dict[str, Selection]


def _settle(
    model: nn.Module,
    base: Mapping[str, Tensor],
    donated: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    contributions: Sequence[tuple],
    rule: str,
) -> tuple[ChannelMask, list[_Donor]]:
    """The union of the masks, and what each donor gives of it."""
    masks = [mask for _, mask, _ in contributions]
    scales = [scale for _, _, scale in contributions]
    union = ChannelMask(reduce(or_, masks).channels, {"combined": "union"})
    claimed = masks
    if rule == "largest":
        shared = ChannelMask({name: count > 1 for name, count in claims_per_channel(masks).items()})
        norms = [channel_norms(model, base, each, shared) for each in donated]
        claimed = largest_claims(norms, masks, scales)
    donors = [
        _Donor(name, parameters, scale, selections(model, mask))
        for name, parameters, scale, mask in zip(names, donated, scales, claimed, strict=True)
    ]
    return union, donors


def _merge_rows(
    name: str,
    start: int,
    base: Float[Tensor, "rows columns"],
    union: Selection,
    donors: Sequence[_Donor],
    rule: str,
) -> Iterator[tuple[Index, Tensor]]:
    """New values of the elements that some donor gives, chunk by chunk, with their index.

    Args:
        name: the parameter.
        start: its row that is the first of `base`.
        base: some rows of it.
        union: what is selected of these rows.
        donors: what they give of all of its rows.
        rule: how shared claims are settled.
    """
    stop, givers = start + len(base), [donor for donor in donors if name in donor.claims]
    rows = [shared_rows(rows_of(donor.parameters, name, start, stop), base) for donor in givers]
    claims = [donor.claims[name].between(start, stop) for donor in givers]
    for index in union.indices():
        before = base[index]
        wide = before.to(torch.promote_types(before.dtype, torch.float32))
        # scaled task vectors, and which of their elements count
        pairs = zip(rows, givers, strict=True)
        deltas = torch.stack([(own[index].to(wide) - wide) * donor.scale for own, donor in pairs])
        claimed = torch.stack([claim.at(index).expand_as(before) for claim in claims])
        values = (wide + combine(deltas, claimed.to(wide.device), rule)).to(before.dtype)
        sources = {donor.name: delta for donor, delta in zip(givers, deltas, strict=True)}
        scales = ", ".join(f"{donor.scale:g}" for donor in givers)
        require_finite(name, values, {"base": before, **sources}, scales)
        yield index, values


def _require_valid(base: nn.Module, contributions: Sequence[Contribution], collisions: str) -> None:
    _require_mergeable(contributions, collisions)
    for donor, mask, scale in contributions:
        require_pair(donor, base)
        require_in_memory(donor, base)
        require_fit(base, mask)
        require_scale(scale)


def _require_mergeable(contributions: Sequence[object], collisions: str) -> None:
    if collisions not in RULES:
        raise ValueError(
            f"unknown collision rule {collisions!r}, expected one of {', '.join(RULES)}"
        )
    if not contributions:
        raise ValueError("there is no contribution to merge")
