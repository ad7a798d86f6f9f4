"""The published contrasts follow from the kept rows, by a second computation; which are kept."""

import json
import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
KEEP = runpy.run_path(str(ROOT / "tools" / "keep.py"))
recompute = runpy.run_path(str(ROOT / "tools" / "recompute.py"))["recompute"]


@pytest.mark.parametrize(
    ("family", "untested"), [("tiny", []), ("smol", ["concentrated", "disentangled"])]
)
def test_every_published_contrast_follows_from_the_kept_rows(family, untested):
    table = recompute(family)
    claims = yaml.safe_load((ROOT / "configs" / "claims.yaml").read_text("utf-8"))["claims"]
    assert {*table.index} == {*claims} - {*untested}
    assert table["agrees"].all(), f"\n{table.to_string()}"


def test_the_kept_rows_are_of_the_functions_as_the_notebooks_have_them():
    endings = KEEP["cached_functions"](ROOT / "notebooks")
    kept = [(p.parent.name, p.stem[-6:]) for p in ROOT.glob("data/items/tiny/*/*.parquet")]
    assert kept and all(ending in endings[function] for function, ending in kept)


def test_rows_of_a_function_before_an_edit_go_where_there_are_newer_ones(tmp_path, monkeypatch):
    monkeypatch.setitem(KEEP["keep"].__globals__, "ROOT", tmp_path)
    cell = {"cell_type": "code", "source": ["@cached\n", "def items(pair):\n", "    return 1\n"]}
    for folder in ("notebooks", "run/sweep/notebooks"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "03.ipynb").write_text(json.dumps({"cells": [cell]}))
    ((now,),) = KEEP["cached_functions"](tmp_path / "notebooks").values()

    def write(folder, *names):
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            pd.DataFrame({"_setting": [name]}).to_parquet(tmp_path / folder / f"{name}.parquet")

    write("run/cache/items", f"seed1-{now}", "seed1-before", "seed3-before")
    write("data/items/smol/items", "seed1-before", "seed2-before", f"seed2-{now}", "seed11-before")
    write("data/items/smol/gone", "seed1-before")
    KEEP["keep"](tmp_path / "run", "smol")
    kept = {str(p.relative_to(tmp_path / "data/items/smol")) for p in tmp_path.rglob("smol/*/*")}
    names = (f"seed1-{now}", "seed2-before", f"seed2-{now}", "seed11-before")
    assert kept == {f"items/{name}.parquet" for name in names}


@pytest.mark.parametrize("change", ["an answer", "a seed"])
def test_changed_rows_are_noticed(change, tmp_path):
    items = shutil.copytree(ROOT / "data" / "items" / "tiny", tmp_path / "tiny")
    path = min((items / "tuned_items").glob("seed*-*.parquet"))
    rows = pd.read_parquet(path)
    if change == "a seed":
        path.unlink()
    else:
        of_claim = (rows["method"] == "sft_only") & (rows["steps"] == 10) & ~rows["lora"]
        first = rows.index[of_claim & rows["ability"].eq("fr-maths")][0]
        rows.loc[first, "exact"] = 1 - rows.loc[first, "exact"]
        rows.to_parquet(path)
    agrees = recompute("tiny", tmp_path)["agrees"]
    assert [*agrees.index[~agrees.astype(bool)]] == ["fine_tuning"]
