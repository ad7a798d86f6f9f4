"""Replaces elements of a model in memory, if all of them are what they should be, else none.

Each block is compared and at once replaced, while it lies in the processor's cache: comparing
everything first and replacing it then would fetch it twice from memory, which is what takes
longest. If a block differs, or anything fails, those replaced before it get their values back.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from torch import Tensor

from actlib.files.slabs import Slab, one_thread_each, put_, same_bits, take

BLOCK_BYTES = 1 << 20
"""Size of the rows of a block, of which two and their values should stay in the cache."""


@dataclass(frozen=True, eq=False)
class Swap:
    """Elements of one matrix, and what they are exchanged for.

    Attributes:
        matrix: rows of a parameter, sharing its memory [rows, columns].
        slab: the elements of `matrix`.
        old: the values that they should have, on the CPU [rows of the slab, its columns].
        new: the values that they get.
    """

    matrix: Tensor
    slab: Slab
    old: Tensor
    new: Tensor

    def fits(self) -> bool:
        """Whether the matrix has the old values, bit by bit."""
        return same_bits(take(self.matrix, *self._indices()).cpu(), self.old)

    def set_(self, values: Tensor) -> None:
        """Set the elements."""
        put_(self.matrix, *self._indices(), values.to(self.matrix.device))

    def _indices(self) -> tuple[Tensor, Tensor | None]:
        device, columns = self.matrix.device, self.slab.columns
        return self.slab.rows.to(device), None if columns is None else columns.to(device)


def swaps(
    matrix: Tensor, slab: Slab, old: Tensor, new: Tensor, part: int, parts: int
) -> Iterator[Swap]:
    """The blocks of a slab; of so many equal parts only one.

    Args:
        matrix: a parameter as a matrix [all dimensions but the last, last].
        slab: elements of it.
        old: values that they should have [rows of the slab, its columns].
        new: values that they get.
        part: number of the part, from 0.
        parts: number of parts.
    """
    step = max(1, BLOCK_BYTES // max(1, matrix.shape[1] * matrix.element_size()))
    for start in range(part * step, slab.rows.shape[0], parts * step):
        stop, rows = start + step, slab.rows[start : start + step]
        first, last = int(rows[0]), int(rows[-1]) + 1
        block = Slab(slab.piece, start, rows - first, slab.columns)
        yield Swap(matrix[first:last], block, old[start:stop], new[start:stop])


def exchange_(jobs: Sequence[Callable[[], Iterable[Swap]]]) -> bool:
    """Put new values in the place of the old ones, in all blocks or in none.

    Args:
        jobs: give the blocks, no element twice; one thread works through each.

    Returns:
        Whether all blocks had the old values. If not, nothing is changed.
    """
    replaced: list[Swap] = []
    stop = Event()

    def run(job: Callable[[], Iterable[Swap]]) -> None:
        for swap in job():
            if not stop.is_set() and not swap.fits():
                stop.set()
            if stop.is_set():
                return
            replaced.append(swap)  # Before it is: an interrupted one must be undone as well.
            swap.set_(swap.new)

    try:
        with one_thread_each(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            try:
                for job in [pool.submit(run, each) for each in jobs]:
                    job.result()
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
        swap.set_(swap.old)
