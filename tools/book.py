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
from pathlib import Path

from sphinx.cmd.build import build_main

import actlib
from actlib.study.presets import load_preset
from actlib.study.trained_cards import trained_card

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("LOG.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md")
CONTENTS = {
    "The study": [
        "docs/how_act_works",
        "docs/findings",
        "docs/findings_tables",
        "docs/failed_replication",
        "docs/first_study",
        "notebooks/*",
    ],
    "Use it": [
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
    ],
    "Background": [
        "models/index",
        "Data card <data/README>",
        "docs/benchmarks",
        "docs/licenses",
    ],
    "The project": ["LOG", "CHANGELOG", "CONTRIBUTING"],
}
"""Chapters of the home page; Sphinx warns of a page that none lists."""
FAMILIES = ("smol", "tiny")
MODELS = """# Model cards

The models that `make study` and `make sweep` build on your machine; none is distributed. Each is a
folder under `artifacts/FAMILY/models` that transformers loads, with its card beside the weights.
Notebook 05 leaves an ability patch under `artifacts/FAMILY/patches`.
"""
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^()\s]+)(\))")
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def main(arguments: list[str]) -> int:
    """Gather and build; the exit status is that of Sphinx, to which a warning is an error."""
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "book")
    output = parser.parse_args(arguments).output
    sources, read = (output.with_name(f"{output.name}-{part}") for part in ("sources", "read"))
    gather(sources)
    options = ["-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d", str(read)]
    status = build_main([*options, str(sources), str(output)])
    if status:  # Sphinx warns of a page once, so all have to be read again
        shutil.rmtree(read, ignore_errors=True)
    else:
        print(f"the book is {output / 'index.html'}")
    return status


def gather(sources: Path) -> None:
    """Bring all pages together in a folder, and take out what is no page any more."""
    copies: set[str] = set()  # files that pages link to
    texts = {path: page(path, copies) for path in pages()} | api_pages() | card_pages()
    texts["README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")  # to quote from
    texts["index.md"] = linked("index.md", copies, "docs/index.md") + contents()
    for path, text in texts.items():
        file = sources / path
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    for path in copies:
        (sources / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, sources / path)  # with its time, by which Sphinx goes
    for file in sources.rglob("*"):
        if file.is_file() and file.relative_to(sources).as_posix() not in {*texts, *copies}:
            file.unlink()


def pages() -> list[str]:
    """Pages that are files of the repository, by their paths in it."""
    files = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")])
    paths = [path.relative_to(ROOT).as_posix() for path in files]
    return [path for path in paths if path != "docs/index.md"] + [*PAGES]


def page(path: str, copies: set[str]) -> str:
    """A Markdown page or a notebook with its links as they hold in the book."""
    if not path.endswith(".ipynb"):
        return linked(path, copies)
    notebook = json.loads((ROOT / path).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = relinked("".join(cell["source"]), path, copies)
            cell["source"] = text.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False)


def linked(path: str, copies: set[str], source: str | None = None) -> str:
    """A Markdown file's text with its links as they hold in the book."""
    text = (ROOT / (source or path)).read_text(encoding="utf-8")
    parts = FENCED.split(text)  # every second part is code
    parts[::2] = [relinked(part, path, copies) for part in parts[::2]]
    return "".join(parts)


def relinked(text: str, path: str, copies: set[str]) -> str:
    """A text with links to files that are no pages led to the page or copy that stands for them."""

    def replaced(match: re.Match) -> str:
        target, hash_mark, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        start = "" if target.startswith("/") else os.path.dirname(path)
        linked_path = os.path.normpath(os.path.join(start, target.lstrip("/")))
        if (ROOT / linked_path).is_dir() and not (ROOT / linked_path / "README.md").is_file():
            return match[1].removesuffix("](").lstrip("![")  # a folder is no page
        book_path = page_of(linked_path, copies)
        return f"{match[1]}/{book_path}{hash_mark}{anchor}{match[3]}"

    return LINK.sub(replaced, text)


def page_of(path: str, copies: set[str]) -> str:
    """Where a path of the repository is found in the book; other files than pages are copied."""
    if (ROOT / path).is_dir():
        path = f"{path}/README.md" if path != "." else "README.md"
    if path in ("README.md", "docs/index.md"):
        return "index.md"
    if path.startswith("actlib/") and path.endswith(".py"):
        return api_path(dotted(ROOT / path))
    if path not in pages() and (ROOT / path).is_file():
        copies.add(path)
    return path


def contents() -> str:
    """Lists of contents of the home page."""
    text = ""
    for title, names in CONTENTS.items():
        listed = "\n".join(names)
        text += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {title}\n\n{listed}\n```\n"
    return text


def dotted(path: Path) -> str:
    """Name of a module by which it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def api_pages() -> dict[str, str]:
    """A page for each module, and one for each package that lists its own."""
    names = [dotted(path) for path in sorted((ROOT / "actlib").rglob("*.py"))]
    submodules = {
        name: [each for each in names if each.rpartition(".")[0] == name] for name in names
    }
    return {api_path(name): _api_page(name, submodules[name]) for name in names}


def api_path(name: str) -> str:
    """Page of a module, or of the package."""
    return "api/index.rst" if name == "actlib" else f"api/{name}.rst"


def _api_page(name: str, submodules: list[str]) -> str:
    title = "The package actlib" if name == "actlib" else name
    options = "   :no-members:\n" if submodules else "   :members:\n"
    page = f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}\n{options}"
    if name == "actlib":
        homes = {public: getattr(actlib, public).__module__ for public in actlib.__all__}
        named = (f"`{public} <{homes[public]}.{public}>`" for public in actlib.__all__)
        page += f"\n{', '.join(named)}.\n\nIts modules:\n"
    if submodules:
        below = "".join(f"   {other.removeprefix(f'{name}.')}\n" for other in submodules)
        listed = "".join(f"   {other}\n" for other in submodules)
        page += f"\n.. autosummary::\n\n{below}\n.. toctree::\n   :hidden:\n\n{listed}"
    return page


def card_pages() -> dict[str, str]:
    """A page for each model that the families make, and one that lists them."""
    cards, rows = {}, []
    for family in FAMILIES:
        preset = load_preset(family)
        for name in preset.models:
            path = f"models/{family}-{name}.md"
            card = trained_card(preset, name).split("---\n", 2)[2]  # without what model hubs read
            cards[path] = card.lstrip()
            rows.append(f"- [{family}: {name}]({family}-{name}.md)")
    listed = "\n".join(path.removeprefix("models/").removesuffix(".md") for path in cards)
    text = f"{MODELS}\n{chr(10).join(rows)}\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    return {"models/index.md": text, **cards}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
