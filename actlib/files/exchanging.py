"""Replaces elements of a model in memory, if all of them are what they should be, else none.

Each block is compared and at once replaced, while it lies in the processor's cache: comparing
everything first and replacing it then would fetch it twice from memory, which is what takes
longest. If a block differs, or anything fails, those replaced before it get their values back.

What Python does holds up every thread, so it is done before, and the threads are left with a few
calls of NumPy or torch for each block.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from actlib.files.slabs import Slab, as_words, one_thread_each, put_, same_bits, take, words

BLOCK_BYTES = 4 << 20
"""Size of the rows of a block: it stays in the cache, and is large beside the cost of a call."""


class _Space(threading.local):
    """Memory for one block, kept by each thread: getting it anew took as long as the work."""

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def array(self, use: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array for one use at a time, of any content."""
        size = int(np.prod(shape)) * dtype.itemsize
        if use not in self._held or self._held[use].size < size:
            self._held[use] = np.empty(max(size, BLOCK_BYTES), np.uint8)
        return self._held[use][:size].view(dtype).reshape(shape)


class Swap:
    """Elements of one matrix, and what they are exchanged for."""

    def __init__(self, matrix: Tensor, slab: Slab, old: Tensor, new: Tensor) -> None:
        """Prepare the exchange.

        Args:
            matrix: rows of a parameter, sharing its memory [rows, columns].
            slab: the elements of `matrix`.
            old: the values that they should have, on the CPU [rows of the slab, its columns].
            new: the values that they get.
        """
        columns = None if slab.columns is None else slab.columns.to(matrix.device)
        self._place = matrix, slab.rows.to(matrix.device), columns
        self._old, self._new = old, new

    def fits(self, _space: _Space) -> bool:
        """Whether the matrix has the old values, bit by bit."""
        return same_bits(take(*self._place).cpu(), self._old)

    def do(self) -> None:
        """Set the new values."""
        put_(*self._place, self._new.to(self._place[0].device))

    def undo(self) -> None:
        """Set the old values."""
        put_(*self._place, self._old.to(self._place[0].device))


class _RowSwap(Swap):
    """Whole rows of a matrix on the CPU."""

    def __init__(self, matrix: Tensor, slab: Slab, old: Tensor, new: Tensor) -> None:
        self._bits, self._rows = words(matrix).numpy(), slab.rows.numpy()
        self._old_bits, self._new_bits = (as_words(each, self._bits) for each in (old, new))

    def fits(self, space: _Space) -> bool:
        return _has(self._bits, self._rows, 0, self._old_bits, space)

    def do(self) -> None:
        self._bits[self._rows] = self._new_bits

    def undo(self) -> None:
        self._bits[self._rows] = self._old_bits


class _ColumnSwap(Swap):
    """Columns over all rows of a matrix on the CPU."""

    def __init__(self, matrix: Tensor, slab: Slab, old: Tensor, new: Tensor) -> None:
        super().__init__(matrix, slab, old, new)
        assert slab.columns is not None
        self._bits, self._columns = words(matrix, within_rows=True).numpy(), slab.columns.numpy()
        self._old_bits = as_words(old, self._bits)

    def fits(self, space: _Space) -> bool:
        return _has(self._bits, self._columns, 1, self._old_bits, space)


def swaps(matrix: Tensor, slab: Slab, old: Tensor, new: Tensor) -> Iterator[Swap]:
    """The exchange of a slab, block by block.

    Args:
        matrix: a parameter as a matrix [all dimensions but the last, last].
        slab: elements of it.
        old: values that they should have [rows of the slab, its columns].
        new: values that they get.
    """
    step = max(1, BLOCK_BYTES // max(1, matrix.shape[1] * matrix.element_size()))
    for start in range(0, slab.rows.shape[0], step):
        stop, rows = start + step, slab.rows[start : start + step]
        first, last = int(rows[0]), int(rows[-1]) + 1
        kind: type[Swap] = Swap
        if matrix.is_cpu and slab.columns is None:
            kind = _RowSwap
        elif matrix.is_cpu and len(rows) == last - first:
            kind = _ColumnSwap
        block = Slab(slab.piece, start, rows - first, slab.columns)
        yield kind(matrix[first:last], block, old[start:stop], new[start:stop])


def exchange_(blocks: Sequence[Swap]) -> bool:
    """Put new values in the place of the old ones, in all blocks or in none.

    Args:
        blocks: no element is in two of them.

    Returns:
        Whether all blocks had the old values. If not, all is as it was.
    """
    replaced: list[Swap] = []
    left, lock = iter(blocks), threading.Lock()
    stop, space = threading.Event(), _Space()

    def run() -> None:
        while not stop.is_set():
            with lock:
                swap = next(left, None)
            if swap is None:
                return
            if not swap.fits(space):
                stop.set()
                return
            replaced.append(swap)  # Before it is: an interrupted one must be undone as well.
            swap.do()

    try:
        with one_thread_each(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            try:
                for worker in [pool.submit(run) for _ in range(os.cpu_count() or 1)]:
                    worker.result()
            except BaseException:
                stop.set()
                raise
    except BaseException:
        _undo(replaced)
        raise
    if stop.is_set():
        _undo(replaced)
    return not stop.is_set()


def _has(bits: np.ndarray, index: np.ndarray, axis: int, values: np.ndarray, space: _Space) -> bool:
    """Whether rows or columns of a matrix are these."""
    found = space.array("values", values.shape, values.dtype)
    same = space.array("same", values.shape, np.dtype(bool))
    bits.take(index, axis=axis, out=found, mode="clip")  # As fast as can be; the index is checked.
    return bool(np.equal(found, values, out=same).all())


def _undo(replaced: list[Swap]) -> None:
    for swap in replaced:
        swap.undo()
