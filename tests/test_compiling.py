import numba
import numpy as np

from actlib import compiling
from actlib.compiling import compiled


def total(numbers):
    found = 0.0
    for number in numbers:
        found += number
    return found


def test_a_loop_is_compiled_and_gives_what_it_gave():
    numbers = np.arange(5.0)
    loop = compiled(total)
    assert loop(numbers) == total(numbers) == 10
    assert loop.nopython_signatures  # It ran as compiled code, not as Python.


def test_where_nothing_can_be_kept_it_is_compiled_each_time(monkeypatch):
    tried = []

    def without_folder(**options):
        tried.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'total': no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compiling, "njit", without_folder)
    assert compiled(total)(np.arange(5.0)) == 10
    assert [bool(options.get("cache")) for options in tried] == [True, False]
