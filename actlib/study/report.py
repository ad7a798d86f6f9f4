"""A run on one page: what was run, each notebook's answer, its figures and tables.

    path = write_report(run, states, seconds)      # artifacts/NAME/study/report.md

It only puts together what the notebooks left: their outputs, and the PNG and CSV files.
"""

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

import pandas as pd

from actlib.analysis.drawing import read_captions
from actlib.files import write_text
from actlib.loading import public_name
from actlib.study.claims import load_claims
from actlib.study.provenance import device
from actlib.study.runs import DONE, EARLIER, PATHS, Run, describe_counts, failures

MOST_ROWS = 16
FEW_ITEMS = 12
MEASURES = {"exact": "exact match (share of questions)", "nll": "NLL (nats per answer token)"}
UNITS = {
    r"nll": "nats per answer token",
    r"exact|accuracy|.*_(least|most)": "share of questions",
    r"recovery.*": "share of the gap; 0 target, 1 donor",
    r"(gap_)?(low|high)(_.+)?": "95 % interval",
    r".*percent": "%",
    r"jaccard|share": "0 to 1",
    r"seconds": "s",
}
"""Unit of the columns of tables whose name is like that."""
NO_GAP = "no clear gap between donor and target, so no share of it"
NOT_MEASURED = "not measured, or does not apply"
DASHES = (
    f"In tables, – is a number that is not there: {NOT_MEASURED}, {NO_GAP}, or one training seed."
)


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
    broken = failures(run) if {*states.values()} - {DONE} else {}
    states = dict(sorted({**there, **states}.items()))
    parts = [f"# {run.preset.name}", escape(run.preset.description, quote=False)]
    parts += [markdown_table(_describe(run, seconds)), "## The gap", *_gap(run, states)]
    parts += ["## Answers", "\n".join(_answers(run, states, broken)), DASHES]
    for name, state in states.items():
        if state in (DONE, EARLIER):
            parts += [f"## {name}", *_results(run, name)]
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
        if (rule := rules.get(str(claim))) is None:  # of a notebook that someone added or changed
            parts.append(f"*{claim}* is no claim of configs/claims.yaml; see its table")
            continue
        compared = rows.dropna(subset="difference")
        names = {"treatment": rule.treatment, "control": rule.control, "difference": "difference"}
        means = (rows if compared.empty else compared)[[*names]].mean().dropna()
        numbers = ", ".join(f"{names[str(key)]} {mean:.3g}" for key, mean in means.items())
        if compared.empty:
            why = f"{NO_GAP}, or {NOT_MEASURED}" if "gap" in rule.measure else NOT_MEASURED
            prefix = f"{numbers}, " if numbers else f"{rule.treatment} "
            numbers = f"{prefix}not compared with {rule.control}: {why}"
        elif is_trained(run):
            numbers += f", mean over {len(compared)} of {len(rows)} training seeds"
        parts.append(f"*{rule.title}* ({rule.measure}): {numbers}")
    return "; ".join(parts)


def is_trained(run: Run) -> bool:
    """Whether a model of the run is trained here, and so has training seeds."""
    return len(run.preset.loaded) < len(run.preset.models)


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
    preset, rows = run.preset, dict[str, str]()
    for role in ("donor", "target", "base", "second_donor"):
        name = getattr(preset.roles, role)
        if name and (role == "donor" or name != preset.roles.donor):  # which stands in for a base
            rows[role] = public_name(getattr(preset.models[name], "load", name))
    questions = public_name(preset.data.path) if preset.data.path else "the shipped ones"
    rows |= {"weights": preset.dtype, "questions": questions}
    for ability, counts in run.questions.items():
        part = "lost" if ability in preset.lost else "retained"
        rows[f"{ability} ({part})"] = f"questions: {describe_counts(counts)}"
    if is_trained(run):
        rows["training seeds"] = ", ".join(map(str, preset.study.seeds))
    rows["took"] = f"{seconds / 60:.1f} min on {device()}, without what was there already"
    return pd.DataFrame(rows.items(), columns=["what", "of this run"])


def _gap(run: Run, states: Mapping[str, str]) -> Iterator[str]:
    """What the target lost and kept, by notebook 00, and what speaks against the answers."""
    state = states.get(PATHS["00"].stem, "not run")
    path = run.folder / "results" / "tab00_forgotten.csv"
    if state not in (DONE, EARLIER) or not path.is_file():
        yield f"Not known: notebook 00 alone measures it, and is **{state}**."
        return
    keys, roles = ["ability", "measure"], run.preset.roles
    means = pd.read_csv(path.with_name("tab00_accuracies.csv"))
    means = means.pivot(index=keys, columns="model", values="mean")[[roles.donor, roles.target]]
    table = pd.read_csv(path).join(means.set_axis(["donor", "target"], axis="columns"), on=keys)
    parts = dict.fromkeys(run.preset.lost, "lost") | dict.fromkeys(run.preset.retained, "retained")
    table = table.assign(part=table["ability"].map(parts)).dropna(subset="part")
    columns = [*keys, "part", "donor", "target", "target_minus_donor", "low", "high"]
    gaps = table[columns].assign(**{"test items": table["items"]})
    yield markdown_table(gaps.replace({"measure": MEASURES}))
    yield from (f"**Warning:** {warning}." for warning in _warnings(table))


def _warnings(table: pd.DataFrame) -> Iterator[str]:
    """What speaks against reading much into the answers; for a table as in `_gap`."""
    harm = table[["low", "high"]].mul(table["measure"].map({"nll": 1, "exact": -1}), axis="index")
    worse, better = harm.min(axis="columns") > 0, harm.max(axis="columns") < 0
    lost, exact = table["part"] == "lost", table["measure"] == "exact"
    unsolved, few = lost & exact & (table["donor"] == 0), table["items"] < FEW_ITEMS
    chosen = {
        "no clear gap in {} on {} (the interval holds 0): a share of it is undefined": (
            lost & ~worse & ~better
        ),
        "the target is better than the donor in {} on {}: nothing to recover": lost & better,
        "the target is worse in {} on {} too, which it did not keep": ~lost & worse,
        "the donor has {} 0 on {}: nothing follows about moving what it does not show": unsolved,
        f"fewer than {FEW_ITEMS} test items of {{1}}: intervals of so few are too narrow and "
        "p-values too small, so what holds is no more than a hint": few & exact,
    }
    for sentence, rows in chosen.items():
        for measure, part in table[rows].groupby("measure"):
            yield sentence.format(MEASURES[str(measure)].split(" (")[0], ", ".join(part["ability"]))


def _answers(run: Run, states: Mapping[str, str], broken: dict[str, str]) -> Iterator[str]:
    for name, state in states.items():
        if state in (DONE, EARLIER):
            text = answer(run, name) or "no contrast; see its tables"
            when = f" ({state})" * (state == EARLIER)
            changed = run.preset.study.parameters.get(name[:2], {})
            settings = "".join(f"; with {key} = {value}" for key, value in changed.items())
            link = _link(run.executed(name), run)
            yield f"- [{name}]({link}){when}: {text}{escape(settings, quote=False)}"
        else:
            why = broken.pop(name, ", since something that it needs failed")
            yield f"- {name}: **{state}**{escape(why, quote=False)}"
    yield from (f"- {name}: **failed**{escape(why)}" for name, why in broken.items())
    yield from (f"- {number}: left out, {why}." for number, why in run.left_out.items())


def _results(run: Run, notebook: str) -> Iterator[str]:
    results = run.folder / "results"
    for name, caption in read_captions(run.executed(notebook)).items():
        picture = results / f"{name}.png"
        if picture.is_file():
            yield f"![{name}]({_link(picture, run)})"
            yield f"*{caption}*" if caption else ""
    for path in sorted(results.glob(f"tab{notebook[:2]}_*.csv")):
        table = pd.read_csv(path).replace({"measure": MEASURES})
        table = table.fillna(dict.fromkeys(table.select_dtypes(exclude="number"), ""))
        short = len(table) <= MOST_ROWS  # else its link is enough: rows of a part alone mislead
        yield f"**[{path.stem}]({_link(path, run)})**" + f" {len(table)} rows" * (not short)
        if short:
            untrained = [] if is_trained(run) else ["seed", "seeds"]
            yield markdown_table(table.drop(columns=untrained, errors="ignore"))


def _link(path: Path, run: Run) -> str:
    return f"<{path.relative_to(run.folder)}>"  # in brackets, since a path may hold spaces
