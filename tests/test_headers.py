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


def with_header(path, header, data=b"\0" * 16):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_writing_to_an_opened_tensor_leaves_the_file(tmp_path):
    save_file({"a": torch.zeros(4)}, tmp_path / SINGLE)
    stored_tensors(tmp_path)["a"].open(tmp_path).fill_(1)
    assert not stored_tensors(tmp_path)["a"].open(tmp_path).any()


def test_of_two_copies_the_one_that_the_index_names_counts(tmp_path):
    for number in (1, 2):
        save_file(
            {"a": torch.full((2,), float(number)), str(number): torch.ones(1)},
            tmp_path / f"x-{number}.safetensors",
        )
    index(tmp_path, {"1": "x-1.safetensors", "a": "x-1.safetensors", "2": "x-2.safetensors"})
    assert stored_tensors(tmp_path)["a"].open(tmp_path).tolist() == [1, 1]


@pytest.mark.parametrize(
    "file",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/../../x.safetensors",
        "C:\\x.safetensors",
        "..\\x.safetensors",
        "x.bin",
    ],
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
    "text",
    ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000],
    ids=lambda text: text[:9],
)
def test_a_broken_index_is_one_sentence(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match="is not an index of safetensors files"):
        stored_tensors(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    index(tmp_path, {"a": "x.safetensors", "b": "x.safetensors"})
    with pytest.raises(ValueError, match="lacks the tensor b that the index names"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize(
    "change", [{"shape": [2, 3]}, {"data_offsets": [-16, 0]}, {"shape": [2**40, 2**40]}]
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, change):
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    with_header(tmp_path / SINGLE, {"a": entry})
    assert stored_tensors(tmp_path)["a"].shape == (2, 2)
    for damaged in ({"a": entry | change}, b"\0" * 16), ({"a": entry}, b"\0" * 15):
        with_header(tmp_path / SINGLE, *damaged)
        with pytest.raises(ValueError, match="is not a safetensors file"):
            stored_tensors(tmp_path)
