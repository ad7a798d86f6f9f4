"""The package reads one way: each file imports only what stands above it, and stays short."""

import ast
import doctest
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from actlib.study.sources import imported_modules

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "actlib").rglob("*.py"))
# The method, from top to bottom. A new file gets its place here.
ORDER = """
    wording files numerals question_files questions rankings
    channels weights masks stored loading vocabulary scores pairs
    hooks forward alignment activations processes recording
    transfer norms two_passes interventions attribution patch_file cards checkpoint
    merging patches sparse
    reports prompts evaluation finetune
    terminal patch_commands cli __main__
""".split()
UPPER = {"analysis": {"analysis", "core"}, "harness": {"core", "harness"}}
"""Folders beside the method, and what they import; `study` imports all, and only the CLI it.

Of the core, analysis imports what needs no torch: names of rankings, files written whole.
"""


def name_of(path):
    """`actlib.scores` is "scores", `actlib.study.session` "study.session"."""
    parts = path.relative_to(ROOT / "actlib").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path) for path in FILES} - {""}


def own_imports(path):
    """What a file imports, within functions too, but not for the type checker alone."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = {name.removeprefix("actlib.") for name in imported_modules(tree)}
    return names & MODULES - {name_of(path)}


def folder_of(name):
    folder = name.partition(".")[0]
    return folder if folder in {*UPPER, "study"} else "core"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_what_stands_above_it(path):
    name = name_of(path)
    others = own_imports(path)
    if name in ("cli", "__main__", "") or folder_of(name) == "study":
        return
    assert {folder_of(each) for each in others} <= UPPER.get(folder_of(name), {"core"})
    if folder_of(name) == "core":
        assert name in ORDER, f"give {name} its place in ORDER"
        below = [each for each in others if ORDER.index(each) > ORDER.index(name)]
        assert not below, f"{name} imports what stands below it"


def test_no_two_files_import_each_other():
    TopologicalSorter({name_of(path): own_imports(path) for path in FILES}).prepare()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text("utf-8")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    sizes = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert not {name for name, size in sizes.items() if size > 60}
    assert len(text.splitlines()) <= 300


@pytest.mark.parametrize("path", [p for p in FILES if " >>> " in p.read_text("utf-8")], ids=name_of)
def test_the_examples_in_docstrings_give_what_they_say(path):
    found = doctest.testmod(import_module(f"actlib.{name_of(path)}"))
    assert found.attempted > 0 == found.failed
