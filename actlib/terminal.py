"""What the commands of `cli` and the steps of a study share: help, exit statuses, refusals.

    @command(app, "check")           # the docstring is the help, `Example:` line by line
    def check(...): ...

    sys.exit(run_app(app))           # bad input becomes one sentence on stderr

Exit statuses: 0 done; 1 bad input, a pair that does not fit, or too little memory, in one sentence,
nothing written; 2 usage; 3 a notebook failed; 4 a defect of actlib, with its traceback.
"""

import inspect
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

if TYPE_CHECKING:
    from actlib.masks import ChannelMask

NOTEBOOK_FAILED, DEFECT = 3, 4
Folder = Annotated[str, Option(help="model folder; it stays as it is")]
Mask = Annotated[str, Option(help="file of a channel mask")]
Scale = Annotated[float, Option(help="how far to the donor: the paper's lambda, 1 all the way")]
OutFolder = Annotated[str, Option(help="model folder to write, absent or empty")]
OutFile = Annotated[str, Option(help="file to write")]
Json = Annotated[bool, Option("--json", help="print the result as JSON")]
_SEVERAL = ("--give", "--tasks", "--data", "--metadata")  # options that take several words


def new_app(text: str) -> typer.Typer:
    """A group of commands with plain help; `text` is the head of its help."""
    settings = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}  # of commands too
    return typer.Typer(
        help=text, rich_markup_mode=None, add_completion=False, context_settings=settings
    )


def command(group: typer.Typer, name: str) -> Callable[[Callable], Callable]:
    """Make a function a command whose help is its docstring, with the example line by line.

    The function returns an exit status, or None for 0.
    """

    def add(function: Callable) -> Callable:
        text, _, example = str(inspect.getdoc(function)).partition("\n\nExample:\n")
        return group.command(name, help=text, epilog=f"\b\nexample:\n{example}")(function)

    return add


def run_app(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run the command that the words name, and return its exit status."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            return app(repeat_options(arguments), prog_name="actlib", standalone_mode=False) or 0
    except typer.TyperException as error:  # words that are no command, option or value
        message = " ".join(error.format_message().split()).rstrip(".")
        print(f"error: {message}; got: {shlex.join(arguments)} (see --help)", file=sys.stderr)
        return error.exit_code
    except (ValueError, OSError) as error:  # the latter: a file that cannot be read or written
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch
            remedy = "take a smaller --batch-size or --dtype, or a larger device"
            print(f"error: {_one_line(error)}; {remedy}", file=sys.stderr)
            return 1
        traceback.print_exc()
        print("error: this was not foreseen; report it with the lines above", file=sys.stderr)
        return DEFECT


def repeat_options(arguments: Sequence[str]) -> list[str]:
    """``--tasks a b`` as ``--tasks a --tasks b``, since typer takes one word an option."""
    result: list[str] = []
    option = ""
    for argument in arguments:
        if argument.startswith("--"):
            option = argument if argument in _SEVERAL else ""
        elif option and result[-1] != option:
            result.append(option)
        result.append(argument)
    return result


def _one_line(error: Exception) -> str:
    """An error as one line; one of the system names its file and what to try."""
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename2 or error.filename or "a file"
        remedy = "look at the path, its folders and permissions, and the space on its disk"
        return f"{path}: {error.strerror}; {remedy}"
    return " ".join(str(error).split())


def require_output(out: str, *inputs: str | None) -> None:
    """Refuse a file that cannot be written, or would replace an input, before any work.

    Raises:
        ValueError: the output is an input, a folder, or below what is no folder.
    """
    path = Path(out)
    if path.exists() and path.resolve() in {Path(each).resolve() for each in inputs if each}:
        raise ValueError(f"the output {out} is what is read, and would be lost; name another file")
    if path.is_dir():
        raise ValueError(f"the output {out} is a folder; name a file")
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{above} is no folder that can be written; name another place than {out}")


def load_mask(path: str) -> "ChannelMask":
    """The mask in a file.

    Raises:
        ValueError: there is no such file, it holds no mask, or one without channels.
    """
    from actlib.masks import ChannelMask

    mask = ChannelMask.load(path)
    if not mask.count:
        raise ValueError(f"the mask {path} is empty and moves nothing; make one of more percent")
    return mask


def show(as_json: bool, result: dict[str, Any], line: str) -> None:
    """Print a result: as JSON where that is asked for, otherwise as a line for people."""
    print(json.dumps(result, indent=1, ensure_ascii=False) if as_json else line)
