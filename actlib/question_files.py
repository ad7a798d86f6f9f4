"""Rows of JSON lines, of MGSM's lines and of data sets on the Hub, with names for messages.

for where, row in json_lines(Path("questions.jsonl")).items(): ...
"""

import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path

from actlib.files import unique_entries
from actlib.numerals import parse_number

KINDS = (".tsv", ".jsonl")
"""Endings of files of questions, in capitals too."""
SPLIT_NAMES = {"train": "train", "validation": "validation", "dev": "validation", "test": "test"}
"""What folders and files are called, and the split that is meant."""
Rows = dict[str, dict]
"""Rows in their order; the key says in messages where each is, such as `q.jsonl, line 3`."""


def read_sources(path: str | Path) -> Iterator[tuple[str, Rows]]:
    """Name and rows of each file of a folder, of one file, or of each split on the Hub.

    Raises:
        ValueError: there is nothing to read, or a line is malformed; the sentence names it.
    """
    path = Path(path)
    if _is_hub_name(path):
        yield from _hub_sources(str(path))
        return
    folders = {"": None, **SPLIT_NAMES}
    inside = [
        (file, split) for n, split in folders.items() for file in sorted((path / n).glob("*"))
    ]
    files = [each for kind in KINDS for each in inside if each[0].suffix.lower() == kind]
    files = [(path, None)] if path.is_file() else files
    if not files:
        raise ValueError(f"Found no .tsv or .jsonl file at {path}; name one, or its folder.")
    for file, split in files:
        rows = _mgsm_lines(file) if file.suffix.lower() == ".tsv" else json_lines(file)
        yield file.name, {n: {"split": split} | row if split else row for n, row in rows.items()}


def json_lines(path: Path) -> Rows:
    """Objects of a JSON lines file; the keys say where each is, for messages.

    Raises:
        ValueError: a line is not a JSON object in UTF-8, or has a key twice; the sentence names it.
    """
    rows = {}
    for where, line in _lines(path):
        try:
            row = json.loads(line, object_pairs_hook=unique_entries)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            raise ValueError(f"{where}: not JSON ({reason}); expected one object a line.") from None
        except ValueError as error:  # an entry given twice, or a number of thousands of digits
            raise ValueError(f"{where}: {error}.") from None
        if not isinstance(row, dict):
            expected = 'an object like {"question": ..., "answer": ...}'
            raise ValueError(f"{where}: expected {expected}, got {reprlib.repr(row)}.")
        rows[where] = row
    return rows


def _lines(path: Path) -> list[tuple[str, str]]:
    """Lines of a text file that hold something, and where each is."""
    try:
        text = path.read_text("utf-8-sig")  # Windows likes to begin a file with a mark
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8."
        ) from error
    lines = enumerate(text.split("\n"), start=1)
    return [(f"{path}, line {number}", line) for number, line in lines if line.strip()]


def _mgsm_lines(path: Path) -> Rows:
    """MGSM: question, tab, number in English notation; the file's name ends with the language."""
    language = path.stem.rpartition("_")[2]
    language = language if re.fullmatch("[a-z]{2,3}", language) else "und"
    rows: Rows = {}
    for where, line in _lines(path):
        question, _, answer = map(str.strip, line.rpartition("\t"))
        is_table = "\t" in question or answer[:1] == '"' or '""' in question
        is_table |= (question.lower(), answer.lower()) == ("question", "answer")
        if not question or not answer or is_table:
            raise ValueError(
                f"{where}: expected question, tab, answer, without quotes or a header; other "
                "tables as JSON lines."
            )
        value = parse_number(answer, "en")
        row: dict = {"question": question, "answer": answer}
        rows[where] = row | {"language": language, "value": answer if value is None else value}
    return rows


def _is_hub_name(path: Path) -> bool:
    """Whether `owner/name` names nothing here, not even a folder in which a file is missing."""
    endings = (".jsonl", ".tsv", ".json", ".csv", ".txt")
    if path.exists() or path.parent.is_dir() or path.suffix.lower() in endings:
        return False
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", str(path)) is not None


def _hub_sources(name: str) -> Iterator[tuple[str, Rows]]:
    """Name and rows of each split of a data set on the Hub."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(
            f"There is no file {name}, and reading it from the Hub needs: pip install datasets"
        ) from error
    repository, _, configuration = name.partition(":")
    try:
        parts = load_dataset(repository, configuration or None)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{name} is neither a file here nor a data set that loads from the Hub ({reason})."
        ) from error
    for split, rows in parts.items():
        yield str(split), {f"{name}, {split} row {n}": dict(row) for n, row in enumerate(rows)}
