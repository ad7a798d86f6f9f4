"""Write the README's table of claims from the kept tables, so that no number in it is typed.

python tools/readme_findings.py            # rewrite the block between the markers
python tools/readme_findings.py --check    # exit status 1 if it is out of date
"""

import sys
from pathlib import Path

from actlib.study.claims import claims_table, markdown

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- findings: start -->\n", "<!-- findings: end -->\n"


def main(check: bool) -> int:
    """Rewrite the README's block, or only compare it."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    fresh = f"{before}{START}\n{markdown(claims_table())}\n{END}{after}"
    if check:
        return int(fresh != text)
    README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
