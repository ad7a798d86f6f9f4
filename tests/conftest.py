"""Tiny random models of several families, and batches for them; nothing comes from the Hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import copy

import pytest
import torch
from small_study import write_data, write_preset
from tiny_models import ARCHITECTURES, EVERY_ARCHITECTURE, collate, random_items, tiny_model

from actlib.study.families import build
from actlib.study.presets import load_preset
from actlib.study.session import Study
from actlib.study.training import small_tokenizer

torch.set_num_threads(1)


@pytest.fixture
def family():
    """`family(architecture, seed=0, dtype=torch.float32)`: a fresh tiny model."""

    def make(architecture="qwen2", seed=0, dtype=torch.float32):
        return copy.deepcopy(tiny_model(architecture, seed)).to(dtype)

    return make


@pytest.fixture
def pair(family):
    """`pair(architecture, dtype)`: donor and target, two models that differ in every parameter."""

    def make(architecture="qwen2", dtype=torch.float32):
        return family(architecture, 1, dtype), family(architecture, 0, dtype)

    return make


@pytest.fixture
def folders(pair, tmp_path):
    """`folders(architecture, dtype, shard_size, donor_size)`: a pair, also saved in tmp_path."""

    def make(architecture="llama_tied", dtype=torch.float32, shard_size="1GB", donor_size="1GB"):
        donor, target = pair(architecture, dtype)
        donor.save_pretrained(tmp_path / "donor", max_shard_size=donor_size)
        target.save_pretrained(tmp_path / "target", max_shard_size=shard_size)
        return donor, target

    return make


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    """Each of five model families in turn, those that differ most."""
    return request.param


@pytest.fixture(params=EVERY_ARCHITECTURE)
def any_architecture(request):
    """Each model family in turn, for the few tests that every family must pass."""
    return request.param


@pytest.fixture
def items():
    """Six unpadded items of different lengths: (token ids, answer flags)."""
    return random_items((5, 2), (9, 4), (7, 1), (9, 3), (4, 3), (6, 2))


@pytest.fixture(name="collate")
def collate_():
    """`collate(items, size, side)`: batches of that size, padded on one side."""
    return collate


@pytest.fixture
def batches(items, collate):
    """The six items in two left-padded batches."""
    return collate(items)


@pytest.fixture(scope="session")
def small_preset(tmp_path_factory):
    """Path of the YAML of a small family, whose data lie beside it."""
    folder = tmp_path_factory.mktemp("small")
    return write_preset(folder / "small.yaml", write_data(folder / "data"))


@pytest.fixture(scope="module")
def tokenizer(small_preset):
    """The tokenizer of the small family, with 400 tokens."""
    return small_tokenizer(load_preset(small_preset), 400)


@pytest.fixture(scope="session")
def small_store(small_preset, tmp_path_factory):
    """Store in which the small family is built."""
    store = tmp_path_factory.mktemp("store")
    preset = load_preset(small_preset)
    for name in preset.models:
        build(preset, name, 0, store)
    return store


@pytest.fixture
def study(small_preset, small_store, monkeypatch, tmp_path):
    """The study of the small family, built; its results go to a folder of the test."""
    monkeypatch.setenv("ACT_STORE", str(small_store))
    monkeypatch.setenv("ACT_RESULTS", str(tmp_path / "results"))
    return Study.open(small_preset)
