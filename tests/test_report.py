"""The report holds this run's answers, figures and tables, and says what is not there."""

import json
from pathlib import Path

import pandas as pd
import pytest

from actlib.study import report
from actlib.study.presets import load_preset
from actlib.study.runs import DONE, FAILED, NOT_REACHED, Run


def notebook(path: Path, answer: str) -> None:
    """An executed notebook of one figure, whose title still tells the project's own answer."""

    def code(source, *outputs):
        return {"cell_type": "code", "source": [source], "outputs": list(outputs)}

    def told(text):
        return {"output_type": "display_data", "data": {"text/markdown": [text]}}

    cells = [
        {"cell_type": "markdown", "source": ["# 01 · Concentration\n", "\n", "**Answer** 99 %."]},
        code('save_figure(fig, makeup, "fig01_makeup", study.figures);'),
        {"cell_type": "markdown", "source": ["A view of the same:"]},
        code("by_kind", {"output_type": "execute_result", "data": {"text/plain": "a table"}}),
        {"cell_type": "markdown", "source": ["*Figure 01. Of the masks.*\n\nMore words."]},
        code("display()", told(f"**In one line.** {answer}\n\n- more")),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")


@pytest.fixture
def run(small_preset, tmp_path):
    names = ["01_concentration", "03_sufficiency", "05_transfer"]
    store = tmp_path / "a store"
    preset = load_preset(small_preset)
    made = Run(preset, small_preset, names, {}, store / "small/figures", store)
    notebook(made.executed(names[0]), "The top holds 12 %.")
    notebook(made.executed("04_stability"), "Halves agree.")
    made.figures.mkdir()
    (made.figures / "fig01_makeup.png").touch()
    (made.figures / "fig03_other.png").touch()
    table = pd.DataFrame({"n": range(30), "score": 1 / 3, "note": "a|b"})
    table.to_csv(made.figures / "tab01_long.csv", index=False)
    table.iloc[1:2].to_csv(made.figures / "tab01_short.csv", index=False)
    return made


@pytest.fixture
def text(run):
    states = dict(zip(run.notebooks, (DONE, FAILED, NOT_REACHED), strict=True))
    return report.write_report(run, states, 90).read_text(encoding="utf-8")


def test_answers_are_of_this_run(text):
    assert "01 · Concentration](<notebooks/01_concentration.ipynb>): The top holds 12 %." in text
    assert "99 %" not in text


def test_what_an_earlier_run_left_is_told_and_marked(text):
    assert "(<notebooks/04_stability.ipynb>) (of an earlier run): Halves agree." in text
    assert "(<notebooks/01_concentration.ipynb>) (of" not in text


def test_what_was_not_made_is_said_with_its_log(run, text):
    assert f"03_sufficiency: **failed**; log: `{run.log('03_sufficiency')}`" in text
    assert "05_transfer: **not reached**" in text
    assert run.preset.left_out == {}


def test_figures_come_with_their_captions_and_long_tables_as_links(run, text):
    assert "![fig01_makeup](<figures/fig01_makeup.png>)\n\n*Figure 01. Of the masks.*\n" in text
    assert "fig03_other" not in text  # its notebook did not run
    assert "(<figures/tab01_long.csv>)** 30 rows" in text and "| 11 |" not in text
    assert "| 1 | 0.333 | a\\|b |" in text  # the short one
    for link in ("figures/fig01_makeup.png", "figures/tab01_long.csv"):
        assert (run.folder / link).is_file()


def test_it_tells_versions_and_the_whole_preset(text):
    assert "torch 2" in text and "1.5 min" in text
    assert "recording_items: 12" in text and "top" in text


def forgotten(run, **lows):
    """The table of notebook 00, with the low end of each ability's interval."""
    rows = [
        {
            "cell": cell,
            "measure": measure,
            "target_minus_donor": low + 0.5,
            "low": low,
            "high": low + 1,
        }
        for cell, low in lows.items()
        for measure in ("nll", "exact")
    ]
    pd.DataFrame(rows).to_csv(run.figures / "tab00_forgotten.csv", index=False)


def test_it_says_first_what_the_target_lost_and_kept(run):
    lost, retained = run.preset.lost, run.preset.retained
    assert "since notebook 00 was not run" in report.write_report(run, {}, 1).read_text()
    forgotten(run, **dict.fromkeys(lost, 1.0), **dict.fromkeys(retained, -0.5))
    told = report.write_report(run, {}, 1).read_text()
    assert f"lost {lost[0]} 1.50 [1.00, 2.00]" in told and "Warning" not in told
    forgotten(run, **dict.fromkeys(lost, -0.5), **dict.fromkeys(retained, 1.0))
    told = report.write_report(run, {}, 1).read_text()
    assert f"no clear gap on {', '.join(lost)}" in told
    assert f"worse on {', '.join(retained)} too" in told


def test_a_notebook_without_an_answer_has_none(tmp_path):
    path = tmp_path / "plain.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": [], "outputs": []}]}))
    assert report.answer(path) == "" and report.title(path) == "plain"
    assert report.captions(path) == {}


def test_gaps_in_a_table_are_dashes():
    table = pd.DataFrame({"a": [1.5, None], "b": ["x", None]})
    assert report.markdown_table(table).splitlines()[-1] == "| – | – |"


def judged(run, items, exact):
    """The table of notebook 00 of what each model knows."""
    rows = [
        {"model": model, "cell": cell, "measure": measure, "mean": mean, "items": items}
        for model in (run.preset.roles.donor, run.preset.roles.target)
        for cell in run.preset.lost
        for measure, mean in (("nll", 3.0), ("exact", exact))
    ]
    pd.DataFrame(rows).to_csv(run.figures / "tab00_accuracies.csv", index=False)


def test_it_warns_of_a_donor_that_solves_nothing_and_of_few_items(run):
    lost = ", ".join(run.preset.lost)
    forgotten(run, **dict.fromkeys(run.preset.lost, 1.0))
    judged(run, items=40, exact=0.5)
    assert "Warning" not in report.write_report(run, {}, 1).read_text()
    judged(run, items=40, exact=0.0)
    told = report.write_report(run, {}, 1).read_text()
    assert f"the donor itself solves no test item of {lost}" in told and "only" not in told
    judged(run, items=6, exact=0.5)
    told = report.write_report(run, {}, 1).read_text()
    assert f"only 6 test items of {lost}" in told and "solves" not in told
