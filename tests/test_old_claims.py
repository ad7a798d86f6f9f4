"""Claims: every family is judged on its own tables, and what is missing is told, not raised."""

import pandas as pd
import pytest

from actlib.study import old_claims as claims
from actlib.study import sweeps
from actlib.study.findings import HOLDS, NOT_RUN, NOT_SEEN
from actlib.study.old_session import Study


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """An empty folder of kept sweeps."""
    monkeypatch.setattr(sweeps, "KEPT", tmp_path / "sweeps")
    return tmp_path / "sweeps"


def leave_tables(study):
    """What notebook 00 leaves, of a study whose target forgot."""
    rows = [(cell, "nll", 1.0, 0.5, 1.5) for cell in study.lost]
    columns = ["cell", "measure", "target_minus_donor", "low", "high"]
    study.save_table(pd.DataFrame(rows, columns=columns), "tab00_forgotten")


def test_without_tables_nothing_is_judged_and_the_command_is_told(study):
    table = claims.claims_table([study])
    assert list(table["claim"]) == [claim.claim for claim in claims.CLAIMS]
    assert (table["verdict"] == NOT_RUN).all()
    assert set(table["shown"]) == {"make study PRESET=small", "make sweep PRESET=small"}


def test_a_table_is_judged_where_it_lies(study):
    leave_tables(study)
    found = claims.claims_table([study]).set_index("claim")["verdict"]
    assert found["Specialization forgets"] == HOLDS
    assert (found.drop("Specialization forgets") == NOT_RUN).all()


def test_families_named_are_read_from_the_folder(study, tmp_path):
    folder = tmp_path / "kept"
    named = Study.open("tiny", figures=str(folder / "tiny"))
    leave_tables(named)
    table = claims.claims_table(["tiny", study], folder).set_index(["claim", "family"])["verdict"]
    assert table["Specialization forgets", "tiny"] == HOLDS
    assert table["Specialization forgets", "small"] == NOT_RUN


def test_the_kept_sweep_is_read_once_and_only_of_the_same_models(study, kept):
    rows = pd.DataFrame({"seed": [0], "method": "concentration", "top_percent": 5.0})
    rows = pd.concat([rows.assign(ranking=ranking) for ranking in ("raw", "scaled")])
    rows = rows.assign(share_percent=20.0, null_share_percent=15.0)
    (kept / "small").mkdir(parents=True)
    for digest, verdict in ((None, HOLDS), ("another recipe", NOT_RUN)):
        rows.attrs = {"actlib": {"recipes": {"multilingual-seed0": digest} if digest else {}}}
        rows.to_parquet(kept / "small" / "channels.parquet")
        found = claims.claims_table([study]).set_index("claim")["verdict"]
        assert found["Concentrated"] == verdict
    family = claims.Family(study)
    family._rows["channels"] = rows
    assert family.rows("channels") is rows


@pytest.fixture
def table():
    rows = [
        ("One", "00", "stated", "It is so.", "smol", "0.1 [0.0, 0.2]", HOLDS),
        ("One", "00", "stated", "It is so.", "tiny", "make study", NOT_RUN),
        ("Two", "01", "ours", "It acts.", "smol", "nothing", NOT_SEEN),
        ("Two", "01", "ours", "It acts.", "tiny", "some", "holds in part (a (b))"),
    ]
    columns = ["claim", "notebook", "source", "statement", "family", "shown", "verdict"]
    return pd.DataFrame(rows, columns=columns).assign(brief=["0.1; null 0", "", "0", "some"])


def test_markdown_has_a_row_a_claim_and_a_column_a_family(table):
    lines = claims.markdown(table).splitlines()
    assert len(lines) == 4 and all(line.count("|") == 5 for line in lines)
    assert lines[0].endswith("| smol | tiny |")
    assert "It is so. (stated)" in lines[2] and "It acts. (ours)" in lines[3]
    assert "0.1 [0.0, 0.2]: **holds** | `make study`: **not run** |" in lines[2]


def test_in_brief_the_verdict_comes_first_and_the_first_family_has_numbers(table):
    lines = claims.markdown(table, brief=True).splitlines()
    assert "**holds**: 0.1; null 0 | **not run**: `make study` |" in lines[2]
    assert lines[3].endswith("| **not seen here**: 0 | **holds in part** (a (b)) |")


def test_every_rule_is_told_without_its_arguments():
    lines = claims.rules_told().splitlines()
    assert len(lines) == len(claims.CLAIMS)
    assert all("Args" not in line and "olds if" in line for line in lines)


def test_verdicts_are_counted_a_family(table):
    told = claims.verdict_counts(table)
    twice = table.assign(verdict=HOLDS)
    assert claims.verdict_counts(twice) == "Of 2 claims, smol: 2 hold; tiny: 2 hold."
    assert told == "Of 2 claims, smol: 1 holds, 1 not seen here; tiny: 1 holds in part, 1 not run."


def test_a_study_takes_its_preset_s_place_or_comes_last(study):
    assert claims.told_together(study, ["smol", "small"]) == ["smol", study]
    assert claims.told_together(study, ["smol"]) == ["smol", study]


def test_every_statement_has_a_notebook_and_a_source():
    for claim in claims.CLAIMS:
        assert claim.source in (claims.STATED, claims.OURS)
        assert claim.notebook in {f"{number:02d}" for number in range(7)}
        assert claim.statement.endswith(".") and "|" not in claim.statement
