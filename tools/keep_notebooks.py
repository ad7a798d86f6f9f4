"""Copy the executed notebooks of a run to `notebooks/`, where readers see them.

Code, text and outputs come along; what only describes the run (times, paths, widget states) does
not, so that keeping the same results again changes little. Pictures are kept in 128 colors, a third
of the size, so that a notebook opens on a slow line; the files in `figures/` have them all.

    python tools/keep_notebooks.py artifacts/smol/notebooks
"""

import base64
import io
import json
import re
import sys
from pathlib import Path

from PIL import Image

from actlib.files import write_text

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
OF_WHAT = "(Of the project's own run, copied from its last cell.)"


def cleaned(notebook: dict) -> dict:
    """The notebook with nothing but tags in its cells' metadata, and its kernel in its own."""
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
        if "outputs" in cell:
            outputs = map(unwaited, map(still, cell["outputs"]))
            cell["outputs"] = [out for out in outputs if out]
            for out in cell["outputs"]:
                if "image/png" in out.get("data", {}):
                    out["data"]["image/png"] = smaller(out["data"]["image/png"])
    kept = ("kernelspec", "language_info")
    notebook["metadata"] = {name: notebook["metadata"][name] for name in kept}
    return notebook


def unwaited(output: dict | None) -> dict | None:
    """The output without lines that tell of waiting for another process; None if that was all."""
    if output is None or output.get("name") != "stderr":
        return output
    lines = "".join(output["text"]).splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("waiting for ")]
    return output | {"text": kept} if kept else None


def still(output: dict) -> dict | None:
    """The output, or None for a widget, which needs a kernel: no finished progress bar stays."""
    return None if WIDGET in output.get("data", {}) else output


def smaller(picture: str | list[str]) -> str:
    """A PNG, in base64, of at most 128 colors."""
    image = Image.open(io.BytesIO(base64.b64decode("".join(picture)))).convert("RGB")
    held = io.BytesIO()
    image.quantize(colors=128, dither=Image.Dither.NONE).save(held, "png", optimize=True)
    return base64.b64encode(held.getvalue()).decode()


def with_answer(notebook: dict) -> dict:
    """The notebook with the headline that its last cells computed copied to its first cell."""
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    texts = ["".join(out.get("data", {}).get("text/markdown", "")) for out in outputs]
    found = [re.search(r"\*\*In one line\.\*\* (.+)", text) for text in texts]
    headline = next(match[1] for match in reversed(found) if match)
    first = notebook["cells"][0]
    text = re.sub(
        r"\*\*Answer in one line\..*",
        lambda _: f"**Answer in one line.** {headline} {OF_WHAT}",
        "".join(first["source"]),
    )
    first["source"] = text.splitlines(keepends=True)
    return notebook


def main(folder: str) -> None:
    """Copy every notebook of a folder of executed ones."""
    executed = sorted(Path(folder).glob("*.ipynb"))
    if not executed:
        sys.exit(f"error: no executed notebook in {folder}; run `make study` first")
    for path in executed:
        notebook = with_answer(cleaned(json.loads(path.read_text(encoding="utf-8"))))
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
        write_text(NOTEBOOKS / path.name, text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
