"""What results were made from: versions, commit, device, seeds, hashes of models and data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

import actlib
from actlib.study.provenance import FILE, digest_of, write_provenance

COMMIT = "from actlib.study.provenance import commit; print(commit())"


def entries_of(folder):
    return json.loads((folder / FILE).read_text())


def test_an_entry_names_what_decides_a_result(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    write_provenance(tmp_path, "scores", {"questions": data, "base": "hub/model"}, seeds=[3])
    write_provenance(tmp_path, "mask", {})
    entries = entries_of(tmp_path)
    assert list(entries) == ["mask", "scores"]
    entry = entries["scores"]
    assert {"created", "commit", "device"} <= entry.keys() and entry["seeds"] == [3]
    assert entry["versions"]["actlib"] == actlib.__version__
    assert {"python", "torch", "transformers"} <= entry["versions"].keys()
    assert entry["inputs"]["questions"] == {"name": "data.jsonl", "sha256": digest_of(data)}
    assert entry["inputs"]["base"] == {"name": "hub/model", "sha256": None}
    assert str(tmp_path) not in (tmp_path / FILE).read_text()


def test_a_folder_is_known_by_its_contents_and_not_by_what_is_told_of_it(tmp_path):
    (tmp_path / "weights").write_text("1")
    before = digest_of(tmp_path)
    for name in ("README.md", "built.json", FILE, ".lock"):
        (tmp_path / name).write_text("new")
    assert digest_of(tmp_path) == before
    (tmp_path / "weights").rename(tmp_path / "others")
    assert digest_of(tmp_path) != before


def test_tables_of_a_study_say_their_models_and_questions(study):
    pair = study.pair()
    scores = study.scores(pair, study.lost)
    table = pd.DataFrame({"x": [scores.tokens]})
    study.save_table(table, "tab09_one")
    study.save_table(table, "tab09_two")
    entry = entries_of(study.results)["notebook09"]
    assert entry["questions"] == study.cache_key["questions"]
    names = [f"{name}, seed 0" for name in pair.names]
    assert entry["models"] == dict(zip(names, pair.digests, strict=True))
    text = (study.results / "tab09_one.csv").read_bytes()
    assert text == table.to_csv(index=False).encode(), "nothing of it in the table"
    folder = next((study.folder / "scores/differences").glob(f"seed0-{'-'.join(pair.names)}-*"))
    donor = entries_of(folder)["scores"]["inputs"][study.name_of("donor")]
    assert donor["sha256"] == digest_of(study.place("donor"))


def git(folder, *words):
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_this_code_and_of_no_repository_around_it(tmp_path):
    """In a folder that holds only what provenance needs, so that nothing else is imported."""
    package, source = tmp_path / "site-packages", Path(actlib.__file__).parent
    for name in ("files.py", "study/provenance.py", "study/locking.py"):
        (package / "actlib" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, package / "actlib" / name)
    (package / "actlib/__init__.py").write_text('__version__ = "0"\n')

    def commit(**environment):
        settings = {key: text for key, text in os.environ.items() if not key.startswith("GIT_")}
        settings |= {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        command = [sys.executable, "-c", COMMIT]
        ran = subprocess.run(command, cwd=tmp_path, env=settings, check=True, capture_output=True)
        return ran.stdout.decode().strip()

    def make_repository(folder):
        git(folder, "init", "--quiet")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", "first")
        return git(folder, "rev-parse", "HEAD")

    make_repository(tmp_path)
    assert commit() == "None"
    own = make_repository(package)
    assert commit() == commit(GIT_DIR=str(tmp_path / ".git")) == own
    (package / "figure.png").write_text("a result is no code")
    assert commit() == own
    (package / "actlib/files.py").open("a").write("# changed\n")
    assert commit() == f"{own} with changes"
