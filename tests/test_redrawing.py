"""Figures again from their tables: where the files go, what is refused, and the gallery page."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from actlib import plotting
from actlib.plotting.redrawing import gallery_page

ROOT = Path(__file__).resolve().parents[1]
NAME = "fig07_verdicts"
COMMAND = [sys.executable, str(ROOT / "tools" / "redraw_figures.py")]


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        yield
    plotting.set_theme()
    plt.close("all")


@pytest.fixture
def folder(tmp_path):
    tables = tmp_path / "figures" / "smol"
    tables.mkdir(parents=True)
    kept = ROOT / "figures" / "smol" / f"{NAME}.csv"
    (tables / kept.name).write_bytes(kept.read_bytes())
    return tables


def width(path):
    return matplotlib.image.imread(path).shape[1]


def test_pictures_go_beside_the_tables_which_stay_as_they_are(folder):
    before = (folder / f"{NAME}.csv").read_bytes()
    pictures = plotting.redraw(folder)
    assert [path.name for path in pictures] == [f"{NAME}.pdf", f"{NAME}.png"]
    assert sorted(folder.iterdir()) == sorted([*pictures, folder / f"{NAME}.csv"])
    assert (folder / f"{NAME}.csv").read_bytes() == before


def test_another_venue_and_folder(folder, tmp_path):
    pictures = plotting.redraw(folder, tmp_path / "acl", "acl", "full")
    assert width(pictures[1]) == 1890
    assert (tmp_path / "acl" / f"{NAME}.csv").is_file() and len(list(folder.iterdir())) == 1


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match="no table"):
        plotting.redraw(tmp_path)
    with pytest.raises(ValueError, match="fig02_causal"):
        plotting.redraw(folder, names=["fig02_causal"])
    with pytest.raises(ValueError, match="fig99"):
        plotting.redraw(folder, names=["fig99"])


def test_the_command_draws_for_a_venue_without_torch(folder, tmp_path):
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, COMMAND[1], "--venue", "icml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = Path("artifacts/smol/figures-icml")
    assert str(out) in done.stdout
    assert width(tmp_path / out / f"{NAME}.png") == 975


def test_the_command_says_what_it_cannot_do(tmp_path):
    command = [*COMMAND, "--preset", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: figures/none")


def test_the_gallery_is_the_page_that_the_registry_gives():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert page == gallery_page(), "run tools/redraw_figures.py --gallery docs/gallery.md"


def test_the_gallery_shows_every_figure_by_a_picture_that_exists_and_three_lines_that_run():
    page = gallery_page()
    pictures = re.findall(r"\]\(/(.+?\.png)\)", page)
    assert [Path(picture).stem for picture in pictures] == list(plotting.FIGURES)
    assert all((ROOT / picture).is_file() for picture in pictures)
    first, *blocks = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    assert len(blocks) == len(plotting.FIGURES)
    for block in blocks[:3]:
        assert block.count("\n") == 3
        names = {}
        exec(first + block.replace('"figures/', f'"{ROOT}/figures/'), names)
        assert isinstance(names["table"], pd.DataFrame) and names["fig"].axes


def test_the_page_on_adapting_a_figure_runs(tmp_path, monkeypatch):
    (tmp_path / "figures").symlink_to(ROOT / "figures")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "adapt_a_figure.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.+?)```", page, re.DOTALL):
        exec(block, names)
    made = sorted(path.name for path in (tmp_path / "paper").iterdir())
    assert [name for name in made if name.endswith(".png")]
    assert width(tmp_path / "paper" / "recovery.png") == 909
    assert width(tmp_path / "paper" / "fig03_parameters.png") == 1890
