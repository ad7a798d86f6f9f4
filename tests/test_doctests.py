"""The examples in docstrings, lines after `>>>`, give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOLDING = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "actlib").rglob("*.py"))
    if "\n    >>> " in path.read_text(encoding="utf-8") or "\n>>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", HOLDING)
def test_the_examples_of_a_module_give_what_they_say(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
