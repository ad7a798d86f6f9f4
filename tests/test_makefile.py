"""What `make` hands to the runner is what the runner reads: planned, nothing run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def planned_jobs(target, preset, store):
    """Jobs that the runner plans in an empty store, by the command that a target of make gives."""
    words = ["make", "--no-print-directory", "-n", target, f"PRESET={preset}"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in told.splitlines() if "/snakemake " in line]
    runner = [sys.executable, "-m", "snakemake", "--dry-run", *shlex.split(line)[1:]]
    environment = {**os.environ, "ACT_STORE": str(store), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(runner, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counts = re.findall(r"^(\w+) +\d+$", ran.stdout, re.MULTILINE)
    return set(counts) - {"total"}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "preset", "goal", "step"),
    [
        ("sweep", "smol", "sweep", "sweep_transfer_random_seed2"),
        ("test", "tiny", "all", "notebook_03_sufficiency"),
    ],
)
def test_make_asks_the_runner_for_what_it_says(target, preset, goal, step, tmp_path):
    jobs = planned_jobs(target, preset, tmp_path)
    assert {goal, step} <= jobs
    assert ("sweep" in jobs) == (goal == "sweep")
