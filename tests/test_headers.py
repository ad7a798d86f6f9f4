import json
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from actlib.loading import load_pretrained
from actlib.stored import INDEX, SINGLE, stored_tensors


def index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_writing_to_an_opened_tensor_leaves_the_file(tmp_path):
    save_file({"a": torch.zeros(4)}, tmp_path / SINGLE)
    stored_tensors(tmp_path)["a"].open(tmp_path).fill_(1)
    assert not stored_tensors(tmp_path)["a"].open(tmp_path).any()


def test_the_single_file_counts_or_else_the_shard_that_the_index_names(tmp_path):
    for number in (1, 2):
        tensors = {"a": torch.full((2,), float(number)), str(number): torch.ones(1)}
        save_file(tensors, tmp_path / f"x-{number}.safetensors")
    index(tmp_path, {"1": "x-1.safetensors", "a": "x-1.safetensors", "2": "x-2.safetensors"})
    assert stored_tensors(tmp_path)["a"].open(tmp_path).tolist() == [1, 1]
    save_file({"a": torch.full((2,), 3.0)}, tmp_path / SINGLE)
    (single,) = stored_tensors(tmp_path).values()
    assert (single.file, single.open(tmp_path).tolist()) == (SINGLE, [3, 3])


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "..\\x.safetensors"]
)
def test_an_index_that_leaves_the_folder_is_refused(tmp_path, file):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    index(folder, {"a": file})
    for read in (stored_tensors, partial(load_pretrained, AutoModelForCausalLM)):
        with pytest.raises(ValueError, match="expected safetensors files in its folder"):
            read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not an index of safetensors files"),
        ('{"weight_map": {"a": 3}}', "is not an index of safetensors files"),
        ("[" * 100_000, "is not an index of safetensors files"),
        ('{"weight_map": {"a": "x.bin"}}', "expected safetensors files in its folder"),
        ('{"weight_map": {"b": "x.safetensors"}}', "lacks the tensor b that the index names"),
    ],
)
def test_a_broken_index_is_one_sentence(tmp_path, text, message):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match=message):
        stored_tensors(tmp_path)


def as_file(entry, length=None, data=b"\0" * 16):
    text = json.dumps({"a": entry}).encode()
    return (length or len(text)).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "damaged",
    [
        as_file(ENTRY | {"shape": [2, 3]}),
        as_file(ENTRY | {"shape": [2**40, 2**40]}),
        as_file(ENTRY | {"data_offsets": [-16, 0]}),
        as_file(ENTRY, data=b"\0" * 15),
        as_file(ENTRY, length=2**63),
        as_file("[" * 60_000),
        b"\1",
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, damaged):
    (tmp_path / SINGLE).write_bytes(as_file(ENTRY))
    assert stored_tensors(tmp_path)["a"].shape == (2, 2)
    (tmp_path / SINGLE).write_bytes(damaged)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        stored_tensors(tmp_path)
