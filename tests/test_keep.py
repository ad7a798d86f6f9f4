"""Keeping a run leaves its results, and nothing of widgets, its parameters and waiting."""

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from actlib.study import cache

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "keep.py"
spec = importlib.util.spec_from_file_location("keep", SCRIPT)
keep = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keep)


def code(source, *outputs, tags=()):
    metadata = {"tags": [*tags], "papermill": {"duration": 3}}
    kind = {"cell_type": "code", "execution_count": 7, "metadata": metadata}
    return kind | {"source": [source], "outputs": list(outputs)}


def write_notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {"papermill": {}}}))


@pytest.fixture
def folders(tmp_path):
    """Folder of a preset's artifacts, with a kept run of one notebook, and the project's root."""
    folder, root = tmp_path / "artifacts/tiny", tmp_path / "root"
    (folder / "keep/results").mkdir(parents=True)
    write_notebook(root / "notebooks/01_left_out.ipynb", code("@cached\ndef other(pair):\n    ..."))
    return folder, root


def test_outputs_come_along_and_what_describes_the_run_does_not(folders):
    bar = {"output_type": "display_data", "data": {keep.WIDGET: {}, "text/plain": "0%"}}
    waited = "waiting for another process, writing a file (lock /home/ada/x.lock)\n"
    words = {"output_type": "stream", "name": "stderr", "text": [waited, "a\n"]}
    table = {"output_type": "execute_result", "execution_count": 7, "data": {"text/html": "<b>"}}
    cells = [code("seeds = [0]", tags=["parameters"])]
    cells += [code("seeds = [0, 1]", tags=["injected-parameters"]), code("1", bar, words, table)]
    write_notebook(folders[0] / "keep/notebooks/00_models.ipynb", *cells)
    (written,) = keep.keep(folders[0], "tiny", folders[1])
    first, told, second = json.loads(written.read_text())["cells"]
    assert "of a run with `seeds = [0, 1]`;" in told["source"][0]
    assert (first["execution_count"], second["execution_count"]) == (1, 2)
    assert first["metadata"] == {"tags": ["parameters"]}
    assert second["outputs"] == [words | {"text": ["a\n"]}, table | {"execution_count": 2}]


def test_tables_are_replaced_and_rows_that_were_read_stay(folders):
    folder, root = folders
    write_notebook(folder / "keep/notebooks/00.ipynb", code("@cached\ndef items(pair):\n    ..."))
    (folder / "keep/results/tab00.csv").touch()
    stale = root / "figures/tiny/tab99.csv"
    stale.parent.mkdir(parents=True)
    stale.touch()
    kept, measured = root / "data/items/tiny", folder / "cache"
    for path, settings in {
        kept / "items/seed0.parquet": ["read", "measured"],
        kept / "gone/seed0.parquet": ["read"],
        kept / "other/seed0.parquet": ["read"],
        measured / "items/seed0.parquet": ["measured", "new"],
        measured / "old/seed0.parquet": ["measured"],
    }.items():
        path.parent.mkdir(parents=True)
        rows = pd.DataFrame({"_setting": settings, "nll": float(measured in path.parents)})
        cache.write_rows(rows, path)
    keep.keep(folder, "tiny", root)
    assert [path.name for path in (root / "figures/tiny").iterdir()] == ["tab00.csv"]
    assert {path.name for path in kept.iterdir()} == {"items", "other"}
    rows = pd.read_parquet(kept / "items/seed0.parquet").set_index("_setting")["nll"]
    assert rows.to_dict() == {"read": 0, "measured": 1, "new": 1}
