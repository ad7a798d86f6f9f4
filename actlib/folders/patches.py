"""Ability patches: the moved channels of a transfer alone, as one small file to share.

    make_patch("target", "donor", mask, "maths.safetensors", scale=0.4)
    apply_patch("target", "maths.safetensors", "output")     # a folder, as transfer_checkpoint's
    apply_patch(model, "maths.safetensors")                  # in place, in memory
    revert_patch(model, "maths.safetensors")                 # bit for bit
    print(inspect_patch("maths.safetensors").parameter_percent)

A patch fits one target only: it holds SHA-256 of the elements that it replaces, and is refused
where they differ. So patches of disjoint elements apply in any order, and overlapping ones only in
the order in which they were made. Models are read a few megabytes at a time, never whole.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from torch import Tensor, nn

from actlib.cards import describe_step
from actlib.folders.folders import open_folder, planned, require_matching
from actlib.folders.patch_files import RESERVED, PatchFile, PatchInfo, digest, open_patch
from actlib.folders.patch_writing import Edit, write_patch
from actlib.folders.patching import move_folder, move_model
from actlib.folders.selecting import Selection, moved, require_scale, selections
from actlib.folders.slabs import OpenFiles, Slab, read, slabs_of
from actlib.layouts import StoredParameter
from actlib.masks import ChannelMask


def make_patch(
    target_folder: str | os.PathLike,
    donor_folder: str | os.PathLike,
    mask: ChannelMask,
    path: str | os.PathLike,
    *,
    scale: float = 0.4,
    metadata: Mapping[str, str] | None = None,
    reversible: bool = True,
) -> PatchInfo:
    """Write what `transfer_checkpoint` would change to a file of its own.

    New values are target + scale * (donor - target), in the target's dtype. Source: ACT.

    Args:
        target_folder: Hugging Face folder with safetensors weights, in one file or several.
        donor_folder: such a folder of the same architecture.
        mask: channels to move.
        path: file to write; one that is there is replaced.
        scale: the paper's lambda.
        metadata: text to keep with the patch, such as the models' names on the Hub as `donor` and
            `target`; without them these are the folders' names.
        reversible: keep the original values too, so that the patch can be taken back. Without them
            the file has half the size.

    Returns:
        What the patch says of itself.

    Raises:
        ValueError: as `transfer_checkpoint`; the mask is empty, the metadata hold a local path or
            a reserved name, or a tied tensor is stored twice with different values.
    """
    require_scale(scale)
    target_folder, donor_folder = Path(target_folder), Path(donor_folder)
    if Path(path).is_dir():
        raise ValueError(f"a patch is one file, and {path} is a folder")
    if mask.count == 0:
        raise ValueError("a patch needs at least one masked channel, and the mask is empty")
    step = describe_step("patch", target_folder, donor_folder, mask, scale)
    own = {key: str(value) for key, value in step.items() if key in RESERVED}
    known = {key: str(value) for key, value in step.items() if key not in RESERVED}
    told = _shareable({**known, **(metadata or {})})
    target = open_folder(target_folder)
    donor = open_folder(donor_folder, like=target)
    require_matching(donor, target)
    with OpenFiles(target_folder) as files, OpenFiles(donor_folder) as donated:
        edits: dict[str, Edit] = {}
        for selection, ours, theirs in planned(selections(target.model, mask), target, donor):
            values = partial(_changes, selection, (files, ours), (donated, theirs), scale)
            edit = Edit(selection, ours.dtype, values)
            _require_same_copies(edits.setdefault(selection.name, edit), edit)
        parameters = sum(each.numel() for each in target.model.parameters())
        told |= {**own, "parameters": str(parameters)}
        write_patch(path, told, edits.values(), reversible)
    return inspect_patch(path)


def apply_patch(
    folder_or_model: str | os.PathLike | nn.Module,
    patch: str | os.PathLike | PatchFile,
    out: str | os.PathLike | None = None,
) -> Path | None:
    """Give a target the patch's values.

    The target must hold, bit for bit, the values that the patch replaces: they are compared with
    those in the patch, or where it was made without them, by SHA-256.

    Args:
        folder_or_model: the model folder, which stays as it is, or a model, which is changed.
        patch: its file, or what `open_patch` gave: who switches a patch on and off often spares
            opening it each time.
        out: folder to write, absent or empty, for a model folder. It appears whole or not at all,
            with the same weights as `transfer_checkpoint` writes and all other files of the target;
            `act_patches.json` in it lists the patches applied, and so does its model card.

    Returns:
        The path of the output folder; None for a model.

    Raises:
        ValueError: the file is no patch or damaged, the target is not the one that the patch was
            made for (the tensor is named), the patch is already applied, or the output is taken.
            Nothing is changed then; a model in memory, which is changed while it is checked, gets
            its values back.
    """
    return _move(folder_or_model, patch, out, ("before", "after"))


def revert_patch(
    folder_or_model: str | os.PathLike | nn.Module,
    patch: str | os.PathLike | PatchFile,
    out: str | os.PathLike | None = None,
) -> Path | None:
    """Give a patched target its original values back, bit for bit.

    Args:
        folder_or_model: the patched folder, which stays as it is, or model, which is changed.
        patch: as for `apply_patch`; it must be reversible.
        out: folder to write, as for `apply_patch`.

    Returns:
        The path of the output folder; None for a model.

    Raises:
        ValueError: as `apply_patch`; the values are not the patch's, or the patch was made without
            the original values. As with `apply_patch`, nothing is changed then.
    """
    return _move(folder_or_model, patch, out, ("after", "before"))


def inspect_patch(path: str | os.PathLike) -> PatchInfo:
    """What a patch says of itself; its values are not read.

    Raises:
        ValueError: there is no such file, it is cut off, or it is no patch.
    """
    with open_patch(path) as patch:
        return patch.info


def _changes(
    selection: Selection,
    ours: tuple[OpenFiles, StoredParameter],
    theirs: tuple[OpenFiles, StoredParameter],
    scale: float,
) -> Iterator[tuple[Slab, Tensor, Tensor]]:
    """Slabs with their values before and after."""
    for slab in slabs_of(ours[1], selection):
        before = read(*ours, slab)
        yield slab, before, moved(before, read(*theirs, slab), scale, selection.name)


def _require_same_copies(first: Edit, second: Edit) -> None:
    """A patch holds a tied tensor once, so copies of it in the files must agree."""
    if first is second:
        return
    hashes = {digest(before for _, before, _ in edit.values()) for edit in (first, second)}
    if first.dtype != second.dtype or len(hashes) > 1:
        name = first.selection.name
        raise ValueError(f"the target's files hold {name} twice, with different values")


def _shareable(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata, where they are text that may be published."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"the metadata must be text, got {key!r}: {value!r}")
        if key in RESERVED:
            raise ValueError(f"the metadata entry {key} is set by the patch itself")
        local = value.startswith(("~", "file:")) or PurePosixPath(value).is_absolute()
        if local or PureWindowsPath(value).drive:
            raise ValueError(f"the metadata entry {key} is a local path, which others cannot use")
    return dict(metadata)


def _move(
    place: str | os.PathLike | nn.Module,
    given: str | os.PathLike | PatchFile,
    out: str | os.PathLike | None,
    sides: tuple[str, str],
) -> Path | None:
    """Take a target from one side of the patch (before, after) to the other."""
    in_memory, destination = isinstance(place, nn.Module), None if out is None else Path(out)
    if in_memory and destination is not None:
        raise ValueError("a model in memory is changed in place, so `out` must not be given")
    if not in_memory and destination is None:
        raise ValueError(f"`out` must name the folder to write, because {place} stays as it is")
    with nullcontext(given) if isinstance(given, PatchFile) else open_patch(given) as patch:
        if sides[1] == "before" and not patch.info.reversible:
            raise ValueError(
                f"{patch.path} cannot be reverted: it was made without the original values"
            )
        if isinstance(place, nn.Module):
            move_model(place, patch, sides)
        elif destination is not None:
            move_folder(Path(place), patch, destination, sides)
    return destination
