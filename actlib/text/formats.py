"""Rows of questions and answers as their files have them: MGSM, GSM8K, EXAMS, and a user's own.

Each reader gives rows of the columns that `actlib.text.data` has, whatever those of the file are.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from babel import Locale

from actlib.text.generator import SPLITS, split_of
from actlib.text.lines import json_lines, read_lines, shown

_SPLIT_NAMES = {"train": "train", "dev": "validation", "validation": "validation", "test": "test"}


def _mgsm(path: Path) -> list[dict]:
    """MGSM: question, tab, number. The language is the end of the file's name."""
    language = path.stem.rpartition("_")[2]
    rows = []
    for number, line in read_lines(path):
        question, tab, answer = line.rpartition("\t")
        if not tab or not question.strip() or not answer.strip():
            raise ValueError(f"{path}, line {number}: expected question, tab, answer.")
        rows.append(
            {
                "id": f"mgsm-{language}-{number:04d}",
                "split": "test",
                "language": language,
                "domain": "maths",
                "task": "word_problem",
                "question": question,
                "answer": answer.strip(),
                "value": answer.strip().replace(",", ""),
                "operands": [],
            }
        )
    return rows


def _gsm8k(path: Path, number: int, row: dict) -> dict:
    """GSM8K: the worked answer without its calculator notes; the number follows `####`."""
    _require_text(path, number, row, "question", "answer")
    answer = re.sub(r"<<[^>]*>>", "", row["answer"]).strip()
    split = _SPLIT_NAMES.get(path.stem) or split_of(row["question"])
    return {
        "id": f"gsm8k-{path.stem}-{number:04d}",
        "split": split,
        "language": "en",
        "domain": "maths",
        "task": "word_problem",
        "question": row["question"].strip(),
        "answer": answer,
        "value": answer.rpartition("####")[2].strip().replace(",", ""),
        "operands": [],
    }


@cache
def _language_codes() -> dict[str, str]:
    """English name of each language -> its code."""
    return {name: code for code, name in Locale("en").languages.items()}


def _exams(path: Path, number: int, row: dict) -> dict | None:
    """EXAMS: the choices join the question. None for a canceled question, one without an answer."""
    _require_text(path, number, row, *(key for key in ("question", "answer") if key in row))
    choices, key = row["choices"], row["answer"]
    if not isinstance(choices, dict) or not all(isinstance(c, str) for c in choices.values()):
        raise ValueError(
            f"{path}, line {number}: 'choices' must hold texts by letter, got {shown(choices)}."
        )
    if key not in choices:
        return None
    _require_text(path, number, row, *(key for key in ("language", "subject") if key in row))
    name = row["language"].removeprefix("North ")  # CLDR calls the language Macedonian
    listed = "\n".join(f"{letter}) {text}" for letter, text in choices.items())
    return {
        "id": row.get("id", f"exams-{path.stem}-{number:04d}"),
        "split": _SPLIT_NAMES.get(path.stem.rpartition("_")[2]) or split_of(row["question"]),
        "language": _language_codes().get(name, name),
        "domain": "science",
        "task": row["subject"].lower(),
        "question": f"{row['question'].strip()}\n{listed}",
        "answer": f"{key}) {choices[key]}".strip(),
        "value": key,
        "operands": [],
    }


def own_row(path: Path, number: int, row: dict) -> dict:
    """A user's row, checked, with what is missing filled in."""
    _require_text(path, number, row, "question", "answer")
    split = row.get("split") or split_of(row["question"])
    if split not in SPLITS:
        raise ValueError(
            f"{path}, line {number}: unknown split {shown(split)}; choose from {', '.join(SPLITS)}."
        )
    operands = row.get("operands") or []
    if not isinstance(operands, list) or not all(_is_count(each) for each in operands):
        raise ValueError(
            f"{path}, line {number}: 'operands' must be a list of whole numbers, got "
            f"{shown(operands)}."
        )
    language, domain = str(row.get("language") or "und"), str(row.get("domain") or "own")
    if row.get("ability"):  # a name in place of language and domain; often the two in one
        language, _, domain = str(row["ability"]).partition("-")
    value = row.get("value")
    return {
        "id": str(row.get("id") or f"{path.stem}-{number:04d}"),
        "split": split,
        "language": language,
        "domain": domain,
        "task": str(row.get("task") or domain),
        "question": row["question"],
        "answer": row["answer"],
        "value": "" if value is None else str(value),
        "operands": operands,
    }


def _require_text(path: Path, number: int, row: Mapping, *names: str) -> None:
    for name in names:
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            told = f"got {shown(value)}" if name in row else "and is missing"
            raise ValueError(f"{path}, line {number}: {name!r} must hold text, {told}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _require_named(path: Path, lines: list[tuple[int, dict]]) -> None:
    """Refuse a line that names no ability where others of its file name one."""
    unnamed = [
        number for number, row in lines if not any(map(row.get, ("ability", "language", "domain")))
    ]
    if unnamed and len(unnamed) < len(lines):
        raise ValueError(
            f"{path.name}, line {unnamed[0]}: needs 'ability' (or 'language' or 'domain'), as "
            "other lines of the file have."
        )


_READERS: dict[str, Callable[[Path, int, dict], dict | None]] = {
    "gsm8k": _gsm8k,
    "exams": _exams,
    "own": own_row,
}
FORMATS = ("auto", "mgsm", *_READERS)


def _format_of(path: Path) -> str:
    """Guess a file's format: by its ending, then by what its first row holds."""
    if path.suffix == ".tsv":
        return "mgsm"
    _, row = next(json_lines(path), (0, {}))
    if "choices" in row:
        return "exams"
    return "gsm8k" if re.search(r"^#### ", str(row.get("answer", "")), re.MULTILINE) else "own"


def rows_of(path: Path, format: str) -> list[dict]:
    """Items of a file, as rows of the study's columns.

    Args:
        path: the file.
        format: one of `FORMATS`; `auto` guesses.

    Raises:
        ValueError: a malformed row, which is named.
    """
    format = _format_of(path) if format == "auto" else format
    if format == "mgsm":
        return _mgsm(path)
    lines = list(json_lines(path))
    if format == "own":
        _require_named(path, lines)
    try:
        rows = [_READERS[format](path, number, row) for number, row in lines]
    except KeyError as error:
        raise ValueError(f"{path} has a row without {error}, which {format} needs.") from error
    return [row for row in rows if row is not None]
