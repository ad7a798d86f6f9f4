"""Lines of the text files that people hand over, with their numbers for messages."""

import json
from collections.abc import Iterator
from pathlib import Path


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a text file that hold something, with their numbers from 1.

    Raises:
        ValueError: the file is not UTF-8; the sentence names the line.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")  # Windows likes to begin a file with a mark
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {number}: not UTF-8 (byte {data[error.start]:#x}); save the file as "
            "UTF-8."
        ) from error
    return [pair for pair in enumerate(text.split("\n"), start=1) if pair[1].strip()]


def json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """Line numbers, from 1, with the objects of a JSON lines file.

    Raises:
        ValueError: a line is not a JSON object; the sentence names it.
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            told = getattr(error, "msg", None) or str(error)
            raise ValueError(
                f"{path}, line {number}: not JSON ({told}); expected one object a line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: expected an object like "
                f'{{"question": ..., "answer": ...}}, got {shown(row)}.'
            )
        if "\\ud" in line.lower():  # half of a character that is written as two escapes
            try:
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{path}, line {number}: half a character (a lone surrogate) in {shown(row)}; "
                    "write the text anew."
                ) from error
        yield number, row


def shown(value: object) -> str:
    """A value in a message, its beginning if it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
