"""Sums over tokens of two models' activations on the CPU, in one pass over the numbers.

    add_sums(a, b, rows, 0, channels, sums)

Each number is read once, widened to float64 and added up there, channel by channel in the order of
the tokens. So the sums depend neither on how many threads share the channels nor on the batches.
"""

import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor

from actlib.compiling import compiled

_AT_ONCE = 1024  # channels whose sums stay in the processor's fastest cache


def as_numbers(values: Tensor) -> np.ndarray:
    """An array that the loops take, of the same memory where it can be: bfloat16 is given as bits.

    Args:
        values: a matrix on the CPU.
    """
    values = values.detach().contiguous()
    if values.dtype == torch.bfloat16:
        return values.view(torch.uint16).numpy()
    return (values if values.dtype in (torch.float32, torch.float64) else values.float()).numpy()


@register_jitable
def _widened(number):
    """A number in float64; one that is given as bits of a bfloat16 is the upper half of a float."""
    if isinstance(number, np.uint16):
        return np.float64(np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32))
    return np.float64(number)


@compiled
def add_differences(a, b, rows, start, stop, sums, place):
    """As `add_sums`, but add |a - b| alone, to the one row of the sums."""
    for first in range(start, stop, _AT_ONCE):
        last = min(first + _AT_ONCE, stop)
        found = sums[0, place + first : place + last]
        for token in range(len(rows)):
            _add_difference(a[token, first:last], b[rows[token], first:last], found)


@compiled
def add_sums(a, b, rows, start, stop, sums, place):
    """Add |a - b|, (|a| + |b|) / 2, a and a squared of all tokens to some channels' sums.

    Args:
        a: the donor's activations [tokens, channels].
        b: the target's, from whose rows these tokens are chosen [positions, channels].
        rows: of `b`, for each token [tokens].
        start: first channel.
        stop: end of the channels.
        sums: what is added to, in float64 [4, all modules' channels].
        place: of channel 0 in the sums.
    """
    for first in range(start, stop, _AT_ONCE):
        last = min(first + _AT_ONCE, stop)
        begin, end = place + first, place + last
        differences, sizes = sums[0, begin:end], sums[1, begin:end]
        totals, squares = sums[2, begin:end], sums[3, begin:end]
        for token in range(0, len(rows) - 1, 2):
            one = a[token, first:last], b[rows[token], first:last]
            two = a[token + 1, first:last], b[rows[token + 1], first:last]
            _add_two_tokens(*one, *two, differences, sizes, totals, squares)
        if len(rows) % 2:
            one = a[len(rows) - 1, first:last], b[rows[-1], first:last]
            _add_token(*one, differences, sizes, totals, squares)


@register_jitable
def _add_difference(a, b, differences):
    for channel in range(len(differences)):
        differences[channel] += abs(_widened(a[channel]) - _widened(b[channel]))


@register_jitable
def _add_token(a, b, differences, sizes, totals, squares):
    for channel in range(len(differences)):
        x, y = _widened(a[channel]), _widened(b[channel])
        differences[channel] += abs(x - y)
        sizes[channel] += (abs(x) + abs(y)) / 2
        totals[channel] += x
        squares[channel] += x * x


@register_jitable
def _add_two_tokens(a, b, c, d, differences, sizes, totals, squares):
    """As `_add_token` twice, with half as many sums read and written."""
    for channel in range(len(differences)):
        x, y = _widened(a[channel]), _widened(b[channel])
        v, w = _widened(c[channel]), _widened(d[channel])
        differences[channel] = differences[channel] + abs(x - y) + abs(v - w)
        sizes[channel] = sizes[channel] + (abs(x) + abs(y)) / 2 + (abs(v) + abs(w)) / 2
        totals[channel] = totals[channel] + x + v
        squares[channel] = squares[channel] + x * x + v * v
