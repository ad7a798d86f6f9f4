import pytest
import torch

import actlib.folders.exchanging
from actlib.folders.exchanging import Swap, _BitSwap, exchange_, swaps
from actlib.folders.replacements import Replacement
from actlib.folders.slabs import take, whole_slabs
from actlib.transfer import Selection

DTYPES = [torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(params=[1, 200, 1 << 22])
def block_bytes(request, monkeypatch):
    """Blocks of one row, of a few, and of everything."""
    monkeypatch.setattr(actlib.folders.exchanging, "BLOCK_BYTES", request.param)


def matrix_and_blocks(dtype, chosen=0.3, columns=0.4, width=10):
    """A random matrix [37, width], the values that it is to get, and the blocks that do it."""
    matrix, goal = torch.randn(2, 37, width).to(dtype)
    across = None if columns is None else torch.rand(width) < columns
    rows = torch.rand(37) < chosen
    (rows if chosen else across)[3] = True  # Something, whatever was drawn.
    selection = Selection("p", (37, width), rows, across)
    found, wanted = [], matrix.clone()
    for index in selection.pieces():
        wanted[index] = goal[index]
    for slab in whole_slabs(selection):
        old, new = (take(each, slab.rows, slab.columns) for each in (matrix, goal))
        found += swaps(matrix, Replacement(slab, old, new))
    return matrix, wanted, found


def bits(matrix):
    return matrix.clone().view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [10, 16])
@pytest.mark.parametrize(("chosen", "columns"), [(0.3, None), (0.0, 0.4), (0.3, 0.4), (1.0, 0.4)])
def test_the_selected_elements_get_their_new_values(block_bytes, dtype, chosen, columns, width):
    matrix, wanted, blocks = matrix_and_blocks(dtype, chosen, columns, width)
    assert exchange_(blocks)
    assert torch.equal(bits(matrix), bits(wanted))
    assert not exchange_(blocks)  # It no longer has the old ones.
    assert torch.equal(bits(matrix), bits(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_other_value_leaves_everything_as_it_was(block_bytes, dtype):
    matrix, wanted, blocks = matrix_and_blocks(dtype)
    row, column = (matrix != wanted).nonzero()[-1].tolist()
    matrix[row, column] *= -1
    before = bits(matrix)
    assert not exchange_(blocks)
    assert torch.equal(bits(matrix), before)


def test_zeros_of_the_other_sign_differ_and_a_nan_is_itself(block_bytes):
    everything = Selection("p", (37, 10), torch.ones(37, dtype=torch.bool), None)
    for value, found, fits in ((0.0, -0.0, False), (float("nan"), float("nan"), True)):
        matrix, wanted = torch.randn(2, 37, 10)
        matrix[20, 4] = value
        (slab,) = whole_slabs(everything)
        blocks = list(swaps(matrix, Replacement(slab, matrix.clone(), wanted)))
        matrix[20, 4] = found
        before = bits(matrix)
        assert exchange_(blocks) is fits
        assert torch.equal(bits(matrix), bits(wanted) if fits else before)


def test_elements_that_no_loop_takes_are_exchanged_as_well(block_bytes):
    """Such as those of a matrix on another device, or of a transposed one."""
    matrix, goal = torch.randn(2, 10, 37)
    selection = Selection("p", (37, 10), torch.rand(37) < 0.5, torch.rand(10) < 0.5)
    wanted = matrix.clone()
    for index in selection.pieces():
        wanted.T[index] = goal.T[index]
    blocks = []
    for slab in whole_slabs(selection):
        old, new = (take(each.T.contiguous(), slab.rows, slab.columns) for each in (matrix, goal))
        blocks += swaps(matrix.T, Replacement(slab, old, new))
    assert not any(isinstance(each, _BitSwap) for each in blocks)
    before = matrix.clone()
    row, column = (matrix.T != wanted.T).nonzero()[-1].tolist()
    matrix.T[row, column] *= -1
    differing = matrix.clone()
    assert not exchange_(blocks)
    assert torch.equal(matrix, differing)
    matrix.copy_(before)
    assert exchange_(blocks)
    assert torch.equal(matrix, wanted)


class Failing(Swap):
    """Fails halfway through its work."""

    error: type[BaseException] = ValueError

    def do(self):
        matrix, rows, _ = self._place
        self._begun = True
        matrix[rows[0]] = 7
        raise self.error


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_error_or_interrupt_in_any_block_is_undone(monkeypatch, error):
    monkeypatch.setattr(actlib.folders.exchanging, "BLOCK_BYTES", 1)
    monkeypatch.setattr(Failing, "error", error)
    for at in range(0, 37, 6):
        matrix, _, blocks = matrix_and_blocks(torch.float32, 1.0, None)
        before = bits(matrix)
        rows = torch.tensor([at])
        slab = whole_slabs(Selection("p", (37, 10), torch.arange(37) == at, None))[0]
        replacement = Replacement(slab, matrix[rows].clone(), torch.zeros(1, 10))
        blocks[at] = Failing(matrix, replacement)
        with pytest.raises(error):
            exchange_(blocks)
        assert torch.equal(bits(matrix), before)


def test_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    _, _, blocks = matrix_and_blocks(torch.float32)
    assert exchange_(blocks)
    assert torch.get_num_threads() == before
