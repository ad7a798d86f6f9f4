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
from torch import Tensor, nn

from actlib.cards import describe_step, read_steps, write_card
from actlib.checkpoint import Checkpoint, require_matching
from actlib.collisions import RULES, combine, largest_claims
from actlib.files import atomic_folder, require_free
from actlib.masks import ChannelMask, require_fit
from actlib.pairs import require_pair
from actlib.parameters import channel_norms
from actlib.transfer import (
    Change,
    Index,
    Rows,
    require_finite,
    require_scale,
    rows_of,
    selections,
    take,
    write_,
)
from actlib.vocabulary import shared_rows
from actlib.weights import require_in_memory

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
    donors = {
        f"donor {number}": rows_of(donor)
        for number, (donor, _, _) in enumerate(contributions, start=1)
    }
    union, collided, change = _settle(base, rows_of(base), donors, contributions, collisions)
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
        ValueError: as `transfer_checkpoint`; the rule is unknown, or there is no contribution.
            Nothing is written then.
    """
    output_dir = Path(output_dir)
    _require_mergeable(contributions, collisions)
    require_free(output_dir)
    base, donors = Checkpoint(base_dir), dict[str, Rows]()
    for number, (donor_dir, mask, scale) in enumerate(contributions, start=1):
        donor = Checkpoint(donor_dir)
        require_matching(donor, base)
        require_scale(scale)
        selected = selections(base.model, mask)
        donor.require(selected, "donor")
        base.require(selected, "base")
        donors[f"donor {number} ({donor.folder})"] = donor.rows
    union, collided, change = _settle(base.model, base.rows, donors, contributions, collisions)
    settled = {"collisions": collisions, "collided_channels": collided}
    steps = read_steps(base.folder) + [
        describe_step("merge", base.folder, donor, mask, scale, **settled)
        for donor, mask, scale in contributions
    ]
    with atomic_folder(output_dir) as unfinished:
        base.rewrite(unfinished, selections(base.model, union), change)
        write_card(unfinished, steps)
    return MergeReport(union, collided, collisions, folder=output_dir)


def _settle(
    model: nn.Module,
    base: Rows,
    donors: Mapping[str, Rows],
    contributions: Sequence[tuple],
    rule: str,
) -> tuple[ChannelMask, int, Change]:
    """The union of the masks, how many channels collide in it, and the new values.

    Args:
        model: the base's structure.
        base: its parameters, in memory or in files.
        donors: each donor's parameters, by what to call it in an error.
        contributions: a mask and a scale of each, the last two entries.
        rule: how shared claims are settled.
    """
    masks, scales = ([each[place] for each in contributions] for place in (-2, -1))
    union = ChannelMask(reduce(or_, masks).channels, {"combined": "union"})
    claims = {
        name: torch.stack([mask.channels[name].cpu() for mask in masks]).sum(dim=0)
        for name in union.channels
    }
    collided = sum(int((count > 1).sum()) for count in claims.values())
    if rule == "largest":
        shared = {name for name, count in claims.items() if (count > 1).any()}
        norms = [channel_norms(model, _steps(base, each), shared) for each in donors.values()]
        masks = largest_claims(norms, masks, scales)
    selected = selections(model, union)
    parts = [selections(model, mask) for mask in masks]
    givers = list(zip(donors, donors.values(), parts, scales, strict=True))

    def change(name: str, start: int, matrix: Tensor) -> Iterator[tuple[Index, Tensor]]:
        """New values of the elements of some rows that some donor gives."""
        stop = start + len(matrix)
        giving = [
            (called, shared_rows(rows(name, start, stop), matrix), own[name], scale)
            for called, rows, own, scale in givers
            if name in own
        ]
        for index in selected[name].between(start, stop).indices():
            before = take(matrix, index)
            wide = before.to(torch.promote_types(before.dtype, torch.float32))
            # scaled task vectors, and which of their elements count
            deltas = torch.stack(
                [(take(rows, index).to(wide) - wide) * scale for _, rows, _, scale in giving]
            )
            claimed = torch.stack(
                [own.between(start, stop).at(index).expand_as(before) for _, _, own, _ in giving]
            ).to(wide.device)
            values = (wide + combine(deltas, claimed, rule)).to(before.dtype)
            counting = deltas.where(claimed, 0)
            sources = {"the base": before}
            sources |= {each[0]: delta for each, delta in zip(giving, counting, strict=True)}
            require_finite(name, values, sources, ", ".join(f"{each[3]:g}" for each in giving))
            yield index, values

    return union, collided, change


def _steps(base: Rows, donor: Rows) -> Rows:
    """Differences of a donor to the base, in float32."""

    def rows(name: str, start: int, stop: int) -> Tensor:
        ours = base(name, start, stop)
        return shared_rows(donor(name, start, stop), ours).to(ours.device).float() - ours.float()

    return rows


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
