"""Claims: the rules that are shipped, contrasts as notebooks leave them, and verdicts by Holm."""

import ast
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib import pyplot as plt

from actlib.analysis import style
from actlib.analysis.contrasts import compare_seeds, contrast, correct_holm
from actlib.study import claims
from actlib.study.presets import CONFIGS, ROOT

RULES = claims.load_claims()
RAW = yaml.safe_load((CONFIGS / "claims.yaml").read_text("utf-8"))


def pairs(key, differences, control=0.5):
    rows = {"claim": key, "seed": range(len(differences)), "control": control}
    table = pd.DataFrame(rows).assign(treatment=control + np.array(differences))
    return table.assign(difference=table["treatment"] - table["control"])[claims.COLUMNS]


def leave(folder, *tables, name="tab03_contrast"):
    folder.mkdir(exist_ok=True)
    pd.concat(tables).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


def decide(table, **margins):
    tests = {k: claims.apply_rule(RULES, k, table, margins.get(k)) for k in RULES.claims}
    return claims.give_verdicts(RULES, tests).set_index("claim")


def test_the_shipped_claims_are_nine_of_which_eight_are_tested():
    tested = [key for key, claim in RULES.claims.items() if claim.test != "none"]
    assert len(RULES.claims) == 9 and [*RULES.claims][0] == "forgets" and len(tested) == 8
    assert [claim.notebook for claim in RULES.claims.values()] == [0, 1, 2, 2, 3, 4, 5, 5, 6]
    for claim in RULES.claims.values():
        assert bool(claim.paper) == (claim.source == "stated")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"margin": None}, "claims.causal.margin"),
        ({"margin": -0.1}, "greater than or equal to 0"),
        ({"test": "none"}, "no other has one"),
        ({"treatmnt": "x"}, "claims.causal.treatmnt: there is no such key"),
        ({"source": "me"}, "'stated' or 'ours'"),
    ],
)
def test_a_wrong_claim_is_refused_by_name(tmp_path, change, words):
    wrong = RAW["claims"]["causal"] | change
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(RAW | {"claims": {"causal": wrong}}))
    with pytest.raises(ValueError, match=words):
        claims.load_claims(path)


def test_contrasts_are_read_as_notebooks_leave_them(tmp_path):
    table = pd.DataFrame(
        {"seed": [0, 0, 1, 1], "method": ["a", "b"] * 2, "recovery": [1, 0.3, 2, np.nan]}
    )
    leave(tmp_path, contrast(table, "sufficient", "a", "b"))
    leave(tmp_path, pairs("stable", [0.1, 0.2]), name="tab04_contrast")
    found = claims.read_contrasts(tmp_path, RULES)
    assert found["claim"].tolist() == ["sufficient"] * 2 + ["stable"] * 2
    assert found["difference"].tolist()[0] == pytest.approx(0.7) and np.isnan(
        found["difference"][1]
    )
    assert claims.read_contrasts(tmp_path / "none", RULES).empty


def test_a_contrast_of_no_claim_is_refused(tmp_path):
    leave(tmp_path, pairs("sufficent", [0.1]))
    with pytest.raises(ValueError, match="claim 'sufficent' is none of forgets"):
        claims.read_contrasts(tmp_path, RULES)


def test_each_claim_gets_a_verdict_from_its_own_rows_and_margin():
    rng = np.random.default_rng(0)
    clear = rng.normal(0.3, 0.02, 8)
    table = pd.concat(
        [pairs("sufficient", clear), pairs("stable", -clear), pairs("forgets", clear)]
    )
    found = decide(table)["verdict"]
    assert found["sufficient"] == "supported" and found["stable"] == "not supported"
    assert found["forgets"] == "not tested" and set(
        found.drop(["sufficient", "stable", "forgets"])
    ) == {"not run"}
    assert decide(table, sufficient=0.3)["verdict"]["sufficient"] == "partly supported"
    assert decide(table, sufficient=0.5)["verdict"]["sufficient"] == "not supported"
    assert decide(table, sufficient=0.5).loc["sufficient", "margin"] == 0.5


def test_the_floor_and_few_seeds_leave_a_claim_open():
    table = pairs("sufficient", [0.01, 0.012, 0.011, 0.013], control=0.0)
    assert decide(table)["verdict"]["sufficient"] == "inconclusive"
    assert decide(pairs("sufficient", [0.3, 0.31]))["verdict"]["sufficient"] == "inconclusive"


def test_holm_counts_every_planned_test():
    values = [0.3, -0.1, 0.2, 0.1, -0.02, 0.15, 0.05, 0.2]
    alone = compare_seeds(values, margin=0.0).p_zero
    assert 0.05 / 8 < alone < 0.05  # clear alone, not among eight
    found = decide(pairs("sufficient", values), sufficient=0.0)
    planned = correct_holm([alone, *[np.nan] * 7])[0]
    assert found.loc["sufficient", "p_zero"] == pytest.approx(planned)
    assert found.loc["sufficient", "verdict"] == "inconclusive"


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Run notebook 07 on contrasts, with parts of its text changed; gives its variables."""
    monkeypatch.setenv("ACT_STORE", str(tmp_path))
    cells = json.loads((ROOT / "notebooks" / "07_claims.ipynb").read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")

    def run(*tables, **changes):
        folder = tmp_path / "tiny" / "results"
        folder.mkdir(parents=True, exist_ok=True)
        leave(folder, *tables)
        names: dict = {}
        text = code.replace("seeds = [0]", f"seeds = {[*range(8)]}")
        for old, new in changes.items():
            assert f'apply("{old}")' in text
            text = text.replace(f'apply("{old}")', f'apply("{old}", margin={new})')
        with plt.rc_context():
            exec(text, names)
        plt.close("all")
        return names | {"folder": folder}

    return run


def test_the_notebook_decides_every_claim_and_another_margin_in_a_cell_decides_anew(notebook):
    rng = np.random.default_rng(0)
    tables = [pairs(key, rng.normal(0.3, 0.03, 8)) for key in RULES.claims]
    found = notebook(*tables)["table"].set_index("claim")["verdict"]
    assert found["forgets"] == "not tested" and set(found.drop("forgets")) == {"supported"}
    names = notebook(*tables, stable=0.6)
    found = names["table"].set_index("claim")["verdict"]
    assert found["stable"] == "not supported" and found["sufficient"] == "supported"
    drawn = pd.read_csv(names["folder"] / "fig07_claims.csv")
    assert len(drawn) == 9 * 8 and set(drawn[drawn["claim"] == "stable"]["margin"]) == {0.6}


def test_the_notebook_runs_on_one_seed_and_on_some_claims(notebook):
    found = notebook(pairs("stable", [0.1]))["table"].set_index("claim")["verdict"]
    assert found["stable"] == "inconclusive" and found["merges"] == "not run"


def compared():
    """Claim, treatment and control of every `contrast(...)` in a notebook, with its number."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for node in ast.walk(ast.parse(re.sub(r"^[%!].*", "pass", code, flags=re.MULTILINE))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("contrast"):
                arguments = [each.value for each in node.args if isinstance(each, ast.Constant)]
                yield int(path.stem[:2]), *arguments[:3]


def test_the_notebooks_compare_what_the_claims_name():
    found = {claim: (number, *arms) for number, claim, *arms in compared()}
    methods = {*style.METHODS} - {"donor", "target"}
    named = [key for key, claim in RULES.claims.items() if claim.treatment in methods]
    assert named == ["causal", "sufficient", "recovers", "fine_tuning", "merges"]
    for key in named:
        claim = RULES.claims[key]
        assert found[key] == (claim.notebook, claim.treatment, claim.control)
