"""The benchmark of a GPU runs on tiny shapes without one, and what all scripts share is right."""

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
import turns  # noqa: E402


def run(script, *words):
    command = [sys.executable, FOLDER / script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def measured(script, folder, *words):
    """Pairs of way and measure in the table that a script leaves."""
    done = run(script, "--tiny", "--turns", 1, "--results", folder, *words)
    table = pd.read_csv(folder / f"{Path(script).stem}.csv")
    assert done.returncode == 0, done.stderr
    table = table[~table["measure"].str.startswith("not run: ")]
    assert (table["runs"] == 1).all()
    assert table["commit"].notna().all() and (table["low"] <= table["high"]).all()
    return table.set_index(["way", "measure"])["median"]


def test_every_case_of_a_gpu_runs_without_one(small_preset, tmp_path):
    values = measured("gpu.py", tmp_path, "--preset", small_preset)
    assert {("record", "seconds / two bare passes"), ("cpu", "seconds")} <= set(values.index)
    beside = {(way, "seconds / load_state_dict") for way in ("transfer_", "merge_", "apply_patch")}
    assert beside | {("in two passes", "seconds"), ("offloaded", "seconds")} <= set(values.index)
    assert values["record", "largest relative difference"] == 0
    assert values["record", "Jaccard of the masks at 5 %"] == 1


def test_tiny_shapes_do_not_overwrite_the_kept_tables():
    done = run("patching.py", "--tiny")
    assert done.returncode == 2 and "--results" in done.stderr


def test_ways_run_in_turns_and_ratios_are_taken_within_each():
    order, waits = [], iter([0, 0, 0.02, 0.04, 0.04, 0.08])

    def way(name):
        order.append(name)
        time.sleep(next(waits))
        return {"answer": 42}

    runs = turns.in_turns({"a": lambda: way("a"), "b": lambda: way("b")}, 2)
    assert "".join(order) == "ababab" and len(runs) == 4
    table = turns.summary("case", runs, "a").set_index(["way", "measure"])
    assert table.loc[("b", "answer"), "median"] == 42
    ratio = table.loc[("b", "seconds / a")]
    assert 1.5 < ratio["low"] <= ratio["high"] < 2.5 and ratio["runs"] == 2


def test_all_scripts_together_are_short():
    assert sum(len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")) <= 735
