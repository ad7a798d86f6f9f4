"""Sums over tokens on a CPU in one pass over the numbers, by Numba where it is installed.

    if not try_add_sums(sums, donor, target): ...    # False: no Numba, or tensors on another device

Without it `actlib.recording.sum_tokens` gives the same within rounding.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

try:
    from numba import njit
    from numba.extending import register_jitable
except ImportError:
    njit, register_jitable = None, lambda function: function  # type: ignore

THREAD_NUMBERS = 2**20  # so many numbers are worth a thread
AT_ONCE = 1024  # so many channels stay in the fastest cache


def try_add_sums(sums: Tensor, donor: Tensor, target: Tensor) -> bool:
    """Add |a - b|, (|a| + |b|) / 2 and, of four sums, a and a^2 of all tokens; say if it was done.

    Args:
        sums: float64 [2 or 4, channels].
        donor: its activations a [tokens, channels].
        target: its activations b of the same tokens.
    """
    if njit is None or not (donor.is_cpu and target.is_cpu and sums.is_cpu):
        return False
    arrays, channels = (_as_array(donor), _as_array(target), sums.numpy()), donor.shape[1]
    threads = max(1, min(torch.get_num_threads(), donor.numel() // THREAD_NUMBERS))
    bounds = [channels * thread // threads for thread in range(threads + 1)]
    run = ThreadPoolExecutor(threads).map if threads > 1 else map
    list(run(lambda start, stop: _compiled()(*arrays, start, stop), bounds[:-1], bounds[1:]))
    return True


def _as_array(values: Tensor) -> np.ndarray:
    """An array of the same memory; NumPy has no bfloat16, whose bits are given as integers."""
    if values.dtype == torch.bfloat16:
        return values.contiguous().view(torch.uint16).numpy()
    wide = values.dtype in (torch.float32, torch.float64)
    return (values if wide else values.float()).contiguous().numpy()


@cache
def _compiled():
    try:
        return njit(nogil=True, cache=True)(_add)
    except RuntimeError:  # there is no folder to keep it in
        return njit(nogil=True)(_add)


@register_jitable
def _wide(x):
    if isinstance(x, np.uint16):  # the bits of a bfloat16 are the upper half of a float
        return np.float64(np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32))
    return np.float64(x)


def _add(a, b, sums, start, stop):
    for first in range(start, stop, AT_ONCE):
        last = min(first + AT_ONCE, stop)
        for token in range(len(a)):
            donor_values, target_values = a[token, first:last], b[token, first:last]
            differences, magnitudes = sums[0, first:last], sums[1, first:last]
            for i in range(last - first):
                x, y = _wide(donor_values[i]), _wide(target_values[i])
                differences[i] += abs(x - y)
                magnitudes[i] += (abs(x) + abs(y)) / 2
            if len(sums) == 4:
                totals, squares = sums[2, first:last], sums[3, first:last]
                for i in range(last - first):
                    x = _wide(donor_values[i])
                    totals[i] += x
                    squares[i] += x * x
