"""What results were made from: versions, commit, device, seeds, hashes of models and data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

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


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / FILE).write_text('"words"')
    with pytest.raises(ValueError, match="holds no entries by name; remove it"):
        write_provenance(tmp_path, "scores", {})


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


def commit_in(folder, package, **environment):
    """`commit()` of the package in a folder, as a process finds it that works in `folder`."""
    settings = {key: text for key, text in os.environ.items() if not key.startswith("GIT_")}
    settings |= {"PYTHONPATH": str(package), **environment}
    command = [sys.executable, "-c", COMMIT]
    ran = subprocess.run(command, cwd=folder, env=settings, check=True, capture_output=True)
    return ran.stdout.decode().strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """`repository(parts)`: a new repository of one commit with the package in a folder of it."""

    def make(*parts, project=True):
        folder = tmp_path_factory.mktemp("repository")
        package = folder.joinpath(*parts)
        package.mkdir(parents=True, exist_ok=True)
        names = "__init__.py files.py study/__init__.py study/provenance.py study/locking.py"
        for name in names.split():
            source = Path(actlib.__file__).parent / name
            copy = package / "actlib" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            # Only what provenance needs, so that nothing else is imported.
            text = '__version__ = "0"\n' if name.endswith("__init__.py") else source.read_text()
            copy.write_text(text)
        if project:
            (package / "pyproject.toml").write_text('[project]\nname = "actlib"\n')
        (folder / ".gitignore").write_text("__pycache__/\n")  # as this project's
        git(folder, "init", "--quiet")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", "first")
        return folder, package, git(folder, "rev-parse", "HEAD")

    return make


def test_the_commit_is_that_of_this_code_and_says_whether_it_was_changed(repository, tmp_path):
    folder, package, commit = repository()
    assert commit_in(tmp_path, package) == commit
    (folder / "figure.png").write_text("a result is no code")
    assert commit_in(tmp_path, package) == commit
    (package / "actlib/files.py").open("a").write("# changed\n")
    assert commit_in(tmp_path, package) == f"{commit} with changes"


@pytest.mark.parametrize("parts", [("site-packages",), (".venv", "lib", "site-packages")])
@pytest.mark.parametrize("project", [True, False])
def test_a_strangers_repository_around_the_package_says_nothing(repository, parts, project):
    folder, package, _ = repository(*parts, project=project)
    assert commit_in(folder, package) == "None"


def test_a_repository_that_does_not_track_the_package_says_nothing(repository):
    folder, package, _ = repository()
    git(folder, "rm", "--quiet", "--cached", "-r", "actlib")
    assert commit_in(folder, package) == "None"


def test_a_hooks_repository_is_not_mistaken_for_this_one(repository):
    stranger, *_ = repository("elsewhere")
    _, package, commit = repository()
    assert commit_in(stranger, package, GIT_DIR=str(stranger / ".git")) == commit
