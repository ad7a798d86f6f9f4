"""Where the time of recording and of a transfer goes, with the floor beside it.

Measures are named `WAY/PART`: seconds of that part, or a number of the floor's arithmetic. A
profiler slows what it watches, so parts are shares rather than times to compare with other rows.
"""

import cProfile
import pstats
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from actlib.folders.checkpoints import transfer_checkpoint
from benchmarks import floors, folders
from benchmarks.recording import recording_ways
from benchmarks.rows import RECORD
from benchmarks.serving import Way
from benchmarks.shapes import random_pair, smol, study_batches, tiny
from benchmarks.side import Setting

PARTS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mkldnn_linear"),
    "attention": ("scaled_dot_product", "_scaled_dot_product", "softmax", "_softmax"),
    "gathering": ("index", "gather", "embedding", "take", "index_select", "masked_select"),
    "reductions": ("sum", "mean", "var", "norm", "linalg", "amax", "any", "all", "isfinite"),
    "copies and casts": ("copy_", "_to_copy", "clone", "cat", "stack", "fill_", "zero_", "to"),
}
"""Operators of PyTorch by what they do; the rest is elementwise."""

WATCHED = 12  # functions of a transfer that are named; the others are summed up


def ways(case: str, setting: Setting) -> Mapping[str, Way]:
    """The one way: profile, and compute the floor."""
    make = _transfer if case == "warm" else _recording
    return {"profile": Way(make(case, setting))}


def _recording(case: str, setting: Setting) -> Callable[[], dict[str, float]]:
    config, dtype = tiny() if setting.quick else smol(), getattr(torch, case)
    donor, target = random_pair(config, dtype)
    batches = study_batches(config, setting.quick)
    found = recording_ways(donor, target, batches)
    for way in found.values():
        way.run()

    def run() -> dict[str, float]:
        parts = {}
        for name, way in found.items():
            parts |= {f"{name}/{part}": value for part, value in _operators(way.run).items()}
        tokens = batches[0]["input_ids"].numel()
        width, outputs = config.hidden_size, config.intermediate_size
        operations = 2 * floors.forward_operations(target, batches)
        rate = floors.matmul_rate(dtype, tokens, width, outputs)
        moved, copied = (
            floors.recorded_bytes(target, batches),
            floors.copy_rate(quick=setting.quick),
        )
        floor = {
            "matrix products, operations": operations,
            "operations per second": rate,
            "matrix products, seconds": operations / rate,
            f"{RECORD}, bytes": moved,
            "bytes per second": copied,
            f"{RECORD}, seconds": moved / copied,
        }
        return parts | {f"floor/{name}": value for name, value in floor.items()}

    return run


def _operators(run: Callable[[], object]) -> dict[str, float]:
    """Seconds by kind of operator; the rest is Python and compiled loops."""
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        run()
        wall = time.perf_counter() - start
    parts: dict[str, float] = dict.fromkeys((*PARTS, "elementwise"), 0.0)
    for event in watched.key_averages():
        parts[_part_of(event.key)] += event.self_cpu_time_total / 1e6
    return parts | {"Python, compiled loops": max(0.0, wall - sum(parts.values())), "whole": wall}


def _part_of(operator: str) -> str:
    name = operator.rpartition("::")[2]
    for part, names in PARTS.items():
        if name in names or (part == "attention" and name.startswith(names)):
            return part
    return "elementwise"


def _transfer(case: str, setting: Setting) -> Callable[[], dict[str, float]]:
    config = folders.two_gigabytes(setting.quick)
    donor, target, mask = folders.made_pair(setting.scratch, config)
    out = setting.scratch / "out"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    whole, moved = folders.size_of(target), floors.moved_bytes(model, mask)

    def run() -> dict[str, float]:
        folders.warm(donor, target)
        folders.remove(out)
        parts = _functions(lambda: transfer_checkpoint(target, donor, mask, out))
        folders.remove(out)
        start = time.perf_counter()
        subprocess.run(["cp", "-r", str(target), str(out)], check=True)
        copy = time.perf_counter() - start
        folders.remove(out)
        rate = floors.copy_rate(quick=setting.quick)
        floor = {
            "copy, bytes": whole,
            "copy, seconds (cp -r)": copy,
            "masked, bytes": moved,
            "bytes per second": rate,
            "masked, seconds": moved / rate,
        }
        found = {f"transfer_checkpoint/{name}": value for name, value in parts.items()}
        return found | {f"floor/{name}": value for name, value in floor.items()}

    return run


def _functions(run: Callable[[], object]) -> dict[str, float]:
    """Seconds in the functions that take most, by their own time; the rest as one number."""
    watched = cProfile.Profile()
    start = time.perf_counter()
    watched.runcall(run)
    wall = time.perf_counter() - start
    own: dict[str, float] = defaultdict(float)
    for (file, _, name), (_, _, seconds, _, _) in pstats.Stats(watched).stats.items():
        own[name if file == "~" else f"{Path(file).name}: {name}"] += seconds
    ordered = sorted(own, key=own.get, reverse=True)[:WATCHED]
    found = {name: own[name] for name in ordered}
    return found | {"others": max(0.0, wall - sum(found.values())), "whole": wall}
