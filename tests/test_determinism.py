"""The same seed on the same machine gives the same bits, in two processes and with two threads."""

import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

RUN = """
import sys
import torch
sys.path.insert(0, "tests")
from safetensors.torch import save_file
from tiny_models import VOCAB, collate, tiny_model
from actlib import evaluate, random_like, record_differences, transfer_, weight_differences

torch.set_num_threads(int(sys.argv[2]))
donor, target = tiny_model("qwen2", 1), tiny_model("qwen2", 0)
generator = torch.Generator().manual_seed(3)
ids = torch.randint(3, VOCAB, (4, 12), generator=generator)
batches = collate([(each, torch.arange(12) >= 8) for each in ids], 4)
scores = record_differences(donor, target, batches)
mask = scores.top(5.0)
parts = {"scores": scores.values, "weights": weight_differences(donor, target).values}
parts |= {"mask": mask.channels, "random": random_like(mask, 0).channels}
transfer_(target, donor, mask, scale=0.4)
parts["moved"] = {name: p.detach().clone() for name, p in target.named_parameters()}
parts["nll"] = {"": torch.tensor(evaluate(target, batches)["nll"].to_numpy())}
found = {f"{part} {n}": tensor for part, tensors in parts.items() for n, tensor in tensors.items()}
save_file(found, sys.argv[1])
"""


def test_processes_give_the_same_bits_and_threads_the_same_masks(tmp_path):
    found = []
    for number, threads in enumerate("112"):
        path = tmp_path / str(number)
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", RUN, path, threads], env=environment, check=True)
        found.append(load_file(path))
    first, again, two_threads = found
    assert first.keys() == again.keys() == two_threads.keys()
    for name, values in first.items():
        assert values.equal(again[name]), name
        if name.startswith(("mask", "random", "weights")):
            assert values.equal(two_threads[name]), name
        torch.testing.assert_close(two_threads[name], values, rtol=1e-5, atol=1e-6)
