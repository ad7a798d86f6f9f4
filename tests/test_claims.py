"""Claims: the rules that are shipped, contrasts as notebooks leave them, and verdicts by Holm."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from actlib.analysis import style
from actlib.analysis.contrasts import compare_seeds, contrast, correct_holm
from actlib.study import claims
from actlib.study.presets import CONFIGS, ROOT

RULES = claims.load_claims()


def pairs(key, differences, control=0.5):
    rows = {"claim": key, "seed": range(len(differences)), "control": control}
    table = pd.DataFrame(rows).assign(treatment=control + np.array(differences))
    return table.assign(difference=table["treatment"] - table["control"])[claims.COLUMNS]


def decide(table, **margins):
    tests = {k: claims.apply_rule(RULES, k, table, margins.get(k)) for k in RULES.claims}
    return claims.give_verdicts(RULES, tests).set_index("claim")


@pytest.mark.parametrize("change", [{"margin": -0.1}, {"test": "none"}, {"treatmnt": "x"}])
def test_a_wrong_claim_is_refused_by_name(tmp_path, change):
    raw = yaml.safe_load((CONFIGS / "claims.yaml").read_text("utf-8"))
    raw["claims"]["causal"] |= change
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match="claims.yaml: claims.causal"):
        claims.load_claims(path)


def test_contrasts_are_read_as_notebooks_leave_them(tmp_path):
    table = pd.DataFrame(
        {"seed": [0, 0, 1, 1], "method": ["a", "b"] * 2, "recovery": [1, 0.3, 2, np.nan]}
    )
    contrast(table, "sufficient", "a", "b").to_csv(tmp_path / "tab03_contrast.csv", index=False)
    with pytest.warns(UserWarning, match="was not measured: no row has method c, but a, b"):
        lacking = contrast(table, "merges", "a", "c")
    assert lacking["seed"].tolist() == [0, 1] and lacking["difference"].isna().all()
    lacking.to_csv(tmp_path / "tab06_contrast.csv", index=False)
    pairs("stable", [0.1, 0.2]).to_csv(tmp_path / "tab04_contrast.csv", index=False)
    found = claims.read_contrasts(tmp_path, RULES)
    assert found["claim"].tolist() == ["sufficient"] * 2 + ["stable"] * 2 + ["merges"] * 2
    assert found["difference"][:4].tolist() == pytest.approx([0.7, np.nan, 0.1, 0.2], nan_ok=True)
    assert decide(found)["verdict"]["merges"] == "not run"
    assert claims.read_contrasts(tmp_path / "none", RULES).empty
    pairs("sufficent", [0.1]).to_csv(tmp_path / "tab05_contrast.csv", index=False)
    with pytest.raises(ValueError, match="claim 'sufficent' is none of forgets"):
        claims.read_contrasts(tmp_path, RULES)


def test_each_claim_gets_a_verdict_from_its_own_rows_margin_and_floor():
    clear = np.random.default_rng(0).normal(0.3, 0.02, 8)
    sufficient, stable = pairs("sufficient", clear, control=0.0), pairs("stable", -clear)
    table = pd.concat([sufficient, stable, pairs("forgets", clear)])
    found = decide(table)["verdict"]
    expected = {"forgets": "not tested", "sufficient": "supported", "stable": "not supported"}
    assert found.to_dict() == dict.fromkeys(RULES.claims, "not run") | expected
    assert decide(table, sufficient=0.3)["verdict"]["sufficient"] == "partly supported"
    changed = decide(table, sufficient=0.5).loc["sufficient"]
    assert changed["verdict"] == "not supported" and changed["margin"] == 0.5
    low = pairs("sufficient", [0.01, 0.012, 0.011, 0.013], control=0.0)
    assert decide(low)["verdict"]["sufficient"] == "inconclusive"  # below the floor


def test_holm_counts_every_planned_test():
    values = [0.3, -0.1, 0.2, 0.1, -0.02, 0.15, 0.05, 0.2]
    alone = compare_seeds(values, margin=0.0).p_zero
    assert 0.05 / 8 < alone < 0.05  # clear alone, not among eight
    found = decide(pairs("sufficient", values), sufficient=0.0)
    planned = correct_holm([alone, *[np.nan] * 7])[0]
    assert found.loc["sufficient", "p_zero"] == pytest.approx(planned)
    assert found.loc["sufficient", "verdict"] == "inconclusive"


def test_the_notebooks_compare_what_the_claims_name():
    methods = {*style.METHODS} - {"donor", "target"}
    named = {key: claim for key, claim in RULES.claims.items() if claim.treatment in methods}
    assert {*named} == {"causal", "sufficient", "recovers", "fine_tuning", "merges"}
    for key, claim in named.items():
        (path,) = (ROOT / "notebooks").glob(f"{claim.notebook:02d}_*.ipynb")
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        arms = re.search(rf'contrast\([^"]*"{key}",([^)]+)\)', code)[1]
        assert re.findall(r'"(\w+)"', arms)[:2] == [claim.treatment, claim.control], key
