"""Takes a model, in memory or in its files, from one side of a patch to the other.

The sides are `before` and `after`. What is checked: that the patch is whole, that it is made for
this model, and that the model is on the side that it should leave. Where one of these is not so,
nothing is changed.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from actlib.cards import read_steps, write_card
from actlib.files import atomic_folder, require_free
from actlib.folders.exchanging import Swap, exchange_, swaps
from actlib.folders.folders import open_folder
from actlib.folders.patch_files import PatchFile, digest
from actlib.folders.rewriting import Change, write_changed
from actlib.folders.selecting import Selection
from actlib.folders.slabs import (
    OpenFiles,
    Slab,
    one_thread_each,
    put_,
    read,
    same_bits,
    slabs_of,
    take,
)
from actlib.layouts import StoredParameter
from actlib.masks import shortened
from actlib.stored import DTYPES


@dataclass(frozen=True)
class _Held:
    """What a model holds of one parameter that the patch changes.

    Attributes:
        name: the parameter's name.
        dtype: type of the numbers.
        slabs: these elements, piece by piece.
        values: gives the model's values of a slab.
    """

    name: str
    dtype: torch.dtype
    slabs: Callable[[], Iterable[Slab]]
    values: Callable[[Slab], Tensor]


def move_model(model: nn.Module, patch: PatchFile, sides: tuple[str, str]) -> None:
    """Change a model in place from the first side to the second.

    Raises:
        ValueError: as `apply_patch`; nothing is changed then.
    """
    parameters = _require_fit(patch, model)
    matrices = {
        name: parameters[name].detach().view(-1, *(part.shape[-1:] if len(part.shape) > 1 else [1]))
        for name, part in patch.parts.items()
    }
    held = [_held_in_memory(patch, name, matrix) for name, matrix in matrices.items()]
    _require_types(patch, held)
    if sides[0] == "before" and not patch.info.reversible:
        _require_side(patch, held, sides)
        with one_thread_each(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(lambda name: _set(patch, name, matrices[name], sides[1]), matrices))
        return
    unchecked = [name for name in patch.parts if not patch.is_checked(name, sides[1])]
    if unchecked:
        with one_thread_each(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(lambda name: patch.check(name, sides[1]), unchecked))
    if not exchange_(_exchanges(patch, matrices, sides)):
        _require_side(patch, held, sides)  # Tells what is wrong.
        raise RuntimeError(f"the model was changed by others while {patch.path} was applied")


def move_folder(folder: Path, patch: PatchFile, out: Path, sides: tuple[str, str]) -> None:
    """Write a copy of a folder that is on the second side, from one that is on the first.

    Raises:
        ValueError: as `apply_patch`; nothing is written then.
    """
    require_free(out)
    target = open_folder(folder)
    _require_fit(patch, target.model)
    found = [
        (selection, stored)
        for selection in map(patch.selection, patch.parts)
        for stored in target.located(selection, "target")
    ]
    steps = _steps(patch, folder, sides)
    with OpenFiles(folder) as files:
        held = [_held_in_files(*each, files) for each in found]
        _require_types(patch, held)
        _require_side(patch, held, sides)
    changes = [
        Change(selection, stored, _from_patch(patch, selection.name, sides[1]))
        for selection, stored in found
    ]
    with atomic_folder(out) as unfinished:
        write_changed(target, unfinished, changes)
        write_card(unfinished, steps)


def _exchanges(
    patch: PatchFile, matrices: Mapping[str, Tensor], sides: tuple[str, str]
) -> list[Swap]:
    """Every exchange that a patch asks for; the largest tensors come first."""
    return [
        swap
        for name in sorted(matrices, key=lambda name: -matrices[name].numel())
        for replacement in patch.replacements(name, sides)
        for swap in swaps(matrices[name], replacement)
    ]


def _set(patch: PatchFile, name: str, matrix: Tensor, side: str) -> None:
    for slab, values in patch.values(name, side):
        put_(matrix, *_indices(slab, matrix.device), values.to(matrix.device))


def _held_in_memory(patch: PatchFile, name: str, matrix: Tensor) -> _Held:
    def values(slab: Slab) -> Tensor:
        return take(matrix, *_indices(slab, matrix.device)).cpu()

    return _Held(name, matrix.dtype, lambda: patch.slabs(name), values)


def _held_in_files(selection: Selection, stored: StoredParameter, files: OpenFiles) -> _Held:
    return _Held(
        selection.name,
        DTYPES[stored.dtype],
        lambda: slabs_of(stored, selection),
        lambda slab: read(files, stored, slab),
    )


def _from_patch(patch: PatchFile, name: str, side: str) -> Callable[[Slab, Tensor], Tensor]:
    """New values of a slab, whatever the old ones."""
    pieces = _pieces(patch, name, side)
    return lambda slab, _: pieces[slab.piece][slab.start : slab.stop]


def _pieces(patch: PatchFile, name: str, side: str) -> dict[int, Tensor]:
    return {slab.piece: values for slab, values in patch.values(name, side)}


def _indices(slab: Slab, device: torch.device) -> tuple[Tensor, Tensor | None]:
    return slab.rows.to(device), None if slab.columns is None else slab.columns.to(device)


def _require_fit(patch: PatchFile, model: nn.Module) -> Mapping[str, nn.Parameter]:
    """The model's parameters, if the patch is made for a model with such ones."""
    parameters, wanted = dict(model.named_parameters()), patch.info.metadata["parameters"]
    total = sum(each.numel() for each in parameters.values())
    if str(total) != wanted:
        raise ValueError(f"the patch is of a model with {wanted} parameters, this one has {total}")
    for name, part in patch.parts.items():
        if name not in parameters or tuple(parameters[name].shape) != part.shape:
            shape = " x ".join(map(str, part.shape))
            raise ValueError(f"the patch is of a model with {name} of {shape}, this one has none")
    return parameters


def _require_types(patch: PatchFile, held: list[_Held]) -> None:
    """Refuse a model of other types of numbers."""
    for each in held:
        wanted = DTYPES[patch.parts[each.name].dtype]
        if each.dtype != wanted:
            raise ValueError(f"{each.name} is {each.dtype}, and the patch is made for {wanted}")


def _require_side(patch: PatchFile, held: list[_Held], sides: tuple[str, str]) -> None:
    """Refuse a model that is not on the first side of the patch, and a damaged patch."""
    with one_thread_each(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        checks = [pool.submit(patch.check, name, sides[1]) for name in patch.parts]
        fits = list(pool.map(lambda each: _on_side(patch, each, sides[0]), held))
        for check in checks:
            check.result()
    wrong = [each for each, fit in zip(held, fits, strict=True) if not fit]
    if not wrong:
        return
    for each in wrong if sides[0] == "after" or patch.info.reversible else ():
        patch.check(each.name, sides[0])
    if all(_hash(each) == getattr(patch.parts[each.name], sides[1]) for each in held):
        done = "already applied to" if sides[1] == "after" else "not applied to"
        raise ValueError(f"the patch {patch.path} is {done} this target")
    raise ValueError(
        f"the target does not hold the values that it had {sides[0]} the patch {patch.path} "
        f"(their SHA-256 differs): {shortened([each.name for each in wrong], 3)}; take "
        "the model that it was made for"
    )


def _on_side(patch: PatchFile, held: _Held, side: str) -> bool:
    """Whether a model holds the values of a side.

    Comparing is several times as fast as hashing, and a patch that can be reverted has the values.
    """
    if side == "before" and not patch.info.reversible:
        return _hash(held) == patch.parts[held.name].before
    pieces = _pieces(patch, held.name, side)
    return all(
        same_bits(held.values(slab), pieces[slab.piece][slab.start : slab.stop])
        for slab in held.slabs()
    )


def _hash(held: _Held) -> str:
    return digest(held.values(slab) for slab in held.slabs())


def _steps(patch: PatchFile, folder: Path, sides: tuple[str, str]) -> list[dict]:
    """The folder's steps, with this patch added or taken away."""
    own, steps = dict(patch.info.metadata), read_steps(folder)
    if sides[1] == "after":
        return [*steps, own]
    if own in steps:
        steps.remove(own)
    return steps
