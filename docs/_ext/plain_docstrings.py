"""Reads docstrings as written here: plain text with indented code, not as reStructuredText.

An indented block after an empty line is code, as in Markdown; a bar, a star or a trailing
underscore is only itself, and what is between backquotes is code, linked where it has a page.
Sections such as ``Args:`` are left to napoleon, which comes next.
"""

import ast
import itertools
import re
import textwrap
import zlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Arguments|Attributes|Example|Examples|Note|Raises|Returns|Yields):$")
TYPE_PATH = re.compile(r"~(?:\w+\.)+|\bjaxtyping\.")
VERSION = zlib.crc32(Path(__file__).read_bytes())  # a change here reads all pages anew
COMMANDS = ("actlib ", "python ", "$ ")
SPECIAL = re.compile(r"\||(?<=\w)_(?!\w)|\*(?=\w)")
CODE = re.compile(r"(``.+?``|`[^`]+`)")


def plain(lines: list[str]) -> list[str]:
    """Docstring lines with indented blocks as code and nothing else with a second meaning."""
    made: list[str] = []
    rest, in_section = list(lines), False
    while rest:
        in_section = in_section or bool(SECTION.match(rest[0]))
        after_gap = not made or not made[-1].strip()
        if rest[0].lstrip().startswith(">>> "):  # an example, up to the next empty line
            while rest and rest[0].strip():
                made.append(rest.pop(0))
        elif not in_section and after_gap and rest[0].startswith("    "):
            block = _taken(rest)
            made += [f".. code-block:: {_language(block)}", "", *block, ""]
        elif not in_section and made and after_gap and (block := _flush_code(rest)):
            del rest[: len(block)]
            indented = textwrap.indent("\n".join(block), "    ").splitlines()
            made += [f".. code-block:: {_language(block)}", "", *indented, ""]
        else:
            made.append(_harmless(rest.pop(0)))
    return made


def _taken(rest: list[str]) -> list[str]:
    """Take the indented block off the front of the lines, without its last empty lines."""
    block = []
    while rest and (rest[0].startswith("    ") or not rest[0].strip()):
        block.append(rest.pop(0))
    while not block[-1].strip():
        block.pop()
    return block


def _flush_code(rest: list[str]) -> list[str]:
    """The paragraph at hand if it is code that is not indented, or nothing."""
    paragraph = list(itertools.takewhile(str.strip, rest))
    text = "\n".join(paragraph)
    if text.startswith(COMMANDS):
        return paragraph
    return paragraph if _language(paragraph) == "python" and re.search(r"[(=]", text) else []


def _language(block: list[str]) -> str:
    text = textwrap.dedent("\n".join(block))
    try:
        ast.parse(text)
    except SyntaxError:
        return "console" if text.startswith(COMMANDS) else "text"
    return "python"


def _harmless(line: str) -> str:
    stars = re.match(r"\s*\**", line)[0]  # of an argument such as **options, napoleon's business
    parts = CODE.split(line.removeprefix(stars))  # every second part is code
    parts[::2] = [SPECIAL.sub(r"\\\g<0>", part) for part in parts[::2]]
    # A role looks a name that opens with a dot up everywhere, and finds too many.
    parts[1::2] = [f"`{part}`" if part.startswith("`.") else part for part in parts[1::2]]
    # What opens literal blocks, written out as code here.
    return re.sub("::$", ":", stars + "".join(parts))


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what == "module" and obj.__doc__:
        # Sphinx takes off the indentation that all lines but the first share, which may be that of
        # the code; a module's docstring has none to take off.
        lines[:] = obj.__doc__.expandtabs().splitlines()
    lines[:] = [*plain(lines), ""]


def _short_types(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = [short(line) if line.lstrip().startswith(":") else line for line in lines]


def _short_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returned: str
) -> tuple[str | None, str | None]:
    return short(signature), short(returned)


def short(types: str | None) -> str | None:
    """Types by their last names: ``Float[Tensor, "tokens channels"]`` wherever they come from.

    Sphinx does so itself, but not in a signature that it cannot parse, such as one with a factory.
    """
    return TYPE_PATH.sub("", types) if types else types


def setup(app: Sphinx) -> dict:
    """Come before napoleon, and once more after it for the types that it writes."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-process-docstring", _short_types, priority=900)
    app.connect("autodoc-process-signature", _short_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": VERSION}
