"""Build the book: gather its pages in one folder and turn them into a static website.

    python tools/book.py                        # artifacts/book, as `make book` does
    python tools/book.py --output elsewhere

Pages keep the places they have in the repository, so that a link works there and in the book alike.
Notebooks are shown as they were kept and never run. Pages that did not change are not read again.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path
from pkgutil import walk_packages

from sphinx.cmd.build import build_main

import actlib

ROOT = Path(__file__).resolve().parents[1]
GATHERED = ("docs", "notebooks", "LOG.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff")
GATHERED += ("data", "figures", "configs", "actlib")
"""Pages, and what they link to or show."""


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
    """Bring all pages together in a folder, with what they link to."""
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "items")
    for name in GATHERED:  # with their times, by which Sphinx goes
        copy = partial(shutil.copytree, ignore=ignored) if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, sources / name)
    shutil.copy2(ROOT / "docs" / "index.md", sources / "index.md")
    modules = ["actlib", *(each.name for each in walk_packages(actlib.__path__, "actlib."))]
    (sources / "api").mkdir()
    for name in modules:
        (sources / "api" / f"{name}.rst").write_text(api_page(name, modules), encoding="utf-8")


def api_page(name: str, modules: list[str]) -> str:
    """The page of a module; of the package, the names that it exports as well."""
    below = [each.removeprefix(f"{name}.") for each in modules if each.rpartition(".")[0] == name]
    options = "   :no-members:\n" if below else "   :members:\n"
    page = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n{options}"
    if name == "actlib":
        homes = {public: getattr(actlib, public).__module__ for public in actlib.__all__}
        links = (f"`{public} <{home}.{public}>`" for public, home in homes.items())
        page += f"\n{', '.join(links)}.\n"
    if below:
        listed = "".join(f"   {each}\n" for each in below)
        page += f"\n.. autosummary::\n   :toctree:\n\n{listed}"
    return page


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
