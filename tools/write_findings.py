"""Write the table of verdicts in docs/findings.md from the kept contrasts; none of it is typed.

python tools/write_findings.py            # rewrite what is between the markers
python tools/write_findings.py --check    # exit status 1 if it is out of date
"""

import sys
from pathlib import Path

import pandas as pd

from actlib.analysis.style import METHODS
from actlib.files import write_text
from actlib.study.claims import Claims, apply_rule, give_verdicts, load_claims, read_contrasts

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "findings.md"
START, END = "<!-- findings: start -->\n", "<!-- findings: end -->\n"
FAMILIES = ("smol", "tiny")


def markdown(rules: Claims, tables: dict[str, pd.DataFrame]) -> str:
    """Every claim with its contrast (a row) and what each family says (a column)."""
    lines = [f"| claim (notebook) | statement | contrast | margin | {' | '.join(tables)} |"]
    lines.append("| --- " * (4 + len(tables)) + "|")
    for key, claim in rules.claims.items():
        measure = ", ".join(filter(None, [claim.measure, claim.sizes]))
        cells = [f"{claim.title} ({claim.notebook:02d})", f"{claim.statement} ({claim.source})"]
        arms = [METHODS[x].label if x in METHODS else x for x in (claim.treatment, claim.control)]
        cells += [f"{arms[0]}, minus {arms[1]}: {measure}"]
        cells += ["–" if claim.test == "none" else f"{claim.margin:g}"]
        cells += [describe(table.loc[key]) for table in tables.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def describe(row: pd.Series) -> str:
    """Difference, interval, seeds and verdict of one claim in one family."""
    if not row["seeds"] > 0:
        return "not run"
    digits = 3 if row["margin"] < 0.1 else 2
    estimate, low, high = (f"{row[key]:.{digits}f}" for key in ("estimate", "low", "high"))
    numbers = f"{estimate} [{low}, {high}]" if row["seeds"] > 1 else estimate
    return f"**{row['verdict']}**: {numbers}, {row['seeds']:.0f} seeds"


def main(check: bool) -> int:
    """Rewrite the block, or only compare it."""
    rules, tables = load_claims(), {}
    for family in FAMILIES:
        contrasts = read_contrasts(ROOT / "figures" / family, rules)
        tests = {key: apply_rule(rules, key, contrasts) for key in rules.claims}
        tables[family] = give_verdicts(rules, tests).set_index("claim")
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    fresh = f"{before}{START}\n{markdown(rules, tables)}\n{END}{rest.split(END)[1]}"
    if not check:
        write_text(PAGE, fresh)
    return int(check and fresh != text)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
