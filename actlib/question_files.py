"""Rows of JSON lines, of MGSM's lines and of data sets on the Hub, with names for messages.

for number, row in json_lines(Path("questions.jsonl")): ...
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from actlib.numerals import parse_number

FOLDERS = ("", "train", "validation", "test")
"""Where in a folder of questions files are looked for."""


@dataclass(frozen=True)
class Source:
    """Rows of one file or split: what messages call each, its number, and the row.

    `name` is the file's without its ending, or the split's; `format` is empty where the rows tell.
    """

    name: str
    rows: list[tuple[str, int, dict]]
    format: str = ""


def json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """Line numbers, from 1, with the objects of a JSON lines file.

    Raises:
        ValueError: a line is not a JSON object in UTF-8; the sentence names it.
    """
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # two escapes can be half a character
            raise ValueError(
                f"{path}, line {number}: half a character (a lone surrogate) in {shorten(row)}; "
                "write the text again."
            ) from error
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            raise ValueError(
                f"{path}, line {number}: not JSON ({reason}); expected one object a line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: expected an object like "
                f'{{"question": ..., "answer": ...}}, got {shorten(row)}.'
            )
        yield number, row


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a text file that hold something, with their numbers from 1."""
    try:
        text = path.read_text("utf-8-sig")  # Windows likes to begin a file with a mark
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8."
        ) from error
    return [pair for pair in enumerate(text.split("\n"), start=1) if pair[1].strip()]


def file_sources(path: Path) -> Iterator[Source]:
    """Rows of each file of a folder, or of one file."""
    places = [(path / folder, kind) for kind in ("*.tsv", "*.jsonl") for folder in FOLDERS]
    files = [file for folder, kind in places for file in sorted(folder.glob(kind))]
    files = [path] if path.is_file() else files
    if not files:
        raise ValueError(f"Found no .tsv or .jsonl file at {path}; name one, or its folder.")
    for file in files:
        read = _mgsm_lines if file.suffix == ".tsv" else json_lines
        rows = [(f"{file}, line {number}", number, row) for number, row in read(file)]
        yield Source(file.stem, rows, "mgsm" if file.suffix == ".tsv" else "")


def _mgsm_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """MGSM: question, tab, number in English notation; the file's name ends with the language."""
    language = path.stem.rpartition("_")[2]
    language = language if re.fullmatch("[a-z]{2,3}", language) else "und"
    for number, line in _lines(path):
        question, tab, answer = line.rpartition("\t")
        if not tab or not question.strip() or not answer.strip():
            raise ValueError(f"{path}, line {number}: expected question, tab, answer.")
        row: dict = {"question": question, "answer": answer.strip(), "split": "test"}
        value = parse_number(answer, "en")
        row |= {"language": language, "value": answer.strip() if value is None else value}
        yield number, row


def hub_sources(name: str) -> Iterator[Source]:
    """Rows of each split of a data set on the Hub."""
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
        numbered = [(f"{name}, {split} row {n}", n, dict(row)) for n, row in enumerate(rows)]
        yield Source(str(split), numbered)


def require_text(where: str, row: Mapping, *names: str) -> None:
    """Refuse a row in which one of some columns is missing or holds no text."""
    for name in names:
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            got = f"got {shorten(value)}" if name in row else "and is missing"
            raise ValueError(f"{where}: {name!r} must hold text, {got}.")


def shorten(value: object) -> str:
    """A value in a message, its beginning if it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
