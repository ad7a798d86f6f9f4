"""Loading: one set of columns whatever the source, numbers by locale, errors that name."""

import json
import unicodedata
from pathlib import Path

import pytest

from actlib import load_questions
from actlib.questions import SPLITS, normalize_text

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "data" / "questions"
ROW = {"question": "Wie viel?", "answer": "Es sind 7/2.\n#### 3,5"}
PLAIN = {"question": "Why?", "answer": "So."}
GSM8K = {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6 pens.\n#### 1,006"}
EXAMS = {"id": "x", "language": "North Macedonian", "subject": "Biology", "question": "Which?"}
EXAMS |= {"choices": {"A": "this", "B": "that"}, "answer": "B"}
PUBLISHED = {
    "id": "x",
    "question": {
        "stem": "Which?",
        "choices": [{"label": "A", "text": "this"}, {"label": "B", "text": "that"}],
    },
    "answerKey": "B",
    "info": {"grade": 12, "subject": "Biology", "language": "North Macedonian"},
}
READ = {"question": "Which?\nA) this\nB) that", "answer": "B) that", "value": "B"}
READ |= {"language": "mk", "split": "validation", "task": "biology", "ability": "mk-science"}


def column(items, name):
    return [row[name] for row in items]


def _write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


FILES = [  # what lies in a file, and what is read from it
    ("mgsm_de.tsv", "Wie viel?\t1,234\r\n", {"language": "de", "value": "1234", "split": "test"}),
    ("mgsm_bn.tsv", "কত?\t৪২\n", {"ability": "bn-maths", "answer": "৪২", "value": "42"}),
    ("train.jsonl", [GSM8K], {"answer": "She has 2*3=6 pens.\n#### 1,006", "value": "1006"}),
    ("train.jsonl", [GSM8K], {"split": "train", "ability": "en-maths", "task": "word_problem"}),
    ("science_dev.jsonl", [EXAMS, {**EXAMS, "answer": "@"}], READ),
    ("science_dev.jsonl", [PUBLISHED], READ),
    ("a.jsonl", "\ufeff" + json.dumps(ROW) + "\r\n\r\n", {"ability": "en-maths", "value": "3.5"}),
    ("a.jsonl", json.dumps({"question": "a\u2028b", "answer": "c"}), {"question": "a\u2028b"}),
    # what a row names itself wins
    (
        "train.jsonl",
        [ROW | {"ability": "de-mathe", "id": 0, "task": "kurz", "split": "test"}],
        {"ability": "de-mathe", "language": "de", "domain": "mathe", "id": "0", "split": "test"},
    ),
    # names are one however they are stored
    ("a.jsonl", [ROW | {"ability": "fr-poe\u0301sie "}], {"ability": "fr-po\u00e9sie"}),
    ("a.jsonl", [ROW | {"ability": "de\u200b-a\u00a0b"}], {"ability": "de-a b", "domain": "a b"}),
    # numbers by the language of the row, a code or a name
    ("a.jsonl", [ROW | {"language": "German", "answer": "#### 1.200"}], {"value": "1200"}),
    ("a.jsonl", [ROW | {"language": "xx", "answer": "#### 1,200"}], {"value": ""}),
    ("a.jsonl", [ROW | {"language": "xx", "value": "1.200"}], {"value": ""}),
    ("a.jsonl", [ROW | {"language": "de", "value": "3,5"}], {"value": "3.5"}),
    ("a.jsonl", [ROW | {"value": 42.0}], {"value": "42"}),
    ("a.jsonl", [ROW | {"value": "½"}], {"value": "½"}),
]


@pytest.mark.parametrize(("name", "content", "expected"), FILES)
def test_what_is_read(tmp_path, name, content, expected):
    if isinstance(content, list):
        content = "".join(f"{json.dumps(row)}\n" for row in content)
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    (item,) = load_questions(path)
    assert expected.items() <= item.items()


def test_a_folder_gives_its_files_their_split_and_endings_in_capitals_count(tmp_path):
    folders = ("train", "dev", "validation", "test")
    for name in folders:
        (tmp_path / name).mkdir()
        _write(tmp_path / name / "A.JSONL", [PLAIN, PLAIN | {"split": "train"}])
    splits = column(load_questions(tmp_path), "split")
    assert splits[1::2] == ["train"] * 4  # what a row names itself
    assert sorted(splits[::2]) == ["test", "train", "validation", "validation"]
    (tmp_path / "mgsm_de.TSV").write_text("Wie viel?\t7\n")
    assert load_questions(tmp_path / "mgsm_de.TSV")[0]["language"] == "de"


def test_only_notes_of_the_calculator_go_and_only_from_rows_of_gsm8k(tmp_path):
    answers = [GSM8K["answer"], "<<word>> <<1+\n2=3>> stay\n#### 3", "Own: <<1>>"]
    rows = [{"question": f"{n}?", "answer": answer} for n, answer in enumerate(answers)]
    read = column(load_questions(_write(tmp_path / "a.jsonl", rows)), "answer")
    assert read == ["She has 2*3=6 pens.\n#### 1,006", "<<word>>  stay\n#### 3", "Own: <<1>>"]


def test_own_rows_need_only_question_and_answer(tmp_path):
    rows = [{"question": f"Q{n}?", "answer": "yes", "value": 0} for n in range(300)]
    items = load_questions(_write(tmp_path / "mine.jsonl", rows))
    assert items[0].keys() == load_questions(SHIPPED / "validation")[0].keys()
    assert set(column(items, "ability")) == {"und-own"} and set(column(items, "value")) == {"0"}
    shares = [column(items, "split").count(split) / 300 for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.08, 0.12], abs=0.06)


REFUSALS = [
    (PLAIN | {"answer": "\u00a0\u200b"}, "line 1: 'answer' must hold text"),
    (PLAIN | {"answer": "\ud83d"}, "line 1: 'answer' holds half of a character"),
    (PLAIN | {"split": "dev"}, "split 'dev' is none of train, validation, test"),
    (PUBLISHED | {"question": {}}, "expected a row of EXAMS, got one without 'choices'"),
    ([1, 2], "line 1: expected an object like"),
    (b'{"answer": "b", "answer": "c"}', "line 1: answer is listed twice; keep one"),
    (b"\n\xe9", "line 2: not UTF-8 .*; save the file as UTF-8"),
    (b'\n{"question": "a"', "line 2: not JSON .*; expected one object a line"),
    (b"\n \n", "no item in .*; it needs a question with its answer a line"),
]


@pytest.mark.parametrize(("content", "named"), REFUSALS)
def test_malformed_rows_are_refused_by_file_and_line(tmp_path, content, named):
    path = tmp_path / "mine.jsonl"
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=named) as refusal:
        load_questions(path)
    assert "mine.jsonl" in str(refusal.value)


def test_names_of_abilities_differ_by_more_than_case_and_all_rows_have_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="'fr-Poésie' and 'fr-poésie' differ in case alone; write"):
        load_questions(_write(path, [ROW | {"ability": f"fr-{p}oésie"} for p in "pP"]))
    with pytest.raises(ValueError, match="line 2: needs 'ability'.*as other lines of the file"):
        load_questions(_write(path, [ROW | {"domain": "a"}, ROW]))


FORMS = [
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: text.replace(" ", "\r\n") + " ",
    lambda text: text.replace(" ", "\u00a0").replace("?", "\u200b\u200f?"),
    lambda text: "".join(chr(ord(c) + 0xFEE0) if c in "0123456789?" else c for c in text),
]


def test_one_question_gets_one_split_however_it_is_stored(tmp_path):
    texts = [f"Où est le café {n}?" for n in range(40)]
    items = load_questions(_write(tmp_path / "a.jsonl", [ROW | {"question": t} for t in texts]))
    splits = column(items, "split")
    assert len(set(splits)) > 1
    for form in FORMS:
        rows = [ROW | {"question": form(text)} for text in texts]
        items = load_questions(_write(tmp_path / "b.jsonl", rows[::-1]))[::-1]
        assert column(items, "question") == [row["question"] for row in rows]  # as it was written
        assert column(items, "split") == splits
    assert normalize_text("a\u200b b") == "a b" != normalize_text("ab")


@pytest.mark.parametrize("line", ["Question\tanswer", '"Wie viel?"\t"7"', "1\tWie viel?\t7"])
def test_tables_other_than_mgsms_are_refused(tmp_path, line):
    (tmp_path / "mgsm_de.tsv").write_text(line)
    with pytest.raises(ValueError, match="line 1: expected question, tab, answer, without"):
        load_questions(tmp_path / "mgsm_de.tsv")


def test_a_data_set_of_the_hub_is_read_by_split(monkeypatch):
    import datasets

    def load(name, configuration):
        assert (name, configuration) == ("openai/gsm8k", "main")
        return {"train": [GSM8K], "test": [GSM8K]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = load_questions("openai/gsm8k:main")
    assert [(row["id"], row["split"], row["value"]) for row in rows] == [
        ("train-0001", "train", "1006"),
        ("test-0001", "test", "1006"),
    ]
    with pytest.raises(ValueError, match="Found no .tsv or .jsonl file"):
        load_questions("nowhere/rows.jsonl")  # a missing file is not asked for there
