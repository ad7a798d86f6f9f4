"""Keeping a run leaves its results, and nothing of widgets, its parameters and waiting."""

import importlib.util
import json
from pathlib import Path

import pandas as pd

from actlib.study import cache

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "keep.py"
spec = importlib.util.spec_from_file_location("keep", SCRIPT)
keep = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keep)


def code(source, *outputs, tags=()):
    metadata = {"tags": [*tags], "papermill": {"duration": 3}}
    kind = {"cell_type": "code", "execution_count": 7, "metadata": metadata}
    return kind | {"source": [source], "outputs": list(outputs)}


def test_what_a_sweep_left_is_copied_to_where_readers_look(tmp_path):
    folder, root = tmp_path / "artifacts/tiny", tmp_path / "root"
    bar = {"output_type": "display_data", "data": {keep.WIDGET: {}, "text/plain": "0%"}}
    progress = {"text/html": ["<div>", "<progress value=1>"]}
    trained = {"output_type": "display_data", "data": progress}
    waited = "waiting for another process, writing a file (lock /home/ada/x.lock)\n"
    older = "items: rows measured by an earlier state of actlib\n"
    words = {"output_type": "stream", "name": "stderr", "text": [waited, older, "a\n"]}
    table = {"output_type": "execute_result", "execution_count": 7, "data": {"text/html": "<b>"}}
    cells = [
        code("seeds = [0]", tags=["parameters"]),
        code("# Parameters\n", tags=["injected-parameters"])
        | {"source": ["# Parameters\n", "seeds = [0, 1]"]},
        code("@cached\ndef items(pair):\n    ...", bar, trained, words, table),
    ]
    metadata = {"kernelspec": {}, "language_info": {}, "papermill": {}}
    notebook = folder / "keep/notebooks/00_models.ipynb"
    notebook.parent.mkdir(parents=True)
    notebook.write_text(json.dumps({"cells": cells, "metadata": metadata}))
    left = ["keep/results/tab00.csv", "keep/results/patch05.safetensors"]  # a patch is not kept
    for name in left:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    kept_rows = root / "data/items/tiny/items/seed0.parquet"
    for path, settings in {
        kept_rows: ["read", "measured"],
        root / "data/items/tiny/gone/seed0.parquet": ["read"],
        root / "data/items/tiny/other/seed0.parquet": ["read"],
        folder / "cache/items/seed0.parquet": ["measured", "new"],
        folder / "cache/old/seed0.parquet": ["measured"],
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = pd.DataFrame({"_setting": settings, "nll": float(path != kept_rows)})
        cache.write_rows(rows, path)
    (folder / "cache/items/.seed0.parquet.lock").touch()
    left_out = {"cells": [code("@cached\ndef other(pair):\n    ...")]}
    (root / "notebooks").mkdir()
    (root / "notebooks/01_left_out.ipynb").write_text(json.dumps(left_out))
    stale = root / "figures/tiny/tab99.csv"
    stale.parent.mkdir(parents=True)
    stale.touch()
    written = keep.keep(folder, "tiny", root)
    assert {str(path.relative_to(root)) for path in written} == {
        "notebooks/00_models.ipynb",
        "figures/tiny/tab00.csv",
        "data/items/tiny/items/seed0.parquet",
    }
    assert not stale.exists() and not (root / "data/items/tiny/gone").exists()
    assert (root / "data/items/tiny/other/seed0.parquet").is_file()
    rows = pd.read_parquet(kept_rows).set_index("_setting")["nll"]
    assert rows.to_dict() == {"read": 0, "measured": 1, "new": 1}
    first, told, second = json.loads(written[0].read_text())["cells"]
    assert "of a run with `seeds = [0, 1]`;" in told["source"][0]
    assert (first["execution_count"], second["execution_count"]) == (1, 2)
    assert first["metadata"] == {"tags": ["parameters"]}
    words["text"] = ["a\n"]
    assert second["outputs"] == [words, table | {"execution_count": 2}]
