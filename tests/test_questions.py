"""Loading: one set of columns whatever the source, numbers by locale, errors that name."""

import json
import re
import unicodedata
from pathlib import Path

import pytest

from actlib import load_questions
from actlib.questions import SPLITS, normalize_text

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT.parent / "shared" / "data"


def column(items, name):
    return [row[name] for row in items]


def _write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_mgsm_takes_the_language_from_the_file_and_commas_out_of_the_number(tmp_path):
    (tmp_path / "mgsm_de.tsv").write_text("Wie viel?\t1,234\nUnd nun?\t5\n", encoding="utf-8")
    items = load_questions(tmp_path)
    assert column(items, "language") == ["de", "de"]
    assert column(items, "value") == ["1234", "5"]
    assert items[0]["answer"] == "1,234" and items[1]["question"] == "Und nun?"


def test_gsm8k_loses_its_calculator_notes_and_yields_the_number(tmp_path):
    row = {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6 pens.\n#### 1,006"}
    item = load_questions(_write(tmp_path / "train.jsonl", [row]))[0]
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
    (item,) = load_questions(path)
    assert item["question"] == "Which?\nA) this\nB) that"
    assert (item["answer"], item["value"]) == ("B) that", "B")
    assert (item["language"], item["split"], item["task"]) == ("mk", "validation", "biology")


def test_own_rows_need_only_question_and_answer(tmp_path):
    rows = [{"question": f"Q{n}?", "answer": "yes", "value": 0} for n in range(300)]
    items = load_questions(_write(tmp_path / "mine.jsonl", rows))
    assert items[0].keys() == load_questions(ROOT / "data" / "validation")[0].keys()
    assert set(column(items, "ability")) == {"und-own"} and set(column(items, "value")) == {"0"}
    shares = [column(items, "split").count(split) / 300 for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.08, 0.12], abs=0.06)
    # The split follows the content, not the place in the file.
    again = load_questions(_write(tmp_path / "mine.jsonl", rows[::-1]))
    splits = {row["question"]: row["split"] for row in items}
    assert all(splits[row["question"]] == row["split"] for row in again)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"question": "Q?", "answer": " "}\n', "line 1: 'answer'"),
        ('{"question": "Q?", "answer": "A"}\n{"answer": "A"}\n', "line 2: 'question'"),
        ('{"question": "Q?", "answer": "A", "split": "dev"}\n', "unknown split 'dev'"),
        ("not json\n", "line 1: not JSON"),
        ("[1, 2]\n", "expected an object"),
        ('{"choices": {"A": "x"}, "answer": "A"}\n', "'question' must hold text, and is missing"),
        ("\n", "no item"),
    ],
)
def test_malformed_files_are_refused_by_file_and_line(tmp_path, content, named):
    path = tmp_path / "mine.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=named):
        load_questions(path)


def test_absent_files_and_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="absent"):
        load_questions(tmp_path / "absent")
    with pytest.raises(ValueError, match="gsm8k"):
        load_questions(tmp_path, format="csv")


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the public benchmarks are not here")
@pytest.mark.parametrize(
    ("name", "count"), [("mgsm", 2750), ("gsm8k", 8792), ("exams/science_dev.jsonl", 945)]
)
def test_the_public_benchmarks_load_as_they_lie(name, count):
    items = load_questions(BENCHMARKS / name)
    assert len(items) == count
    assert len(set(column(items, "id"))) == count
    assert all(column(items, "answer")) and all(column(items, "value"))
    if name != "exams/science_dev.jsonl":
        assert all(re.fullmatch(r"-?\d+", value) for value in column(items, "value"))


def test_a_split_folder_is_read_whole():
    rows = load_questions(ROOT / "data" / "small")
    assert {row["split"] for row in rows} == set(SPLITS)
    assert len(rows) == 4700


def test_what_a_row_names_wins(tmp_path):
    row = {"question": "Wie viel?", "answer": "Es sind 7/2.\n#### 3,5"}
    own = {"ability": "de-mathe", "language": "de", "domain": "mathe", "id": 0, "task": "kurz"}
    rows = [row | own | {"split": "test"}, row | {"ability": "de-mathe"}, row | {"language": "de"}]
    first, second, third = load_questions(_write(tmp_path / "train.jsonl", rows))
    assert {**own, "id": "0", "split": "test", "value": "3.5"}.items() <= first.items()
    assert (second["ability"], second["language"], second["value"]) == ("de-mathe", "de", "3.5")
    assert (third["ability"], third["task"], third["split"]) == (
        "de-maths",
        "word_problem",
        "train",
    )
    exams = {"language": "German", "subject": "Physics", "choices": {"A": "x"}, "answer": "A"}
    exams |= {"question": "Q?", "ability": "de-physik", "domain": "physik", "task": "optik"}
    (item,) = load_questions(_write(tmp_path / "exams.jsonl", [exams]))
    assert {"ability": "de-physik", "language": "de", "task": "optik"}.items() <= item.items()


def test_numbers_are_read_by_the_rows_language(tmp_path):
    texts = [
        ("de", "1.200"),
        ("de", "1,200"),
        ("en", "1,200"),
        ("ar", "٤٢"),
        ("hi", "१२"),
        ("en", "no"),
    ]
    rows = [
        {"question": f"Q{n}?", "answer": f"#### {text}", "language": language}
        for n, (language, text) in enumerate(texts)
    ]
    items = load_questions(_write(tmp_path / "rows.jsonl", rows))
    assert column(items, "value") == ["1200", "1.2", "1200", "42", "12", ""]
    rows = [{"question": "Q?", "answer": "a", "language": "de", "value": v} for v in ("3,5", 1.125)]
    assert column(load_questions(_write(tmp_path / "own.jsonl", rows)), "value") == ["3.5", "1.125"]


def test_names_are_normalized_and_one_spelling_is_asked_for(tmp_path):
    names = ["fr-poésie", "fr-poe\u0301sie ", "fr-poésie"]
    rows = [{"question": f"Q{n}", "answer": "a", "ability": name} for n, name in enumerate(names)]
    items = load_questions(_write(tmp_path / "rows.jsonl", rows))
    assert set(column(items, "ability")) == {"fr-poésie"}
    rows[0]["ability"] = "fr-Poésie"
    with pytest.raises(ValueError, match="'fr-Poésie' and 'fr-poésie' differ in case alone"):
        load_questions(_write(tmp_path / "rows.jsonl", rows))


def test_one_question_gets_one_split_however_it_is_stored(tmp_path):
    texts = [f"Où est le café {n}?" for n in range(40)]
    forms = [str, lambda t: unicodedata.normalize("NFD", t), lambda t: t.replace(" ", "\r\n") + " "]
    splits = []
    for n, form in enumerate(forms):
        rows = [{"question": form(text), "answer": "a"} for text in texts]
        items = load_questions(_write(tmp_path / f"{n}.jsonl", rows))
        assert column(items, "question") == [row["question"] for row in rows]
        splits.append(column(items, "split"))
    assert splits[0] == splits[1] == splits[2] and len(set(splits[0])) > 1
    assert normalize_text("a\u200b b") == "a b" != normalize_text("ab")


def test_a_data_set_of_the_hub_is_read_by_split(monkeypatch):
    import datasets

    def load(name, configuration):
        assert (name, configuration) == ("openai/gsm8k", "main")
        row = {"question": "How many?", "answer": "2*3=<<2*3=6>>6\n#### 6"}
        return {"train": [row], "test": [row | {"question": "How much?"}]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = load_questions("openai/gsm8k:main")
    assert [(row["id"], row["split"], row["value"]) for row in rows] == [
        ("train-0000", "train", "6"),
        ("test-0000", "test", "6"),
    ]
    monkeypatch.setattr(datasets, "load_dataset", _refuse)
    for typo in (
        "nowhere/rows.jsonl",
        "data/none",
    ):  # a file that is missing is not asked for there
        with pytest.raises(ValueError, match="Found no .tsv or .jsonl file"):
            load_questions(typo)
    with pytest.raises(ValueError, match="neither a file here nor a data set .*no such data"):
        load_questions("openai/none")


def _refuse(*_):
    raise FileNotFoundError("no such data")
