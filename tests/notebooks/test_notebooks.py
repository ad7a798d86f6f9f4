"""The notebooks: kept with the outputs of one clean run of the default, and run by `make test`.

The second half judges what the runner left in `artifacts/quick`, which `make test` makes first, or
in `artifacts/tiny` after `make test-all`.
"""

import os
import re
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "notebooks").glob("*.ipynb"))
FAMILY = os.environ.get("FAMILY", "quick")
STORE = Path(os.environ.get("ACT_STORE", ROOT / "artifacts"))
RESULTS = STORE / FAMILY / "study/results"
EXECUTED = sorted((STORE / FAMILY / "study/notebooks").glob("*.ipynb"))
# /home/ada/x, C:\x, ~/x; but neither https://a.b/home/x nor and/or.
OWN_PATH = re.compile(
    r"(?<![\w.:/-])/(home|root|Users|tmp|var|usr|opt|etc|mnt|work|data|scratch)/"
    r"|file://|\b[A-Z]:\\\w|(?<!\w)~/"
)

committed = pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
executed = pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
needs_run = pytest.mark.skipif(not EXECUTED, reason="no notebook ran yet; `make test` runs them")


def _code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _texts(value):
    """Every text that a reader meets in outputs; pictures are left out."""
    if isinstance(value, dict):
        value = [part for name, part in value.items() if not name.startswith("image/")]
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


@committed
def test_outputs_are_those_of_one_run_of_the_default_and_name_no_machine(path):
    notebook = nbformat.read(path, 4)
    tags = [tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1, "papermill needs one cell of parameters"
    assert "injected-parameters" not in tags, "kept from a run with other parameters"
    counters = [cell["execution_count"] for cell in _code(notebook)]
    assert counters == list(range(1, len(counters) + 1)), "kept from more than one run"
    assert any(cell["outputs"] for cell in _code(notebook)), "no outputs: run `make keep`"
    for cell in notebook["cells"]:
        assert not [out for out in cell.get("outputs", []) if "ename" in out]
        for text in [cell["source"], *_texts(cell.get("outputs", []))]:
            assert not OWN_PATH.search(text), f"a path of a machine: {text}"
    assert path.stat().st_size < 500_000, "too large to read on a slow line"


@executed
def test_the_run_went_to_the_end(path):
    notebook = nbformat.read(path, 4)
    assert all(cell["execution_count"] for cell in _code(notebook) if cell["source"].strip())
    injected = [c for c in _code(notebook) if "injected-parameters" in c["metadata"]["tags"]]
    assert [cell for cell in injected if FAMILY in cell["source"]]


SIZES = {"test_items": 4, "percents": [2, 10], "draws": 1, "map_items": 9, "others": []}
SIZES |= {"methods": ["act_global", "act_module", "random_module"], "interpolations": [0.5]}
OTHERS = {"02_disentanglement": {"top_percent": 10.0, "draws": 1}, "03_sufficiency": SIZES}


@needs_run
@pytest.mark.parametrize("stem", OTHERS)
def test_a_parameter_changes_tables_and_figures(stem, tmp_path, monkeypatch):
    preset = "tiny" if FAMILY == "tiny" else str(ROOT / f"artifacts/{FAMILY}.yaml")
    monkeypatch.setenv("ACT_RESULTS", str(tmp_path))
    path, values = ROOT / f"notebooks/{stem}.ipynb", {"preset": preset, **OTHERS[stem]}
    papermill.execute_notebook(path, tmp_path / "run.ipynb", values, cwd=path.parent)
    read = lambda folder, name: pd.read_csv(folder / f"{name}.csv")  # noqa: E731
    if stem == "03_sufficiency":
        for name in ("tab03_sufficiency", "fig03_sufficiency"):
            assert {*read(tmp_path, name)["top_percent"]} == {2, 10}
        assert {*read(tmp_path, "tab03_sufficiency")["items"]} == {16}
    else:  # interventions of masks of another size, which agree by chance more often
        chances = [read(f, "tab02_overlap")["chance"].max() for f in (RESULTS, tmp_path)]
        assert chances[1] > 1.5 * chances[0]
        for name in ("tab02_interventions", "fig02_interventions"):
            assert not read(tmp_path, name)["recovery"].equals(read(RESULTS, name)["recovery"])


@needs_run
def test_every_notebook_ran_and_left_figures_as_vectors_pictures_and_tables():
    assert [path.name for path in EXECUTED] == [path.name for path in COMMITTED]
    drawn = {path.stem for path in RESULTS.glob("*.pdf")}
    assert {path.stem[:2] for path in EXECUTED} <= {name[3:5] for name in drawn}
    for ending in ("png", "csv"):
        assert drawn <= {path.stem for path in RESULTS.glob(f"*.{ending}")}
