"""The notebooks: kept with the outputs of one clean run of the default, and run by `make test`.

The second half judges what the runner left in `artifacts/quick`, which `make test` makes first, or
in `artifacts/tiny` after `make test-all`.
"""

import ast
import json
import os
import re
from pathlib import Path

import pandas as pd
import papermill
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "notebooks").glob("*.ipynb"))
FAMILY = os.environ.get("FAMILY", "quick")
STORE = Path(os.environ.get("ACT_STORE", ROOT / "artifacts"))
EXECUTED = sorted((STORE / FAMILY / "study/notebooks").glob("*.ipynb"))
MOST_LINES = 25
MOST_BYTES = 500_000
# /home/ada/x, C:\x, ~/x; but neither https://a.b/home/x nor and/or.
OWN_PATH = re.compile(
    r"(?<![\w.:/-])/(home|root|Users|tmp|var|usr|opt|etc|mnt|work|data|scratch)/"
    r"|file://|\b[A-Z]:\\\w|(?<!\w)~/"
)

committed = pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
executed = pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
needs_run = pytest.mark.skipif(not EXECUTED, reason="no notebook ran yet; `make test` runs them")


def _read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _source(cell):
    return "".join(cell["source"])


def _texts(value):
    """Every text that a reader meets in outputs; pictures are left out."""
    if isinstance(value, dict):
        value = [part for name, part in value.items() if not name.startswith("image/")]
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


def _errors(notebook):
    return [out["ename"] for c in _code(notebook) for out in c["outputs"] if "ename" in out]


@committed
def test_a_notebook_is_laid_out_for_its_reader(path):
    cells = _read(path)["cells"]
    assert _source(cells[0]).startswith("# "), "it opens with a title"
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{len(tagged)} cells are tagged parameters"
    lines = [line for line in _source(tagged[0]).splitlines() if line.strip()]
    assert all("#" in line for line in lines), f"a parameter has no comment: {lines}"
    for cell in _code({"cells": cells}):
        assert len(_source(cell).splitlines()) <= MOST_LINES, f"a long cell: {_source(cell)}"
        for node in ast.walk(ast.parse(_source(cell))):
            assert not isinstance(node, ast.ClassDef), f"class {node.name} belongs in the package"
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 15, f"function {node.name} is long"


@committed
def test_outputs_are_those_of_one_run_of_the_default_and_name_no_machine(path):
    notebook = _read(path)
    tags = [tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])]
    assert "injected-parameters" not in tags, "kept from a run with other parameters"
    counters = [cell["execution_count"] for cell in _code(notebook)]
    assert counters == list(range(1, len(counters) + 1)), "kept from more than one run"
    assert any(cell["outputs"] for cell in _code(notebook)), "no outputs: run `make keep`"
    assert not _errors(notebook)
    for cell in notebook["cells"]:
        for text in [_source(cell), *_texts(cell.get("outputs", []))]:
            assert not OWN_PATH.search(text), f"a path of a machine: {text}"
    assert path.stat().st_size < MOST_BYTES, "too large to read on a slow line"


@needs_run
def test_every_notebook_ran():
    assert [path.name for path in EXECUTED] == [path.name for path in COMMITTED]


@executed
def test_the_run_has_no_errors_and_ran_to_the_end(path):
    notebook = _read(path)
    assert not _errors(notebook)
    assert all(cell["execution_count"] for cell in _code(notebook) if _source(cell).strip())
    injected = [c for c in _code(notebook) if "injected-parameters" in c["metadata"]["tags"]]
    assert [cell for cell in injected if FAMILY in _source(cell)]


@needs_run
def test_a_notebook_runs_at_other_sizes_than_those_of_its_sentences(tmp_path, monkeypatch):
    preset = "tiny" if FAMILY == "tiny" else str(ROOT / f"artifacts/{FAMILY}.yaml")
    other = {"preset": preset, "test_items": 4, "percents": [2, 10], "draws": 1, "map_items": 9}
    other |= {"methods": ["act_global", "act_module", "random_module"], "others": []}
    monkeypatch.setenv("ACT_RESULTS", str(tmp_path))
    path = ROOT / "notebooks/03_sufficiency.ipynb"
    values = other | {"interpolations": [0.5]}
    papermill.execute_notebook(path, tmp_path / "03.ipynb", values, cwd=path.parent)
    table = pd.read_csv(tmp_path / "tab03_sufficiency.csv")
    assert {*table["top_percent"]} == {2, 10} and {*table["items"]} == {16}


@needs_run
def test_figures_come_as_vectors_pictures_and_tables():
    folder = STORE / FAMILY / "study/results"
    drawn = {path.stem for path in folder.glob("*.pdf")}
    assert {path.stem[:2] for path in EXECUTED} <= {name[3:5] for name in drawn}
    for ending in ("png", "csv"):
        assert drawn <= {path.stem for path in folder.glob(f"*.{ending}")}
