"""A run is refused before it costs anything, and says of each notebook whether it was made."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from small_study import write_pair, write_preset, write_questions

from actlib.cli import main
from actlib.study import runs
from actlib.study.presets import ROOT, load_preset
from actlib.study.report import is_trained, write_report
from actlib.study.runs import DONE, EARLIER, FAILED, NOT_REACHED, execute, plan


@pytest.fixture
def own(tmp_path, small_preset, monkeypatch):
    """`own(count, **changes)`: a pair of tiny models with that many questions, in ten lines."""
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))
    write_pair(tmp_path, "llama", small_preset)

    def make(count=60, answer="It is {}.", **changes):
        write_questions(tmp_path, "de-maths", "en-maths", count=count, answer=answer)
        raw = {"donor": "donor", "target": "target", "questions": "questions.jsonl"}
        raw |= {"lost": "de-maths", "retained": "en-maths"} | changes
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        return str(tmp_path / "mine.yaml")

    return make


@pytest.fixture
def snakemake(monkeypatch):
    """`snakemake(status, *words)`: what runs in Snakemake's place says, and its exit status."""

    start = runs.subprocess.Popen

    def pretend(status, *words):
        said = "".join(f"{line}\n" for line in words)
        code = f"import sys; print({said!r}, end=''); sys.exit({status})"

        def popen(command, **settings):
            pretend.command, pretend.environment = command, settings["env"]
            return start([sys.executable, "-c", code], **settings)

        monkeypatch.setattr(runs.subprocess, "Popen", popen)

    return pretend


def test_a_pair_of_ones_own_runs_what_applies(own, tmp_path, monkeypatch):
    path = own()
    monkeypatch.chdir(tmp_path)
    run = plan("mine.yaml")
    assert [name[:2] for name in run.notebooks] == ["00", "01", "02", "03", "04", "05", "08"]
    assert run.choice == path  # absolute, since the notebooks run elsewhere
    assert run.folder == tmp_path / "store" / "mine" / "study"
    assert run.questions["de-maths"]["test"] > 0
    assert list(run.left_out) == ["06", "07"] and plan("mine.yaml", "00-03").left_out == {}
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ("9", "expected numbers of 00, 01"),
        ("05-01", "expected numbers of 00"),
        ("1-", "like 01-05"),
        ("06-07", "nothing to run; left out are 06: merging needs a base"),
    ],
)
def test_numbers_that_name_no_notebook_are_refused(own, numbers, named):
    with pytest.raises(ValueError, match=named):
        plan(own(), numbers)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"count": 9}, "too few questions of de-maths.* for recording"),
        (
            {"answer": "so " * 99, "evaluation": {"max_tokens": 50}},
            "too few questions of de-maths: .*0 for recording",
        ),
        ({"lost": "fr-maths"}, "no question is of fr-maths; there are de-maths, en-maths"),
        ({"target": "models/absent"}, "target: .*no such folder here.*from the YAML's folder"),
        ({"target": "smaller"}, "do not fit"),
        (
            {"study": {"parameters": {"03": {"percent": 5}}}},
            "notebook 03 has no .* percent; it has",
        ),
        ({"study": {"parameters": {"09": {"percent": 5}}}}, "notebook 09 has no"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(own, tmp_path, family, change, named):
    if change.get("target") == "smaller":
        family("llama").save_pretrained(tmp_path / "smaller")
    with pytest.raises(ValueError, match=named) as refusal:
        plan(own(**change))
    assert "\n" not in str(refusal.value)


def test_the_parameters_of_shipped_presets_are_the_notebooks():
    for name in ("tiny", "smol"):
        runs._require_parameters(load_preset(name))


def test_without_a_clone_it_is_said(own, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="needs a clone of the project"):
        plan(own())


def test_a_question_in_two_splits_is_refused(small_preset, tmp_path):
    data = Path(load_preset(small_preset).data.path)
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    row = json.loads((copied / "train" / "en.jsonl").read_text(encoding="utf-8").splitlines()[0])
    double = {**row, "split": "test", "question": f"{row['question']}\r\n "}
    lines = (copied / "test" / "en.jsonl").read_text(encoding="utf-8")
    text = json.dumps(double) + "\n" + lines
    (copied / "test" / "en.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="serves recording and test; keep it in one split"):
        plan(write_preset(tmp_path / "other.yaml", copied))


def test_two_presets_of_one_name_do_not_share_a_folder(own, tmp_path, snakemake):
    first = plan(own(), "01")
    snakemake(0)
    execute(first, 1)
    assert plan(first.choice, "01") == first
    assert first.folder.with_name("preset.txt").read_text() == first.choice
    (tmp_path / "other").mkdir()
    raw = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    raw |= {key: str(tmp_path / raw[key]) for key in ("donor", "target", "questions")}
    (tmp_path / "other" / "mine.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=r"mine holds what .*mine\.yaml left: give one another"):
        plan(str(tmp_path / "other" / "mine.yaml"), "01")


def test_states_and_progress_come_from_what_snakemake_says(own, snakemake):
    run = plan(own(), "01-04")
    first, second, third, fourth = run.notebooks
    for name, when in ((first, 4e9), (third, 0)):
        run.executed(name).parent.mkdir(parents=True, exist_ok=True)
        run.executed(name).touch()
        os.utime(run.executed(name), (when, when))
    run.log(second).parent.mkdir()
    run.log(second).write_text("Traceback\n\x1b[31mValueError\x1b[0m: the mask is empty\n\n")
    log = f"    log: {run.log(second)} (check log file(s) for error details)"
    snakemake(1, f"Job 3: Notebook {first}", "1 of 4 steps (25%) done", "Using shell", log)
    progress = io.StringIO()
    states = execute(run, 1, progress=progress)
    assert states == {first: DONE, second: FAILED, third: EARLIER, fourth: NOT_REACHED}
    assert progress.getvalue() == f"Notebook {first}\n1 of 4 steps (25%) done\n"
    assert "Using shell" in run.log("snakemake").read_text()
    why = f" (ValueError: the mask is empty); its log: {run.log(second)}"
    assert runs.failures(run) == {second: why}
    run.executed(second).touch()  # at a second try
    assert second not in runs.failures(run)


def test_without_its_models_no_notebook_is_reached(own, snakemake):
    run = plan(own(), "01")
    snakemake(1, "    log: /store/logs/scores-seed0.log (check log file(s) for error details)")
    assert set(execute(run, 1, progress=io.StringIO()).values()) == {NOT_REACHED}
    assert list(runs.failures(run)) == ["scores-seed0"]
    executed_notebook(run.executed("01_concentration"))
    os.utime(run.executed("01_concentration"), (0, 0))
    states = execute(run, 1, progress=io.StringIO())
    text = write_report(run, states, 1).read_text(encoding="utf-8")
    assert "(of an earlier run): " in text and "- scores-seed0: **failed** (no word)" in text
    snakemake(1, "error: no such profile")
    execute(run, 1, progress=io.StringIO())
    assert runs.failures(run)["snakemake"].startswith(" (error: no such profile); its log: ")


def test_a_profile_comes_in_place_of_cores_and_of_the_default(own, snakemake):
    run = plan(own(), "01")
    snakemake(0)
    folder = ROOT / "profiles" / "slurm"
    execute(run, None, folder)
    words = snakemake.command
    assert words[words.index("--workflow-profile") + 1] == str(folder) and "--cores" not in words
    execute(run, 3)
    words = snakemake.command
    assert words[words.index("--cores") + 1] == "3" and "--workflow-profile" not in words
    assert words[-2:] == ["--config", f"preset={run.choice}"]
    assert snakemake.environment["ACT_STORE"] == str(run.store)


def test_the_command_ends_with_status_3_and_one_sentence(own, snakemake, capsys, tmp_path):
    path = own()
    log = plan(path).log("01_concentration")
    snakemake(1, f"    log: {log} (check log file(s) for error details)")
    assert main(["run", path, "--notebooks", "01"]) == 3
    captured = capsys.readouterr()
    assert captured.err == f"error: 01_concentration failed (no word); its log: {log}\n"
    assert captured.out.splitlines()[-1] == f"report: {tmp_path / 'store/mine/study/report.md'}"
    assert main(["run", path, "--notebooks", "01", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["notebooks"]["01_concentration"]["state"] == FAILED


def executed_notebook(path: Path) -> None:
    """An executed notebook of one figure, whose title tells the project's own answer."""
    cells = [
        {"cell_type": "markdown", "source": ["# 01 · Concentration\n", "\n", "**Answer** 99 %."]},
        {"cell_type": "code", "source": ['study.save_figure(fig, table, "fig01_x")']},
        {"cell_type": "markdown", "source": ["A view of the same:"]},
        {"cell_type": "markdown", "source": ["*Figure 01. Of the masks.*\n\nMore words."]},
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")


@pytest.fixture
def finished(own):
    """A run whose notebook 01 left contrasts, a figure and tables; 03 failed, and so did scores."""
    run = plan(own(evaluation={"test_items": 3}, study={"parameters": {"01": {"percents": [5]}}}))
    executed_notebook(run.executed("01_concentration"))
    executed_notebook(run.executed("04_stability"))
    results, words = run.folder / "results", []
    results.mkdir()
    run.log("03_sufficiency").parent.mkdir()
    run.log("03_sufficiency").write_text("Traceback\nValueError: <b> is no size\n")
    for log in (run.log("03_sufficiency"), "/logs/scores-seed0.log"):
        words.append(f"    log: {log} (check log file(s) for error details)\n")
    run.log("snakemake").write_text("".join(words))
    contrast = {"seed": [0, 1], "treatment": 0.4, "control": [0.3, 0.1], "difference": [0.1, 0.3]}
    contrasts = [pd.DataFrame({"claim": "concentrated", **contrast})]
    for claim in ("sufficient", "disentangled"):
        contrasts.append(contrasts[0].assign(claim=claim, control=None, difference=None))
    pd.concat(contrasts).to_csv(results / "tab01_contrast.csv", index=False)
    for name in ("fig01_x.png", "fig03_other.png"):
        (results / name).touch()
    table = pd.DataFrame({"n": range(30), "nll": 1 / 3, "note": "a|<b>", "seeds": 1, "low": None})
    table.to_csv(results / "tab01_long.csv", index=False)
    table.iloc[1:2].to_csv(results / "tab01_short.csv", index=False)
    shares = {"measure": "exact", "how": "patch", "recovery": None, "gap_clear": False}
    pd.DataFrame([shares]).to_csv(results / "tab01_shares.csv", index=False)
    return run


def test_the_report_tells_answers_figures_and_tables_with_units(finished):
    states = {"01_concentration": DONE, "03_sufficiency": FAILED, "05_transfer": NOT_REACHED}
    path = write_report(finished, states, 90)
    text = path.read_text(encoding="utf-8")
    assert ": donor and target 0.4, " in text and ", difference 0.2; *Sufficient*" in text
    assert "; settings of the YAML, in place of the rule's: percents = [5]\n" in text
    assert "99 %" not in text  # of the project's own run
    assert "(<notebooks/04_stability.ipynb>) (of an earlier run)" in text
    assert "![fig01_x](<results/fig01_x.png>)\n\n*Of the masks.*\n" in text
    assert "fig03_other" not in text  # its notebook did not run
    assert "(<results/tab01_long.csv>)** 30 rows" in text and "| 11 |" not in text
    assert "| n | nll (nats per answer token) | note | low (95 % interval) |" in text
    assert "| 1 | 0.333 | a\\|&lt;b&gt; | – |" in text  # the short one
    assert "torch 2" in text and "1.5 min" in text


def test_the_report_says_why_a_number_is_not_there(finished):
    states = {"01_concentration": DONE, "03_sufficiency": FAILED, "05_transfer": NOT_REACHED}
    text = write_report(finished, states, 90).read_text(encoding="utf-8")
    assert "act_module 0.4, not compared with random_module: no clear gap between donor" in text
    assert "two abilities share their language or their domain" in text
    assert "| patch | – | False |\n\n–: no clear gap between donor and target" in text
    assert "–: an interval over training seeds, which needs two" in text and "nan" not in text
    log = finished.log("03_sufficiency")
    assert f"03_sufficiency: **failed** (ValueError: &lt;b&gt; is no size); its log: {log}" in text
    assert "05_transfer: **not reached**, since something that it needs failed" in text
    assert "- scores-seed0: **failed** (no word); its log: /logs/scores-seed0.log" in text
    assert "Not known: notebook 00 alone measures it, and is **not run**." in text
    states["00_models_and_data"] = FAILED
    assert "and is **failed**." in write_report(finished, states, 1).read_text("utf-8")


def test_the_report_shows_what_was_given_and_what_the_run_used(finished):
    text = write_report(finished, {"01_concentration": DONE}, 90).read_text(encoding="utf-8")
    _, yaml_text = text.split("## The YAML, as given\n\n")
    assert yaml.safe_load(yaml_text) == finished.yaml_content
    assert "evaluation: {test_items: 3}" in yaml_text
    assert "| de-maths (lost) | questions: 18 for recording, 8 for validation, 3 for test |" in text
    head = text.split("## The gap")[0]
    assert not [each for each in ("seed", "base", "second_donor", "None") if each in head]
    assert "| claim | treatment | control | difference |" in text  # without a seed
    trained = plan("tiny", "01")
    assert is_trained(trained) and not is_trained(finished)


def test_it_says_first_what_the_target_lost_and_kept(finished):
    executed_notebook(finished.executed("00_models_and_data"))
    folder = finished.folder / "results"

    def report(lost, retained, exact):
        rows = [
            {"ability": a, "measure": m, "target_minus_donor": sign * (low + 0.5), "items": 3}
            | {"low": min(sign * low, sign * (low + 1)), "high": max(sign * low, sign * (low + 1))}
            for a, low in (("de-maths", lost), ("en-maths", retained))
            for m, sign in (("nll", 1), ("exact", -1))
        ]
        pd.DataFrame(rows).to_csv(folder / "tab00_forgotten.csv", index=False)
        means = [
            {"model": model, "ability": row["ability"], "measure": row["measure"], "mean": exact}
            for row in rows
            for model in ("donor", "target")
        ]
        pd.DataFrame(means).to_csv(folder / "tab00_accuracies.csv", index=False)
        return write_report(finished, {"00_models_and_data": DONE}, 1).read_text(encoding="utf-8")

    good = report(1.0, -0.5, 0.9)
    nll = "| de-maths | NLL (nats per answer token) | lost | 0.9 | 0.9 | 1.5 | 1 | 2 | 3 |"
    assert nll in good and good.count("Warning") == 1
    assert "fewer than 12 test items of de-maths, en-maths: " in good
    bad = report(-0.5, 1.0, 0.0)
    assert "no clear gap in NLL on de-maths" in bad and "worse in NLL on en-maths too" in bad
    assert (
        "no clear gap in exact match on" in bad
        and "exact match 0 on de-maths: nothing follows" in bad
    )
    assert "better than the donor in exact match on de-maths: nothing" in report(-2.0, -0.5, 0.1)
