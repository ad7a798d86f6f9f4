"""One process at a time in a folder: a lock that dies with its process, so that none is ever stale.

with held(folder / ".lock", "building the model base"):
...                      # a second process waits here, and says for whom

lock = take(folder / ".lock", "a run of the study")     # refuses instead; held until exit
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actlib.files import clear_errors


@contextmanager
def held(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock for the block; where another process has it, wait and say so on standard error.

    Args:
        path: file that stands for the lock; it goes again at the end, or with the next to hold it.
        doing: what is done meanwhile, for those who wait.

    Raises:
        Unwritable: the folder cannot be written.
    """
    descriptor = _waited_for(path)
    try:
        _sign(descriptor, doing)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _waited_for(path: Path) -> int:
    while True:
        descriptor = _opened(path)
        if not _taken(descriptor):
            print(f"waiting for {_holder(descriptor)}, which holds {path}", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # Its holder removed the file; the lock of that one says nothing.


def take(path: Path, doing: str) -> int:
    """Take a lock for the rest of the process, or refuse.

    Returns:
        The descriptor that holds it, to close by who wants to give it back.

    Raises:
        ValueError: another process has it; the sentence names that one and the folder.
        Unwritable: the folder cannot be written.
    """
    descriptor = _opened(path)
    if not _taken(descriptor):
        told = _holder(descriptor)
        os.close(descriptor)
        raise ValueError(f"{told} works in {path.parent}: wait until it has ended, or end it")
    _sign(descriptor, doing)
    return descriptor


def alone(path: Path) -> tuple[int, bool]:
    """Join those who share a lock, and say whether nobody else does.

    Returns:
        The descriptor that holds the share for the rest of the process; whether it is the only one.

    Raises:
        Unwritable: the folder cannot be written.
    """
    descriptor = _opened(path)
    only = _taken(descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor, only


def _opened(path: Path) -> int:
    with clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int, doing: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{doing} (process {os.getpid()})".encode(), 0)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 1000, 0).decode(errors="replace") or "another process"
