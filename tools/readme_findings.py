"""Write the tables of claims from the kept tables, so that no number in them is typed.

The README gets the verdicts, docs/findings.md what was measured too.

python tools/readme_findings.py            # rewrite what stands between the markers
python tools/readme_findings.py --check    # exit status 1 if it is out of date
"""

import sys
from pathlib import Path

from actlib.study.claims import claims_table, markdown

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- findings: start -->\n", "<!-- findings: end -->\n"
PLACES = {ROOT / "README.md": False, ROOT / "docs" / "findings.md": True}
"""Files with markers, and whether numbers stand before the verdicts."""


def main(check: bool) -> int:
    """Rewrite the blocks, or only compare them."""
    table, stale = claims_table(), 0
    for path, numbers in PLACES.items():
        text = path.read_text(encoding="utf-8")
        before, rest = text.split(START)
        fresh = f"{before}{START}\n{markdown(table, numbers)}\n{END}{rest.split(END)[1]}"
        stale |= fresh != text
        if not check:
            path.write_text(fresh, encoding="utf-8")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
