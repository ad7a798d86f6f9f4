"""Ability patches: the moved channels of a transfer alone, as one safetensors file to share.

    make_patch("target", "donor", mask, "maths.safetensors", scale=0.4)
    apply_patch("target", "maths.safetensors", "output")     # a folder, as transfer_checkpoint's
    apply_patch(model, "maths.safetensors")                  # in place, in memory
    revert_patch(model, "maths.safetensors")                 # bit for bit
    print(inspect_patch("maths.safetensors").parameter_percent)

A patch fits one target: it is refused where the values that it replaces are others. So patches of
disjoint elements apply in any order, overlapping ones only in the order in which they were made.
The file itself is described in `actlib.patch_file`.
"""

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from actlib.cards import describe_step, read_steps
from actlib.channels import unwrapped
from actlib.checkpoint import Checkpoint, open_donor
from actlib.files import require_free, require_metadata
from actlib.masks import ChannelMask
from actlib.patch_file import Edit, PatchInfo, load_patch, save_patch, selected_values
from actlib.transfer import (
    Index,
    Selection,
    as_matrix,
    interpolation,
    require_movable,
    selections,
    write_,
)
from actlib.weights import require_float_weights, require_writable
from actlib.wording import list_first

RESERVED = (
    *("actlib", "format", "parameters", "created_with"),
    *("method", "scale", "channels", "percent", "mask_sha256"),
)
"""Metadata that say what was done, and are not the caller's."""

Model = nn.Module | str | os.PathLike


def make_patch(
    target: Model,
    donor: Model,
    mask: ChannelMask,
    path: str | os.PathLike,
    *,
    scale: float = 0.4,
    metadata: Mapping[str, str] | None = None,
) -> PatchInfo:
    """Write what `transfer_` or `transfer_checkpoint` would change to a separate file.

    New values are target + scale * (donor - target), in the target's dtype. Source: ACT.

    Args:
        target: model in memory, or Hugging Face folder with safetensors weights.
        donor: the same, of the same architecture.
        mask: channels to move.
        path: file to write; one that is there is replaced.
        scale: the paper's lambda.
        metadata: text to keep with the patch, such as the models' names on the Hub as `donor` and
            `target`; without them these are the folders' names.

    Raises:
        ValueError: one of target and donor is a folder and the other is not, a folder holds no
            usable weights, the models do not fit or are one, weights are offloaded or quantized,
            the mask is of another model, the scale is not finite, a value would be NaN or infinite,
            no number changes, or the metadata are no text, or named as what the patch itself
            states. Nothing is written then.
    """
    require_metadata(metadata or {}, RESERVED)
    step = describe_step("patch", _name(target), _name(donor), mask, scale) | dict(metadata or {})
    model, target_parameters, donor_parameters, selected = _open_pair(target, donor, mask)
    step |= {"parameters": sum(p.numel() for p in model.parameters())}
    edits, change = dict[str, Edit](), interpolation(donor_parameters, selected, scale)
    for name, selection in selected.items():
        matrix = as_matrix(target_parameters[name])
        after = torch.cat([values.flatten() for _, values in change(name, matrix)]).cpu()
        before = selected_values(matrix, selection)
        edits[name] = Edit(selection, {"after": after, "before": before})
    if all(torch.equal(edit.values["after"], edit.values["before"]) for edit in edits.values()):
        raise ValueError(
            "there is no difference between donor and target in the masked channels that changes a "
            "number of the target; take another donor, mask or scale"
        )
    return save_patch(path, edits, step)


def apply_patch(
    target: Model, path: str | os.PathLike, out: str | os.PathLike | None = None
) -> Path | None:
    """Give a target the patch's values.

    The target must hold, bit for bit, the values that the patch replaces. All of them are compared
    before the first one is set.

    Args:
        target: model folder, which stays as it is, or model in memory, which is changed.
        path: file of the patch.
        out: folder to write, absent or empty, for a model folder. It appears whole or not at all,
            with the weights and other files that `transfer_checkpoint` would write;
            its card and `actlib.json` tell of the patch.

    Returns:
        The path of the output folder; None for a model.

    Raises:
        ValueError: the file is no patch or damaged, the target is not the one that the patch was
            made for (the tensor is named), the patch is already applied, the model is offloaded, or
            the output is taken. Nothing is changed then.
    """
    return _replace_values(target, Path(path), out, "before", "after")


def revert_patch(
    target: Model, path: str | os.PathLike, out: str | os.PathLike | None = None
) -> Path | None:
    """Give a patched target its original values back, bit for bit.

    The target must hold the patch's new values. Arguments and result are those of `apply_patch`.

    Raises:
        ValueError: the file is no patch or damaged, the target is another one or the patch is not
            applied to it, the model is offloaded, or the output is taken. Nothing is changed then.
    """
    return _replace_values(target, Path(path), out, "after", "before")


def inspect_patch(path: str | os.PathLike) -> PatchInfo:
    """What a patch says of itself.

    Raises:
        ValueError: there is no such file, it is damaged, or it is no patch.
    """
    return load_patch(Path(path))[0]


def _replace_values(
    target: Model, path: Path, out: str | os.PathLike | None, old: str, new: str
) -> Path | None:
    """Take a target from one side of a patch ("before", "after") to the other."""
    if isinstance(target, nn.Module) != (out is None):
        raise ValueError(
            "give `out`, the folder to write, with a model folder, and with no model in memory"
        )
    state = path.stat() if path.is_file() else None
    info, edits = _load(path, state and (state.st_ino, state.st_size, state.st_mtime_ns))

    def change(name: str, _matrix: Tensor) -> Iterator[tuple[Index, Tensor]]:
        return edits[name].changes(new)

    if isinstance(target, nn.Module):
        target = unwrapped(target)
        require_writable(target)
        _require_target(path, edits, dict(target.named_parameters()), old, new)
        write_(target, edits, change)
        return None
    require_free(out := Path(str(out)))
    folder, steps = Checkpoint(target), read_steps(target)
    folder.require(edits, "target")
    require_float_weights(folder.model)
    _require_target(path, edits, folder, old, new)
    if new == "after":
        steps.append(info.metadata)
    elif info.metadata in steps:
        steps.remove(info.metadata)
    folder.rewrite(out, edits, change, steps)
    return out


@lru_cache(maxsize=1)
def _load(path: Path, state: tuple[int, ...] | None) -> tuple[PatchInfo, dict[str, Edit]]:
    """Read a patch, once while its file has that state, since a patch is switched on and off."""
    return load_patch(path)


def _require_target(
    path: Path, edits: Mapping[str, Edit], parameters: Mapping[str, Tensor], old: str, new: str
) -> None:
    """Refuse a target whose parameters are not those of a patch, or not at its side `old`."""
    mismatched = [name for name, edit in edits.items() if not edit.is_at(old, parameters.get(name))]
    if mismatched and all(edit.is_at(new, parameters.get(name)) for name, edit in edits.items()):
        done = "already applied to" if new == "after" else "not applied to"
        raise ValueError(f"the patch {path} is {done} this target, so nothing is to be done")
    if mismatched:
        expected = ["{} ({} x {}, {})".format(name, *edits[name].form) for name in mismatched]
        raise ValueError(
            f"the target does not hold the values that it had {old} the patch {path}: "
            f"{list_first(expected, 3)}; take the model that it was made for"
        )


def _open_pair(
    target: Model, donor: Model, mask: ChannelMask
) -> tuple[nn.Module, Mapping[str, Tensor], Mapping[str, Tensor], dict[str, Selection]]:
    """The target's structure, the parameters of both, and what moves."""
    if isinstance(target, nn.Module) and isinstance(donor, nn.Module):
        require_movable(donor, target)
        ours, theirs = (dict(unwrapped(model).named_parameters()) for model in (target, donor))
        return target, ours, theirs, selections(target, mask)
    if isinstance(target, nn.Module) or isinstance(donor, nn.Module):
        raise ValueError("target and donor must both be folders, or both be models in memory")
    folder = Checkpoint(target)
    donor_folder, selected = open_donor(donor, folder, mask)
    return folder.model, folder, donor_folder, selected


def _name(model: Model) -> str | os.PathLike:
    """What to call a model: its folder, or where it was loaded from."""
    if not isinstance(model, nn.Module):
        return model
    return getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
