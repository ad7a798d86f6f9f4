"""Two processes fine-tune one model: the same in both, and that of one process but for rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from finetuning_process import tuned
from small_study import SIZES

from actlib.study.presets import ScratchModel, load_preset
from actlib.study.training import small_model, small_tokenizer

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("finetuning_process.py")
QUESTIONS = [
    {"question": f"{n} + {n}?", "answer": " ".join(["It is"] * (1 + n % 5)) + f" {2 * n}."}
    for n in range(16)  # answers of other lengths, so that the processes have unequal shares
]
SETTINGS = {"items": QUESTIONS, "steps": 12, "learning_rate": 5e-3, "batch_size": 4}
CASES = {
    "all weights": SETTINGS | {"mixed_precision": False},
    "adapters": SETTINGS | {"mixed_precision": False, "lora_rank": 4},
    "bfloat16": SETTINGS | {"mixed_precision": True},
}
FARTHEST = {"all weights": (2e-5, 1e-5), "adapters": (2e-5, 1e-5), "bfloat16": (0.03, 3e-3)}
"""Most that a weight, and a loss, may differ; measured were 1.4e-6 and 1e-6 in float32, 0.014 and
3e-4 in bfloat16, where Adam moves a weight by up to 0.06 in all."""


@pytest.fixture(scope="module")
def folder(small_preset, tmp_path_factory):
    """Where two processes, started by torchrun, left what they found."""
    place = tmp_path_factory.mktemp("processes")
    torch.manual_seed(0)
    tokenizer = small_tokenizer(load_preset(small_preset), 400)
    spec = {"scratch": SIZES, "cells": [], "steps": 1, "learning_rate": 1, "batch_size": 1}
    small_model(ScratchModel(**spec), tokenizer).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    torch.save(CASES, place / "cases.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr=127.0.0.1", "--nproc-per-node=2", str(SCRIPT), str(place)]
    added = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    added |= {"PYTHONPATH": str(SCRIPT.parents[1]), "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run(
        command, env={**os.environ, **added}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def found(folder):
    return [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_weights_of_one(folder, found, name):
    (weights, losses), (other_weights, other_losses) = (each[name] for each in found)
    assert losses == other_losses
    assert all(weights[key].equal(other_weights[key]) for key in weights)
    alone, losses_alone = tuned(folder, CASES[name])
    farthest = max((weights[key] - alone[key]).abs().max().item() for key in alone)
    apart = max(abs(a - b) for a, b in zip(losses, losses_alone, strict=True))
    assert farthest < FARTHEST[name][0] and apart < FARTHEST[name][1], (farthest, apart)
    assert losses[-1] < losses[0]


def test_a_batch_that_cannot_be_shared_evenly_is_refused(found):
    for each in found:
        assert "2 processes cannot share a batch of 3 items" in each["refusal"]
