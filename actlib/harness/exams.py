"""EXAMS as multiple choice: rows as published, or flattened, by language.

rows = read_exams("science_test.jsonl")["French"]
rows[0]["choices"][rows[0]["target"]]
"""

import warnings
from collections import defaultdict
from pathlib import Path

from actlib.question_files import json_lines


def read_exams(path: str | Path) -> dict[str, list[dict]]:
    """Questions of a file by language; canceled ones, without a right choice, are left out.

    Args:
        path: JSON lines, as published (`question.stem`, `answerKey`, `info`) or flattened
            (`question`, `choices` by letter, `answer`, `language`, `subject`).

    Returns:
        Rows with id, subject, question, choices (texts) and target (the index of the right one).

    Raises:
        ValueError: a row has neither form.
    """
    by_language = defaultdict(list)
    total = 0
    for number, row in json_lines(Path(path)):
        total += 1
        try:
            language, read = _read_row(row)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a row of EXAMS, got one without {error}"
            ) from error
        if read["target"] is not None:
            by_language[language].append(read)
    left_out = total - sum(map(len, by_language.values()))
    if left_out:
        warnings.warn(
            f"{left_out} of {total} questions of {path} have no right choice and are left out",
            stacklevel=2,
        )
    return dict(by_language)


def _read_row(row: dict) -> tuple[str, dict]:
    """Language and row; its target is None where no choice is right."""
    if isinstance(row["question"], dict):
        choices = {choice["label"]: choice["text"] for choice in row["question"]["choices"]}
        stem, key, about = row["question"]["stem"], row["answerKey"], row["info"]
    else:
        stem, choices, key, about = row["question"], row["choices"], row["answer"], row
    return about["language"], {
        "id": str(row.get("id", "")),
        "subject": about["subject"],
        "question": stem.strip(),
        "choices": [text.strip() for text in choices.values()],
        "target": list(choices).index(key) if key in choices else None,
    }
