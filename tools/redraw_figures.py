"""Redraw the figures of a preset from the CSVs beside them, or write the gallery page. No torch.

    python tools/redraw_figures.py                            # figures/smol, in place
    python tools/redraw_figures.py --venue acl                # into artifacts/smol/figures-acl
    python tools/redraw_figures.py fig03_sufficiency --venue acl --width column --out paper
    python tools/redraw_figures.py --gallery docs/gallery.md  # the page only
    python tools/redraw_figures.py --check docs/gallery.md    # fails if that page is not it

The kept figures are drawn for NeurIPS at their own widths; others go to a folder of their own.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from actlib.files import write_text
from actlib.plotting import WIDTHS, redraw
from actlib.plotting.redrawing import gallery_page


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what it asks; 1 with a sentence where it cannot be done."""
    options = _parser().parse_args(arguments)
    if options.gallery:
        write_text(options.gallery, gallery_page())
        return 0
    if options.check:
        if options.check.read_text(encoding="utf-8") == gallery_page():
            return 0
        print(f"error: {options.check} is not the page; write it by --gallery", file=sys.stderr)
        return 1
    kept = options.venue == "neurips" and options.width is None
    folder = Path("figures") / options.preset
    own = f"figures-{options.venue}" + (f"-{options.width}" if options.width else "")
    out = options.out or (folder if kept else Path("artifacts") / options.preset / own)
    try:
        pictures = redraw(folder, out, options.venue, options.width, options.names)
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"{len(pictures) // 2} figures in {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("names", nargs="*", help="figures, such as fig03_sufficiency; all if none")
    parser.add_argument("--preset", default="smol", help="whose tables: a folder of figures/")
    parser.add_argument("--venue", default="neurips", choices=WIDTHS)
    parser.add_argument("--width", choices=["column", "full"], help="for all; each its own if none")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    parser.add_argument("--gallery", type=Path, help="write the gallery page there, and stop")
    parser.add_argument("--check", type=Path, help="compare that page with the gallery, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
