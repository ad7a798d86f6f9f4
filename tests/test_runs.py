"""A run is refused before it costs anything, and tells of each notebook whether it was made."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from small_study import write_pair, write_preset

from actlib.study import runs
from actlib.study.presets import ROOT, load_preset
from actlib.study.runs import DONE, FAILED, NOT_REACHED, chosen_notebooks, plan, profile_folder


@pytest.fixture
def own(tmp_path, small_preset, monkeypatch):
    """`own(count, **changes)`: a short preset of tiny models with that many questions."""
    monkeypatch.setenv("ACT_STORE", str(tmp_path / "store"))
    write_pair(tmp_path, "llama", small_preset)

    def make(count=60, **changes):
        rows = [
            {"question": f"{name} {n}?", "answer": f"It is {n}.", "ability": name}
            for n in range(count)
            for name in ("de-maths", "en-maths")
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "questions.jsonl").write_text(lines, encoding="utf-8")
        raw = {"donor": "donor", "target": "target", "questions": "questions.jsonl"}
        raw |= {"lost": "de-maths", "retained": "en-maths"} | changes
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        return str(tmp_path / "mine.yaml")

    return make


def test_a_pair_of_ones_own_runs_what_applies_beside_its_store(own, tmp_path, monkeypatch):
    path = own()
    monkeypatch.chdir(tmp_path)
    run = plan("mine.yaml")
    assert [name[:2] for name in run.notebooks] == ["00", "01", "02", "03", "04", "05"]
    assert run.choice == path  # absolute, since the notebooks run elsewhere
    assert run.figures == tmp_path / "store" / "mine" / "figures"
    assert plan("mine.yaml", figures="here").figures == tmp_path / "here"
    assert not (tmp_path / "store").exists()
    assert list(run.left_out) == ["06", "07"] and plan("mine.yaml", "00-03").left_out == {}


def test_a_shipped_preset_runs_everything_where_make_study_does(small_preset):
    run = plan("tiny", "01,03-4")
    assert [name[:2] for name in run.notebooks] == ["01", "03", "04"]
    assert (run.choice, run.figures) == ("tiny", ROOT / "figures" / "tiny")
    assert len(chosen_notebooks(run.preset)) == 8


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ("8", "expected numbers of 00, 01"),
        ("05-01", "expected numbers of 00"),
        ("one", "like 01-05 or 01,03, got 'one'"),
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
        ({"lost": "fr-maths"}, "no question is of fr-maths; there are de-maths, en-maths"),
        ({"target": "./absent"}, "no model folder './absent'"),
        ({"target": "empty"}, "holds no config.json"),
        (
            {"target": "models/absent"},
            "target: .*no such folder here.*start from the YAML's folder",
        ),
        ({"target": "smaller"}, "do not fit"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(own, tmp_path, family, change, named):
    (tmp_path / "empty").mkdir()
    if change.get("target") == "smaller":
        family("llama").save_pretrained(tmp_path / "smaller")
    with pytest.raises(ValueError, match=named) as refusal:
        plan(own(**change))
    assert "\n" not in str(refusal.value)


def test_without_a_clone_it_is_said(own, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="needs a clone of the project"):
        plan(own())


def test_data_with_splits_need_every_ability_in_each(small_preset, tmp_path):
    data = load_preset(small_preset).data.path
    path = write_preset(tmp_path / "other.yaml", Path(data), lost=["ru-maths"])
    with pytest.raises(ValueError, match="'ru-maths'.*en-maths"):
        plan(path)


def test_a_question_in_two_splits_is_refused(small_preset, tmp_path):
    data = Path(load_preset(small_preset).data.path)
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    row = json.loads((copied / "train" / "en.jsonl").read_text(encoding="utf-8").splitlines()[0])
    double = {**row, "split": "test", "question": f"{row['question']}\r\n "}
    with (copied / "test" / "en.jsonl").open("r+", encoding="utf-8") as file:
        lines = file.read()
        file.seek(0)
        file.write(json.dumps(double) + "\n" + lines)
    path = write_preset(tmp_path / "other.yaml", copied)
    with pytest.raises(ValueError, match="serves recording and test; keep it in one split"):
        plan(path)


def test_states_after_a_failure_are_what_a_dry_run_would_still_do(own, monkeypatch):
    run = plan(own(), "01-04")
    first, second, third, fourth = run.notebooks

    def pretend(command, **settings):
        assert command[-2:] == [f"preset={run.choice}", f"figures={run.figures}"]
        assert settings["env"]["ACT_STORE"] == str(run.store)
        if "--dry-run" in command:
            return subprocess.CompletedProcess(
                command, 0, f"notebook_{second}  1\nnotebook_{third}"
            )
        for name in (first, third):  # the third is of an earlier run, and stale
            run.executed(name).parent.mkdir(parents=True, exist_ok=True)
            run.executed(name).touch()
        run.log(second).parent.mkdir()
        run.log(second).touch()
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(runs.subprocess, "run", pretend)
    assert run.execute(cores=1) == {
        first: DONE,
        second: FAILED,
        third: NOT_REACHED,
        fourth: NOT_REACHED,
    }


def test_a_profile_comes_in_place_of_cores_and_of_the_default(own, tmp_path, monkeypatch):
    run, said = plan(own(), "01"), []

    def pretend(command, **settings):
        said.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(runs.subprocess, "run", pretend)
    monkeypatch.chdir(tmp_path)
    folder = profile_folder("profiles/slurm")
    assert folder == str(ROOT / "profiles" / "slurm")
    run.execute(None, profile=folder)
    run.execute(3)
    with_profile, without = said
    assert with_profile[with_profile.index("--workflow-profile") + 1] == folder
    assert "--cores" not in with_profile
    assert without[without.index("--cores") + 1] == "3" and "--workflow-profile" not in without
    with pytest.raises(ValueError, match="got 'elsewhere'"):
        profile_folder("elsewhere")
