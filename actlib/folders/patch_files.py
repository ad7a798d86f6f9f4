"""The file of an ability patch: one safetensors file with the selected elements of each tensor.

with open_patch("maths.safetensors") as patch:
    for name in patch.parts:
        for slab, values in patch.values(name, "after"):
            ...

For a parameter NAME the file holds `NAME.rows` and `NAME.columns`, the selected indices (rows are
those of a matrix [all dimensions but the last, last]), and for each piece k of `Selection.pieces`
the values `NAME.after.k`, and `NAME.before.k` where the patch can be reverted. The metadata entry
`tensors` has SHA-256 of the values before and after, `actlib` the number of this format.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from actlib.folders.replacements import Replacement
from actlib.folders.selecting import Selection
from actlib.folders.slabs import Slab
from actlib.stored import DTYPES, header_of

KIND = "AbilityPatch"
FORMAT = 1
"""Number of the format written; files of a higher one are refused."""
# Entries that the file's own content decides; those who make a patch cannot set them.
RESERVED = frozenset(
    ("actlib", "tensors", "reversible", "parameters", "scale", "mask_sha256", "channels")
    + ("percent", "created_with", "method")
)
_NO_HASH = "0" * 64
_CHECKED: set[tuple] = set()  # (device, file, size, time of the last change, tensor, side)


@dataclass(frozen=True)
class PatchInfo:
    """What a patch says of itself.

    Attributes:
        metadata: donor, target, mask, scale, versions; all of them text.
        tensors: name of each touched parameter to its number of selected elements.
        elements: selected elements over all tensors.
        parameter_percent: those in percent of the target's parameters.
        reversible: the file has the original values too.
        bytes: size of the file.
    """

    metadata: dict[str, str]
    tensors: dict[str, int]
    elements: int
    parameter_percent: float
    reversible: bool
    bytes: int

    def to_dict(self) -> dict:
        """The same as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Part:
    """What a patch says of one parameter tensor.

    Attributes:
        shape: shape of the whole tensor.
        dtype: its type by its safetensors name, such as BF16.
        elements: number of selected elements.
        before: SHA-256 of their original values, piece by piece.
        after: SHA-256 of their new values.
    """

    shape: tuple[int, ...]
    dtype: str
    elements: int
    before: str = _NO_HASH
    after: str = _NO_HASH


class PatchFile:
    """An open patch, for `apply_patch` and `revert_patch`; its tensors are mapped from the file.

    Attributes:
        path: the file.
        info: what the patch says of itself.
        parts: what it says of each touched parameter, by name.
    """

    def __init__(self, path: Path, file: safe_open) -> None:
        """Read the metadata of an opened safetensors file.

        Raises:
            ValueError: the file is no patch.
        """
        self.path, self._places = path, header_of(path)
        self._data = torch.from_numpy(np.memmap(path, np.uint8, "c"))
        self._indices: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._slabs: dict[str, list[Slab]] = {}
        self._replacements: dict[tuple[str, tuple[str, str]], list[Replacement]] = {}
        metadata = dict(file.metadata() or {})
        self._require_readable(metadata.pop("actlib", "{}"))
        try:
            table = json.loads(metadata.pop("tensors"))
            self.parts = {
                name: Part(**{**entry, "shape": tuple(entry["shape"])})
                for name, entry in table.items()
            }
            reversible = metadata["reversible"] == "true"
            tensors = {name: part.elements for name, part in self.parts.items()}
            elements = sum(tensors.values())
            percent = 100 * elements / int(metadata["parameters"])
            if any(part.dtype not in DTYPES for part in self.parts.values()):
                raise ValueError("a type of numbers that is no float")
        except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise self._damaged(f"its metadata: {error!r}") from error
        state = path.stat()
        self._identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        self.info = PatchInfo(metadata, tensors, elements, percent, reversible, state.st_size)

    def selection(self, name: str) -> Selection:
        """The elements of a parameter that the patch changes.

        Raises:
            ValueError: the file's indices are not those of such a tensor.
        """
        shape, (rows, columns) = self.parts[name].shape, self._checked_indices(name)
        chosen = torch.zeros(_row_count(shape), dtype=torch.bool).index_fill_(0, rows, True)
        if columns is None:
            return Selection(name, shape, chosen, None)
        across = torch.zeros(shape[-1], dtype=torch.bool).index_fill_(0, columns, True)
        return Selection(name, shape, chosen, across)

    def slabs(self, name: str) -> list[Slab]:
        """These elements, a slab for each piece.

        Raises:
            ValueError: as `selection`.
        """
        if name in self._slabs:
            return self._slabs[name]
        rows, columns = self._checked_indices(name)
        found = [Slab(0, 0, rows, None)] if len(rows) else []
        if columns is not None and len(columns):
            others = torch.ones(_row_count(self.parts[name].shape), dtype=torch.bool)
            others = others.index_fill_(0, rows, False).nonzero().flatten()
            found += [Slab(len(found), 0, others, columns)] if len(others) else []
        self._slabs[name] = found
        return found

    def values(self, name: str, side: str) -> Iterator[tuple[Slab, Tensor]]:
        """Values of each piece, `before` or `after` the patch, mapped from the file.

        Yields:
            A slab that is the whole piece, and its values [rows, columns].

        Raises:
            ValueError: the stored values are not of the selection's shape and type.
        """
        part = self.parts[name]
        for slab in self.slabs(name):
            values = self._tensor(f"{name}.{side}.{slab.piece}")
            if tuple(values.shape) != piece_shape(slab, part.shape):
                raise self._damaged(f"the values of {name}")
            if values.dtype != DTYPES[part.dtype]:
                raise self._damaged(f"the values of {name}")
            yield slab, values.view(slab.rows.shape[0], -1)

    def replacements(self, name: str, sides: tuple[str, str]) -> list[Replacement]:
        """What takes a parameter from the first side to the second, piece by piece.

        Prepared once, since patches are switched on and off.

        Raises:
            ValueError: as `values`.
        """
        if (name, sides) not in self._replacements:
            old, new = (self.values(name, side) for side in sides)
            self._replacements[name, sides] = [
                Replacement(slab, first, second)
                for (slab, first), (_, second) in zip(old, new, strict=True)
            ]
        return self._replacements[name, sides]

    def check(self, name: str, side: str) -> None:
        """Refuse a file whose values are not those that its metadata hashes.

        A file that has not changed since is not hashed again in the same process: patches are
        switched on and off, and hashing is what takes longest then.

        Raises:
            ValueError: names the tensor.
        """
        if self.is_checked(name, side):
            return
        found = digest(values for _, values in self.values(name, side))
        if found != getattr(self.parts[name], side):
            raise self._damaged(f"the values of {name} {side} the patch")
        _CHECKED.add((*self._identity, name, side))

    def is_checked(self, name: str, side: str) -> bool:
        """Whether `check` found these values whole already, in this process."""
        return (*self._identity, name, side) in _CHECKED

    def _checked_indices(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Rows and columns that are selected, read once."""
        if name in self._indices:
            return self._indices[name]
        part, found = self.parts[name], []
        sizes = (_row_count(part.shape), *part.shape[-1:])
        for side, size in zip(("rows", "columns"), sizes[: len(part.shape)], strict=False):
            index = self._tensor(f"{name}.{side}")
            if index.dtype != torch.int64 or index.ndim != 1:
                raise self._damaged(f"the {side} of {name}")
            numbers = index.numpy()  # Several times as fast as torch on a few numbers.
            ascending = bool((numbers[1:] > numbers[:-1]).all())
            if len(numbers) and not (ascending and numbers[0] >= 0 and numbers[-1] < size):
                raise self._damaged(f"the {side} of {name}")
            found.append(index)
        rows, columns = found[0], found[1] if len(found) > 1 else None
        elements = len(rows) * (1 if columns is None else part.shape[-1])
        elements += 0 if columns is None else (sizes[0] - len(rows)) * len(columns)
        if elements != part.elements:
            raise self._damaged(f"the indices of {name}")
        self._indices[name] = rows, columns
        return rows, columns

    def _tensor(self, key: str) -> Tensor:
        """A tensor, mapped from the file: opening each by itself takes longer than reading it."""
        place = self._places.get(key)
        types = {**DTYPES, "I64": torch.int64}
        if place is None or place.dtype not in types:
            raise self._damaged(f"it has no tensor {key}")
        raw = self._data[place.offset : place.offset + place.size]
        own = types[place.dtype].itemsize
        if place.offset % own:  # Others may write unaligned files.
            return raw.clone().view(types[place.dtype]).view(place.shape)
        return raw.view(types[place.dtype]).view(place.shape)

    def _require_readable(self, header: str) -> None:
        """Refuse other kinds of files, and formats that this version does not know."""
        try:
            told = json.loads(header)
            kind, number = told.get("kind", "no actlib data"), told.get("format", 1)
        except (ValueError, AttributeError) as error:
            raise self._damaged(f"its metadata: {error!r}") from error
        if kind != KIND:
            raise ValueError(f"{self.path} holds {kind}, not {KIND}")
        if not isinstance(number, int) or number > FORMAT:
            raise ValueError(
                f"the patch {self.path} is of format {number}, and this version of actlib reads "
                f"formats up to {FORMAT}; a newer one is needed"
            )

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"the patch {self.path} is damaged: {what}; copy or download it anew")


@contextmanager
def open_patch(path: str | os.PathLike) -> Iterator[PatchFile]:
    """Open a patch for reading, or to apply and revert it often without opening it anew.

    with actlib.open_patch("maths.safetensors") as patch:
        actlib.apply_patch(model, patch)
        actlib.revert_patch(model, patch)

    The file must stay as it is meanwhile.

    Raises:
        ValueError: there is no such file, it is cut off, or it is no patch.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no {KIND} file {path}; `actlib patch make` makes one")
    try:
        with safe_open(path, framework="pt") as file:
            yield PatchFile(path, file)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable {KIND} file: {error}; copy or download it anew"
        ) from error


def digest(values: Iterable[Tensor]) -> str:
    """SHA-256 of the bytes of tensors, one after the other, in hexadecimal."""
    state = hashlib.sha256()
    for tensor in values:
        state.update(raw_bytes(tensor))
    return state.hexdigest()


def piece_shape(slab: Slab, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the values of a slab of a parameter of that shape, as the file holds them."""
    if len(shape) == 1:
        return (slab.rows.shape[0],)
    return (slab.rows.shape[0], shape[-1] if slab.columns is None else len(slab.columns))


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes, row by row."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def _row_count(shape: tuple[int, ...]) -> int:
    """Rows of a tensor as a matrix [all dimensions but the last, last]."""
    return math.prod(shape[:-1] or shape)
