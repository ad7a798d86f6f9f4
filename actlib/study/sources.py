"""Digests of code: what a computation's source says, whatever its comments and docstrings say.

    digest_modules(["actlib.recording"])      # with every module of actlib that it imports
    digest_notebook(Path("notebooks/03_sufficiency.ipynb"))

Results are kept under such digests, so that they are computed again when the code that makes them
changes, and only then.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
NEUTRAL = {
    "actlib.files", "actlib.terminal",
    "actlib.study.cache", "actlib.study.locking", "actlib.study.provenance", "actlib.study.sources",
}  # fmt: skip
"""Modules that store, lock, describe and print, and decide no number."""


def syntax_of(source: str) -> str:
    """The source without comments, docstrings and decorators, laid out in one way.

    Strings that stand alone, such as those below constants, count as docstrings.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.decorator_list = []
        elif not isinstance(node, ast.Module):
            continue
        node.body = [each for each in node.body if not _is_text(each)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is a string alone."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def digest_text(*parts: str) -> str:
    """SHA-256 of texts, its first 16 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def digest_modules(names: Iterable[str]) -> str:
    """Digest of modules of actlib and of all that they import from it, in any function too.

    What a neutral one imports decides no number either.

    Raises:
        ValueError: a name is of no module of actlib.
    """
    syntax: dict[str, str] = {}
    waiting = {*names} - NEUTRAL
    while waiting:
        name = waiting.pop()
        syntax[name], imported = _read(name)
        waiting |= imported - NEUTRAL - syntax.keys()
    return digest_text(*(f"{name}\n{syntax[name]}" for name in sorted(syntax)))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Names of the modules of actlib that a syntax tree imports, by whichever form of import.

    What it takes from the package itself, such as ``actlib.transferred``, counts as its module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            for name, shown in ((alias.name, alias.asname) for alias in node.names):
                names += modules_under(tree, shown or "actlib", name if shown else "actlib")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
            if base == "actlib":  # an exported name, or a module
                names = [name if _file(name) else home_of(name) for name in names]
            names = [name if _file(name) else base for name in names]
        else:
            continue
        yield from (name for name in names if name.startswith("actlib.") and _file(name))


def modules_under(tree: ast.AST, name: str, package: str) -> Iterator[str]:
    """Modules that a syntax tree means by attributes of a name, which stands for a package."""
    if package.split(".")[0] != "actlib":
        return
    for node in ast.walk(tree):
        first, *others = ast.unparse(node).split(".") if isinstance(node, ast.Attribute) else [""]
        if first != name or not all(map(str.isidentifier, others)):
            continue
        dotted = ".".join([package, *others])
        if _file(dotted):
            yield dotted
        elif package == "actlib" and len(others) == 1 and not others[0].startswith("_"):
            yield home_of(dotted)


def home_of(exported: str) -> str:
    """Module of a name that actlib exports, such as ``actlib.transfer`` of ``actlib.transferred``.

    Raises:
        ValueError: actlib exports no such name.
    """
    import actlib

    name = exported.removeprefix("actlib.")
    if name not in actlib._HOME:
        raise ValueError(f"actlib has neither a module nor an exported name {name!r}")
    return f"actlib.{actlib._HOME[name]}"


def digest_notebook(path: Path) -> str:
    """Digest of a notebook's text, prose included, and of the modules of actlib that it reaches."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    code = "\n".join(t for t, c in zip(texts, cells, strict=True) if c["cell_type"] == "code")
    # no %magic and no !command
    lines = (line for line in code.splitlines() if not line.lstrip().startswith(("%", "!")))
    return digest_text(*texts, digest_modules(imported_modules(ast.parse("\n".join(lines)))))


@cache
def _read(name: str) -> tuple[str, set[str]]:
    path = _file(name)
    if path is None:
        raise ValueError(f"{name} is no module of actlib")
    source = path.read_text("utf-8")
    return syntax_of(source), set(imported_modules(ast.parse(source))) - {name}


def _file(name: str) -> Path | None:
    if name.split(".")[0] != "actlib":
        return None
    path = PACKAGE.joinpath(*name.split(".")[1:])
    files = (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file())
    return next(files, None)
