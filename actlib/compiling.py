"""Compiles loops over arrays by Numba, for what NumPy and torch need several passes over memory.

    @compiled
    def loop(numbers, found): ...

A loop is compiled when it is first called, for a few seconds, and kept beside this package or in
the user's cache; other processes then load it. `NUMBA_CACHE_DIR` names another folder.
"""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function, which lets other threads run while it does."""
    try:
        return njit(nogil=True, cache=True)(loop)
    except RuntimeError:  # There is no folder to keep it in.
        return njit(nogil=True)(loop)
