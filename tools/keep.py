"""Copy what a sweep left to the folders that readers see.

    python tools/keep.py tiny

takes from `artifacts/tiny` (or from `ACT_STORE`):

- the executed notebooks, to `notebooks/`; of `tiny` alone, the family that they speak of. Code,
  text and outputs come along; what only describes the run (times, widgets, words about waiting)
  does not. Pictures get 128 colors, a third of the size, so that a notebook opens on a slow line;
  the files in `figures/` have them all.
- figures and tables, to `figures/tiny/`; a patch that a notebook made stays where it is.
- the rows of each cached function that the notebooks call, to `data/items/tiny/FUNCTION/`. Rows of
  other settings that lie there stay: the run may have read them instead of measuring them. Rows of
  the function as it was before an edit go, where there are newer ones of the same seed.
"""

import ast
import base64
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from actlib.files import write_text
from actlib.study.cache import write_rows
from actlib.study.sources import digest_text, syntax_of

ROOT = Path(__file__).resolve().parents[1]
SPOKEN_OF = "tiny"  # by the sentences of the notebooks
WIDGET = "application/vnd.jupyter.widget-view+json"


def cleaned(notebook: dict) -> dict:
    """The notebook without what describes its run; the parameters of the run become a sentence."""
    cells = [cell for cell in notebook["cells"] if cell.get("id") != "kept-run"]
    counter = 0
    for index, cell in enumerate(cells):
        about = cell["metadata"]
        if "injected-parameters" in about.get("tags", []):
            lines = [line.rstrip() for line in cell["source"] if not line.startswith("#")]
            run = ", ".join(f"`{line}`" for line in lines)
            text = f"The sentences below are of a run with {run}; so are the outputs, unless you "
            text += "ran it yourself. `study.holds(...)` checks the sentence beside it against "
            text += "this run; in any other run it does nothing."
            if "ACT_READ_COMMITTED" in os.environ:
                text += " Tables over seeds are computed from the rows in `data/items`. Where a "
                text += "cell shows a single model, that model was trained again, so its numbers "
                text += "differ from those tables."
            cells[index] = {"cell_type": "markdown", "id": "kept-run", "metadata": {}}
            cells[index]["source"] = [text]
            continue
        cell["metadata"] = {key: about[key] for key in ("tags", "jupyter") if about.get(key)}
        if "outputs" in cell:
            counter += 1
            cell["execution_count"] = counter
            cell["outputs"] = [out for out in map(still, cell["outputs"]) if out]
            for out in cell["outputs"]:
                if "execution_count" in out:
                    out["execution_count"] = counter
    keys = ("kernelspec", "language_info")
    metadata = {name: notebook["metadata"][name] for name in keys}
    return {**notebook, "cells": cells, "metadata": metadata}


def still(output: dict) -> dict | None:
    """The output with a smaller picture and without words about waiting; None for a bar."""
    data = output.get("data", {})
    if WIDGET in data or "<progress " in "".join(data.get("text/html", [])):  # the Trainer's
        return None
    if output.get("name") == "stderr":
        lines = "".join(output["text"]).splitlines(keepends=True)
        passing = re.compile("waiting for |.*: rows measured by an earlier state of actlib")
        remaining = [line for line in lines if not passing.match(line)]
        return output | {"text": remaining} if remaining else None
    if "image/png" in data:
        return output | {"data": data | {"image/png": smaller(data["image/png"])}}
    return output


def smaller(picture: str | list[str]) -> str:
    """A PNG, in base64, of at most 128 colors."""
    image = Image.open(io.BytesIO(base64.b64decode("".join(picture)))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(colors=128, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def keep(folder: Path, name: str) -> None:
    """Copy everything of a preset from its folder among the artifacts."""
    run = folder / ("keep" if name == SPOKEN_OF else "sweep")
    executed = sorted((run / "notebooks").glob("*.ipynb"))
    if not executed:
        sys.exit(f"error: no run in {run}; `make keep` makes it")
    for path in executed if name == SPOKEN_OF else []:
        notebook = cleaned(json.loads(path.read_text(encoding="utf-8")))
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
        write_text(ROOT / "notebooks" / path.name, text + "\n")
    results, figures = run / "results", ROOT / "figures" / name
    shutil.rmtree(figures, ignore_errors=True)
    for path in sorted(path for path in results.glob("[!.]*") if path.suffix != ".safetensors"):
        figures.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, figures)
    items = ROOT / "data/items" / name
    current = cached_functions(ROOT / "notebooks")  # those that this run left out keep theirs
    for old in items.glob("*"):
        if old.name not in current:
            shutil.rmtree(old)
    for path in sorted(folder.glob("cache/*/*.parquet")):
        endings, kept = current.get(path.parent.name, set()), items / path.parent.name
        seed, _, ending = path.stem.rpartition("-")
        if ending in endings:
            for old in kept.glob(f"{seed}-*.parquet"):
                if old.stem.rpartition("-")[2] not in endings:
                    old.unlink()
            add_rows(path, kept / path.name)


def cached_functions(notebooks: Path) -> dict[str, set[str]]:
    """Cached functions of notebooks, and how the names of their files of rows end.

    `actlib.study.cache` names them. Two notebooks may have functions of one name.
    """
    endings: dict[str, set[str]] = {}
    for path in notebooks.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        tree = ast.parse("\n".join(code))
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for name in functions:
            if "cached" in map(ast.unparse, functions[name].decorator_list):
                syntax, waiting, seen = [], [name], set()
                while waiting:  # in the order of `describe`, which may meet one twice
                    seen.add(each := waiting.pop())
                    syntax.append(syntax_of(ast.unparse(functions[each])))
                    parts = ast.walk(functions[each])
                    names = {part.id for part in parts if isinstance(part, ast.Name)}
                    waiting += sorted(names & {*functions} - seen)
                endings.setdefault(name, set()).add(digest_text(*sorted(syntax))[:6])
    return endings


def add_rows(measured: Path, destination: Path) -> None:
    """Write the rows of a cache to the kept ones, in the place of those of the same settings."""
    rows = pd.read_parquet(measured)
    if destination.is_file():
        before = pd.read_parquet(destination)
        rows = pd.concat([before[~before["_setting"].isin(rows["_setting"])], rows])
    write_rows(rows, destination)


if __name__ == "__main__":
    store = Path(os.environ.get("ACT_STORE", ROOT / "artifacts"))
    keep(store / sys.argv[1], sys.argv[1])
