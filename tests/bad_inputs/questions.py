"""Files of questions, and options of `record`."""

from pathlib import Path

from bad_inputs.mistakes import RECORD, Case, removed, rows, write

QUESTIONS = [
    Case("no file of questions", RECORD, ("own.jsonl", "name one"), removed("own.jsonl")),
    Case(
        "questions that are a folder of none",
        RECORD,
        ("own.jsonl", ".jsonl"),
        lambda: (removed("own.jsonl")(), Path("own.jsonl").mkdir()),
    ),
    Case(
        "questions that are blank lines",
        RECORD,
        ("own.jsonl", "question"),
        write("own.jsonl", "\n \n"),
    ),
    Case(
        "questions in Latin-1",
        RECORD,
        ("own.jsonl", "line 1", "UTF-8"),
        write("own.jsonl", '{"question": "où", "answer": "là"}'.encode("latin-1")),
    ),
    Case(
        "row that is no JSON",
        RECORD,
        ("own.jsonl", "line 2", "JSON"),
        write("own.jsonl", '{"question": "a", "answer": "b"}\n{'),
    ),
    Case(
        "row that nests without end",
        RECORD,
        ("own.jsonl", "line 1", "JSON"),
        write("own.jsonl", "[" * 100_000),
    ),
    Case(
        "file that is one JSON list",
        RECORD,
        ("own.jsonl", "line 1", "object"),
        write("own.jsonl", '[{"question": "a", "answer": "b"}]'),
    ),
    Case(
        "row without an answer", RECORD, ("own.jsonl", "line 1", "answer"), rows({"question": "a"})
    ),
    Case(
        "row of an unknown split",
        RECORD,
        ("own.jsonl", "line 1", "exam", "validation"),
        rows({"question": "a", "answer": "b", "split": "exam"}),
    ),
    Case(
        "row with text for operands",
        RECORD,
        ("own.jsonl", "line 1", "operands"),
        rows({"question": "a", "answer": "b", "operands": ["x"]}),
    ),
    Case(
        "half a character in a question",
        RECORD,
        ("own.jsonl", "line 1", "question"),
        rows({"question": "\ud800", "answer": "b"}),
    ),
    Case(
        "EXAMS with a list of choices",
        RECORD,
        ("own.jsonl", "line 1", "choices"),
        rows(
            {"question": "a", "choices": ["x"], "answer": "A", "language": "French", "subject": "s"}
        ),
    ),
    Case(
        "EXAMS with no right choice at all",
        RECORD,
        ("own.jsonl", "question"),
        rows(
            {"question": "a", "choices": {"A": "x"}, "answer": "@", "language": "French"}
            | {"subject": "s"}
        ),
    ),
    Case("limit of 0", RECORD + " --limit 0", ("--limit", "0", "equal to 1"), status=2),
    Case(
        "dtype that is none",
        RECORD.replace("float32", "int8"),
        ("dtype", "int8", "bfloat16"),
        status=2,
    ),
    Case("device map that is none", RECORD + " --device-map moon", ("moon", "auto")),
]
