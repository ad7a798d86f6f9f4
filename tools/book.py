"""Build the book: gather its pages in one folder and turn them into a static website.

    python tools/book.py                        # artifacts/book, as `make book` does
    python tools/book.py --output elsewhere

Pages keep the places they have in the repository, so that a link works there and in the book alike;
a link to the code of a module leads to its page, one to any other file to a copy of it. Notebooks
are shown as they were kept and never run. Only what changed is written, so that a second build is
quick.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sphinx.cmd.build import build_main

import actlib
from actlib.study.presets import load_preset
from actlib.study.trained_cards import trained_card

ROOT = Path(__file__).resolve().parents[1]
CONTENTS: dict[str, tuple[str, ...]] = {
    "The study": (
        "docs/how_act_works",
        "docs/findings",
        "docs/failed_replication",
        "docs/first_study",
    ),
    "Use it": (
        "docs/your_own_models",
        "docs/inputs",
        "docs/at_7b",
        "docs/formats",
        "docs/families",
        "docs/attribution",
        "docs/clusters",
        "docs/interruptions",
        "docs/testing",
        "docs/adapt_a_figure",
        "docs/gallery",
        "api/index",
    ),
    "Background": (
        "models/index",
        "data/README",
        "docs/benchmarks",
        "docs/licenses",
    ),
    "The project": ("LOG", "CHANGELOG", "CONTRIBUTING"),
}
TITLES = {"data/README": "Data card"}
PAGES = ("LOG.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md")
FAMILIES = ("smol", "tiny")
MODELS = """# Model cards

The models that `make study` and `make sweep` build on your machine; none is distributed. Each is a
folder under `artifacts/FAMILY/models` that transformers loads, with its card beside the weights.
Notebook 05 leaves an ability patch under `artifacts/FAMILY/patches`.
"""
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^()\s]+)(\))")
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def main(words: list[str]) -> int:
    """Gather and build; the exit status is that of Sphinx, to which a warning is an error."""
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "book")
    parser.add_argument("--sources", type=Path, help="gathered pages (beside the output)")
    parser.add_argument("--jobs", default="1", help="processes that write pages")
    given = parser.parse_args(words)
    sources = given.sources or given.output.with_name(f"{given.output.name}-sources")
    gather(sources)
    shared = ["-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-j", given.jobs]
    read = sources.with_name(f"{sources.name}-read")
    status = build_main([*shared, "-d", str(read), str(sources), str(given.output)])
    if status:  # Sphinx warns of a page once, so all have to be read again
        shutil.rmtree(read, ignore_errors=True)
    else:
        print(f"the book is {given.output / 'index.html'}")
    return status


def gather(sources: Path) -> None:
    """Bring all pages together in a folder, and take out what is no page any more."""
    gathered = Gathered(sources)
    gathered.write("README.md", (ROOT / "README.md").read_text(encoding="utf-8"))  # to quote from
    for page in pages():
        gathered.page(page)
    for path, text in {**api_pages(), **card_pages()}.items():
        gathered.write(path, text)
    home = linked("index.md", gathered, "docs/index.md")
    gathered.write("index.md", home + contents())
    gathered.sweep()


def pages() -> list[str]:
    """Pages that are files of the repository, by their paths in it."""
    own = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
    notebooks = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/*.ipynb"))
    kept = [page for page in PAGES if (ROOT / page).is_file()]
    return [page for page in own if page != "docs/index.md"] + notebooks + kept


class Gathered:
    """The folder of gathered pages: writes what changed and remembers what belongs there."""

    def __init__(self, folder: Path) -> None:
        """Start with nothing gathered; what lies there from before counts as left over."""
        self.folder = folder
        self.known: set[Path] = set()

    def write(self, path: str, text: str) -> None:
        """Write a text if it is not there already, so that Sphinx reads only what changed."""
        place = self._place(path)
        if not place.is_file() or place.read_text(encoding="utf-8") != text:
            place.write_text(text, encoding="utf-8")

    def copy(self, path: str) -> None:
        """Copy a file of the repository with its time."""
        place, source = self._place(path), ROOT / path
        if not place.is_file() or place.stat().st_mtime != source.stat().st_mtime:
            shutil.copy2(source, place)

    def page(self, path: str) -> None:
        """Bring a Markdown page or a notebook with its links as they hold in the book."""
        if not path.endswith(".ipynb"):
            self.write(path, linked(path, self))
            return
        notebook = json.loads((ROOT / path).read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                text = relinked("".join(cell["source"]), path, self)
                cell["source"] = text.splitlines(keepends=True)
        self.write(path, json.dumps(notebook, indent=1, ensure_ascii=False))

    def sweep(self) -> None:
        """Remove files of an earlier build that belong to this one no more."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path not in self.known:
                path.unlink()

    def _place(self, path: str) -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        self.known.add(place)
        return place


def linked(path: str, gathered: Gathered, source: str | None = None) -> str:
    """A Markdown file's text with its links as they hold in the book."""
    text = (ROOT / (source or path)).read_text(encoding="utf-8")
    parts = FENCED.split(text)  # every second part is code
    parts[::2] = [relinked(part, path, gathered) for part in parts[::2]]
    return "".join(parts)


def relinked(text: str, path: str, gathered: Gathered) -> str:
    """A text with links to files that are no pages led to the page or copy that stands for them."""

    def replaced(match: re.Match) -> str:
        target, hash_mark, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        start = "" if target.startswith("/") else os.path.dirname(path)
        place = os.path.normpath(os.path.join(start, target.lstrip("/")))
        if (ROOT / place).is_dir() and not (ROOT / place / "README.md").is_file():
            return match[1].removesuffix("](").lstrip("![")  # a folder is no page
        found = page_of(place, gathered)
        return f"{match[1]}/{found}{hash_mark}{anchor}{match[3]}"

    return LINK.sub(replaced, text)


def page_of(place: str, gathered: Gathered) -> str:
    """Where a path of the repository is found in the book; other files than pages are copied."""
    if (ROOT / place).is_dir():
        place = f"{place}/README.md" if place != "." else "README.md"
    if place in ("README.md", "docs/index.md"):
        return "index.md"
    if place.startswith("actlib/") and place.endswith(".py"):
        return api_path(dotted(ROOT / place))
    if place not in pages() and (ROOT / place).is_file():
        gathered.copy(place)
    return place


def contents() -> str:
    """Lists of contents of the home page: what is there of CONTENTS, and pages not named in it."""
    there = [re.sub(r"\.\w+$", "", page) for page in pages()]
    named = {name for names in CONTENTS.values() for name in names}
    chapters = {title: list(names) for title, names in CONTENTS.items()}
    chapters["The study"] += [name for name in there if name.startswith("notebooks/")]
    chapters["Use it"] += [name for name in there if name.startswith("docs/") and name not in named]
    text = ""
    for title, names in chapters.items():
        known = [name for name in names if name in {*there, "api/index", "models/index"}]
        listed = "\n".join(f"{TITLES[n]} <{n}>" if n in TITLES else n for n in known)
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n"
    return text


def modules() -> Iterator[Path]:
    """Public modules of the package, in the order of their names."""
    for path in sorted((ROOT / "actlib").rglob("*.py")):
        if not path.stem.startswith("_") or path.stem in ("__init__", "__main__"):
            yield path


def dotted(path: Path) -> str:
    """Name of a module by which it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def api_pages() -> dict[str, str]:
    """A page for each module, and one for each package that lists its own."""
    names = [dotted(path) for path in modules()]
    packages = [dotted(path) for path in modules() if path.stem == "__init__"]
    made = {}
    for name in names:
        own = [other for other in names if other.rpartition(".")[0] == name]
        made[api_path(name)] = _api_page(name, own if name in packages else [])
    return made


def api_path(name: str) -> str:
    """Page of a module, or of the package."""
    return "api/index.rst" if name == "actlib" else f"api/{name}.rst"


def _api_page(name: str, own: list[str]) -> str:
    title = "The package actlib" if name == "actlib" else name
    options = "   :no-members:\n" if own else "   :members:\n"
    page = f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}\n{options}"
    if name == "actlib":
        homes = {public: getattr(actlib, public).__module__ for public in actlib.__all__}
        named = (f"`{public} <{homes[public]}.{public}>`" for public in actlib.__all__)
        page += f"\n{', '.join(named)}.\n\nIts modules:\n"
    if own:
        below = "".join(f"   {other.removeprefix(f'{name}.')}\n" for other in own)
        listed = "".join(f"   {other}\n" for other in own)
        page += f"\n.. autosummary::\n\n{below}\n.. toctree::\n   :hidden:\n\n{listed}"
    return page


def card_pages() -> dict[str, str]:
    """A page for each model that the families make, and one that lists them."""
    made, rows = {}, []
    for family in FAMILIES:
        preset = load_preset(family)
        for name in preset.models:
            path = f"models/{family}-{name}.md"
            made[path] = without_front_matter(trained_card(preset, name))
            rows.append(f"- [{family}: {name}]({family}-{name}.md)")
    listed = "\n".join(path.removeprefix("models/").removesuffix(".md") for path in made)
    text = f"{MODELS}\n{chr(10).join(rows)}\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    return {"models/index.md": text, **made}


def without_front_matter(card: str) -> str:
    """A card's page, without the metadata that model hubs read."""
    return card.split("---\n", 2)[2].lstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
