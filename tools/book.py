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
from actlib.study.presets import load_preset
from actlib.study.trained_cards import trained_card

ROOT = Path(__file__).resolve().parents[1]
GATHERED = ("docs", "notebooks", "LOG.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff")
GATHERED += ("data", "figures", "configs", "actlib")
"""Pages, and what they link to or show."""
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
        "docs/merging",
        "docs/at_7b",
        "docs/formats",
        "docs/families",
        "docs/attribution",
        "docs/clusters",
        "docs/interruptions",
        "docs/testing",
        "docs/adapt_a_figure",
        "docs/gallery",
        "api/actlib",
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
CHAPTER = "\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {}\n\n{}\n```\n"
FAMILIES = ("smol", "tiny")
MODELS = """# Model cards

The models that `make study` and `make sweep` build on your machine; none is distributed. Each is a
folder under `artifacts/FAMILY/models` that transformers loads, with its card beside the weights.
Notebook 05 leaves an ability patch under `artifacts/FAMILY/patches`.

```{toctree}
:glob:

*
```
"""


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
    home = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    home += "".join(CHAPTER.format(title, "\n".join(names)) for title, names in CONTENTS.items())
    modules = ["actlib", *(each.name for each in walk_packages(actlib.__path__, "actlib."))]
    pages = {f"api/{name}.rst": api_page(name, modules) for name in modules}
    for path, text in ({"index.md": home} | pages | card_pages()).items():
        (sources / path).parent.mkdir(exist_ok=True)
        (sources / path).write_text(text, encoding="utf-8")


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


def card_pages() -> dict[str, str]:
    """A page for each model that the families make, and one that lists them."""
    cards = {"models/index.md": MODELS}
    for family in FAMILIES:
        preset = load_preset(family)
        for name in preset.models:
            card = trained_card(preset, name).split("---\n", 2)[2]  # without what model hubs read
            cards[f"models/{family}-{name}.md"] = card.lstrip()
    return cards


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
