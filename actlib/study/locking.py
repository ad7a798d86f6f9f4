"""One process at a time: file locks that end with their process, by the library filelock.

    with locked(folder / ".lock", "building the model base"):
        ...                                      # a second process waits here, and says for what
    lock = claim(folder / ".lock", "run of tiny")   # refuses instead; held until it is released

Where a file system refuses `flock` (NFS without its lock service, Lustre mounted without it), the
lock is a marker file beside it, which a process killed on another machine leaves behind.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

REFUSED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
PATIENCE = 3600.0
"""Seconds to wait for a marker file, whose process may have been killed on another machine."""


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock for the block; where another process has it, wait and say so on standard error.

    Args:
        path: file of the lock; it stays, empty.
        doing: what is done meanwhile, such as "building the model base", for those who wait.

    Raises:
        OSError: the folder cannot be written.
        ValueError: a marker file was there for an hour.
    """
    try:
        lock = _acquire(path, 0, 0)
    except Timeout:
        print(f"waiting for another process, {doing} (lock {path})", file=sys.stderr)
        try:
            lock = _acquire(path, -1, PATIENCE)
        except Timeout as error:
            raise ValueError(
                f"another process has been {doing} for {PATIENCE / 60:.0f} minutes; "
                f"if none is alive on any machine, remove {error.lock_file}"
            ) from None
    try:
        yield
    finally:
        lock.release()


def claim(path: Path, doing: str) -> BaseFileLock:
    """Take a lock, or refuse at once.

    Args:
        path: file of the lock; it stays, empty.
        doing: what the lock is for, such as "run of tiny".

    Returns:
        The lock, for as long as it is referred to; `release` gives it back.

    Raises:
        ValueError: another process has it; the sentence names the folder.
        OSError: the folder cannot be written.
    """
    try:
        return _acquire(path, 0, 0)
    except Timeout as error:
        marker = f"; if none is alive, remove {error.lock_file}" * (error.lock_file != str(path))
        raise ValueError(
            f"another {doing} works in {path.parent}: wait until it has ended, or end it{marker}"
        ) from None


def _acquire(path: Path, timeout: float, patience: float) -> BaseFileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        lock = SoftFileLock(f"{path}.marker")
        lock.acquire(timeout=patience)
    return lock
