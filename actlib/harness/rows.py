"""What the YAML tasks read: rows of local files, and the score of a worked answer.

The harness calls the readers as `custom_dataset`, with a task's `dataset_kwargs` and its metadata.
Nothing is kept in the cache of `datasets`, so a changed file counts at once.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict

from actlib import question_files
from actlib.questions import load_questions


def json_lines(path: str | Path) -> list[dict]:
    """Objects of a JSON lines file.

    Raises:
        ValueError: a line is not a JSON object; the sentence names it.
    """
    return [row for _, row in question_files.json_lines(Path(path))]


def questions(path: str, language: str, domain: str, **_: object) -> DatasetDict:
    """Test rows, and training rows where there are any, of one language and domain.

    Args:
        path: folder that holds `SPLIT/LANGUAGE.jsonl`, laid out like the study's data.
        language: code such as `fr`.
        domain: such as `maths`.
    """
    splits = ["test", *["train"] * (Path(path, "train", f"{language}.jsonl").is_file())]
    return DatasetDict(
        {
            split: Dataset.from_list(
                [
                    row
                    for row in load_questions(Path(path, split), "own")
                    if (row["language"], row["domain"]) == (language, domain)
                ]
            )
            for split in splits
        }
    )


def answer_scores(row: dict, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Scores of a worked answer from its log-likelihood.

    Args:
        row: has `answer`.
        results: one pair: log-likelihood of the answer in nats, and whether greedy decoding would
            write it.

    Returns:
        `nll_per_byte`: nats per UTF-8 byte of the answer, which models with different tokenizers
        share (lower is better); `exact`: 1.0 where greedy decoding writes the answer.
    """
    ((likelihood, greedy),) = results
    return {
        "nll_per_byte": -likelihood / len(row["answer"].encode("utf-8")),
        "exact": float(greedy),
    }


def mgsm(path: str, **_: object) -> DatasetDict:
    """Rows of an MGSM file in the columns of the Hub's copy: no worked answer, the number as text.

    Args:
        path: file of lines `question<TAB>number`.
    """
    rows = [
        {"id": row["id"], "question": row["question"], "answer": None, "answer_number": number}
        for row in load_questions(path, "mgsm")
        for number in [row["value"]]
    ]
    return DatasetDict({"test": Dataset.from_list(rows)})


def exams(test: str, language: str, train: str | None = None, **_: object) -> DatasetDict:
    """Rows of one language of EXAMS; canceled questions, without a right choice, are left out.

    Args:
        test: JSON lines, as published (`question.stem`, `answerKey`, `info`) or flattened
            (`question`, `choices` by letter, `answer`, `language`, `subject`).
        language: as in the file, such as `North Macedonian`.
        train: likewise, for shots.
    """
    files = {"test": test, **({"train": train} if train else {})}
    return DatasetDict({split: _exams_of(path, language) for split, path in files.items()})


def exams_row(row: dict) -> dict:
    """An EXAMS row, published or flattened, with `choices` as a list and `target` as its index.

    Raises:
        ValueError: the row has neither form.
    """
    try:
        if isinstance(row["question"], dict):
            listed = row["question"]["choices"]
            choices = {choice["label"]: choice["text"] for choice in listed}
            stem, key, about = row["question"]["stem"], row["answerKey"], row["info"]
        else:
            stem, choices, key, about = row["question"], row["choices"], row["answer"], row
        return {
            "id": str(row.get("id", "")),
            "language": about["language"],
            "subject": about["subject"],
            "question": stem.strip(),
            "choices": [text.strip() for text in choices.values()],
            "target": list(choices).index(key) if key in choices else -1,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a row of EXAMS, got one without {error}: {row!r}") from error


def _exams_of(path: str, language: str) -> Dataset:
    rows = [row for row in map(exams_row, json_lines(path)) if row["language"] == language]
    kept = [row for row in rows if row["target"] >= 0]
    if len(kept) < len(rows):
        left_out = f"{len(rows) - len(kept)} of {len(rows)} questions"
        warnings.warn(
            f"{left_out} in {language} have no right choice and are left out", stacklevel=2
        )
    return Dataset.from_list(kept)
