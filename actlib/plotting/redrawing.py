"""The study's figures again, from the CSVs beside them: for another venue, or in a new style.

    redraw("figures/smol", "figures-acl", venue="acl")

`make figures` calls this; `gallery_page` writes the page of the book that shows them all. No torch.
"""

import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from actlib.files import atomic_file
from actlib.plotting.registry import FIGURES, draw
from actlib.plotting.style import save_pictures


def redraw(
    folder: str | Path,
    out: str | Path | None = None,
    venue: str = "neurips",
    width: str | None = None,
    names: Iterable[str] = (),
) -> list[Path]:
    """Draw every figure whose table is in a folder, as PDF and PNG.

    Args:
        folder: Where the tables NAME.csv are, such as figures/smol.
        out: Where the pictures go, with copies of the tables; beside the tables if None.
        venue: A venue of `WIDTHS`.
        width: "column" or "full" for all; what suits each figure if None.
        names: Which of `FIGURES`; all whose table is there if empty.

    Returns:
        The pictures, two a figure.

    Raises:
        ValueError: a name is unknown, a table named is missing, or the folder holds none.
    """
    folder, out = Path(folder), Path(out or folder)
    names = list(names)
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise ValueError(f"no figure is called {unknown[0]!r}; choose one of {', '.join(FIGURES)}.")
    names = names or [name for name in FIGURES if (folder / f"{name}.csv").is_file()]
    if not names:
        raise ValueError(f"{folder} holds no table of a figure; make study leaves them there.")
    pictures = []
    for name in names:
        source = folder / f"{name}.csv"
        if not source.is_file():
            raise ValueError(f"{source} is missing; the notebook of {name} leaves it there.")
        fig = draw(name, pd.read_csv(source), venue, width)
        pictures += save_pictures(fig, name, out)
        plt.close(fig)
        if out.resolve() != folder.resolve():
            with atomic_file(out / source.name) as unfinished:
                shutil.copyfile(source, unfinished)
    return pictures


_HEAD = """\
# Gallery

Every figure of the study, from the smol family, with the lines that draw it. Each needs the table
beside it and nothing else: no model, no torch. This page is written by
`tools/redraw_figures.py --gallery`. To change a figure for a paper of your own, see
[Adapt a figure](adapt_a_figure.md).

All of them begin with

```python
import pandas as pd
from actlib import plotting
```
"""


def gallery_page(folder: str = "figures/smol") -> str:
    """The gallery as MyST Markdown: each figure with its caption and the three lines that make it.

    Args:
        folder: Of the tables and pictures, from the root of the repository.
    """
    parts = [_HEAD]
    for name, made in FIGURES.items():
        title = name.removeprefix("fig").replace("_", " ")
        parts.append(
            f"## {title[:2]}: {title[3:]}\n\n"
            f"![{title[3:].capitalize()}](/{folder}/{name}.png)\n\n"
            f"{textwrap.fill(made.caption, 100, break_on_hyphens=False)}\n\n"
            "```python\n"
            f'table = pd.read_csv("{folder}/{name}.csv")\n'
            'plotting.set_theme("neurips")\n'
            f'fig = plotting.draw("{name}", table)\n'
            "```\n"
        )
    return "\n".join(parts)
