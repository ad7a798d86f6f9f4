"""One process at a time, by filelock, whose locks end with their process.

    with locked(folder / ".lock", "building the model base"):
        ...                                      # a second process waits here, and says for what
    lock = locked(folder / ".lock", "running tiny", wait=False)   # refuses; held until it is freed

Where a file system has no `flock`, filelock takes a marker file of the same name. One that a killed
process left is replaced by the next process on that machine; on another it is removed by hand.
"""

import sys
from pathlib import Path

from filelock import AcquireReturnProxy, BaseFileLock, FileLock, Timeout


def locked(path: Path, doing: str, wait: bool = True) -> AcquireReturnProxy[BaseFileLock]:
    """Take a lock, which `with` gives back.

    Args:
        path: file of the lock.
        doing: what is done meanwhile, such as "building the model base", for those who wait.
        wait: wait for another process that has it, and say so on standard error.

    Raises:
        ValueError: another process has it, and is not waited for.
        OSError: the folder cannot be written, or has no locks.
    """
    lock: BaseFileLock = FileLock(path)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        taken = f"another process is {doing} (lock {path})"
    if not wait:
        raise ValueError(f"{taken}; wait until it has ended, or end it")
    print(f"waiting: {taken}", file=sys.stderr)
    return lock.acquire()
