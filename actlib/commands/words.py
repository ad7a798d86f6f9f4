"""What the steps of the command line share: how one is added, checked, and how it tells things."""

import argparse
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

_REMEDIES = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of the path is a file and no folder",
    errno.EEXIST: "a part of the path is a file and no folder",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOENT: "look for a slip in the path",
    errno.ENOSPC: "free some space, or write to another disk",
}


def add_step(steps: argparse._SubParsersAction, name: str, told: str, example: str):
    """Add a step whose help ends with an example.

    Args:
        steps: of the parser.
        name: word of the step.
        told: one line for the list of steps; also heads its own help.
        example: one command line or several.

    Returns:
        The step's parser.
    """
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    plural = "s" if len(example.strip().splitlines()) > 1 else ""
    return steps.add_parser(
        name,
        help=told,
        description=told[0].upper() + told[1:] + ("" if told.endswith("?") else "."),
        epilog=f"example{plural}:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_json(step: argparse.ArgumentParser) -> None:
    """Add the option ``--json``."""
    step.add_argument("--json", action="store_true", help="tell the result as JSON")


def tell(given: argparse.Namespace, result: Mapping, line: str) -> None:
    """Print a result: as JSON where that is asked for, otherwise as a line for people."""
    print(json.dumps(dict(result), indent=1, ensure_ascii=False) if given.json else line)


def sentence_of(error: Exception) -> str:
    """An error as one line; one of the system says which file it is about, and what to try."""
    if isinstance(error, OSError) and error.errno is not None:
        place = error.filename2 or error.filename or "a file"
        remedy = _REMEDIES.get(error.errno, "look at the path and its permissions")
        return f"{place}: {error.strerror}; {remedy}"
    return " ".join(str(error).split())


def require_output(
    out: str, *inputs: str | None, option: str = "--out", folder: bool = False
) -> None:
    """Refuse an output that cannot be written, or would replace what is read, before any work.

    Args:
        out: path of the output.
        inputs: paths that are read; None is ignored.
        option: what names the output on the command line.
        folder: whether the output is a folder.

    Raises:
        ValueError: it is an input, a folder where a file is wanted, or below a file or a folder
            that cannot be written.
    """
    path = Path(out)
    if path.exists() and any(each and path.resolve() == Path(each).resolve() for each in inputs):
        raise ValueError(f"{option} {out} is what is read, and would be lost; name another file")
    if not folder and path.is_dir():
        raise ValueError(f"{option} {out} is a folder; name a file")
    if folder and path.is_file():
        raise ValueError(f"{option} {out} is a file; name a folder that is absent or empty")
    there = next(each for each in path.absolute().parents if each.exists())
    if not there.is_dir():
        raise ValueError(f"{option} {out} is below the file {there.name}; name a place in a folder")
    if not os.access(there, os.W_OK):
        raise ValueError(
            f"{option} {out}: {there} cannot be written; make it writable or name another place"
        )


def require_at_least(least: int, value: int | None, option: str, most: int | None = None) -> None:
    """Refuse a number given for an option that is below the least, or above the most, it can be.

    Raises:
        ValueError: names the option, the number and the limit.
    """
    if value is not None and value < least:
        raise ValueError(f"{option} must be at least {least}, got {value}")
    if value is not None and most is not None and value > most:
        raise ValueError(f"{option} must be at most {most}, got {value}")
