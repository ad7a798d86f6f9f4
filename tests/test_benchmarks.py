"""The benchmark of a GPU runs on tiny shapes without one, and what all scripts share is right."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
import turns  # noqa: E402


def test_every_case_of_a_gpu_runs_without_one(small_preset, tmp_path):
    options = ["--tiny", "--turns=1", f"--results={tmp_path}", f"--preset={small_preset}"]
    command = [sys.executable, FOLDER / "gpu.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "gpu.csv")
    table = table[~table["measure"].str.startswith("not run: ")]
    assert (table["runs"] == 1).all() and table["commit"].notna().all()
    values = table.set_index(["way", "measure"])["median"]
    assert {("record", "seconds / two bare passes"), ("cpu", "seconds")} <= set(values.index)
    beside = {(way, "seconds / load_state_dict") for way in ("transfer_", "merge_", "apply_patch")}
    assert beside | {("in two passes", "seconds"), ("offloaded", "seconds")} <= set(values.index)
    assert values["record", "largest relative difference"] == 0
    assert values["record", "Jaccard of the masks at 5 %"] == 1


def test_ratios_are_taken_within_each_turn():
    order = []
    ways = {name: lambda name=name: order.append(name) or {"answer": 42} for name in "ab"}
    runs = turns.in_turns(ways, 2)
    assert "".join(order) == "ababab" and len(runs) == 4  # the first turn does not count
    runs["seconds"] = [1.0, 2.0, 4.0, 12.0]
    table = turns.summary("case", runs, "a").set_index(["way", "measure"])
    assert table.loc[("b", "answer"), "median"] == 42
    assert table.loc[("b", "seconds / a"), ["low", "median", "high"]].tolist() == [2, 2.5, 3]
