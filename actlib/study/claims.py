"""Claims: what decides each, read from `configs/claims.yaml`, and verdicts on measured contrasts.

    rules = load_claims()
    contrasts = read_contrasts("figures/tiny", rules)    # what notebooks 00 to 06 left
    table = give_verdicts(rules, {key: apply_rule(rules, key, contrasts) for key in rules.claims})

No model is built or run. The rule is `actlib.analysis.contrasts.verdict`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from actlib.analysis.contrasts import SeedTest, compare_seeds, correct_holm, verdict
from actlib.study.preset_files import explain, read_yaml
from actlib.study.presets import CONFIGS, Strict
from actlib.wording import require_known

COLUMNS = ["claim", "seed", "treatment", "control", "difference"]
"""Of `tabNN_contrast.csv`: one row a claim and training seed."""


class Claim(Strict):
    """What is stated, and the contrast and test that decide it.

    `margin` and `floor` are in the unit of the measure; see `compare_seeds`.
    """

    title: str
    notebook: int
    source: Literal["stated", "ours"]
    paper: str = ""
    statement: str
    treatment: str
    control: str
    measure: str
    sizes: str = ""
    test: Literal["t over seeds", "none"] = "t over seeds"
    margin: float = Field(default=math.nan, ge=0)
    floor: float = -math.inf

    @model_validator(mode="after")
    def _has_margin(self) -> "Claim":
        if math.isnan(self.margin) != (self.test == "none"):
            raise ValueError("a claim that is tested needs a margin, and no other has one")
        return self


class Claims(Strict):
    """All claims by key, in the order of the notebooks."""

    status: str = Field(pattern="^(draft|frozen in [0-9a-f]{7,40})$")
    level: float = Field(gt=0, lt=0.5)
    claims: dict[str, Claim] = Field(min_length=1)


def load_claims(path: Path | str = CONFIGS / "claims.yaml") -> Claims:
    """Read and check the claims.

    Raises:
        ValueError: the file is no valid YAML, or a key is unknown, missing or wrong.
    """
    try:
        return Claims.model_validate(read_yaml(Path(path)))
    except ValidationError as error:
        raise ValueError(f"{Path(path).name}: {explain(error)}") from error


def read_contrasts(folder: Path | str, rules: Claims) -> pd.DataFrame:
    """Rows of every `tab*_contrast.csv` in a folder; see `COLUMNS`.

    Raises:
        ValueError: a table has a claim that the rules lack, so it would be "not run".
    """
    tables = [pd.read_csv(path) for path in sorted(Path(folder).glob("tab*_contrast.csv"))]
    table = pd.concat([pd.DataFrame(columns=COLUMNS), *tables], ignore_index=True)
    require_known("claim", table["claim"], rules.claims)
    return table.astype(dict.fromkeys(COLUMNS[2:], float))


def apply_rule(
    rules: Claims, key: str, contrasts: pd.DataFrame, margin: float | None = None
) -> SeedTest:
    """Test of a claim on its rows of `read_contrasts`, by its own margin or another."""
    claim, pairs = rules.claims[key], contrasts[contrasts["claim"] == key]
    margin = claim.margin if margin is None else margin
    return compare_seeds(pairs["treatment"], pairs["control"], margin, claim.floor)


def give_verdicts(rules: Claims, tests: Mapping[str, SeedTest]) -> pd.DataFrame:
    """Verdicts on all claims, with p-values corrected by Holm over the tested ones.

    Zero, margin and equivalence are a family of tests each. A claim without numbers counts, and is
    "not run"; one that is an entry condition is "not tested".

    Returns:
        claim, title, the fields of `SeedTest` with corrected p-values (but p_flip), verdict.
    """
    table = pd.DataFrame(tests.values(), [*tests], [*SeedTest._fields]).reindex([*rules.claims])
    table.insert(0, "title", [claim.title for claim in rules.claims.values()])
    tested = [claim.test != "none" for claim in rules.claims.values()]
    for name in ("p_zero", "p_margin", "p_equivalent"):
        table.loc[tested, name] = correct_holm(table.loc[tested, name])
    verdicts = np.where(table["seeds"].fillna(0) == 0, "not run", verdict(table, rules.level))
    table["verdict"] = np.where(tested, verdicts, "not tested")
    return table.rename_axis("claim").reset_index()
