"""Write the tables of claims from the kept tables, so that no number in them is typed.

The README gets the numbers that each verdict turns on, docs/findings.md all that was measured.

python tools/readme_findings.py            # rewrite what stands between the markers
python tools/readme_findings.py --check    # exit status 1 if it is out of date
"""

import sys
from pathlib import Path

from actlib.files import write_text
from actlib.study.old_claims import claims_table, markdown

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- findings: start -->\n", "<!-- findings: end -->\n"
PLACES = {ROOT / "README.md": True, ROOT / "docs" / "findings.md": False}
"""Files with markers, and whether they are told in brief."""


def main(check: bool) -> int:
    """Rewrite the blocks, or only compare them."""
    table, stale = claims_table(), 0
    for path, brief in PLACES.items():
        text = path.read_text(encoding="utf-8")
        before, rest = text.split(START)
        fresh = f"{before}{START}\n{markdown(table, brief)}\n{END}{rest.split(END)[1]}"
        stale |= fresh != text
        if not check:
            write_text(path, fresh)
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
