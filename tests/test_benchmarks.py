"""The benchmark of a GPU runs on tiny shapes without one."""

import pandas as pd
from programs import python


def test_every_case_of_a_gpu_runs_without_one(small_preset, tmp_path):
    options = ["--tiny", "--turns=1", f"--results={tmp_path}", f"--preset={small_preset}"]
    python("benchmarks/gpu.py", *options)
    table = pd.read_csv(tmp_path / "gpu.csv")
    table = table[~table["measure"].str.startswith("not run: ")]
    assert (table["runs"] == 1).all() and table["commit"].notna().all()
    values = table.set_index(["way", "measure"])["median"]
    assert {("record", "seconds / two bare passes"), ("cpu", "seconds")} <= set(values.index)
    beside = {(way, "seconds / load_state_dict") for way in ("transfer_", "merge_", "apply_patch")}
    assert beside | {("in two passes", "seconds"), ("offloaded", "seconds")} <= set(values.index)
    assert values["record", "largest relative difference"] == 0
    assert values["record", "Jaccard of the masks at 5 %"] == 1
