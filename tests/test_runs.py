"""A run is refused before it costs anything, and says of each notebook whether it was made."""

import io
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from small_study import write_own, write_pair, write_preset, write_questions

from actlib.cli import main
from actlib.study import runs
from actlib.study.locking import locked
from actlib.study.presets import PRESETS, load_preset
from actlib.study.report import write_report
from actlib.study.runs import DONE, EARLIER, FAILED, NOT_REACHED, execute, plan


@pytest.fixture
def own(tmp_path, tokenizer, monkeypatch):
    """`own(**changes)`: a pair of tiny models and some questions, in ten lines of YAML."""
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))
    write_pair(tmp_path, tokenizer)
    write_questions(tmp_path, "de-maths", "en-maths")
    return partial(write_own, tmp_path)


@pytest.fixture
def snakemake(monkeypatch):
    """`snakemake(status, *words)`: what runs in Snakemake's place says, and its exit status."""
    start = runs.subprocess.Popen

    def pretend(status, *words):
        code = f"import sys; print(*{words}, sep=chr(10)); sys.exit({status})"
        instead = lambda _, **settings: start([sys.executable, "-c", code], **settings)  # noqa: E731
        monkeypatch.setattr(runs.subprocess, "Popen", instead)

    return pretend


def test_a_pair_of_ones_own_runs_what_applies(own, tmp_path, monkeypatch):
    path = own()
    monkeypatch.chdir(tmp_path)
    run = plan("mine.yaml")
    assert [name[:2] for name in run.notebooks] == ["00", "01", "02", "03", "04", "05", "08"]
    assert run.choice == path  # absolute, since the notebooks run elsewhere
    assert run.questions["de-maths"]["test"] > 0
    assert list(run.left_out) == ["06", "07"] and plan("mine.yaml", "00-03").left_out == {}
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("notebooks", "change", "named"),
    [
        ("06-07", {}, "nothing to run; left out are 06: merging needs a base"),
        ("", {"evaluation": {"max_tokens": 4}}, "too few questions of de-maths: .*0 for recording"),
        ("02", {"evaluation": {"validation_items": 4}}, "at least 6 for recording, 5 for"),
        ("", {"lost": "fr-maths"}, "no question is of fr-maths; there are de-maths, en-maths"),
        ("", {"target": "absent"}, "target: .*no such folder here.*from the YAML's folder"),
        ("", {"target": "smaller"}, "do not fit"),
        ("", {"study": {"parameters": {"03": {"percent": 5}}}}, "has no parameter percent; it"),
    ],
)
def test_what_cannot_work_is_refused(own, tmp_path, family, notebooks, change, named):
    if change.get("target") == "smaller":
        family("llama").save_pretrained(tmp_path / "smaller")
    with pytest.raises(ValueError, match=named):
        plan(own(**change), notebooks)


def test_two_notebooks_of_one_number_are_refused(own, tmp_path, monkeypatch):
    for name in ("01_concentration", "01_mine"):
        (tmp_path / f"{name}.ipynb").touch()
    monkeypatch.setitem(runs.PATHS, "01", tmp_path / "01_mine.ipynb")
    with pytest.raises(ValueError, match="01_concentration.ipynb and 01_mine.ipynb are both"):
        plan(own(), "01")


@pytest.mark.parametrize("name", PRESETS)
def test_shipped_presets_are_named_like_their_files_with_parameters_of_the_notebooks(name):
    preset = load_preset(name)
    assert preset.name == name
    runs._require_parameters(preset)


def test_a_question_in_two_splits_is_refused(small_preset, tmp_path):
    data = Path(load_preset(small_preset).data.path)
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    row = json.loads((copied / "train" / "en.jsonl").read_text(encoding="utf-8").splitlines()[0])
    double = {**row, "split": "test", "question": f"{row['question']}\r\n "}
    path = copied / "test" / "en.jsonl"
    path.write_text(json.dumps(double) + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ValueError, match="serves recording and test; keep it in one split"):
        plan(write_preset(tmp_path / "other.yaml", copied))
    shutil.rmtree(copied / "train")
    with pytest.raises(ValueError, match="lacks the folder train"):
        plan(write_preset(tmp_path / "other.yaml", copied))


def test_two_presets_of_one_name_do_not_share_a_folder(own, tmp_path, snakemake):
    first = plan(own(), "01")
    snakemake(0)
    execute(first, 1)
    assert plan(first.choice, "01") == first
    (tmp_path / "other").mkdir()
    places = {key: str(tmp_path / key) for key in ("donor", "target")}
    other = own(file="other/mine.yaml", questions=str(tmp_path / "questions.jsonl"), **places)
    with pytest.raises(ValueError, match=r"mine holds what .*mine\.yaml left: give one another"):
        plan(other, "01")


def test_a_second_run_is_refused_in_one_sentence(own):
    run = plan(own(), "01")
    lock = run.folder.with_name(".lock")
    words = rf"another process is running mine \(lock {lock}\); wait until it has ended"
    with locked(lock, "running mine"), pytest.raises(ValueError, match=words):
        execute(run, 1)
    assert not run.log("snakemake").exists()


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


@pytest.fixture
def finished(own):
    """A run whose notebooks 00, 01 and 04 were executed."""
    run = plan(own(evaluation={"test_items": 3}))
    for name in ("00_models_and_data", "01_concentration", "04_stability"):
        cells = [{"cell_type": "code", "source": [f'study.save_figure(fig, t, "fig{name[:2]}_x")']}]
        cells += [{"cell_type": "markdown", "source": ["*Figure 01. Of the masks.*\n\nMore."]}]
        run.executed(name).parent.mkdir(parents=True, exist_ok=True)
        run.executed(name).write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (run.folder / "results").mkdir()
    run.log("snakemake").parent.mkdir()
    run.log("snakemake").touch()
    return run


def test_the_report_tells_answers_figures_and_tables_with_units(finished):
    results = finished.folder / "results"
    contrast = {"seed": [0, 1], "treatment": 0.4, "control": [0.3, 0.1], "difference": [0.1, 0.3]}
    contrasts = pd.DataFrame({"claim": "concentrated", **contrast})
    unclear = contrasts.assign(claim="sufficient", control=None, difference=None)
    own = contrasts.assign(claim="mine")
    pd.concat([contrasts, unclear, own]).to_csv(results / "tab01_contrast.csv", index=False)
    (results / "fig01_x.png").touch()
    table = pd.DataFrame({"n": [1], "nll": 1 / 3, "note": "a|<b>", "seeds": 1, "low": None, "p": 1})
    table.to_csv(results / "tab01_short.csv", index=False)
    log = finished.log("03_sufficiency")
    log.write_text("Traceback\nValueError: <b> is no size\n")
    finished.log("snakemake").write_text(f"    log: {log} (check log file(s) for error details)\n")
    states = {"01_concentration": DONE, "03_sufficiency": FAILED, "05_transfer": NOT_REACHED}
    text = write_report(finished, states, 90).read_text(encoding="utf-8")
    assert ": donor and target 0.4, " in text and ", difference 0.2; *Sufficient*" in text
    assert "act_module 0.4, not compared with random_module: no clear gap between donor" in text
    assert "*mine* is no claim of configs/claims.yaml" in text
    assert "(<notebooks/04_stability.ipynb>) (of an earlier run)" in text
    assert f"failed** (ValueError: &lt;b&gt; is no size); its log: {log}" in text
    assert "05_transfer: **not reached**, since something that it needs failed" in text
    assert "![fig01_x](<results/fig01_x.png>)\n\n*Of the masks.*\n" in text
    assert "| n | nll (nats per answer token) | note | low (95 % interval) | p |" in text
    assert "| 1 | 0.333 | a\\|&lt;b&gt; | – | 1 |" in text
    counts = "18 for recording, 28 for validation, 3 for test"
    assert f"| de-maths (lost) | questions: {counts} |" in text


def test_it_says_first_what_the_target_lost_and_kept(finished):
    folder = finished.folder / "results"

    def report(lost, retained, exact):
        rows = [
            {"ability": a, "measure": m, "target_minus_donor": sign * (low + 0.5), "items": 3}
            | {"low": min(sign * low, sign * (low + 1)), "high": max(sign * low, sign * (low + 1))}
            for a, low in (("de-maths", lost), ("en-maths", retained))
            for m, sign in (("nll", 1), ("exact", -1))
        ]
        table = pd.DataFrame(rows)
        table.to_csv(folder / "tab00_forgotten.csv", index=False)
        means = table[["ability", "measure"]].assign(mean=exact)
        means = pd.concat(means.assign(model=model) for model in ("donor", "target"))
        means.to_csv(folder / "tab00_accuracies.csv", index=False)
        return write_report(finished, {"00_models_and_data": DONE}, 1).read_text(encoding="utf-8")

    good = report(1.0, -0.5, 0.9)
    nll = "| de-maths | NLL (nats per answer token) | lost | 0.9 | 0.9 | 1.5 | 1 | 2 | 3 |"
    assert nll in good and good.count("Warning") == 1
    assert "fewer than 12 test items of de-maths, en-maths: " in good
    bad = report(-0.5, 1.0, 0.0)
    assert "no clear gap in NLL on de-maths" in bad and "worse in NLL on en-maths too" in bad
    assert "exact match 0 on de-maths: nothing follows" in bad
    assert "better than the donor in exact match on de-maths: nothing" in report(-2.0, -0.5, 0.1)
