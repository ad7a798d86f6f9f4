"""Write the tables of docs/findings.md and docs/findings_tables.md; none is typed.

python tools/write_findings.py            # rewrite what is between the markers
python tools/write_findings.py --check    # exit status 1 if it is out of date
"""

import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from actlib.analysis import stats
from actlib.analysis.contrasts import student_interval
from actlib.analysis.style import METHODS
from actlib.files import write_text
from actlib.study.claims import Claims, apply_rule, give_verdicts, load_claims, read_contrasts
from actlib.study.presets import load_preset

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / name for name in ("findings.md", "findings_tables.md")]

BLOCK = re.compile(r"(<!-- ([\w ]+): start -->\n).*?(<!-- \2: end -->\n)", re.DOTALL)


def list_verdicts(rules: Claims, table: pd.DataFrame) -> str:
    """Every claim with its contrast, margin and verdict."""
    lines = start_table("claim (notebook)", "statement", "contrast", "margin", "verdict")
    for key, claim in rules.claims.items():
        measure = ", ".join(filter(None, [claim.measure, claim.sizes]))
        cells = [f"{claim.title} ({claim.notebook:02d})", f"{claim.statement} ({claim.source})"]
        arms = [label_of(each) for each in (claim.treatment, claim.control)]
        cells += [f"{arms[0]}, minus {arms[1]}: {measure}"]
        cells += ["–" if claim.test == "none" else f"{claim.margin:g}"]
        cells += [describe(table.loc[key])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe(row: pd.Series) -> str:
    """Difference, interval, seeds and verdict of one claim in one family."""
    if not row["seeds"] > 0:
        return "not run"
    digits = 3 if row["margin"] < 0.1 else 2
    estimate, low, high = (f"{row[key]:.{digits}f}" for key in ("estimate", "low", "high"))
    numbers = f"{estimate} [{low}, {high}]" if row["seeds"] > 1 else estimate
    return f"**{row['verdict']}**: {numbers}, {row['seeds']:.0f} seeds"


def read_items(family: str) -> pd.DataFrame:
    """Rows of single questions out of notebook 03, with `method` and `top_percent` as it draws."""
    parts = []
    for kind in ("reference", "transfer", "entry", "budget"):
        function = f"{kind}_items"
        for path in sorted((ROOT / "data/items" / family / function).glob("*.parquet")):
            parts.append(pd.read_parquet(path))
    rows = pd.concat(parts, ignore_index=True)
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


def list_settings(family: str, rows: pd.DataFrame, heads: dict[str, tuple[str, str]]) -> str:
    """Every setting of notebook 03: by head a measure of a part of the abilities, and sizes."""
    rows["part"] = (
        rows["ability"].isin(load_preset(family).lost).map({True: "lost", False: "retained"})
    )
    setting = [rows["method"], rows["top_percent"].fillna(0)]  # 0: the untouched models
    means = rows.groupby([*setting, "part"], sort=False)[["exact", "nll"]].mean().unstack()
    sizes = rows.groupby(setting, sort=False)[["parameters_percent", "displacement_percent"]].mean()
    table = means[[*heads.values()]].set_axis([*heads], axis="columns").join(sizes).reset_index()
    order = [*dict.fromkeys(table["method"])]
    places = {"method": order.index, "top_percent": float}
    table = table.sort_values([*places], key=lambda column: column.map(places[column.name]))
    lines = start_table("moved", "%", *heads, "parameters, %", "squared distance, %")
    for method, percent, *numbers in table.itertuples(index=False, name=None):
        cells = [f"{percent:.3g}" if percent else "–", *(f"{x:.2f}" for x in numbers[:-2])]
        cells += [f"{x:.1f}" for x in numbers[-2:]]
        lines.append(f"| {' | '.join([label_of(method), *cells])} |".replace("nan", "–"))
    return "\n".join(lines)


def list_readings(family: str, rows: pd.DataFrame) -> str:
    """What was to be read of a family before it was measured (LOG.md), by training seed."""
    lost = rows[rows["ability"].isin(load_preset(family).lost)]
    setting = ["method", "top_percent", "seed"]
    table = stats.recovery(lost, setting, "exact", resamples=2).set_index(setting)
    table["far"] = lost.groupby(setting)["displacement_percent"].mean()
    share, far = (table[name].unstack([0, 1]).sort_index(axis=1) for name in ("recovery", "far"))
    sizes = [20, 50, 80]
    heights = {
        method: np.trapezoid(share[method][sizes], sizes, axis=1) / 60
        for method in ("act_module", "random_module")
    }
    text = f"{label_of('act_module')}, minus random channels of each module, height from 20 to 80 %"
    readings = {text: pd.Series(heights["act_module"] - heights["random_module"], share.index)}
    for n in (20, 50):
        text = f"{label_of('act_no_head')}, minus random channels of its modules, {n} %"
        readings[text] = share["act_no_head", n] - share["random_no_head", n]
    moved = {"act_no_head": 20, "act_module": 50, "attribution": 5, "attribution_by_size": 5}
    fitting = "attribution_per_parameter"  # as many channels as the budget allows
    fits = (rows["method"] == fitting) & rows["budget"].notna()
    moved[fitting] = rows.loc[fits, "top_percent"].iloc[0]
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
    for method in (fitting, f"{fitting}_retention"):  # of the budget, no difference
        n = rows.loc[(rows["method"] == method) & rows["budget"].notna(), "top_percent"].iloc[0]
        readings[f"{label_of(method)}, {n:.3g} %, the share itself"] = share[method, n]
    lines = start_table("difference of the recovered shares", "mean", "of each seed")
    for text, values in readings.items():
        mean, low, high = student_interval(values)
        seeds = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {text} | {mean:.2f} [{low:.2f}, {high:.2f}] | {seeds} |")
    return "\n".join(lines).replace("-0.", "−0.")


def list_budget(family: str) -> str:
    """Every way to choose at each budget of notebook 08: share recovered, exact match retained."""
    table = pd.read_csv(ROOT / "figures" / family / "tab08_budget.csv")
    table = table.set_index(["panel", "method", "budget"])
    share, stays = (table.loc[name] for name in ("Recovered share, lost", "Exact match, retained"))
    methods, budgets = (share.index.unique(level) for level in ("method", "budget"))
    lines = start_table("moved", *(f"at most {budget:g} %" for budget in budgets))
    for method in methods:
        cells = [label_of(method)]
        for budget in budgets:
            interval = share.loc[(method, budget), ["mean", "low", "high"]]
            numbers = np.round([*interval, stays.loc[(method, budget), "mean"]], 2)  # as pandas
            cells += ["{:.2f} [{:.2f}, {:.2f}], {:.2f}".format(*numbers)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).replace("-0.", "−0.")


def list_few(families: list[str]) -> str:
    """Exact match, lost and retained, by few questions: within a budget, and by fine-tuning."""
    tables = [pd.read_csv(ROOT / f"figures/{f}/tab08_few.csv") for f in families]
    lines = []
    for family, table in zip(families, tables, strict=True):
        wide = table.pivot(index="questions", columns=["method", "panel"], values="mean")
        methods = [*dict.fromkeys(table["method"])]
        lines = lines or start_table("family", "questions", *map(label_of, methods))
        for questions, row in wide.iterrows():
            cells = ["{:.2f}, {:.2f}".format(*np.round(row[m].sort_index(), 2)) for m in methods]
            lines.append(f"| {' | '.join([f'`{family}`', str(questions), *cells])} |")
    return "\n".join(lines)


def list_abilities(family: str) -> str:
    """Exact match on each ability within each budget of notebook 08."""
    table = pd.read_csv(ROOT / "figures" / family / "tab08_by_ability.csv")
    order = [table[name].unique() for name in ("method", "budget", "ability")]
    means = table.set_index(["method", "budget", "ability"])["mean"]
    lines = start_table("moved", "at most", *order[2])
    for method, budget in product(*order[:2]):
        cells = [f"{means[method, budget, ability]:.2f}" for ability in order[2]]
        lines.append(f"| {' | '.join([label_of(method), f'{budget:g} %', *cells])} |")
    return "\n".join(lines)


def start_table(*heads: str) -> list[str]:
    """The first two lines of a table in Markdown."""
    return [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]


def label_of(method: str) -> str:
    """Name of a method as figures have it."""
    return METHODS[method].label if method in METHODS else method


def main(check: bool) -> int:
    """Rewrite the blocks, or only compare them."""
    rules = load_claims()
    contrasts = read_contrasts(ROOT / "figures/tiny", rules)
    tests = {key: apply_rule(rules, key, contrasts) for key in rules.claims}
    blocks = {"findings": list_verdicts(rules, give_verdicts(rules, tests).set_index("claim"))}
    rows = read_items("smol")
    answered = {"lost": ("exact", "lost"), "retained": ("exact", "retained")}
    blocks |= {"readings": list_readings("smol", rows)}
    blocks |= {"smol": list_settings("smol", rows, answered)}
    by_nll = {"NLL, lost": ("nll", "lost"), "NLL, retained": ("nll", "retained")}
    by_nll |= {"exact, retained": ("exact", "retained")}
    blocks |= {"gemma": list_settings("gemma", read_items("gemma"), by_nll)}
    blocks |= {f"budget of {name}": list_budget(name) for name in ("smol", "tiny")}
    blocks |= {"few": list_few(["tiny", "smol"]), "abilities": list_abilities("tiny")}
    stale = False
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fresh = re.sub(BLOCK, lambda found: f"{found[1]}\n{blocks[found[2]]}\n\n{found[3]}", text)
        stale |= fresh != text
        if not check:
            write_text(page, fresh)
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
