"""Write the tables of docs/findings.md: verdicts of `tiny`, and one seed of `smol`; none is typed.

python tools/write_findings.py            # rewrite what is between the markers
python tools/write_findings.py --check    # exit status 1 if it is out of date
"""

import sys
from pathlib import Path

import pandas as pd

from actlib.analysis.style import METHODS
from actlib.files import write_text
from actlib.study.claims import Claims, apply_rule, give_verdicts, load_claims, read_contrasts
from actlib.study.presets import load_preset

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "findings.md"


def list_verdicts(rules: Claims, table: pd.DataFrame) -> str:
    """Every claim with its contrast, margin and verdict."""
    lines = ["| claim (notebook) | statement | contrast | margin | verdict |", "| --- " * 5 + "|"]
    for key, claim in rules.claims.items():
        measure = ", ".join(filter(None, [claim.measure, claim.sizes]))
        cells = [f"{claim.title} ({claim.notebook:02d})", f"{claim.statement} ({claim.source})"]
        arms = [METHODS[x].label if x in METHODS else x for x in (claim.treatment, claim.control)]
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


def list_settings(family: str) -> str:
    """Every setting of notebook 03: what came back, what stayed, and how far it moved."""
    lost, parts = load_preset(family).lost, []
    for function in ("reference_items", "transfer_items", "entry_items", "again_items"):
        for path in sorted((ROOT / "data/items" / family / function).glob("*.parquet")):
            parts.append(pd.read_parquet(path))
    rows = pd.concat(parts, ignore_index=True)
    names = {"count": "task_vector", "distance": "task_vector_equal"}
    rows["method"] = rows["method"].fillna(rows["matched"].map(names))
    between = rows["method"] == "all_rows"
    rows.loc[between, "top_percent"] = 100 * rows["scale"]
    rows["method"] = rows["method"].replace("all_rows", "interpolation")
    rows["part"] = rows["ability"].isin(lost).map({True: "lost", False: "retained"})
    rows["part"] += ", " + rows["ability"].str.partition("-")[2]
    setting = [rows["method"], rows["top_percent"].fillna(0)]  # 0: the untouched models
    exact = rows.groupby([*setting, "part"], sort=False)["exact"].mean().unstack()
    sizes = rows.groupby(setting, sort=False)[["parameters_percent", "displacement_percent"]].mean()
    table = exact.join(sizes).reset_index()
    order = [*dict.fromkeys(table["method"])]
    places = {"method": order.index, "top_percent": float}
    table = table.sort_values([*places], key=lambda column: column.map(places[column.name]))
    head = ["moved", "%", *exact, "parameters, %", "squared distance, %"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for method, percent, *numbers in table.itertuples(index=False, name=None):
        label = METHODS[method].label if method in METHODS else method
        cells = [f"{percent:g}" if percent else "–", *(f"{x:.2f}" for x in numbers[:-2])]
        cells += [f"{x:.1f}" for x in numbers[-2:]]
        lines.append(f"| {' | '.join([label, *cells])} |".replace("nan", "–"))
    return "\n".join(lines)


def main(check: bool) -> int:
    """Rewrite the blocks, or only compare them."""
    rules = load_claims()
    contrasts = read_contrasts(ROOT / "figures/tiny", rules)
    tests = {key: apply_rule(rules, key, contrasts) for key in rules.claims}
    blocks = {"findings": list_verdicts(rules, give_verdicts(rules, tests).set_index("claim"))}
    blocks["smol"] = list_settings("smol")
    text = fresh = PAGE.read_text(encoding="utf-8")
    for name, block in blocks.items():
        start, end = (f"<!-- {name}: {each} -->\n" for each in ("start", "end"))
        before, rest = fresh.split(start)
        fresh = f"{before}{start}\n{block}\n\n{end}{rest.split(end)[1]}"
    if not check:
        write_text(PAGE, fresh)
    return int(check and fresh != text)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
