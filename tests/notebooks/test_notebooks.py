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
NAMES = ("models_and_data", "concentration", "disentanglement", "sufficiency", "stability")
NAMES += ("transfer", "merging", "claims", "attribution")
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


def _python(cell):
    """Source without IPython's own lines, which the Python parser does not know."""
    return re.sub(r"^\s*[%!].*$", "pass", _source(cell), flags=re.MULTILINE)


def _parameters(notebook):
    """Names and values of the cell tagged `parameters`, which must be one, of literals only."""
    cells = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(cells) == 1, f"{len(cells)} cells are tagged parameters"
    found = {}
    for statement in ast.parse(_source(cells[0])).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        (name,) = statement.targets
        found[name.id] = ast.literal_eval(statement.value)
    return found


def _texts(value):
    """Every text that a reader meets in outputs; pictures are left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if not name.startswith("image/"):
                yield from _texts(part)
    elif isinstance(value, list):
        if all(isinstance(part, str) for part in value):
            yield "".join(value)
        else:
            for part in value:
                yield from _texts(part)


def _errors(notebook):
    return [out["ename"] for c in _code(notebook) for out in c["outputs"] if "ename" in out]


def test_there_are_nine_notebooks_numbered_in_their_order():
    expected = [f"{number:02d}_{name}" for number, name in enumerate(NAMES)]
    assert [path.stem for path in COMMITTED] == expected


@committed
def test_the_parameters_are_literals_and_name_the_default(path):
    parameters = _parameters(_read(path))
    assert parameters["preset"] == ("smol" if "figures" in parameters else "tiny")


@committed
def test_each_parameter_has_a_comment(path):
    notebook = _read(path)
    (cell,) = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    lines = [line for line in _source(cell).splitlines() if line.strip()]
    assert all("#" in line for line in lines), lines


@committed
def test_no_parameters_were_injected(path):
    tags = [tag for cell in _read(path)["cells"] for tag in cell["metadata"].get("tags", [])]
    assert "injected-parameters" not in tags


@committed
def test_what_a_notebook_defines_is_a_short_function(path):
    for cell in _code(_read(path)):
        nodes = list(ast.walk(ast.parse(_python(cell))))
        assert not [node.name for node in nodes if isinstance(node, ast.ClassDef)]
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        assert all(node.end_lineno - node.lineno < 15 for node in functions)


@committed
def test_code_cells_are_short(path):
    counts = [len(_source(cell).splitlines()) for cell in _code(_read(path))]
    assert max(counts) <= MOST_LINES


@committed
def test_it_opens_with_a_title_and_prose_stands_before_code(path):
    cells = _read(path)["cells"]
    assert cells[0]["cell_type"] == "markdown" and _source(cells[0]).startswith("# ")
    assert cells[-1]["cell_type"] == "markdown"


@committed
def test_no_path_of_a_machine_in_source_or_outputs(path):
    cells = _read(path)["cells"]
    texts = [_source(cell) for cell in cells]
    texts += [text for cell in cells for text in _texts(cell.get("outputs", []))]
    found = [match.group() for text in texts for match in OWN_PATH.finditer(text)]
    assert not found


@committed
def test_it_is_small_enough_to_read_on_a_slow_line(path):
    assert path.stat().st_size < MOST_BYTES


@committed
def test_outputs_are_kept_from_one_run_without_errors(path):
    notebook = _read(path)
    counters = [cell["execution_count"] for cell in _code(notebook)]
    assert counters == list(range(1, len(counters) + 1))
    assert any(cell["outputs"] for cell in _code(notebook)), "no outputs: run `make keep`"
    assert not _errors(notebook)


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


METHODS = ["act_global", "act_module", "random_module"]
OTHER = {
    "preset": "tiny" if FAMILY == "tiny" else str(ROOT / f"artifacts/{FAMILY}.yaml"),
    "test_items": 4,
    "percents": [2, 10],
    "methods": METHODS,
    "others": [],
}
OTHER |= {"interpolations": [0.5], "draws": 1, "map_items": 9}


@needs_run
def test_a_notebook_runs_at_other_sizes_than_those_of_its_sentences(tmp_path, monkeypatch):
    monkeypatch.setenv("ACT_RESULTS", str(tmp_path))
    path = ROOT / "notebooks/03_sufficiency.ipynb"
    papermill.execute_notebook(path, tmp_path / "03.ipynb", OTHER, cwd=path.parent)
    table = pd.read_csv(tmp_path / "tab03_sufficiency.csv")
    assert {*table["top_percent"]} == {2, 10} and {*table["items"]} == {16}


@needs_run
def test_figures_come_as_vectors_pictures_and_tables():
    folder = STORE / FAMILY / "study/results"
    drawn = {path.stem for path in folder.glob("*.pdf")}
    assert {path.stem[:2] for path in EXECUTED} <= {name[3:5] for name in drawn}
    for ending in ("png", "csv"):
        assert drawn <= {path.stem for path in folder.glob(f"*.{ending}")}
