"""The benchmark for a GPU is ready: every case runs without one, on tiny shapes."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


def test_every_case_runs_on_a_cpu_and_has_its_rows(small_preset, tmp_path):
    command = [sys.executable, SCRIPT, "--tiny", "--preset", small_preset, "--results", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    table = pd.read_csv(tmp_path / "gpu.csv")
    wrong = table[table["runs"] == 0]
    assert wrong["case"].isin(["large pair"]).all(), done.stderr  # until patches take models
    measured = set(zip(table["way"], table["measure"], strict=True))
    assert ("record_differences", "seconds / two bare passes") in measured
    assert ("transfer_", "seconds / load_state_dict") in measured
    same = table.set_index("measure")["median"]
    assert same["largest relative difference of a score"] == 0
    assert same["Jaccard of the masks at 5 %"] == 1


def test_a_machine_without_a_gpu_does_not_write_the_kept_table():
    command = [sys.executable, SCRIPT, "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--results" in done.stderr
