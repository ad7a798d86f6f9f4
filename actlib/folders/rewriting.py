"""Writes a copy of a model folder in which selected elements have other values.

    write_changed(target, unfinished, [Change(selection, stored, new_values)])

Bytes that stay are copied by the kernel; those that change are read, computed and written a block
at a time. Copying and computing run side by side, a file each.
"""

import errno
import fcntl
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path

from torch import Tensor

from actlib.files import copy_file
from actlib.folders.folders import ModelFolder
from actlib.folders.selecting import Selection
from actlib.folders.slabs import (
    Block,
    OpenFiles,
    Slab,
    blocks_of,
    one_thread_each,
    put_,
    read,
    read_block,
    take,
    write_block,
    write_rows,
)
from actlib.layouts import StoredParameter
from actlib.stored import INDEX, PICKLED, SINGLE

# In other formats the weights would still be the target's, and a loader could pick them. Pickled
# files can run code, and the state of a finished training is no part of the model.
_OTHERS = ("*.h5", "*.msgpack", "*.gguf", "*.onnx", "tf_model*", "flax_model*", "consolidated*")
_LEFT_OUT = (*PICKLED, *_OTHERS)
_CLONE = 0x40049409  # FICLONE of linux/fs.h
_UNABLE = {errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF}
_THREADS = 4
_STRETCH_BYTES = 128 << 20


@dataclass(frozen=True)
class Change:
    """New values for selected elements of one stored parameter.

    Attributes:
        selection: the elements that change.
        stored: the parameter in the target's files.
        values: gives a slab's new values, in the stored type, from the slab and its values in the
            target; called from several threads.
    """

    selection: Selection
    stored: StoredParameter
    values: Callable[[Slab, Tensor], Tensor]


def write_changed(target: ModelFolder, destination: Path, changes: Iterable[Change]) -> None:
    """Fill a new folder with the target's files, changed.

    Configuration, tokenizer, generation settings and all else that belongs to the model is carried;
    hidden files, pickled files and other formats of the weights are left out.

    Args:
        target: folder to copy.
        destination: an empty folder.
        changes: what is to be other than in the target; no element twice.
    """
    work: dict[str, list[tuple[Change, Block]]] = {file: [] for file in target.files}
    for change in changes:
        for block in blocks_of(change.stored, change.selection):
            work[block.part.file].append((change, block))
    _copy_others(target, destination)
    for file in target.files:
        (destination / file).parent.mkdir(parents=True, exist_ok=True)
    cut = [_stretches(target, file, work[file]) for file in target.files]
    # In turn from every file: the kernel lets one thread at a time write to a file.
    stretches = [each for turn in zip_longest(*cut) for each in turn if each is not None]
    uncopied = {file: sized_like(target.path / file, destination / file) for file in target.files}
    workers = min(_THREADS, os.cpu_count() or 1)
    with one_thread_each(), ThreadPoolExecutor(max_workers=workers) as pool:
        jobs = [
            pool.submit(_write_stretch, target.path, destination, each, bool(uncopied[each.file]))
            for each in stretches
        ]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Stretch:
    """Bytes of a file that one thread writes; no stored tensor that changes is in two of them."""

    file: str
    start: int
    stop: int
    work: list[tuple[Change, Block]]


def _stretches(
    target: ModelFolder, file: str, work: Iterable[tuple[Change, Block]]
) -> list[_Stretch]:
    work = sorted(work, key=lambda each: each[1].offset)
    cuts = [0]
    for _, block in work:
        if block.part.offset - cuts[-1] >= _STRETCH_BYTES:
            cuts.append(block.part.offset)
    cuts.append((target.path / file).stat().st_size)
    places = [bisect_right(cuts, block.offset) - 1 for _, block in work]
    return [
        _Stretch(
            file, *ends, [each for each, place in zip(work, places, strict=True) if place == number]
        )
        for number, ends in enumerate(pairwise(cuts))
    ]


def _write_stretch(source: Path, destination: Path, stretch: _Stretch, copying: bool) -> None:
    """Write the bytes that stay, then the blocks that change."""
    if copying:
        places = [(block.offset, block.size) for _, block in stretch.work if block.dense]
        ends = [stretch.start, *(o + size for o, size in places)]
        starts = [*(o for o, _ in places), stretch.stop]
        kept = zip(ends, starts, strict=True)
        copy_ranges(source / stretch.file, destination / stretch.file, kept)
    with OpenFiles(source) as ours, OpenFiles(destination, writable=True) as files:
        for change, block in stretch.work:
            _write_block(ours, files, change, block)


def _write_block(ours: OpenFiles, files: OpenFiles, change: Change, block: Block) -> None:
    if not block.dense:
        for slab in block.slabs():
            values = change.values(slab, read(ours, change.stored, slab))
            write_rows(files, block, slab, values)
        return
    matrix = read_block(ours, block)
    for slab in block.slabs():
        rows = slab.rows - block.start
        values = change.values(slab, take(matrix, rows, slab.columns))
        put_(matrix, rows, slab.columns, values)
    write_block(files, block, matrix)


def _copy_others(target: ModelFolder, destination: Path) -> None:
    """Copy all that is no weight file."""
    # Beside a single file nobody reads shards; other variants would still be the target's.
    weights = {path.name for path in target.path.glob("model*.safetensors*")}
    weights |= set(target.files)
    weights -= {INDEX} if SINGLE not in target.files else set()
    carried = [
        path
        for path in sorted(target.path.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(target.path).parts)
        and str(path.relative_to(target.path)) not in weights
        and not any(map(path.match, _LEFT_OUT))
    ]
    for path in carried:
        _require_inside(target.path, path)
    for path in carried:
        place = destination / path.relative_to(target.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, place)


def _require_inside(folder: Path, path: Path) -> None:
    """Refuse to carry what a link leads to outside the folder: it may be private, and be published.

    In the cache of the Hub a model's files are links into the folder `blobs` of that model.
    """
    real = path.resolve()
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":
        homes.append(homes[0].parents[1] / "blobs")
    if not any(real.is_relative_to(home) for home in homes):
        raise ValueError(
            f"{path} is a link to a file outside its folder, which would be copied along; put the "
            "file itself there, or remove the link"
        )


def sized_like(source: Path, destination: Path) -> list[tuple[int, int]]:
    """Make a file of another's size, and say which (start, stop) of its bytes are still to copy.

    None are where the file system lets two files share their bytes until one is written to.
    """
    with source.open("rb") as reading, destination.open("wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        if size == 0 or _cloned(reading.fileno(), writing.fileno()):
            return []
        os.truncate(writing.fileno(), size)
        return [(0, size)]


def copy_ranges(source: Path, destination: Path, ranges: Iterable[tuple[int, int]]) -> None:
    """Copy (start, stop) of a file's bytes to the same places, none of them through this process.

    Several threads may copy ranges of one file at a time.
    """
    with source.open("rb") as reading, destination.open("r+b") as writing:
        for start, stop in ranges:
            _copy_range(reading.fileno(), writing.fileno(), start, stop)


def _cloned(source: int, destination: int) -> bool:
    try:
        fcntl.ioctl(destination, _CLONE, source)
    except OSError:
        return False
    return True


def _copy_range(source: int, destination: int, start: int, stop: int) -> None:
    while start < stop:
        try:
            count = os.copy_file_range(source, destination, stop - start, start, start)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
            os.lseek(destination, start, os.SEEK_SET)
            count = os.sendfile(destination, source, start, stop - start)
        if count == 0:
            raise OSError("a file became shorter while it was copied")
        start += count
