"""Loading: one set of columns whatever the source, filters that filter, errors that name."""

import json
from pathlib import Path

import pytest

from actlib.text import data, generator

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def _write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_the_shipped_items_are_the_generators():
    items = data.load_items(split="validation")
    expected = generator.generate(per_cell={"validation": 60})
    assert sorted(items["id"]) == sorted(row["id"] for row in expected)
    by_id = {row["id"]: row for row in expected}
    assert all(row == by_id[row["id"]] for row in items)


def test_filters_keep_what_they_name_and_nothing_else():
    items = data.load_items(split="test", languages=["fr", "ru"], domains=["science"])
    assert set(items["language"]) == {"fr", "ru"}
    assert set(items["task"]) == {"neutrons", "motion"}
    assert len(items) == 2 * 2 * 120
    assert set(data.load_items(tasks=["purchase"])["task"]) == {"purchase"}


def test_a_limit_holds_in_each_cell_and_grows_by_adding():
    few, more = (set(data.load_items(limit_per_cell=n, seed=3)["id"]) for n in (4, 9))
    assert len(few) == 4 * 5 * 4 and len(more) == 9 * 5 * 4
    assert few < more
    assert few != set(data.load_items(limit_per_cell=4, seed=4)["id"])
    # A cell's draw does not depend on which others are loaded beside it.
    alone = data.load_items(limit_per_cell=4, seed=3, languages=["de"], tasks=["motion"])
    assert set(alone["id"]) == {name for name in few if name.startswith("motion-de")}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"languages": ["xx"]}, "de, en, es, fr, ru"),
        ({"domains": ["history"]}, "maths, science"),
        ({"tasks": ["poetry"]}, "sum_words"),
        ({"split": "dev"}, "train, validation, test"),
        ({"limit_per_cell": 0}, "at least 1"),
        ({"domains": ["maths"], "tasks": ["motion"]}, "No item"),
        ({"path": "nowhere"}, "nowhere"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        data.load_items(**arguments)


def test_mgsm_takes_the_language_from_the_file_and_commas_out_of_the_number(tmp_path):
    (tmp_path / "mgsm_de.tsv").write_text("Wie viel?\t1,234\nUnd nun?\t5\n", encoding="utf-8")
    items = data.load_external(tmp_path)
    assert items["language"][:] == ["de", "de"]
    assert items["value"][:] == ["1234", "5"]
    assert items["answer"][0] == "1,234" and items["question"][1] == "Und nun?"


def test_gsm8k_loses_its_calculator_notes_and_yields_the_number(tmp_path):
    row = {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6 pens.\n#### 1,006"}
    item = data.load_external(_write(tmp_path / "train.jsonl", [row]))[0]
    assert item["answer"] == "She has 2*3=6 pens.\n#### 1,006"
    assert (item["value"], item["split"], item["language"]) == ("1006", "train", "en")


def test_exams_lists_the_choices_and_leaves_canceled_questions_out(tmp_path):
    row = {
        "id": "x",
        "language": "North Macedonian",
        "subject": "Biology",
        "question": "Which?",
        "choices": {"A": "this", "B": "that"},
        "answer": "B",
    }
    path = _write(tmp_path / "science_dev.jsonl", [row, {**row, "id": "y", "answer": "@"}])
    (item,) = data.load_external(path)
    assert item["question"] == "Which?\nA) this\nB) that"
    assert (item["answer"], item["value"]) == ("B) that", "B")
    assert (item["language"], item["split"], item["task"]) == ("mk", "validation", "biology")


def test_own_rows_need_only_question_and_answer(tmp_path):
    rows = [{"question": f"Q{n}?", "answer": "yes", "value": 0} for n in range(300)]
    items = data.load_external(_write(tmp_path / "mine.jsonl", rows))
    assert items.column_names == data.load_items(limit_per_cell=1).column_names
    assert set(items["language"]) == {"und"} and set(items["value"]) == {"0"}
    shares = [items["split"][:].count(split) / 300 for split in generator.SPLITS]
    assert shares == pytest.approx([0.8, 0.08, 0.12], abs=0.06)
    # The split follows the content, not the place in the file.
    again = data.load_external(_write(tmp_path / "mine.jsonl", rows[::-1]))
    splits = dict(zip(items["question"], items["split"], strict=True))
    assert all(splits[row["question"]] == row["split"] for row in again)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"question": "Q?", "answer": " "}\n', "line 1: 'answer'"),
        ('{"question": "Q?", "answer": "A"}\n{"answer": "A"}\n', "line 2: 'question'"),
        ('{"question": "Q?", "answer": "A", "split": "dev"}\n', "unknown split 'dev'"),
        ("not json\n", "line 1: not JSON"),
        ("[1, 2]\n", "expected an object"),
        ('{"choices": {"A": "x"}, "answer": "A"}\n', "without 'language'"),
        ("\n", "no item"),
    ],
)
def test_malformed_files_are_refused_by_file_and_line(tmp_path, content, named):
    path = tmp_path / "mine.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=named):
        data.load_external(path)


def test_absent_files_and_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="absent"):
        data.load_external(tmp_path / "absent")
    with pytest.raises(ValueError, match="gsm8k"):
        data.load_external(tmp_path, format="csv")


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the public benchmarks are not here")
@pytest.mark.parametrize(
    ("name", "count"), [("mgsm", 2750), ("gsm8k", 8792), ("exams/science_dev.jsonl", 945)]
)
def test_the_public_benchmarks_load_as_they_lie(name, count):
    items = data.load_external(BENCHMARKS / name)
    assert len(items) == count
    assert len(set(items["id"])) == count
    assert all(items["answer"]) and all(items["value"])
    chosen = data.select_items(items, languages=items["language"][:1], limit_per_cell=3)
    assert set(chosen["language"]) == {items["language"][0]}
