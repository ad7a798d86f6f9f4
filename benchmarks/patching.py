"""A patch applied to a model in memory, beside loading all of the model's weights anew."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actlib.folders.patch_files import open_patch
from actlib.folders.patches import apply_patch, make_patch
from benchmarks import floors, folders
from benchmarks.rows import COPIED
from benchmarks.serving import Way
from benchmarks.side import Setting

_OPENED = ExitStack()
"""What stays open until the process of the row ends."""


def ways(case: str, setting: Setting) -> Mapping[str, Way]:
    """Apply a patch, load a state dict that is in memory, and load one from files.

    The patch is open already, as the tensors of the state dict are loaded already; in the case
    "bfloat16 file" it is opened anew each time, its file warm.

    Beside them, the floor: memory is copied, as many bytes as checking and writing the masked
    elements moves in whole cache lines. Before each run the model gets the target's weights,
    untimed.
    """
    config = folders.two_gigabytes(setting.quick)
    donor, target, mask = folders.made_pair(setting.scratch, config)
    patch = setting.scratch / f"patch-{config.num_hidden_layers}-layers.safetensors"
    make_patch(target, donor, mask, patch)
    dtype, _, anew = case.partition(" ")
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    state = _loaded(target)

    def restore() -> None:
        model.load_state_dict(state)

    given = patch if anew else _OPENED.enter_context(open_patch(patch))

    def apply() -> dict[str, float]:
        apply_patch(model, given)
        return {"patch_bytes": patch.stat().st_size}

    def load_files() -> None:
        model.load_state_dict(_loaded(target))

    size = floors.patched_bytes(model, mask) // 2  # A copy reads and writes.
    source, goal = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)

    def copy() -> dict[str, float]:
        goal.copy_(source)
        return {"floor_bytes": 2 * size}

    return {
        "apply_patch": Way(apply, restore),
        "load_state_dict": Way(restore, restore),
        "load files, load_state_dict": Way(load_files, restore),
        COPIED: Way(copy, restore),
    }


def _loaded(folder: Path) -> dict:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found
