"""A run on one page: what was run, each notebook's answer, its figures and tables.

    path = write_report(run, states, seconds)      # artifacts/NAME/report.md

It only puts together what the notebooks left: their outputs, and the PNG and CSV files.
"""

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import datetime
from html import escape
from importlib.metadata import version
from pathlib import Path
from textwrap import indent

import pandas as pd
import torch
import yaml

from actlib.files import write_text
from actlib.study.runs import DONE, Run, chosen_notebooks

MOST_ROWS = 16
FEW_ITEMS = 12
PACKAGES = ("actlib", "torch", "transformers", "datasets", "numpy", "pandas")
EARLIER = "of an earlier run"
_ANSWER = "**In one line.**"


def write_report(run: Run, states: Mapping[str, str], seconds: float) -> Path:
    """Write ``report.md`` into the preset's folder of the store.

    Notebooks that an earlier run of the preset left are told too, and marked.

    Args:
        run: what was run.
        states: notebook -> state, as of `Run.execute`.
        seconds: that the run took.

    Returns:
        Path of the report.
    """
    path = run.folder / "report.md"
    there = {name: EARLIER for name in chosen_notebooks(run.preset) if run.executed(name).is_file()}
    states = dict(sorted({**there, **states}.items()))
    done = [name for name, state in states.items() if state in (DONE, EARLIER)]
    described = escape(run.preset.description, quote=False)
    parts = [f"# {run.preset.name}", described, *_ran(run, seconds)]
    parts += [_gap(run), "## In one line", *_answers(run, states)]
    for name in done:
        parts += [f"## {title(run.executed(name))}", *_shown(run, name, path.parent)]
    told = yaml.safe_dump(run.preset.model_dump(exclude_none=True), sort_keys=False)
    parts += ["## The preset", indent(told.strip(), "    ")]  # a fence could be ended by a text
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def answer(notebook: Path) -> str:
    """The one line in which an executed notebook answers its question; empty if it has none.

    It is read from the outputs. The line under the title of a notebook is of the project's own run.
    """
    texts = (text for cell in _cells(notebook) for text in _outputs(cell))
    lines = (line for text in texts for line in text.splitlines())
    found = (line.removeprefix(_ANSWER).strip() for line in lines if line.startswith(_ANSWER))
    return next(found, "")


def title(notebook: Path) -> str:
    """Heading of a notebook, such as ``01 · Concentration``."""
    lines = (line for cell in _cells(notebook) for line in _source(cell).splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), notebook.stem)


def captions(notebook: Path) -> dict[str, str]:
    """Figures that a notebook saves, in its order -> the caption below, before the next figure."""
    found: dict[str, str] = {}
    for cell in _cells(notebook):
        text = _source(cell)
        if cell["cell_type"] == "code":
            found |= dict.fromkeys(re.findall(r'save_figure\([^"]*"(\w+)"', text), "")
        elif text.startswith("*Figure") and found:
            found[next(reversed(found))] = text.partition("\n\n")[0]
    return found


def markdown_table(table: pd.DataFrame, most: int = MOST_ROWS) -> str:
    """The first rows of a table in Markdown, numbers to three digits."""
    shown = [
        [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row]
        for row in table.head(most).astype(object).where(table.notna(), "–").to_numpy()
    ]
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns), *shown]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows)


def _escaped(text: str) -> str:
    # Questions and names come from whoever wrote them: what looks like HTML is shown, not obeyed.
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _ran(run: Run, seconds: float) -> list[str]:
    roles = run.preset.roles.model_dump(exclude_none=True, include={"donor", "target"})
    specs = {role: run.preset.models[name] for role, name in roles.items()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    rows = [(role, getattr(spec, "load", roles[role])) for role, spec in specs.items()]
    rows += [("questions", run.preset.data.path or "the shipped ones")]
    rows += [("lost", ", ".join(run.preset.lost)), ("retained", ", ".join(run.preset.retained))]
    rows += [("notebooks", ", ".join(run.notebooks)), ("ended", f"{datetime.now():%Y-%m-%d %H:%M}")]
    rows += [("took", f"{seconds / 60:.1f} min"), ("device", device)]
    versions = [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)]
    rows += [("versions", ", ".join(versions))]
    note = (
        "*Took* counts what this run did; what was there already was not made again. The answers "
        "below are this run's; the line under the title inside each notebook is of the run of the "
        "project's own models."
    )
    return [markdown_table(pd.DataFrame(rows, columns=["what", "of this run"]), len(rows)), note]


def _gap(run: Run) -> str:
    """Whether the target lost the lost abilities and kept the retained ones, of notebook 00."""
    path = run.figures / "tab00_forgotten.csv"
    if not path.is_file():
        return (
            "**Target minus donor:** not known, since notebook 00 was not run; whether there is a "
            "gap to recover stands only there."
        )
    rows = pd.read_csv(path).query("measure == 'nll'").set_index("cell")
    told, warnings = [], []
    for part, cells in (("lost", run.preset.lost), ("retained", run.preset.retained)):
        here = rows.loc[[cell for cell in cells if cell in rows.index]]
        told.append(
            f"{part} {', '.join(_with_interval(cell, row) for cell, row in here.iterrows())}"
        )
        clear = here["low"] > 0
        if part == "lost" and not clear.all():
            named = ", ".join(here.index[~clear])
            warnings.append(f"no clear gap on {named}, so shares of it are undefined")
        if part == "retained" and clear.any():
            named = ", ".join(here.index[clear])
            warnings.append(f"the target is worse on {named} too, which it did not keep")
    warnings += _doubts(run)
    line = f"**Target minus donor** (answer NLL, nats per token): {'; '.join(told)}."
    return line + "".join(f" **Warning:** {warning}." for warning in warnings)


def _doubts(run: Run) -> list[str]:
    """What speaks against reading much into the verdicts: few items, a donor that solves none."""
    path = run.figures / "tab00_accuracies.csv"
    if not path.is_file():
        return []
    rows = pd.read_csv(path)
    rows = rows[rows["cell"].isin(run.preset.lost) & (rows["model"] == run.preset.roles.donor)]
    found = []
    none = rows.query("measure == 'exact' and mean == 0")["cell"]
    if len(none):
        found.append(
            f"the donor itself solves no test item of {', '.join(none)} (exact match 0), so it is "
            "in doubt that it has the ability"
        )
    few = rows.query("measure == 'nll' and items < @FEW_ITEMS")
    if len(few):
        found.append(
            f"only {few['items'].min()} test items of {', '.join(few['cell'])}: intervals "
            "of so few are too narrow and p-values too small, so what holds is no more than a hint"
        )
    return found


def _with_interval(cell: object, row: pd.Series) -> str:
    return f"{cell} {row['target_minus_donor']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _answers(run: Run, states: Mapping[str, str]) -> list[str]:
    lines = []
    for name, state in states.items():
        path = run.executed(name)
        if state in (DONE, EARLIER):
            told = answer(path) or "no answer in one line; see its tables"
            when = f" ({state})" * (state == EARLIER)
            lines.append(f"- [{title(path)}]({_link(path, run.folder)}){when}: {told}")
        else:
            lines.append(f"- {name}: **{state}**; log: `{run.log(name)}`")
    lines += [f"- {number}: left out, {why}." for number, why in run.left_out.items()]
    return ["\n".join(lines)]


def _shown(run: Run, notebook: str, folder: Path) -> list[str]:
    parts, number = [], notebook[:2]
    for name, caption in captions(run.executed(notebook)).items():
        picture = run.figures / f"{name}.png"
        if picture.is_file():
            parts += [f"![{name}]({_link(picture, folder)})", caption]
    for path in sorted(run.figures.glob(f"tab{number}_*.csv")):
        table = pd.read_csv(path)
        told = f"**[{path.stem}]({_link(path, folder)})**"
        if len(table) > MOST_ROWS:  # its link is enough: rows of a part alone mislead
            parts.append(f"{told} {len(table)} rows")
        else:
            parts += [told, markdown_table(table)]
    return parts


def _link(path: Path, folder: Path) -> str:
    return f"<{os.path.relpath(path, folder)}>"  # in brackets, since a path may hold spaces


def _cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def _source(cell: Mapping) -> str:
    return "".join(cell["source"])


def _outputs(cell: Mapping) -> list[str]:
    found = []
    for output in cell.get("outputs", []):
        text = output.get("data", {}).get("text/markdown", "")
        found.append("".join(text))
    return found
