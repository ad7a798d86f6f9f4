"""The book builds without a warning, as of a broken link or a lost page, and asks no other host."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

pytest.importorskip("myst_nb", reason="the book's own packages are not installed")

ROOT = Path(__file__).resolve().parents[1]
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
            command = [sys.executable, "tools/book.py", "--output", str(output)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
    return output.resolve()


def test_nothing_is_loaded_from_another_host(book):
    for path in book.rglob("*.html"):
        assert not LOADED.findall(path.read_text(encoding="utf-8")), path.relative_to(book)
    assert "url(" not in (book / "_static" / "book.css").read_text(encoding="utf-8")
