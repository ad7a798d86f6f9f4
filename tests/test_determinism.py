"""The same seed on the same machine gives the same bits, in two processes and with two threads."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

RUN = """
import sys
import torch
sys.path.insert(0, "tests")
from safetensors.torch import save_file
from tiny_models import VOCAB, tiny_model
from actlib import random_like, record_differences, transfer_
from actlib.evaluation import evaluate
from actlib.parameters import weight_differences

torch.set_num_threads(int(sys.argv[2]))
donor, target = tiny_model("qwen2", 1), tiny_model("qwen2", 0)
generator = torch.Generator().manual_seed(3)
ids = torch.randint(3, VOCAB, (4, 12), generator=generator)
answer = (torch.arange(12) >= 8).expand(4, 12)
positions = torch.arange(12).expand(4, 12)
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "answer_mask": answer}
batch |= {"position_ids": positions, "index": list(range(4))}
scores = record_differences(donor, target, [batch])
mask = scores.top(5.0)
found = {f"scores {name}": values for name, values in scores.values.items()}
found |= {f"weights {name}": v for name, v in weight_differences(donor, target).values.items()}
found |= {f"mask {name}": chosen for name, chosen in mask.channels.items()}
found |= {f"random {name}": c for name, c in random_like(mask, 0).channels.items()}
transfer_(target, donor, mask, scale=0.4)
found |= {f"moved {n}": p.detach().clone() for n, p in target.named_parameters()}
found["nll"] = torch.tensor(evaluate(target, [batch])["nll"].to_numpy())
save_file(found, sys.argv[1])
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Results of three processes: one thread, one thread again, two threads."""
    folder, found = tmp_path_factory.mktemp("runs"), []
    processes = []
    for number, threads in enumerate((1, 1, 2)):
        path = folder / str(number)
        command = [sys.executable, "-c", RUN, str(path), str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        processes.append((subprocess.Popen(command, env=environment), path))
    for process, path in processes:
        assert process.wait() == 0
        found.append(load_file(path))
    return found


def test_two_processes_give_the_same_bits(runs):
    first, again, _ = runs
    assert first.keys() == again.keys()
    assert all(first[name].equal(again[name]) for name in first)


def test_two_threads_give_the_same_masks_and_all_else_within_rounding(runs):
    first, _, threads = runs
    for name, values in first.items():
        if name.startswith(("mask", "random", "weights")):
            assert values.equal(threads[name]), name
        else:
            torch.testing.assert_close(threads[name], values, rtol=1e-5, atol=1e-6)
