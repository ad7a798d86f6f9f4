"""Reads docstrings as written here: plain text with indented code, not as reStructuredText.

An indented block after an empty line is code, as in Markdown; a bar, a star or a trailing
underscore is only itself, and what is between backquotes is code, linked where it has a page.
Sections such as ``Args:`` are left to napoleon, which comes next.
"""

import ast
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
    stop = next((n for n, line in enumerate(lines) if SECTION.match(line)), len(lines))
    made: list[str] = []
    # Paragraphs, each with the indented blocks that follow it.
    for part in re.split(r"\n+\n(?! )", "\n".join(lines[:stop])):
        text, _, code = part.partition("\n\n")
        if made and _is_code(text):
            text, code = "", text
        is_example = text.startswith(">>> ")
        made += text.splitlines() if is_example else map(_harmless, text.splitlines())
        if code:
            block = textwrap.indent(textwrap.dedent(code), "    ").splitlines()
            made += ["", f".. code-block:: {_language(code)}", "", *block]
        made.append("")
    return [*made, *map(_harmless, lines[stop:])]


def _is_code(text: str) -> bool:
    """Whether a paragraph is code, though it is not indented."""
    return text.startswith(COMMANDS) or (
        _language(text) == "python" and re.search(r"[(=]", text) is not None
    )


def _language(code: str) -> str:
    text = textwrap.dedent(code)
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
