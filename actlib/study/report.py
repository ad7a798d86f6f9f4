"""A run on one page: what was run, each notebook's answer, its figures and tables.

    path = write_report(run, states, seconds)      # artifacts/NAME/study/report.md

It only puts together what the notebooks left: their outputs, and the PNG and CSV files.
"""

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from html import escape
from importlib.metadata import version
from pathlib import Path
from textwrap import indent

import pandas as pd
import yaml

from actlib.analysis.drawing import read_captions
from actlib.files import write_text
from actlib.study.claims import load_claims
from actlib.study.provenance import device
from actlib.study.runs import DONE, PATHS, Run

MOST_ROWS = 16
FEW_ITEMS = 12
PACKAGES = ("actlib", "torch", "transformers", "datasets", "numpy", "pandas")
EARLIER = "of an earlier run"
UNITS = {
    r"nll": "nats per answer token",
    r"exact|accuracy": "share of questions",
    r"recovery.*": "share of the gap; 0 target, 1 donor",
    r".*percent|p": "%",
    r"jaccard": "0 to 1",
    r"seconds": "s",
}
"""Unit of the columns of tables whose name is like that."""


def write_report(run: Run, states: Mapping[str, str], seconds: float) -> Path:
    """Write ``report.md`` into the folder of the run.

    Notebooks that an earlier run of the preset left are listed too, and marked.

    Args:
        run: what was run.
        states: notebook -> state, as of `execute`.
        seconds: that the run took.

    Returns:
        Path of the report.
    """
    names = [path.stem for path in PATHS.values()]
    there = {name: EARLIER for name in names if run.executed(name).is_file()}
    states = dict(sorted({**there, **states}.items()))
    parts = [f"# {run.preset.name}", escape(run.preset.description, quote=False)]
    parts += [markdown_table(_describe(run, seconds)), _describe_gap(run), "## Answers"]
    parts += ["\n".join(_answers(run, states))]
    for name, state in states.items():
        if state in (DONE, EARLIER):
            parts += [f"## {title(run.executed(name))}", *_results(run, name)]
    settings = yaml.safe_dump(run.preset.model_dump(exclude_none=True), sort_keys=False)
    parts += ["## The preset", indent(settings.strip(), "    ")]  # a fence could be ended by a text
    path = run.folder / "report.md"
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def answer(run: Run, notebook: str) -> str:
    """What a notebook found in this run: the primary contrast of each of its claims.

    The line under the title of a notebook is of the project's own run, and not read.
    """
    path = run.folder / "results" / f"tab{notebook[:2]}_contrast.csv"
    if not path.is_file():
        return ""
    rules, parts = load_claims().claims, []
    for claim, rows in pd.read_csv(path).groupby("claim", sort=False):
        rule, means = rules[str(claim)], rows[["treatment", "control", "difference"]].mean()
        if means.isna().any():
            why = "one of the two was not measured, or there is no clear gap"
            parts.append(f"{rule.title}: {rule.treatment} and {rule.control} not compared ({why})")
            continue
        seeds = f"{len(rows)} training seed" + "s" * (len(rows) > 1)
        parts.append(
            f"{rule.title} ({rule.measure}): {rule.treatment} {means['treatment']:.3g}, "
            f"{rule.control} {means['control']:.3g}, difference {means['difference']:.3g} ({seeds})"
        )
    return "; ".join(parts)


def title(notebook: Path) -> str:
    """Heading of a notebook, such as ``01 · Concentration``."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    heading = re.search(
        "^# (.+)", "\n".join("".join(cell["source"]) for cell in cells), re.MULTILINE
    )
    return heading[1].strip() if heading else notebook.stem


def markdown_table(table: pd.DataFrame) -> str:
    """A table in Markdown: units in its head, numbers to three digits."""
    names = list(map(str, table))
    units = [next((u for n, u in UNITS.items() if re.fullmatch(n, name)), "") for name in names]
    rows = [[f"{name} ({unit})" if unit else name for name, unit in zip(names, units, strict=True)]]
    rows += [["---"] * len(names)]
    for row in table.astype(object).where(table.notna(), "–").to_numpy():
        rows.append([f"{each:.3g}" if isinstance(each, float) else str(each) for each in row])
    # Questions and names come from whoever wrote them: what looks like HTML is shown, not obeyed.
    escaped = [
        [escape(text, quote=False).replace("|", "\\|").replace("\n", " ") for text in row]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def _describe(run: Run, seconds: float) -> pd.DataFrame:
    roles = run.preset.roles
    rows = {
        role: getattr(run.preset.models[name], "load", name)
        for role, name in (("donor", roles.donor), ("target", roles.target))
    }
    rows |= {"questions": run.preset.data.path or "the shipped ones"}
    rows |= {"lost": ", ".join(run.preset.lost), "retained": ", ".join(run.preset.retained)}
    rows |= {"training seeds": ", ".join(map(str, run.preset.study.seeds))}
    rows |= {"ended": f"{datetime.now():%Y-%m-%d %H:%M}", "device": device()}
    rows |= {"took": f"{seconds / 60:.1f} min, without what was there already"}
    versions = [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)]
    rows |= {"versions": ", ".join(versions)}
    return pd.DataFrame(rows.items(), columns=["what", "of this run"])


def _describe_gap(run: Run) -> str:
    """Whether the target lost the lost abilities and kept the retained ones, by notebook 00."""
    path = run.folder / "results" / "tab00_forgotten.csv"
    if not path.is_file():
        return (
            "**Target minus donor:** not known, since notebook 00 did not end; whether there is a "
            "gap to recover is only known from there."
        )
    names = {"target_minus_donor": "difference"}
    rows = pd.read_csv(path).rename(columns=names).query("measure == 'nll'").set_index("ability")
    parts, warnings = [], []
    for section, abilities in (("lost", run.preset.lost), ("retained", run.preset.retained)):
        own = rows.loc[[ability for ability in abilities if ability in rows.index]]
        gaps = [f"{a} {r.difference:.2f} [{r.low:.2f}, {r.high:.2f}]" for a, r in own.iterrows()]
        parts.append(f"{section} {', '.join(gaps)}")
        above = own["low"] > 0
        if section == "lost" and not above.all():
            unclear = ", ".join(own.index[~above])
            warnings.append(f"no clear gap on {unclear}, so shares of it are undefined")
        if section == "retained" and above.any():
            worse = ", ".join(own.index[above])
            warnings.append(f"the target is worse on {worse} too, which it did not keep")
    warnings += _warnings(run)
    line = f"**Target minus donor** (answer NLL, nats per token): {'; '.join(parts)}."
    return line + "".join(f" **Warning:** {warning}." for warning in warnings)


def _warnings(run: Run) -> Iterator[str]:
    """What speaks against reading much into the answers."""
    path = run.folder / "results" / "tab00_accuracies.csv"
    if not path.is_file():
        return
    rows = pd.read_csv(path)
    rows = rows[rows["ability"].isin(run.preset.lost) & (rows["model"] == run.preset.roles.donor)]
    unsolved = rows.query("measure == 'exact' and mean == 0")["ability"]
    if len(unsolved):
        yield (
            f"the donor itself solves no test item of {', '.join(unsolved)} (exact match 0), so it "
            "is in doubt that it has the ability"
        )
    few = {a: n["test"] for a, n in run.questions.items() if n["test"] < FEW_ITEMS}
    if few:
        yield (
            f"only {min(few.values())} test items of {', '.join(few)}: intervals of so few are too "
            "narrow and p-values too small, so what holds is no more than a hint"
        )


def _answers(run: Run, states: Mapping[str, str]) -> Iterator[str]:
    for name, state in states.items():
        path = run.executed(name)
        if state in (DONE, EARLIER):
            text = answer(run, name) or "no contrast; see its tables"
            when = f" ({state})" * (state == EARLIER)
            yield f"- [{title(path)}]({_link(path, run)}){when}: {text}"
        else:
            yield f"- {name}: **{state}**; log: `{run.log(name)}`"
    yield from (f"- {number}: left out, {why}." for number, why in run.left_out.items())


def _results(run: Run, notebook: str) -> Iterator[str]:
    results = run.folder / "results"
    for name, caption in read_captions(run.executed(notebook)).items():
        picture = results / f"{name}.png"
        if picture.is_file():
            yield f"![{name}]({_link(picture, run)})"
            yield f"*{caption}*" if caption else ""
    for path in sorted(results.glob(f"tab{notebook[:2]}_*.csv")):
        table = pd.read_csv(path)
        short = len(table) <= MOST_ROWS  # else its link is enough: rows of a part alone mislead
        yield f"**[{path.stem}]({_link(path, run)})**" + f" {len(table)} rows" * (not short)
        yield markdown_table(table) if short else ""


def _link(path: Path, run: Run) -> str:
    return f"<{os.path.relpath(path, run.folder)}>"  # in brackets, since a path may hold spaces
