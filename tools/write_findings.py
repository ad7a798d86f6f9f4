"""Write the tables of docs/findings.md and docs/findings_tables.md; none is typed.

python tools/write_findings.py            # rewrite what is between the markers
python tools/write_findings.py --check    # exit status 1 if it is out of date
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from actlib.analysis import stats
from actlib.analysis.contrasts import student_interval
from actlib.analysis.style import METHODS, label_of
from actlib.files import write_text
from actlib.study.claims import Claims, apply_rule, give_verdicts, load_claims, read_contrasts
from actlib.study.presets import load_preset

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / name for name in ("findings.md", "findings_tables.md")]

Lines = Iterator[Sequence[str]]
"""Cells of a table, line by line, its head first."""
BLOCK = re.compile(r"(<!-- ([\w ]+): start -->\n).*?(<!-- \2: end -->\n)", re.DOTALL)


def list_verdicts(rules: Claims, table: pd.DataFrame) -> Lines:
    """Every claim with its contrast, margin and verdict."""
    yield "claim (notebook)", "statement", "contrast", "margin", "verdict"
    for key, claim in rules.claims.items():
        measure = ", ".join(filter(None, [claim.measure, claim.sizes]))
        cells = [f"{claim.title} ({claim.notebook:02d})", f"{claim.statement} ({claim.source})"]
        arms = (claim.treatment, claim.control)
        names = [METHODS[arm].label if arm in METHODS else arm for arm in arms]
        cells += [f"{', minus '.join(names)}: {measure}"]
        cells += ["–" if claim.test == "none" else f"{claim.margin:g}"]
        row = table.loc[key]
        yield [*cells, describe(row) + (f", {row['seeds']:.0f} seeds" if row["seeds"] > 0 else "")]


def describe(row: pd.Series) -> str:
    """Difference, interval and verdict of one claim in one family."""
    if not row["seeds"] > 0:
        return "not run"
    digits = 3 if row["margin"] < 0.1 else 2
    estimate, low, high = (f"{row[key]:.{digits}f}" for key in ("estimate", "low", "high"))
    numbers = f"{estimate} [{low}, {high}]" if row["seeds"] > 1 else estimate
    return f"**{row['verdict']}**: {numbers}"


def list_seeds(rules: Claims, contrasts: pd.DataFrame, table: pd.DataFrame) -> Lines:
    """Every claim that a family measured: its difference, margin, verdict and each seed."""
    yield "claim (notebook)", "margin", "verdict", "of each seed"
    for key, claim in rules.claims.items():
        values = contrasts[contrasts["claim"] == key].sort_values("seed")["difference"].dropna()
        if len(values):
            margin = "–" if claim.test == "none" else f"{claim.margin:g}"
            numbers = ", ".join(f"{value:.2f}" for value in values)
            yield f"{claim.title} ({claim.notebook:02d})", margin, describe(table.loc[key]), numbers


def read_items(family: str) -> pd.DataFrame:
    """Rows of single questions out of notebook 03, with `method` and `top_percent` as it draws."""
    items = ROOT / "data/items" / family
    kinds = ("reference", "transfer", "entry", "budget")
    paths = [path for kind in kinds for path in sorted(items.glob(f"{kind}_items/*.parquet"))]
    rows = pd.concat(map(pd.read_parquet, paths), ignore_index=True)
    # Notebook 02 asks some of 03's questions of the untouched models too.
    asked = rows.groupby("_setting")["item"].transform("size")
    untouched = rows["method"].isin(["donor", "target"])
    most = asked.groupby([rows["seed"], rows["method"]]).transform("max")
    rows = rows[~untouched | (asked == most)].reset_index(drop=True)
    names = {"count": "task_vector", "distance": "task_vector_equal"}
    rows["method"] = rows["method"].fillna(rows["matched"].map(names))
    rows.loc[rows["retention"].eq(True), "method"] = "attribution_per_parameter_retention"
    fitting = rows[rows["budget"].notna()]  # as many channels as fit: of each seed another number
    counts = fitting.groupby("method")["channels_percent"].transform("mean")
    rows.loc[fitting.index, "top_percent"] = counts
    between = rows["method"] == "all_rows"
    rows.loc[between, "top_percent"] = 100 * rows["scale"]
    rows["method"] = rows["method"].replace("all_rows", "interpolation")
    return rows


def list_settings(family: str, rows: pd.DataFrame, heads: dict[str, tuple[str, str]]) -> Lines:
    """Every setting of notebook 03: by head a measure of a part of the abilities, and sizes."""
    rows["part"] = np.where(rows["ability"].isin(load_preset(family).lost), "lost", "retained")
    setting = [rows["method"], rows["top_percent"].fillna(0)]  # 0: the untouched models
    means = rows.groupby([*setting, "part"], sort=False)[["exact", "nll"]].mean().unstack()
    sizes = rows.groupby(setting, sort=False)[["parameters_percent", "displacement_percent"]].mean()
    table = means[[*heads.values()]].set_axis([*heads], axis="columns").join(sizes).reset_index()
    table["method"] = pd.Categorical(table["method"], table["method"].unique())
    table = table.sort_values(["method", "top_percent"])
    yield "moved", "%", *heads, "parameters, %", "squared distance, %"
    for method, percent, *numbers in table.itertuples(index=False, name=None):
        cells = [label_of(method), f"{percent:.3g}" if percent else "–"]
        cells += [f"{x:.2f}" for x in numbers[:-2]]
        yield cells + [f"{x:.1f}" for x in numbers[-2:]]


def list_readings(family: str, rows: pd.DataFrame) -> Lines:
    """What was to be read of a family before it was measured (LOG.md), by training seed."""
    lost = rows[rows["ability"].isin(load_preset(family).lost)]
    setting = ["method", "top_percent", "seed"]
    table = stats.recovery(lost, setting, "exact", resamples=2).set_index(setting)
    table["far"] = lost.groupby(setting)["displacement_percent"].mean()
    share, far = (table[name].unstack([0, 1]).sort_index(axis=1) for name in ("recovery", "far"))
    sizes = [20, 50, 80]
    above = share["act_module"][sizes] - share["random_module"][sizes]
    text = f"{label_of('act_module')}, minus random channels of each module, height from 20 to 80 %"
    readings = {text: above.apply(np.trapezoid, axis=1, x=sizes) / 60}
    for n in (20, 50):
        text = f"{label_of('act_no_head')}, minus random channels of its modules, {n} %"
        readings[text] = share["act_no_head", n] - share["random_no_head", n]
    moved = {"act_no_head": 20, "act_module": 50, "attribution": 5, "attribution_by_size": 5}
    # as many channels as the budget allows
    fitting = rows[rows["budget"].notna()].groupby("method")["top_percent"].first()
    moved["attribution_per_parameter"] = fitting["attribution_per_parameter"]
    for method, n in moved.items():
        as_far = [
            np.interp(
                x, [0, *far.loc[seed, "interpolation"]], [0, *share.loc[seed, "interpolation"]]
            )
            for seed, x in far[method, n].items()
        ]
        text = f"{label_of(method)}, {n:.3g} %, minus interpolation as far"
        text += f" ({far[method, n].mean():.0f} % of the squared distance)"
        readings[text] = share[method, n] - as_far
    for method in ("attribution_per_parameter", "attribution_per_parameter_retention"):
        n = fitting[method]
        readings[f"{label_of(method)}, {n:.3g} %, the share itself"] = share[method, n]
    yield "difference of the recovered shares", "mean", "of each seed"
    for text, values in readings.items():
        interval = "{:.2f} [{:.2f}, {:.2f}]".format(*student_interval(values))
        yield text, interval, ", ".join(f"{value:.2f}" for value in values)


def list_budget(family: str) -> Lines:
    """Every way to choose at each budget of notebook 08: share recovered, exact match retained."""
    table = pd.read_csv(ROOT / "figures" / family / "tab08_budget.csv")
    table = table.set_index(["panel", "method", "budget"])
    share, stays = (table.loc[name] for name in ("Recovered share, lost", "Exact match, retained"))
    methods, budgets = (share.index.unique(level) for level in ("method", "budget"))
    yield "moved", *(f"at most {budget:g} %" for budget in budgets)
    for method in methods:
        cells = [label_of(method)]
        for budget in budgets:
            interval = share.loc[(method, budget), ["mean", "low", "high"]]
            numbers = np.round([*interval, stays.loc[(method, budget), "mean"]], 2)  # as pandas
            cells += ["{:.2f} [{:.2f}, {:.2f}], {:.2f}".format(*numbers)]
        yield cells


def list_few(families: list[str]) -> Lines:
    """Exact match, lost and retained, by few questions: within a budget, and by fine-tuning."""
    tables = {name: pd.read_csv(ROOT / f"figures/{name}/tab08_few.csv") for name in families}
    methods = [*dict.fromkeys(tables[families[0]]["method"])]
    yield "family", "questions", *map(label_of, methods)
    for family, table in tables.items():
        wide = table.pivot(index="questions", columns=["method", "panel"], values="mean")
        for questions, row in wide.iterrows():
            cells = ["{:.2f}, {:.2f}".format(*np.round(row[m].sort_index(), 2)) for m in methods]
            yield f"`{family}`", str(questions), *cells


def list_abilities(family: str) -> Lines:
    """Exact match on each ability within each budget of notebook 08."""
    table = pd.read_csv(ROOT / "figures" / family / "tab08_by_ability.csv")
    means = table.set_index(["method", "budget", "ability"])["mean"].unstack(sort=False)
    yield "moved", "at most", *means.columns
    for (method, budget), row in means.iterrows():
        yield label_of(method), f"{budget:g} %", *(f"{mean:.2f}" for mean in row)


def format_table(lines: Lines) -> str:
    """A table in Markdown."""
    heads, *rows = lines
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])
    return text.replace("-0.", "−0.").replace("nan", "–")


def main(check: bool) -> int:
    """Rewrite the blocks, or only compare them."""
    rules = load_claims()
    decided = {}
    for name in ("tiny", "smol"):
        contrasts = read_contrasts(ROOT / "figures" / name, rules)
        tests = {key: apply_rule(rules, key, contrasts) for key in rules.claims}
        decided[name] = contrasts, give_verdicts(rules, tests).set_index("claim")
    blocks = {"findings": list_verdicts(rules, decided["tiny"][1])}
    blocks |= {"verdicts of smol": list_seeds(rules, *decided["smol"])}
    rows = read_items("smol")
    answered = {"lost": ("exact", "lost"), "retained": ("exact", "retained")}
    blocks |= {"readings": list_readings("smol", rows)}
    blocks |= {"smol": list_settings("smol", rows, answered)}
    by_nll = {"NLL, lost": ("nll", "lost"), "NLL, retained": ("nll", "retained")}
    by_nll |= {"exact, retained": ("exact", "retained")}
    blocks |= {"gemma": list_settings("gemma", read_items("gemma"), by_nll)}
    blocks |= {f"budget of {name}": list_budget(name) for name in ("smol", "tiny")}
    blocks |= {"few": list_few(["tiny", "smol"]), "abilities": list_abilities("tiny")}
    tables = {name: format_table(lines) for name, lines in blocks.items()}
    stale = False
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fresh = re.sub(BLOCK, lambda found: f"{found[1]}\n{tables[found[2]]}\n\n{found[3]}", text)
        stale |= fresh != text
        if not check:
            write_text(page, fresh)
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
