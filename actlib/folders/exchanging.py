"""Replaces elements of a model in memory, if all of them are what they should be, else none.

Each row is compared and at once replaced, while it lies in the processor's cache: comparing
everything first and replacing it then would fetch it twice from memory, which is what takes
longest. If a row differs, or anything fails, those replaced before it get their values back.

What Python does holds up every thread, so it is little: one compiled loop does a block.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from actlib.compiling import compiled
from actlib.folders.replacements import Replacement
from actlib.folders.slabs import one_thread_each, put_, same_bits, take, words

BLOCK_BYTES = 16 << 20
"""Size of the rows of a block: several for each thread, and large beside the cost of a call."""


class Swap:
    """Elements of one matrix on any device, and what they are exchanged for."""

    def __init__(self, matrix: Tensor, replacement: Replacement) -> None:
        """Prepare the exchange in a matrix [rows, columns], sharing a parameter's memory."""
        slab = replacement.slab
        columns = None if slab.columns is None else slab.columns.to(matrix.device)
        self._place = matrix, slab.rows.to(matrix.device), columns
        self._old, self._new = replacement.old, replacement.new
        self._begun = False

    def do(self) -> bool:
        """Set the new values where the old ones are; False as soon as one differs, bit by bit."""
        if not same_bits(take(*self._place).cpu(), self._old):
            return False
        self._begun = True
        put_(*self._place, self._new.to(self._place[0].device))
        return True

    def undo(self) -> None:
        """Set the old values again where `do` has set new ones."""
        if self._begun:
            put_(*self._place, self._old.to(self._place[0].device))


@dataclass(frozen=True, eq=False)
class _Bits:
    """Elements of one matrix on the CPU, and two values for each, as integers.

    Attributes:
        matrix: all of the matrix [all rows, words].
        rows: which of its rows [rows].
        columns: which words of these rows; None for all [columns].
        old: the values that they should have [rows, columns].
        new: the values that they get.
    """

    matrix: np.ndarray
    rows: np.ndarray
    columns: np.ndarray | None
    old: np.ndarray
    new: np.ndarray

    @classmethod
    def of(cls, matrix: Tensor, replacement: Replacement) -> "_Bits":
        """The same as integers, as wide as can be."""
        slab = replacement.slab
        whole = words(matrix, within_rows=slab.columns is not None).numpy()
        columns = None if slab.columns is None else slab.columns.numpy()
        return cls(whole, slab.rows.numpy(), columns, *replacement.words(whole.itemsize))

    def swap(self, start: int, stop: int, back: bool = False) -> int:
        """Replace the old values by the new, or the new by the old, in some of the rows.

        Returns:
            The first row that is not replaced, because it had other values; or `stop`.
        """
        sides = (self.new, self.old) if back else (self.old, self.new)
        if self.columns is None:
            return _swap_rows(self.matrix, self.rows, *sides, start, stop)
        return _swap_columns(self.matrix, self.rows, self.columns, *sides, start, stop)


class _BitSwap(Swap):
    """Some of these rows."""

    def __init__(self, bits: _Bits, start: int, stop: int) -> None:
        self._bits, self._start, self._stop = bits, start, stop
        self._done = start

    def do(self) -> bool:
        self._done = self._bits.swap(self._start, self._stop)
        return self._done == self._stop

    def undo(self) -> None:
        self._bits.swap(self._start, self._done, back=True)


def swaps(matrix: Tensor, replacement: Replacement) -> Iterator[Swap]:
    """The exchange of a slab, block by block.

    Args:
        matrix: a parameter as a matrix [all dimensions but the last, last].
        replacement: elements of it, and their values.
    """
    in_place = matrix.is_cpu and matrix.is_contiguous()
    bits = _Bits.of(matrix, replacement) if in_place else None
    rows = replacement.slab.rows.shape[0]
    step = max(1, BLOCK_BYTES // max(1, matrix.shape[1] * matrix.element_size()))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        if bits is None:
            yield Swap(matrix, replacement.some(start, stop))
        else:
            yield _BitSwap(bits, start, stop)


def exchange_(blocks: Sequence[Swap]) -> bool:
    """Put new values in the place of the old ones, in all blocks or in none.

    Args:
        blocks: no element is in two of them.

    Returns:
        Whether all blocks had the old values. If not, all is as it was.
    """
    replaced: list[Swap] = []
    left, lock = iter(blocks), threading.Lock()
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with lock:
                swap = next(left, None)
            if swap is None:
                return
            replaced.append(swap)  # Before it is: an interrupted one must be undone as well.
            if not swap.do():
                stop.set()

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


def _undo(replaced: list[Swap]) -> None:
    for swap in replaced:
        swap.undo()


@compiled
def _swap_rows(matrix, rows, old, new, start, stop):
    for number in range(start, stop):
        held, wanted, given = matrix[rows[number]], old[number], new[number]
        different = 0
        for word in range(len(held)):
            different |= held[word] ^ wanted[word]
        if different != 0:
            return number
        for word in range(len(held)):
            held[word] = given[word]
    return stop


@compiled
def _swap_columns(matrix, rows, columns, old, new, start, stop):
    for number in range(start, stop):
        held, wanted, given = matrix[rows[number]], old[number], new[number]
        different = 0
        for word in range(len(columns)):
            different |= held[columns[word]] ^ wanted[word]
        if different != 0:
            return number
        for word in range(len(columns)):
            held[columns[word]] = given[word]
    return stop
