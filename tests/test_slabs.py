import pytest
import torch
from safetensors.torch import load_file, save_file

import actlib.folders.slabs
from actlib.folders.headers import SINGLE, stored_tensors
from actlib.folders.layouts import StoredParameter
from actlib.folders.slabs import (
    OpenFiles,
    blocks_of,
    put_,
    read,
    read_block,
    same_bits,
    slabs_of,
    take,
    whole_slabs,
    write_block,
    write_rows,
)
from actlib.transfer import Selection

SHAPES = [(40,), (37, 6), (4, 9, 300)]


@pytest.fixture(params=[32, 1 << 20])
def block_bytes(request, monkeypatch):
    """Blocks of a row or two, and of everything."""
    monkeypatch.setattr(actlib.folders.slabs, "DENSE_BYTES", request.param)
    monkeypatch.setattr(actlib.folders.slabs, "SPARSE_BYTES", 40 * request.param)


def parameter_in(folder, shape, dtype, parts=1):
    """A random parameter stored in so many tensors."""
    values = torch.randn(shape).to(dtype)
    flat = values.flatten(0, -2) if values.ndim > 1 else values
    cut = flat.tensor_split(parts)
    save_file({f"{i:02}": each.contiguous() for i, each in enumerate(cut)}, folder / SINGLE)
    stored = stored_tensors(folder)
    return values, StoredParameter(tuple(shape), tuple(stored[name] for name in sorted(stored)))


def selected(shape, rows, columns):
    count = torch.Size(shape[:-1] or shape).numel()
    chosen = torch.rand(count) < rows
    across = None if len(shape) == 1 else torch.rand(shape[-1]) < columns
    return Selection("p", tuple(shape), chosen, across)


def cases():
    for shape in SHAPES:
        for rows in (0.0, 0.05, 0.5, 1.0):
            for columns in (0.0, 0.3) if len(shape) == 2 else (0.0,):
                yield shape, rows, columns


@pytest.mark.parametrize(("shape", "rows", "columns"), list(cases()))
@pytest.mark.parametrize("parts", [1, 5])
def test_slabs_read_what_the_pieces_of_a_selection_index(
    tmp_path, block_bytes, shape, rows, columns, parts
):
    torch.manual_seed(0)
    values, stored = parameter_in(tmp_path, shape, torch.bfloat16, parts)
    selection = selected(shape, rows, columns)
    pieces = selection.pieces()
    with OpenFiles(tmp_path) as files:
        slabs = list(slabs_of(stored, selection))
        for number, index in enumerate(pieces):
            own = [slab for slab in slabs if slab.piece == number]
            assert [slab.start for slab in own] == [0, *(slab.stop for slab in own)][:-1]
            found = torch.cat([read(files, stored, slab) for slab in own])
            assert torch.equal(found, values[index].view(len(found), -1))
    assert {slab.piece for slab in slabs} == set(range(len(pieces)))
    assert [slab.piece for slab in whole_slabs(selection)] == list(range(len(pieces)))


@pytest.mark.parametrize(("shape", "rows", "columns"), list(cases()))
def test_what_is_written_is_the_selection_and_nothing_else(
    tmp_path, block_bytes, shape, rows, columns
):
    torch.manual_seed(1)
    values, stored = parameter_in(tmp_path, shape, torch.float32, 3)
    selection = selected(shape, rows, columns)
    with OpenFiles(tmp_path, writable=True) as files:
        for block in blocks_of(stored, selection):
            if block.dense:
                matrix = read_block(files, block)
                for slab in block.slabs():
                    here = slab.rows - block.start
                    put_(matrix, here, slab.columns, -take(matrix, here, slab.columns))
                write_block(files, block, matrix)
            else:
                for slab in block.slabs():
                    write_rows(files, block, slab, -read(files, stored, slab))
    expected = values.clone()
    for index in selection.pieces():
        expected[index] = -expected[index]
    after = load_file(tmp_path / SINGLE)
    found = torch.cat([after[name] for name in sorted(after)]).view(shape)
    assert torch.equal(found, expected)


def test_few_rows_of_many_are_read_by_themselves(tmp_path, monkeypatch):
    _, stored = parameter_in(tmp_path, (1000, 300), torch.float32)
    rows = torch.zeros(1000, dtype=torch.bool)
    rows[[3, 4, 500]] = True
    selection = Selection("p", (1000, 300), rows, torch.zeros(300, dtype=torch.bool))
    (block,) = blocks_of(stored, selection)
    assert not block.dense
    counted = []
    fill = actlib.folders.slabs._fill
    monkeypatch.setattr(
        actlib.folders.slabs, "_fill", lambda *given: (counted.append(len(given[1])), fill(*given))
    )
    with OpenFiles(tmp_path) as files:
        read(files, stored, block.slabs()[0])
    assert counted == [2 * 1200, 1200]


@pytest.mark.parametrize("columns", [5, 8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_taking_and_putting_follow_indexing(columns, dtype):
    matrix = torch.randn(9, columns).to(dtype)
    for rows in (torch.tensor([1, 4, 8]), torch.arange(9)):
        for across in (None, torch.tensor([0, 3])):
            index = rows if across is None else (rows[:, None], across)
            assert torch.equal(take(matrix, rows, across), matrix[index])
            expected, found = matrix.clone(), matrix.clone()
            expected[index] = 7
            put_(found, rows, across, torch.full_like(matrix[index], 7))
            assert torch.equal(found, expected)


def test_bits_are_compared_not_numbers():
    nan = torch.full((2, 4), float("nan"))
    zero = torch.zeros(2, 4)
    assert same_bits(nan, nan.clone()) and not same_bits(zero, -zero)
    odd = torch.zeros(2, 3).bfloat16()
    assert same_bits(odd, odd.clone()) and not same_bits(odd, -odd)


def test_files_are_closed_at_the_end(tmp_path):
    _, stored = parameter_in(tmp_path, (4, 4), torch.float32)
    with OpenFiles(tmp_path) as files:
        descriptor = files[stored.parts[0].file]
        assert files[stored.parts[0].file] == descriptor
    with pytest.raises(OSError):
        actlib.folders.slabs.os.fstat(descriptor)
