"""Merges several specialists' folders into that of their common base without loading a model.

    report = merge_checkpoint("base", [("maths", mask, 0.4), ("german", other, 0.4)], "merged")
    print(report.collisions, "channels were claimed by more than one donor")

The same values, to the bit, as `actlib.merge` of the loaded models.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actlib.cards import describe_step, read_steps, write_card
from actlib.channels import channel_modules
from actlib.files import atomic_folder, require_free
from actlib.folders.folders import ModelFolder, open_folder, require_matching
from actlib.folders.layouts import StoredParameter
from actlib.folders.rewriting import Change, write_changed
from actlib.folders.slabs import OpenFiles, Slab, read, slabs_of
from actlib.masks import ChannelMask, require_fit
from actlib.merging import combined, count_collisions, largest_claims, require_mergeable
from actlib.transfer import Selection, require_finite, require_scale, selections


@dataclass(frozen=True, eq=False)
class CheckpointMerge:
    """A merged folder and what went into it.

    Attributes:
        folder: the merged model's folder.
        union: channels that some donor gave.
        collisions: number of channels that more than one donor claimed.
        rule: how those were settled.
    """

    folder: Path
    union: ChannelMask
    collisions: int
    rule: str


@dataclass(frozen=True)
class _Given:
    """What one donor gives: its open folder, and the selections of its claims."""

    folder: ModelFolder
    files: OpenFiles
    scale: float
    claims: dict[str, Selection]

    def stored(self, name: str) -> StoredParameter:
        return self.folder.located(self.claims[name], "donor")[0]


def merge_checkpoint(
    base_dir: str | os.PathLike,
    contributions: Sequence[tuple[str | os.PathLike, ChannelMask, float]],
    output_dir: str | os.PathLike,
    collisions: str = "sum",
) -> CheckpointMerge:
    """Write a copy of a base's folder to which each donor gave the channels of its mask.

    See `actlib.merge_` for the formula. The folder also gets a note and a model card, as one of
    `transfer_checkpoint`.

    Args:
        base_dir: Hugging Face folder with safetensors weights: the donors' common base.
        contributions: a donor's folder, its mask and its scale, each.
        output_dir: folder to write, absent or empty. It appears whole or not at all.
        collisions: "sum", "average" or "largest", for channels that several donors claim.

    Returns:
        The output folder, the union of the masks and the number of collisions.

    Raises:
        ValueError: as `transfer_checkpoint`; the rule is unknown, or there is no contribution.
            Nothing is written then.
    """
    base_dir, output_dir = Path(base_dir), Path(output_dir)
    require_mergeable(contributions, collisions)
    require_free(output_dir)
    base = open_folder(base_dir)
    masks = [mask for _, mask, _ in contributions]
    donors = [_fitting(base, *each) for each in contributions]
    union = ChannelMask(reduce(or_, masks).channels, {"combined": "union"})
    report = CheckpointMerge(output_dir, union, count_collisions(masks), collisions)
    steps = read_steps(base_dir) + [
        describe_step(
            *("merge", base_dir, donor, mask, scale),
            collisions=collisions,
            collided_channels=report.collisions,
        )
        for donor, mask, scale in contributions
    ]
    with ExitStack() as stack:
        files = [stack.enter_context(OpenFiles(donor.path)) for donor in donors]
        ours = stack.enter_context(OpenFiles(base_dir))
        claimed = masks
        if collisions == "largest":
            disputed = _disputed(masks)
            norms = [
                _norms(base, ours, *each, disputed) for each in zip(donors, files, strict=True)
            ]
            scales = [scale for _, _, scale in contributions]
            claimed = largest_claims(norms, list(zip(masks, scales, strict=True)))
        given = [
            _Given(donor, opened, scale, selections(base.model, mask))
            for donor, opened, (_, _, scale), mask in zip(
                donors, files, contributions, claimed, strict=True
            )
        ]
        changes = _changes(base, union, given, collisions)
        unfinished = stack.enter_context(atomic_folder(output_dir))
        write_changed(base, unfinished, changes)
        write_card(unfinished, steps)
    return report


def _fitting(
    base: ModelFolder, donor_dir: str | os.PathLike, mask: ChannelMask, scale: float
) -> ModelFolder:
    donor = open_folder(Path(donor_dir), like=base)
    require_matching(donor, base)
    require_fit(base.model, mask)
    require_scale(scale)
    return donor


def _changes(
    base: ModelFolder, union: ChannelMask, given: Sequence[_Given], rule: str
) -> list[Change]:
    changes = []
    for name, selection in selections(base.model, union).items():
        parts = [(each, each.stored(name)) for each in given if name in each.claims]
        changes += [
            Change(selection, stored, partial(_merged, name, parts, rule))
            for stored in base.located(selection, "base")
        ]
    return changes


def _merged(
    name: str,
    parts: Sequence[tuple[_Given, StoredParameter]],
    rule: str,
    slab: Slab,
    values: Tensor,
) -> Tensor:
    """A slab's values after the merge, from those in the base."""
    base = values.to(torch.promote_types(values.dtype, torch.float32))
    deltas, claims = [], []
    for given, stored in parts:
        theirs = read(given.files, stored, slab).to(base.dtype)
        deltas.append((theirs - base) * given.scale)
        claims.append(_claimed(given.claims[name], slab).expand_as(base))
    merged = (base + combined(torch.stack(deltas), torch.stack(claims), rule)).to(values.dtype)
    sides = {f"{given.folder.path}": delta for (given, _), delta in zip(parts, deltas, strict=True)}
    scales = ", ".join(f"{given.scale:g}" for given, _ in parts)
    require_finite(name, merged, {"base": values, **sides}, scales)
    return merged


def _claimed(selection: Selection, slab: Slab) -> Bool[Tensor, "rows _"]:
    """Which elements of a slab a selection has, as columns that broadcast where all are alike."""
    rows = selection.rows[slab.rows, None]
    if selection.columns is None:
        return rows
    columns = selection.columns
    return rows | (columns if slab.columns is None else columns[slab.columns])


def _disputed(masks: Sequence[ChannelMask]) -> ChannelMask:
    """Channels that more than one mask has."""
    return ChannelMask(
        {
            name: torch.stack([mask.channels[name].cpu() for mask in masks]).sum(dim=0) > 1
            for name in masks[0].channels
        }
    )


def _norms(
    base: ModelFolder,
    ours: OpenFiles,
    donor: ModelFolder,
    theirs: OpenFiles,
    disputed: ChannelMask,
) -> dict[str, Float[Tensor, " channels"]]:
    """L2 norms as of `weight_differences`, of the disputed channels; the others' are 0."""
    squares = {
        name: _squares(selection, (ours, base), (theirs, donor))
        for name, selection in selections(base.model, disputed).items()
    }
    names = {id(parameter): name for name, parameter in base.model.named_parameters()}
    norms = {}
    for module, found in channel_modules(base.model).items():
        total = torch.zeros(found.channels, dtype=torch.float64)
        for parameter, dimension in found.parameters().values():
            if names[id(parameter)] in squares:
                total += squares[names[id(parameter)]][dimension]
        norms[module] = torch.where(disputed.channels[module], total, 0.0).sqrt().float()
    return norms


def _squares(
    selection: Selection, ours: tuple[OpenFiles, ModelFolder], theirs: tuple[OpenFiles, ModelFolder]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " columns"]]:
    """Summed squared differences of each selected row, and of each selected column."""
    stored = ours[1].located(selection, "base")[0]
    donated = theirs[1].located(selection, "donor")[0]
    rows = torch.zeros(len(selection.rows), dtype=torch.float64)
    columns = torch.zeros(selection.shape[-1], dtype=torch.float64)
    for slab in slabs_of(stored, selection):
        other, own = read(theirs[0], donated, slab), read(ours[0], stored, slab)
        square = (other.float() - own.float()).square().double()
        if slab.columns is not None:
            columns[slab.columns] += square.sum(dim=0)
            continue
        rows[slab.rows] += square.sum(dim=1)
        if selection.columns is not None:  # A row crosses all columns, of which it is a part.
            columns += square.sum(dim=0)
    return rows, columns
