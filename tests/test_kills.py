"""A study that is killed again and again ends with the results of one that is left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("record_seed0", "sweep_transfer_rankings_seed0")
KILLS = ("step build", "step build", "step record", "step sweep", "step sweep")
"""Jobs to hit, by words of their command."""


def start(store, preset):
    """Snakemake in a process group of its own, as `make study` runs it."""
    command = [sys.executable, "-m", "snakemake", *TARGETS, "--cores", "1"]
    with (store.parent / f"{store.name}.log").open("a") as log:
        return subprocess.Popen(
            [*command, "--config", f"preset={preset}"],
            cwd=ROOT,
            env=os.environ | {"ACT_STORE": str(store)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def runs_below(group, words):
    """Whether a process of the group has these words in its command."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            own = os.getpgid(int(path.name)) == group
            if own and words in (path / "cmdline").read_bytes().replace(b"\0", b" ").decode():
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False


def results(store):
    """Tensors of models and scores as bytes, rows of settings without their seconds."""
    found = {}
    for path in store.rglob("*.safetensors"):  # whose metadata are in no fixed order
        tensors = load_file(path)
        found[path] = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    for path in store.rglob("*.parquet"):
        found[path] = pd.read_parquet(path).drop(columns="seconds").to_csv().encode()
    return {str(path.relative_to(store)): content for path, content in found.items()}


@pytest.mark.slow
def test_a_killed_study_ends_as_one_left_alone(small_preset, tmp_path):
    killed, whole, hits = tmp_path / "killed", tmp_path / "whole", []
    moments = random.Random(0)
    for words in KILLS:
        process = start(killed, small_preset)
        while process.poll() is None and not runs_below(process.pid, words):
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 6))
        hits.append(process.poll() is None)
        os.killpg(process.pid, signal.SIGKILL) if hits[-1] else None
        process.wait()
    assert sum(hits) >= len(KILLS) - 2, "most rounds must hit a live run"
    for store in (killed, whole):
        assert start(store, small_preset).wait() == 0
    assert results(killed).keys() == results(whole).keys()
    assert results(killed) == results(whole)
    left = [path for path in killed.rglob(".*") if path.suffix in (".partial", ".training")]
    assert not left
