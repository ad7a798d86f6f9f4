"""Redraw the figures of a preset from the CSVs beside them, or write the gallery page. No torch.

python tools/redraw_figures.py --preset tiny              # into artifacts/figures/neurips
python tools/redraw_figures.py --venue acl                # into artifacts/figures/acl
python tools/redraw_figures.py fig03_sufficiency --venue acl --width column --out paper
python tools/redraw_figures.py --gallery docs/gallery.md  # the page only
"""

import argparse
import sys
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from actlib.analysis.drawing import read_captions, redraw_figures
from actlib.analysis.style import METHODS, WIDTHS

HEAD = """\
# Gallery

Every figure of the study, from the tiny family, with the line that draws it again for a paper. Each
needs its table (`NAME.csv`) and its call (`NAME.json`) and nothing else: no model, no torch. This
page is written by `tools/redraw_figures.py --gallery`. To change a figure, see
[Adapt a figure](adapt_a_figure.md).

All of them begin with

```python
from actlib.analysis.drawing import redraw_figures
```
"""

METHODS_HEAD = """\
## Where methods come from

Other methods are ours, controls or baselines. A method keeps its color and marker in all figures.

| Method | Key in tables | Source |
| --- | --- | --- |"""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what it asks; 1 with a sentence where it cannot be done."""
    options = _parser().parse_args(arguments)
    if options.gallery:
        options.gallery.write_text(gallery_page(), encoding="utf-8")
        return 0
    folder = Path("figures") / options.preset
    own = options.venue + (f"-{options.width}" if options.width else "")
    out = options.out or Path("artifacts/figures") / own
    try:
        paths = redraw_figures(folder, out, options.venue, options.width, options.names)
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"{sum(path.suffix == '.pdf' for path in paths)} figures in {out}")
    return 0


def gallery_page(folder: str = "figures/tiny") -> str:
    """The gallery as MyST Markdown: each figure with its caption and the line that draws it again.

    Args:
        folder: of the figures, from the root of the repository.
    """
    parts = [HEAD]
    for name, caption in sorted(captions().items()):
        title = name.removeprefix("fig").replace("_", " ")
        parts.append(
            f"## {title[:2]}: {title[3:]}\n\n"
            f"![{title[3:].capitalize()}](/{folder}/{name}.png)\n\n"
            f"{textwrap.fill(caption, 100, break_on_hyphens=False)}\n\n"
            f'```python\nredraw_figures("{folder}", "paper", "icml", names=["{name}"])\n```\n'
        )
    parts.append(METHODS_HEAD)
    for key, look in METHODS.items():
        if look.source:
            link = f"https://arxiv.org/abs/{look.source.removeprefix('arXiv ')}"
            parts.append(f"| {look.label} | `{key}` | [{look.source}]({link}) |")
    return "\n".join(parts) + "\n"


def captions() -> dict[str, str]:
    """Caption of every figure, which is in its notebook below the cell that saves it."""
    notebooks = sorted(Path("notebooks").glob("*.ipynb"))
    return {name: text for path in notebooks for name, text in read_captions(path).items()}


def _parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("names", nargs="*", help="figures, such as fig03_sufficiency; all if none")
    parser.add_argument("--preset", default="tiny", help="whose tables: a folder of figures/")
    parser.add_argument("--venue", default="neurips", choices=WIDTHS)
    parser.add_argument("--width", choices=["column", "full"], help="for all; each its own if none")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    parser.add_argument("--gallery", type=Path, help="write the gallery page there, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
