"""Moving channels between folders takes memory by the largest tensor, not by the checkpoint."""

import json
import os

import pytest
from programs import python

from actlib.study.presets import ROOT

pytestmark = pytest.mark.slow

LARGEST = 8000 * 1024 * 2 / 2**30  # embedding and LM head in bfloat16, GiB
STEPS = """
import json, os, sys
from pathlib import Path
import torch, transformers
from pairs import shape, write_pair
from turns import peak_memory
import actlib
from actlib.channels import channel_modules

folder, layers = Path(sys.argv[1]), int(sys.argv[2])
config = shape(transformers.LlamaConfig, layers, 1024, 4096, 8000, 8, 8)
donor, target = write_pair(folder, config, 4)
with torch.device("meta"):
    model = transformers.AutoModelForCausalLM.from_config(config)
sizes = {name: each.channels for name, each in channel_modules(model).items()}
mask = actlib.ChannelMask({name: torch.ones(each).bool() for name, each in sizes.items()})
donors = [(donor, mask, 0.4), (donor, mask, 0.7)]
steps = {
    "start": lambda: None,  # what is left of the model that was written
    "transfer": lambda: actlib.transfer_checkpoint(target, donor, mask, folder / "a"),
    "merge": lambda: actlib.merge_checkpoint(target, donors, folder / "b", "largest"),
}
print(json.dumps({name: peak_memory(step, os.getpid()) for name, step in steps.items()}))
"""


def peaks(folder, layers):
    """Peaks in GiB of a process of its own, in which every channel moves."""
    paths = f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}"
    # Blocks of their own, which glibc gives back at once: what it keeps of freed ones differs from
    # run to run, between 0.05 and 0.7 GiB in a merge.
    environment = {"PYTHONPATH": paths, "MALLOC_MMAP_THRESHOLD_": "131072"}
    return json.loads(python("-c", STEPS, folder, layers, **environment).splitlines()[-1])


def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    small, large = peaks(tmp_path / "small", 2), peaks(tmp_path / "large", 6)  # 0.1 and 0.2 GiB
    for step in ("transfer", "merge"):
        own = [each[step] - each["start"] for each in (small, large)]
        assert own[1] < 4 * LARGEST + 0.1, (small, large)
        assert own[1] < own[0] + 0.05, (small, large)
