"""Writes the file of an ability patch; its format is told in `patch_files`."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from actlib.files import atomic_file
from actlib.folders.patch_files import FORMAT, KIND, Part, piece_shape, raw_bytes
from actlib.folders.selecting import Selection
from actlib.folders.slabs import Slab, whole_slabs
from actlib.stored import DTYPES


@dataclass(frozen=True)
class Edit:
    """New values for one parameter tensor, made when they are asked for.

    Attributes:
        selection: the elements that change.
        dtype: the tensor's type by its safetensors name.
        values: gives (slab, before, after) for slabs that make up the pieces of the selection, in
            their order.
    """

    selection: Selection
    dtype: str
    values: Callable[[], Iterable[tuple[Slab, Tensor, Tensor]]]


def write_patch(
    path: str | os.PathLike, metadata: Mapping[str, str], edits: Iterable[Edit], reversible: bool
) -> None:
    """Write a patch, whole or not at all, with the values of one slab in memory at a time.

    The hashes stand in the header, before the values, and are known only after them. So the header
    is written twice, first with zeros in their place.
    """
    # Wide types first keeps every tensor aligned in the file, as readers expect.
    edits = sorted(edits, key=lambda edit: -DTYPES[edit.dtype].itemsize)
    sides = ("after", "before") if reversible else ("after",)
    layout, metadata = _layout(edits, sides), {**metadata, "reversible": str(reversible).lower()}
    parts = {
        edit.selection.name: Part(edit.selection.shape, edit.dtype, edit.selection.size)
        for edit in edits
    }
    with atomic_file(Path(path)) as unfinished, unfinished.open("wb") as stream:
        start = stream.write(_header(metadata, parts, layout))
        for edit in edits:
            for index in _indices(edit.selection).values():
                stream.write(raw_bytes(index))
        places = {key: start + entry["data_offsets"][0] for key, entry in layout.items()}
        for edit in edits:
            part, hashes = parts[edit.selection.name], _write_values(stream, edit, sides, places)
            parts[edit.selection.name] = Part(part.shape, part.dtype, part.elements, **hashes)
        stream.seek(0)
        stream.write(_header(metadata, parts, layout))


def _write_values(
    stream: BinaryIO, edit: Edit, sides: tuple[str, ...], places: Mapping[str, int]
) -> dict[str, str]:
    """Write the values of one tensor to their places; SHA-256 of each side."""
    states = {"before": hashlib.sha256(), "after": hashlib.sha256()}
    for slab, before, after in edit.values():
        found = {"before": raw_bytes(before), "after": raw_bytes(after)}
        width = len(found["after"]) // slab.rows.shape[0]
        for side in sides:
            stream.seek(places[f"{edit.selection.name}.{side}.{slab.piece}"] + slab.start * width)
            stream.write(found[side])
        for side, state in states.items():
            state.update(found[side])
    return {side: state.hexdigest() for side, state in states.items()}


def _layout(edits: list[Edit], sides: tuple[str, ...]) -> dict[str, dict]:
    """Entries of a safetensors header in the order of the data: all indices, then the values."""
    entries: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for edit in edits:
        for side, index in _indices(edit.selection).items():
            entries[f"{edit.selection.name}.{side}"] = ("I64", (len(index),), 8)
    for edit in edits:
        for slab in whole_slabs(edit.selection):
            shape = piece_shape(slab, edit.selection.shape)
            for side in sides:
                key = f"{edit.selection.name}.{side}.{slab.piece}"
                entries[key] = (edit.dtype, shape, DTYPES[edit.dtype].itemsize)
    layout, end = {}, 0
    for key, (dtype, shape, itemsize) in entries.items():
        start, end = end, end + itemsize * torch.Size(shape).numel()
        layout[key] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return layout


def _header(metadata: Mapping[str, str], parts: dict[str, Part], layout: dict) -> bytes:
    """Length and JSON header, padded to a multiple of 8 bytes."""
    own = {
        "actlib": json.dumps({"kind": KIND, "format": FORMAT}),
        "tensors": json.dumps({name: asdict(part) for name, part in parts.items()}),
    }
    text = json.dumps({"__metadata__": {**own, **metadata}, **layout}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _indices(selection: Selection) -> dict[str, Tensor]:
    sides = {"rows": selection.rows, "columns": selection.columns}
    return {side: flags.nonzero().flatten() for side, flags in sides.items() if flags is not None}
