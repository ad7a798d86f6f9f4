"""The book builds without a warning, holds every page, has no broken link, asks no other host."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

pytest.importorskip("myst_nb", reason="the book's own packages are not installed")

ROOT = Path(__file__).resolve().parents[1]
LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
LOADING |= {"audio": "src", "video": "src", "embed": "src", "object": "data"}


@pytest.fixture(scope="session")
def book(tmp_path_factory):
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


class Page(HTMLParser):
    """What a page names: its anchors, its links, and what a browser loads with it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded = {""}, [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(LOADING.get(tag)):
            self.loaded.append(given[LOADING[tag]])


@pytest.fixture(scope="session")
def pages(book):
    """Every page of the book, by its path."""
    return {
        path.resolve(): Page(path) for path in book.rglob("*.html") if "_static" not in path.parts
    }


def _named(page, link, book):
    """File and anchor that a link of a page names; None for another site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    place = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    assert place.is_relative_to(book), f"{page.name} leads out of the book: {link}"
    return place, unquote(parts.fragment)


def test_every_link_and_anchor_within_the_book_is_there(book, pages):
    broken, followed = [], 0
    for path, page in pages.items():
        for link in page.links + page.loaded:
            found = _named(path, link, book)
            if found is None or link.startswith("data:"):
                continue
            place, anchor = found
            followed += 1
            there = place.is_file() and (place not in pages or anchor in pages[place].anchors)
            if not there:
                broken.append(f"{path.relative_to(book)}: {link}")
    assert followed > 1000
    assert not broken


def test_nothing_is_loaded_from_another_host(book, pages):
    for path, page in pages.items():
        outside = [link for link in page.loaded if urlsplit(link).netloc]
        assert not outside, path.relative_to(book)
    for style in (book / "_static").rglob("book.css"):
        assert "url(" not in style.read_text(encoding="utf-8")


def test_every_notebook_module_and_card_has_its_page_and_can_be_searched(book):
    expected = [f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")]
    for path in (ROOT / "actlib").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not path.stem.startswith("_") or path.stem in ("__init__", "__main__"):
            expected.append("api/index" if name == "actlib" else f"api/{name}")
    expected += [f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")]
    expected.remove("docs/index")
    expected += ["index", "LOG", "CHANGELOG", "CONTRIBUTING", "data/README"]
    expected += ["models/smol-forgetful", "models/tiny-multilingual"]
    index = (book / "searchindex.js").read_text(encoding="utf-8")
    for page in expected:
        assert (book / f"{page}.html").is_file(), page
        assert f'"{page}"' in index, page


def test_the_package_pages_tell_shapes_and_errors(book):
    text = (book / "api" / "actlib.analysis.frontier.html").read_text(encoding="utf-8")
    assert "jaxtyping" not in text and "Float" in text and "trials" in text
    assert "ValueError" in text
