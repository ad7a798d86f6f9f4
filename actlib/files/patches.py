"""Ability patches: the moved channels of a transfer alone, as one small file to share.

    make_patch("target", "donor", mask, "maths.safetensors", scale=0.4)
    apply_patch("target", "maths.safetensors", "output")     # a folder, as transfer_checkpoint's
    apply_patch(model, "maths.safetensors")                  # in place, in memory
    revert_patch(model, "maths.safetensors")                 # bit for bit
    print(inspect_patch("maths.safetensors").parameter_percent)

A patch fits one target only: it holds SHA-256 of the elements that it replaces, and is refused
where they differ. So patches of disjoint elements apply in any order, and overlapping ones only in
the order in which they were made. Models are read tensor by tensor, never whole.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath

from torch import Tensor, nn

import actlib
from actlib.files import checkpoints
from actlib.files.checkpoints import StoredTensor, empty_model, planned, renamed, stored_tensors
from actlib.files.patch_files import (
    DTYPES,
    RESERVED,
    Edit,
    PatchFile,
    PatchInfo,
    digest,
    open_patch,
    write_patch,
)
from actlib.masks import ChannelMask, shortened
from actlib.pairing.pairs import require_pair
from actlib.transfer import Selection, interpolated, require_scale, selections

_NOTE = "act_patches.json"
_LIBRARIES = ("torch", "transformers", "safetensors")


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
    roles = {"target": target_folder.resolve().name, "donor": donor_folder.resolve().name}
    told = {key: mask.metadata[key] for key in ("ability", "ranking") if key in mask.metadata}
    told = _shareable({**roles, **told, **(metadata or {})})
    stored, donated = stored_tensors(target_folder), stored_tensors(donor_folder)
    target, donor = empty_model(target_folder), empty_model(donor_folder)
    require_pair(donor, target, *checkpoints.tokenizers_of(donor_folder, target_folder))
    plan = planned(
        selections(target, mask), target, renamed(stored, target), renamed(donated, donor)
    )
    edits: dict[str, Edit] = {}
    for selection, ours, theirs in plan:
        open_pair = partial(_opened, ours, target_folder), partial(_opened, theirs, donor_folder)
        edit = Edit(selection, ours.dtype, partial(_changes, selection, *open_pair, scale))
        _require_same_copies(edits.setdefault(selection.name, edit), edit)
    told |= _description(mask, scale, sum(each.numel() for each in target.parameters()))
    write_patch(path, told, edits.values(), reversible)
    return inspect_patch(path)


def apply_patch(
    folder_or_model: str | os.PathLike | nn.Module,
    path: str | os.PathLike,
    out: str | os.PathLike | None = None,
) -> Path | None:
    """Give a target the patch's values.

    Args:
        folder_or_model: the model folder, which stays as it is, or a model, which is changed.
        path: the patch.
        out: folder to write, absent or empty, for a model folder. It appears whole or not at all,
            with the same weights as `transfer_checkpoint` writes and all other files of the target;
            `act_patches.json` in it lists the patches applied.

    Returns:
        The path of the output folder; None for a model.

    Raises:
        ValueError: the file is no patch or damaged, the target is not the one that the patch was
            made for (the tensor is named), the patch is already applied, or the output is taken.
            Nothing is changed then.
    """
    with open_patch(path) as patch:
        return _move(folder_or_model, patch, out, ("before", "after"))


def revert_patch(
    folder_or_model: str | os.PathLike | nn.Module,
    path: str | os.PathLike,
    out: str | os.PathLike | None = None,
) -> Path | None:
    """Give a patched target its original values back, bit for bit.

    Args:
        folder_or_model: the patched folder, which stays as it is, or model, which is changed.
        path: the patch; it must be reversible.
        out: folder to write, as for `apply_patch`.

    Returns:
        The path of the output folder; None for a model.

    Raises:
        ValueError: as `apply_patch`; the values are not the patch's, or the patch was made without
            the original values. Nothing is changed then.
    """
    with open_patch(path) as patch:
        if not patch.info.reversible:
            raise ValueError(f"{path} cannot be reverted: it was made without the original values")
        return _move(folder_or_model, patch, out, ("after", "before"))


def inspect_patch(path: str | os.PathLike) -> PatchInfo:
    """What a patch says of itself; its values are not read.

    Raises:
        ValueError: there is no such file, it is cut off, or it is no patch.
    """
    with open_patch(path) as patch:
        return patch.info


def _opened(found: Tensor | StoredTensor, folder: Path | None, writable: bool = False) -> Tensor:
    return found.open(folder, writable) if isinstance(found, StoredTensor) else found.detach()


def _changes(selection: Selection, ours, theirs, scale: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Values before and after of each piece; the files are opened only now."""
    target, donor = ours(), theirs()
    for index in selection.pieces():
        yield target[index], interpolated(target[index], donor[index], scale)


def _require_same_copies(first: Edit, second: Edit) -> None:
    """A patch holds a tied tensor once, so copies of it in the files must agree."""
    if first is second:
        return
    hashes = {digest(before for before, _ in edit.values()) for edit in (first, second)}
    if first.dtype != second.dtype or len(hashes) > 1:
        name = first.selection.name
        raise ValueError(f"the target's files hold {name} twice, with different values")


def _description(mask: ChannelMask, scale: float, parameters: int) -> dict[str, str]:
    libraries = {"actlib": actlib.__version__, **{name: version(name) for name in _LIBRARIES}}
    return {
        "mask_sha256": mask.digest,
        "channels": str(mask.count),
        "channel_percent": repr(mask.percent),
        "scale": repr(float(scale)),
        "parameters": str(parameters),
        "created_with": json.dumps(libraries),
    }


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
    patch: PatchFile,
    out: str | os.PathLike | None,
    sides: tuple[str, str],
) -> Path | None:
    """Take a target from one side of the patch (before, after) to the other."""
    if isinstance(place, nn.Module):
        if out is not None:
            raise ValueError("a model in memory is changed in place, so `out` must not be given")
        found = _fitted(patch, place, None)
        _require_state(patch, found, None, sides)
        _write(patch, found, None, sides[1])
        return None
    if out is None:
        raise ValueError(f"`out` must name the folder to write, because {place} stays as it is")
    folder, out = Path(place), Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"the output folder {out} exists and is not empty")
    stored = stored_tensors(folder)
    found = _fitted(patch, empty_model(folder), stored)
    _require_state(patch, found, folder, sides)
    note = _noted(patch, folder, sides)
    with _appearing(out) as unfinished:
        checkpoints.copy_folder(folder, unfinished)
        _write(patch, found, unfinished, sides[1])
        if note:
            (unfinished / _NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        else:
            (unfinished / _NOTE).unlink(missing_ok=True)
    return out


def _fitted(
    patch: PatchFile, model: nn.Module, stored: Mapping[str, StoredTensor] | None
) -> list[tuple[Selection, Tensor | StoredTensor]]:
    """What the patch selects, beside the model's own tensors or those that its files store."""
    parameters = dict(model.named_parameters())
    total, expected = sum(each.numel() for each in parameters.values()), patch.info.metadata
    if str(total) != expected["parameters"]:
        wanted = expected["parameters"]
        raise ValueError(f"the patch is of a model with {wanted} parameters, this one has {total}")
    for name, part in patch.parts.items():
        if name not in parameters or tuple(parameters[name].shape) != part.shape:
            wanted = " x ".join(map(str, part.shape))
            raise ValueError(f"the patch is of a model with {name} of {wanted}, this one has none")
    chosen = {name: patch.selection(name) for name in patch.parts}
    if stored is None:
        found = [(selection, parameters[name]) for name, selection in chosen.items()]
    else:
        named = renamed(stored, model)
        found = [(selection, ours) for selection, ours, _ in planned(chosen, model, named, named)]
    for selection, tensor in found:
        held = DTYPES[tensor.dtype] if isinstance(tensor, StoredTensor) else tensor.dtype
        wanted = DTYPES.get(patch.parts[selection.name].dtype)
        if held != wanted:
            raise ValueError(f"{selection.name} is {held}, and the patch is made for {wanted}")
    return found


def _require_state(
    patch: PatchFile, found: list, folder: Path | None, sides: tuple[str, str]
) -> None:
    """Refuse a target that is not on the first side of the patch, and a damaged patch."""
    wrong, moved = [], True  # `moved`: everything is on the second side.
    for selection, tensor in found:
        patch.check(selection)
        part, held = patch.parts[selection.name], _opened(tensor, folder)
        now = digest(held[index] for index in selection.pieces())
        moved = moved and now == getattr(part, sides[1])
        if now != getattr(part, sides[0]):
            wrong.append(selection.name)
    if wrong and moved:
        done = "already applied to" if sides[1] == "after" else "not applied to"
        raise ValueError(f"the patch {patch.path} is {done} this target")
    if wrong:
        raise ValueError(
            f"the target does not hold the values that it had {sides[0]} the patch {patch.path} "
            f"(their SHA-256 differs): {shortened(wrong, 3)}"
        )


def _write(patch: PatchFile, found: list, folder: Path | None, side: str) -> None:
    for selection, tensor in found:
        held = _opened(tensor, folder, writable=True)
        for index, values in patch.pieces(selection, side):
            held[index] = values.to(held.device)


def _noted(patch: PatchFile, folder: Path, sides: tuple[str, str]) -> list[dict]:
    """The folder's list of applied patches, with this one added or taken away."""
    path, told = folder / _NOTE, patch.info.metadata
    entry = {key: told[key] for key in ("target", "donor", "mask_sha256", "scale") if key in told}
    try:
        listed = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        if not isinstance(listed, list):
            raise ValueError("no list")
    except ValueError as error:
        raise ValueError(f"{path} is not a list of patches: {error}") from error
    if sides[1] == "after":
        return [*listed, entry]
    if entry in listed:
        listed.remove(entry)
    return listed


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name at the end, or goes away after an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # Temporary folders are private.
        unfinished.replace(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
