"""Writes the family on which `make test` runs the notebooks.

    python tests/quick_family.py artifacts/quick.yaml

It is `tiny` with a sixth of its training and fewer settings to measure. It answers few questions,
so what notebooks do where numbers are not defined runs too. `make test-all` runs `tiny` itself.
"""

import sys
from pathlib import Path

import yaml

TINY = Path(__file__).resolve().parents[1] / "configs/tiny.yaml"
SWEEP = {"percents": [20, 50], "draws": 1}
PARAMETERS = {
    "02": {"draws": 1},
    "03": {**SWEEP, "interpolations": [0.4, 0.7], "others": ["random_matched"], "map_items": 9},
    "05": {"percents": [20, 50], "scales": [0.7, 1.0], "sizes": [20, 50, 100]},
    "06": {"percents": [50]},
    "08": {**SWEEP, "interpolations": [0.4, 0.7], "budgets": [10], "rounds": 2},
}
PARAMETERS["05"]["tuned_steps"] = [0, 10]
PARAMETERS["08"] |= {"few_questions": [2, 8], "few_passes": [1]}


def write_family(path: Path, share: int = 6, **changes: object) -> str:
    """Write `tiny` after one of as many shares of its training, its keys changed; give the path."""
    family = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    for model in family["models"].values():
        model["steps"] //= share
    family["evaluation"] |= {"validation_items": 16, "test_items": 24}
    family |= {"name": path.stem, "description": "the family tiny trained in haste, for tests"}
    family |= {"study": {"parameters": PARAMETERS}} | changes
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(family, sort_keys=False), encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    write_family(Path(sys.argv[1]))
