"""Reads and writes the selected elements of stored parameters, a few megabytes at a time.

    for block in blocks_of(parameter, selection):
        for slab in block.slabs():
            values = read(files, parameter, slab)  # [rows of the slab, its columns]

Bytes are read into memory and written from it, not mapped: what a process holds is then a few
blocks, whatever the size of the files, and reading a row costs no page of its neighbors.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from actlib.folders.selecting import Selection
from actlib.layouts import StoredParameter
from actlib.stored import DTYPES, StoredTensor

DENSE_BYTES, SPARSE_BYTES = 1 << 19, 8 << 20
"""Size of a block that is read whole, which should stay in the processor's cache, and of one of
which only some rows are read. Both are small beside any model, large beside the cost of a call."""
# Rows this close together, or this short, cost less to read with what lies between them.
_NEAR, _SHORT = 4, 512
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)
class Slab:
    """Selected elements of one parameter: some rows of one piece of `Selection.pieces`.

    Attributes:
        piece: number of the piece.
        start: first of the slab's rows among those of the piece.
        rows: rows of the parameter as a matrix [all dimensions but the last, last], ascending.
        columns: columns of that matrix; None for whole rows.
    """

    piece: int
    start: int
    rows: Int[Tensor, " rows"]
    columns: Int[Tensor, " columns"] | None

    @property
    def stop(self) -> int:
        """End of the slab's rows among those of the piece."""
        return self.start + self.rows.shape[0]


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive rows of a parameter that lie in one stored tensor and hold selected elements.

    Attributes:
        part: the stored tensor.
        origin: row of the parameter that is the stored tensor's first.
        start: first row of the block, counted in the parameter.
        stop: end of its rows.
        dense: so much of it is selected that it is read and written whole.
        selection: elements selected of the parameter.
        selected_before: selected rows of the parameter before the block.
    """

    part: StoredTensor
    origin: int
    start: int
    stop: int
    dense: bool
    selection: Selection
    selected_before: int

    @property
    def offset(self) -> int:
        """First byte of the block in its file."""
        return self.part.offset + (self.start - self.origin) * self.part.row_bytes

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return (self.stop - self.start) * self.part.row_bytes

    def slabs(self) -> list[Slab]:
        """The selected elements, each of them once."""
        return _slabs(self.selection, self.start, self.stop, self.selected_before)


def blocks_of(parameter: StoredParameter, selection: Selection) -> list[Block]:
    """The blocks of a parameter in which something is selected, in order of its rows."""
    counted = np.concatenate(([0], np.cumsum(selection.rows.numpy())))
    whole = selection.columns is not None and bool(selection.columns.any())
    most = whole or counted[-1] * _NEAR >= len(selection.rows)
    found = []
    for part, origin in zip(parameter.parts, parameter.origins, strict=True):
        close = most or part.row_bytes < _SHORT
        step = max(1, (DENSE_BYTES if close else SPARSE_BYTES) // max(1, part.row_bytes))
        for start in range(origin, origin + part.rows, step):
            stop = min(start + step, origin + part.rows)
            before, count = int(counted[start]), int(counted[stop] - counted[start])
            if count or whole:
                dense = close or count * _NEAR >= stop - start
                found.append(Block(part, origin, start, stop, dense, selection, before))
    return found


def slabs_of(parameter: StoredParameter, selection: Selection) -> Iterator[Slab]:
    """The selected elements piece by piece, in the order of `Selection.pieces`."""
    blocks = blocks_of(parameter, selection)
    for piece in range(2):
        for block in blocks:
            yield from (slab for slab in block.slabs() if slab.piece == piece)


def whole_slabs(selection: Selection) -> list[Slab]:
    """The selected elements, a slab for each piece of `Selection.pieces`."""
    return _slabs(selection, 0, len(selection.rows), 0)


class OpenFiles:
    """Files of one folder, open as long as the block that this is used in; for any thread."""

    def __init__(self, folder: Path, writable: bool = False) -> None:
        """Open nothing yet; each file is opened when it is first asked for."""
        self.folder, self._flags = folder, os.O_RDWR if writable else os.O_RDONLY
        self._opened: dict[str, int] = {}
        self._opening = Lock()

    def __enter__(self) -> "OpenFiles":
        """Give the files."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close them."""
        for descriptor in self._opened.values():
            os.close(descriptor)
        self._opened.clear()

    def __getitem__(self, file: str) -> int:
        """Descriptor of a file."""
        with self._opening:
            if file not in self._opened:
                self._opened[file] = os.open(self.folder / file, self._flags | os.O_CLOEXEC)
            return self._opened[file]


def read(files: OpenFiles, parameter: StoredParameter, slab: Slab) -> Tensor:
    """Values of a slab, [rows, columns], in the stored type."""
    found, row = [], int(slab.rows[0])
    number = bisect_right(parameter.origins, row) - 1
    for part, origin in zip(parameter.parts[number:], parameter.origins[number:], strict=True):
        ends = torch.tensor([origin, origin + part.rows])
        first, last = torch.searchsorted(slab.rows, ends).tolist()
        if first < last:
            rows = slab.rows[first:last] - origin
            found.append(_read_rows(files[part.file], part, rows, slab.columns))
        if last == len(slab.rows):
            break
    return found[0] if len(found) == 1 else torch.cat(found)


def read_block(files: OpenFiles, block: Block) -> Tensor:
    """The block as a matrix [rows, last dimension]."""
    return _read_span(
        files[block.part.file], block.part, block.start - block.origin, block.stop - block.origin
    )


def write_block(files: OpenFiles, block: Block, values: Tensor) -> None:
    """Write a whole block."""
    _write(files[block.part.file], _bytes_of(values), block.offset)


def write_rows(files: OpenFiles, block: Block, slab: Slab, values: Tensor) -> None:
    """Write the whole rows of a slab that lies in the block."""
    part, data = block.part, _bytes_of(values.contiguous())
    for first, last, row in _runs(slab.rows - block.origin):
        inside = data[first * part.row_bytes : last * part.row_bytes]
        _write(files[part.file], inside, part.offset + row * part.row_bytes)


def take(matrix: Tensor, rows: Int[Tensor, " rows"], columns: Tensor | None) -> Tensor:
    """Rows of a matrix, or some columns of these rows, as a matrix of its own."""
    if columns is None:
        return words(matrix).index_select(0, rows).view(matrix.dtype)
    if rows.shape[0] < matrix.shape[0]:
        return matrix[rows[:, None], columns]
    if matrix.is_cpu:  # Twice as fast as index_select.
        found = words(matrix, within_rows=True).numpy().take(columns.numpy(), axis=1)
        return torch.from_numpy(found).view(matrix.dtype)
    return matrix.index_select(1, columns)


def put_(
    matrix: Tensor, rows: Int[Tensor, " rows"], columns: Tensor | None, values: Tensor
) -> None:
    """Set what `take` gives."""
    if columns is None:
        whole = words(matrix)
        if matrix.is_cpu:  # Four times as fast as index_copy_.
            whole.numpy()[rows.numpy()] = as_words(values, whole.element_size())
        else:
            whole.index_copy_(0, rows, values.contiguous().view(whole.dtype))
    elif rows.shape[0] < matrix.shape[0]:
        matrix[rows[:, None], columns] = values
    else:
        matrix.index_copy_(1, columns, values)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two matrices on the CPU are equal bit by bit: 0.0 is not -0.0, a NaN is itself."""
    bits = words(one.contiguous())
    return np.array_equal(bits.numpy(), as_words(other, bits.element_size()))


def words(matrix: Tensor, within_rows: bool = False) -> Tensor:
    """The bits of a matrix as integers: the widest that divide its rows, or of its numbers' width.

    Moving and comparing wide ones is several times as fast as doing so with numbers of two bytes.
    """
    width, size = matrix.element_size(), matrix.shape[-1] * matrix.element_size()
    start = matrix.storage_offset() * width
    fits = matrix.is_contiguous() and size % 8 == 0 and start % 8 == 0 and not within_rows
    return matrix.view(torch.int64 if fits else _BITS[width])


def as_words(values: Tensor, width: int) -> np.ndarray:
    """The bits of values as integers of so many bytes, which divide a row's."""
    bits = values.contiguous().view(_BITS[values.element_size()]).numpy()
    return bits.view(f"i{width}")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch use one thread for an operation, in this whole process.

    For blocks that several threads work through side by side: waiting for more threads in each of
    many small operations took longer than the work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _slabs(selection: Selection, start: int, stop: int, selected_before: int) -> list[Slab]:
    """Selected elements of rows from `start` to `stop`, before which so many rows are selected."""
    chosen, columns = selection.rows[start:stop], selection.columns
    found, piece = [], 0
    if selection.rows.any():
        found.append(Slab(piece, selected_before, chosen.nonzero().flatten() + start, None))
        piece += 1
    if columns is not None and columns.any():
        rows = (~chosen).nonzero().flatten() + start
        found.append(Slab(piece, start - selected_before, rows, columns.nonzero().flatten()))
    return [slab for slab in found if slab.rows.shape[0]]


def _read_rows(
    descriptor: int, part: StoredTensor, rows: Int[Tensor, " rows"], columns: Tensor | None
) -> Tensor:
    first, last = int(rows[0]), int(rows[-1]) + 1
    if columns is not None or last - first <= _NEAR * len(rows) or part.row_bytes < _SHORT:
        return take(_read_span(descriptor, part, first, last), rows - first, columns)
    raw = torch.empty(len(rows) * part.row_bytes, dtype=torch.uint8)
    data, width = _bytes_of(raw), part.row_bytes
    for begin, end, row in _runs(rows):
        _fill(descriptor, data[begin * width : end * width], part.offset + row * width)
    return raw.view(DTYPES[part.dtype]).view(len(rows), -1)


def _read_span(descriptor: int, part: StoredTensor, first: int, last: int) -> Tensor:
    raw = torch.empty((last - first) * part.row_bytes, dtype=torch.uint8)
    _fill(descriptor, _bytes_of(raw), part.offset + first * part.row_bytes)
    return raw.view(DTYPES[part.dtype]).view(last - first, -1)


def _runs(rows: Int[Tensor, " rows"]) -> Iterator[tuple[int, int, int]]:
    """Begin, end and first row of each run of consecutive rows."""
    numbers = rows.numpy()
    begins = np.concatenate(([0], np.flatnonzero(np.diff(numbers) != 1) + 1))
    ends = [*begins[1:].tolist(), len(numbers)]
    return zip(begins.tolist(), ends, numbers[begins].tolist(), strict=True)


def _bytes_of(values: Tensor) -> memoryview:
    return values.flatten().view(torch.uint8).numpy().data


def _fill(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.preadv(descriptor, [data], offset)
        if count == 0:
            raise OSError("a weight file became shorter while it was read")
        data, offset = data[count:], offset + count


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
