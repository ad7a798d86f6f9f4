"""The published contrasts follow from the kept rows, by a second computation."""

import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
recompute = runpy.run_path(str(ROOT / "tools" / "recompute.py"))["recompute"]


@pytest.mark.parametrize(
    ("family", "untested"), [("tiny", []), ("smol", ["concentrated", "disentangled"])]
)
def test_every_published_contrast_follows_from_the_kept_rows(family, untested):
    table = recompute(family)
    claims = yaml.safe_load((ROOT / "configs" / "claims.yaml").read_text("utf-8"))["claims"]
    assert {*table.index} == {*claims} - {*untested}
    assert table["agrees"].all(), f"\n{table.to_string()}"


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
