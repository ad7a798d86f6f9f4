import json
import math

from actlib.pairing.changes import KindChange, ParameterChanges
from actlib.pairing.report_rows import MISMATCH, OK, WARNING, PairCheck, PairReport

FINE = PairCheck("layers", "2", "2", OK)
ODD = PairCheck("dtype", "float32", "bfloat16", WARNING, "values are rounded")
WRONG = PairCheck("special tokens", "eos_token <s>", "eos_token <b>&", MISMATCH, "<s> against <b>&")
WEIGHTS = ParameterChanges((KindChange("mlp", 10, 3.0, 4.0), KindChange("norm", 2, 1.0, 0.0)))


def test_only_a_mismatch_makes_a_pair_unfit():
    assert PairReport((FINE, ODD)).fits
    assert not PairReport((FINE, ODD, WRONG)).fits


def test_the_headline_counts():
    assert PairReport((FINE,), WEIGHTS).headline == "Donor and target fit."
    several = PairReport((FINE, ODD, ODD, WRONG)).headline
    assert several.startswith("Donor and target do not fit: 1 mismatch, 2 warnings.")
    assert "2 mismatches" in PairReport((WRONG, WRONG)).headline
    assert "not compared" in several


def test_text_has_each_row_and_note_and_the_changes():
    text = str(PairReport((FINE, ODD), WEIGHTS))
    assert "warning, dtype: values are rounded" in text
    lines = text.splitlines()
    assert any(line.split() == ["layers", "2", "2", "ok"] for line in lines)
    assert any(line.split() == ["mlp", "10", "0.75"] for line in lines)


def test_long_cells_do_not_break_the_table_of_text():
    text = str(PairReport((PairCheck("architecture", "x" * 300, "two\nlines", OK),)))
    assert max(map(len, text.splitlines())) < 150
    assert "two lines" in text


def test_html_is_escaped_and_whole():
    note = "y" * 200
    shown = PairReport((WRONG, PairCheck("a", "b", "c", WARNING, note)), WEIGHTS)._repr_html_()
    assert "<s>" not in shown and "<b>" not in shown
    assert "eos_token &lt;s&gt;" in shown and "&lt;b&gt;&amp;" in shown
    assert note in shown
    assert shown.count("<table") == 2


def test_dictionary_survives_json_and_holds_no_infinity():
    report = PairReport((FINE, WRONG), WEIGHTS)
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found == report.to_dict()
    assert found["fits"] is False
    assert [row["verdict"] for row in found["rows"]] == [OK, MISMATCH]
    assert [row["relative_norm"] for row in found["changes"][:2]] == [0.75, None]


def test_changes_are_a_table_and_empty_without_weights():
    assert PairReport((FINE,)).changes.empty
    table = PairReport((FINE,), WEIGHTS).changes
    assert list(table["kind"]) == ["mlp", "norm", "overall"]
    assert math.isclose(table["relative_norm"].iloc[-1], math.sqrt(10) / 4)
    assert PairReport((FINE,)).table().loc[0, "verdict"] == OK
