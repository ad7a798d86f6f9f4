"""The book builds without a warning, as of a broken link or a lost page, and asks no other host."""

import os
import re

import pytest
from filelock import FileLock
from programs import python

pytest.importorskip("myst_nb", reason="the book's own packages are not installed")

LOADED = re.compile(
    r"<(?:script|img|iframe|link|source|audio|video|embed|object)\b[^>]*?"
    r"\b(?:src|href|data)=[\"']?(?:\w+:)?//[^>]*"
)


@pytest.fixture(scope="session", name="book")
def book_(tmp_path_factory):
    """Folder of the book, built once for all workers."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    output = folder / "book" / "html"
    with FileLock(folder / "book.lock"):
        if not (output / "index.html").is_file():
            python("tools/book.py", "--output", output)
    return output.resolve()


def test_nothing_is_loaded_from_another_host(book):
    for path in book.rglob("*.html"):
        assert not LOADED.findall(path.read_text(encoding="utf-8")), path.relative_to(book)
    assert "url(" not in (book / "_static" / "book.css").read_text(encoding="utf-8")
