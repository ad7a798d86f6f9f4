"""Ability patches as sparse state dicts, for tools that know nothing of channels.

    save_file(sparse_values("maths.safetensors"), "sparse.safetensors")
    patch_of_sparse("target", load_file("sparse.safetensors"), "maths.safetensors")

Of each parameter NAME that changes, a sparse state dict holds `NAME.indices`, places in the
flattened parameter in ascending order, and `NAME.values`, what is there afterwards. So
`parameter.view(-1)[indices] = values` applies it, in plain torch.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from actlib.channels import unwrapped
from actlib.checkpoint import Checkpoint
from actlib.files import require_metadata
from actlib.patch_file import Edit, PatchInfo, load_patch, save_patch, selected_values
from actlib.patches import RESERVED
from actlib.transfer import Selection, as_matrix
from actlib.weights import require_in_memory
from actlib.wording import list_first


def sparse_values(path: str | os.PathLike) -> dict[str, Tensor]:
    """The new values of a patch as a sparse state dict.

    Raises:
        ValueError: as `inspect_patch`.
    """
    tensors = dict[str, Tensor]()
    for name, edit in load_patch(Path(path))[1].items():
        selected = edit.selection.at()
        after = torch.empty(selected.shape, dtype=edit.values["after"].dtype)
        for index, values in edit.changes("after"):
            after[index] = values
        tensors[f"{name}.indices"] = selected.flatten().nonzero().flatten()
        tensors[f"{name}.values"] = after[selected]
    return tensors


def patch_of_sparse(
    target: nn.Module | str | os.PathLike,
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
) -> PatchInfo:
    """Write a sparse state dict of whole rows and columns as a patch of a target.

    Args:
        target: model folder or model in memory, which has the values that the patch replaces.
        tensors: as `sparse_values` gives them.
        path: file to write.
        metadata: text to keep with the patch.

    Raises:
        ValueError: a parameter is not the target's, offloaded or not in its files, or places,
            values or metadata are none that a patch of the target can hold.
    """
    require_metadata(metadata or {}, RESERVED)
    names = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    if not names or {*tensors} != {f"{n}.{part}" for n in names for part in ("indices", "values")}:
        raise ValueError(
            f"a sparse state dict holds NAME.indices and NAME.values of each changed parameter "
            f"and nothing else, got {list_first([*tensors]) or 'no tensor'}"
        )
    parameters: Mapping[str, Tensor]
    if isinstance(target, nn.Module):
        require_in_memory(target)
        model, parameters = target, dict(unwrapped(target).named_parameters())
        if absent := [name for name in names if name not in parameters]:
            raise ValueError(f"the target has no parameter {absent[0]}; take another target")
    else:
        parameters = folder = Checkpoint(target)
        folder.require(names, "target")
        model = folder.model
    edits = {
        name: _edit(name, parameters[name], tensors[f"{name}.indices"], tensors[f"{name}.values"])
        for name in names
    }
    total = sum(parameter.numel() for parameter in model.parameters())
    return save_patch(path, edits, {"parameters": total, **(metadata or {})})


def _edit(name: str, parameter: Tensor, indices: Tensor, values: Tensor) -> Edit:
    """Turn values at places of a flattened parameter into an edit of whole rows and columns."""
    before = as_matrix(parameter)
    is_matched = 0 < len(indices) == len(values) and len(indices.unique()) == len(indices)
    is_matched &= indices.dtype in (torch.int32, torch.int64)
    if not (is_matched and 0 <= indices.min() and indices.max() < before.numel()):
        raise ValueError(
            f"{name} needs values each with a place of its own, a whole number within its elements"
        )
    selected = torch.zeros(before.shape, dtype=torch.bool)
    selected.view(-1)[indices] = True
    selection = Selection(rows := selected.all(1), selected[~rows].any(0))
    if values.dtype != before.dtype or not torch.equal(selection.at(), selected):
        raise ValueError(
            f"a patch needs whole rows and columns of {name} in {before.dtype}, and got others"
        )
    if not values.isfinite().all():
        raise ValueError(f"the values of {name} are NaN or infinite; make the state dict again")
    after = before.clone().cpu()
    after.view(-1)[indices] = values
    sides = {"after": after, "before": before}
    return Edit(selection, {side: selected_values(each, selection) for side, each in sides.items()})
