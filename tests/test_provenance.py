"""What results were made from: versions, commit, device, seeds, hashes of models and data."""

import json
import subprocess

import pandas as pd

import actlib
from actlib.study import provenance
from actlib.study.provenance import FILE, digest_of, write_provenance


def entries_of(folder):
    return json.loads((folder / FILE).read_text())


def test_an_entry_names_what_decides_a_result(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    write_provenance(tmp_path, "scores", {"questions": data, "base": "hub/model"}, seeds=[3])
    write_provenance(tmp_path, "mask", {})
    entry = entries_of(tmp_path)["scores"]
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
    study.save_table(pd.DataFrame({"x": [scores.tokens]}), "tab09_one")
    entry = entries_of(study.results)["notebook09"]
    assert entry["questions"] == study.cache_key["questions"]
    names = [f"{name}, seed 0" for name in pair.names]
    assert entry["models"] == dict(zip(names, pair.digests, strict=True))
    folder = next((study.folder / "scores/differences").glob(f"seed0-{'-'.join(pair.names)}-*"))
    donor = entries_of(folder)["scores"]["inputs"][study.name_of("donor")]
    assert donor["sha256"] == digest_of(study.place("donor"))


def make_repository(folder):
    for words in ("init", "add --all", "commit --quiet --message first", "rev-parse HEAD"):
        command = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x", *words.split()]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return said.strip()


def test_the_commit_is_that_of_this_code_and_of_no_repository_around_it(tmp_path, monkeypatch):
    package = tmp_path / "site-packages"
    (package / "actlib").mkdir(parents=True)
    (package / "actlib/files.py").touch()
    monkeypatch.setattr(provenance, "__file__", str(package / "actlib/study/provenance.py"))
    commit = provenance.commit.__wrapped__
    make_repository(tmp_path)
    assert commit() is None
    own = make_repository(package)
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / ".git/index"))  # as a hook of it sets
    assert commit() == own
    (package / "figure.png").write_text("a result is no code")
    assert commit() == own
    (package / "actlib/files.py").write_text("changed")
    assert commit() == f"{own} with changes"
