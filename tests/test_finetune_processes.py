"""Two processes fine-tune one model: the same in both, and that of one process but for rounding.

This file is also the script that `torchrun` starts in each of them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from small_study import SIZES
from tiny_models import same_bits, state_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from actlib.finetune import finetune, light_lora
from actlib.study.presets import ScratchModel, load_preset
from actlib.study.training import small_model, small_tokenizer

pytestmark = pytest.mark.slow

QUESTIONS = [
    {"question": f"{n} + {n}?", "answer": " ".join(["It is"] * (1 + n % 5)) + f" {2 * n}."}
    for n in range(16)  # answers of other lengths, so that the processes have unequal shares
]
SETTINGS = {"steps": 12, "learning_rate": 5e-3, "batch_size": 4, "progress": False}
SETTINGS |= {"mixed_precision": False, "lora": light_lora(4)}


def tuned(folder, **changes):
    """Weights by name and losses after a fine-tuning of the model in a folder, by adapters."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    losses = finetune(model, tokenizer, QUESTIONS, **SETTINGS | changes)
    return state_of(model), losses


def main(folder):
    """One of the processes."""
    torch.set_num_threads(1)
    state = PartialState()
    torch.save(tuned(folder), folder / f"found-{state.process_index}.pt")
    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3 items"):
        tuned(folder, batch_size=3)
    state.destroy_process_group()


def test_two_processes_give_the_weights_of_one(small_preset, tmp_path):
    torch.manual_seed(0)
    tokenizer = small_tokenizer(load_preset(small_preset), 400)
    spec = {"scratch": SIZES, "abilities": [], "steps": 1, "learning_rate": 1, "batch_size": 1}
    small_model(ScratchModel(**spec), tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr=127.0.0.1", "--nproc-per-node=2", __file__, str(tmp_path)]
    added = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    added |= {"PYTHONPATH": str(Path(__file__).parents[1]), "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run(
        command, env={**os.environ, **added}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = [torch.load(tmp_path / f"found-{rank}.pt", weights_only=True) for rank in range(2)]
    (weights, losses), (other_weights, other_losses) = found
    assert losses == other_losses and same_bits(weights, other_weights)
    alone, losses_alone = tuned(tmp_path)
    assert max((weights[key] - alone[key]).abs().max().item() for key in alone) < 2e-5
    assert losses == pytest.approx(losses_alone, abs=1e-5)
    assert losses[-1] < losses[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
