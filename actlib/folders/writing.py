"""Writes a folder or a file whole or not at all, and copies bytes without reading them.

    with folder_beside(output) as unfinished:
        ...  # write into `unfinished`
    # `output` is there now, or nothing is

    with file_beside(path) as unfinished:
        table.to_parquet(unfinished)
    write_text(path, "words")

What is written grows in a hidden folder beside the output and is renamed at the end. After an error
the hidden folder is removed; after a kill it stays, and the next writer of the same output removes
it. Its maker holds a lock on it that dies with the process, so that one in use is never removed.

A kill leaves nothing half-made. That a finished output also outlives a power cut takes waiting for
the disk, which `cp` does not either: files are waited for, folders where `durable` says so.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_ENDING = ".partial"
_CLONE = 0x40049409  # FICLONE of linux/fs.h
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_UNABLE = {errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF}


class Unwritable(OSError, ValueError):
    """An output that its folder does not take; the sentence names the folder and the remedy."""


def require_free(output: Path) -> None:
    """Refuse an output folder that holds something.

    Raises:
        ValueError: names the folder.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"the output folder {output} exists and is not empty; name another")


@contextmanager
def folder_beside(output: Path, durable: bool = False, replace: bool = False) -> Iterator[Path]:
    """A folder that takes the name `output` at the end of the block, or goes away after an error.

    Args:
        output: absent, or an empty folder.
        durable: wait until all of it is on the disk before it takes its name.
        replace: `output` may hold something, which goes.

    Raises:
        Unwritable: the disk is full, or the folder around `output` cannot be written.
    """
    with _hidden_beside(output) as hidden:
        unfinished = hidden / output.name
        unfinished.mkdir()
        yield unfinished
        if durable:
            for path in (*unfinished.rglob("*"), unfinished):
                _flush(path)
        if replace and output.exists():
            # Renamed first: a kill while it is removed must not leave a part of it in its place.
            output.rename(hidden / "replaced")
        unfinished.replace(output)
        if durable:
            _flush(output.parent)


@contextmanager
def file_beside(output: Path) -> Iterator[Path]:
    """The path of a file to write, which takes the name `output` at the end of the block.

    It is on the disk then; what `output` held before is replaced.

    Raises:
        Unwritable: the disk is full, or the folder around `output` cannot be written.
    """
    with _hidden_beside(output) as hidden:
        yield hidden / output.name
        _flush(hidden / output.name)
        (hidden / output.name).replace(output)
        _flush(output.parent)


def move_file(source: Path, output: Path) -> None:
    """Give a whole file of the same disk its place, after it is on the disk."""
    with clear_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        _flush(source)
        source.replace(output)
        _flush(output.parent)


def write_text(output: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; see `file_beside`."""
    with file_beside(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def clear_errors(output: Path) -> Iterator[None]:
    """Tell a full disk and a folder that cannot be written in one sentence.

    Args:
        output: what the block writes.

    Raises:
        Unwritable: the block failed for one of these reasons; other errors stay as they are.
    """
    try:
        yield
    except Exception as error:
        told = _reason(error, output)
        if told is None:
            raise
        raise Unwritable(told) from error


def _reason(error: Exception, output: Path) -> str | None:
    # Libraries in Rust have errors of their own, with the number in their words.
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    name, folder = output.name, output.parent
    if number in _FULL:
        return f"no space is left in {folder} for {name}: free some, or write to another disk"
    if number in _CLOSED and _is_at(getattr(error, "filename", None), folder):
        return f"{folder} cannot be written, so {name} was not: make it writable or name another"
    if number == errno.EFBIG:
        return f"{name} is larger than files may be in {folder}: raise that limit (ulimit -f)"
    return None


def _is_at(failed: str | None, folder: Path) -> bool:
    """Whether what failed is in the folder or above it, and not a file that was only read."""
    if failed is None:
        return True
    path = Path(os.fsdecode(failed)).absolute()
    return path.is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(path)


@contextmanager
def _hidden_beside(output: Path) -> Iterator[Path]:
    with clear_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(output)
        hidden, lock = _locked_folder(output)
        try:
            yield hidden
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            os.close(lock)


def _locked_folder(output: Path) -> tuple[Path, int]:
    """A new hidden folder and the descriptor that holds its lock."""
    while True:
        found = tempfile.mkdtemp(_ENDING, prefix=f".{output.name}.", dir=output.parent)
        lock = _lock(Path(found))
        if lock is not None:
            return Path(found), lock
        # A writer of the same output took it for stale in the moment before it was locked.


def _remove_stale(output: Path) -> None:
    """Remove what killed writers of the same output left."""
    name = re.compile(re.escape(f".{output.name}.") + r"\w{8}" + re.escape(_ENDING))
    for path in output.parent.iterdir():
        if name.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            lock = _lock(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Descriptor that holds the folder's lock; None if another has it or the folder is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file's content, without its permissions."""
    copy_ranges(source, destination, sized_like(source, destination))


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
