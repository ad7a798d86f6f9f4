"""Records: what a result was made from, whether that is still the same, and the way to the data."""

import os

import pandas as pd
import pytest

from actlib.folders.records import digest_of, record_beside, record_of
from actlib.folders.tracing import broken, lines, trace


@pytest.fixture
def chain(tmp_path):
    """Three files, each made from the one before: data, scores, mask."""
    paths = [tmp_path / name for name in ("data.jsonl", "scores.safetensors", "mask.safetensors")]
    for path in paths:
        path.write_text(path.name)
    record_beside(paths[1], {"questions": paths[0]}, seed=3)
    record_beside(paths[2], {"scores": paths[1], "base": "hub/model"}, percent=5)
    return paths


def test_a_chain_goes_down_to_the_data(chain):
    data, scores, mask = chain
    node = trace(mask)
    assert node["state"] == "unchanged" and node["sha256"] == digest_of(mask)
    below, hub = node["inputs"]
    assert below["role"] == "scores" and below["record"]["seed"] == 3
    assert below["inputs"][0]["sha256"] == digest_of(data)
    assert hub["path"] == "hub/model" and hub["state"] == "not kept"
    made = node["record"]["made"]
    assert {"created", "seconds", "versions", "git", "device"} <= made.keys()
    assert {"python", "torch", "transformers"} <= made["versions"].keys()
    assert not broken(node) and len(lines(node)) == 4


@pytest.mark.parametrize(("number", "state"), [(0, "changed"), (1, "changed"), (0, "missing")])
def test_what_changed_or_went_is_told(chain, number, state):
    path = chain[number]
    path.write_text("other words") if state == "changed" else path.unlink()
    node = trace(chain[2])
    assert broken(node) == [os.path.relpath(path)]


def test_a_record_moves_with_its_folder_and_names_no_absolute_path(chain, tmp_path):
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert not broken(trace(moved / "mask.safetensors"))
    for path in moved.glob("*.record.json"):
        assert str(tmp_path) not in path.read_text()


def test_a_folder_is_known_by_its_contents_and_not_by_what_is_told_of_it(tmp_path):
    (tmp_path / "weights").write_text("1")
    before, quick = digest_of(tmp_path), digest_of(tmp_path, quick=True)
    for told in ("README.md", "built.json", "x.record.json", ".lock"):
        (tmp_path / told).write_text("new")
    assert (digest_of(tmp_path), digest_of(tmp_path, quick=True)) == (before, quick)
    (tmp_path / "weights").write_text("12")
    assert before != digest_of(tmp_path) and quick != digest_of(tmp_path, quick=True)


def test_a_table_of_a_study_leads_to_models_scores_and_questions(study):
    study.scores(study.lost)
    study.model("donor")  # kept scores open no model
    table = pd.DataFrame({"x": [1]})
    study.save_table(table, "tab09_one")
    study.save_table(table, "tab09_two")
    path = study.figures / "tab09_one.csv"
    record, content = record_of(path)
    assert record.name == "notebook09.record.json"
    assert set(content["results"]) == {"tab09_one.csv", "tab09_two.csv"}
    assert content["data_sha256"] and content["seeds"] == [0]
    node = trace(path)
    roles = {each["role"].partition(" ")[0] for each in node["inputs"]}
    assert roles == {"model", "scores", "questions"} and not broken(node)
    # Down to the models that those started from, and what they were trained on.
    told = [line.strip().partition(" ")[0] for line in lines(node)]
    assert "start:" in told and "donor:" in told and told.count("training") >= 3
    assert path.read_bytes() == table.to_csv(index=False).encode(), "nothing of it in the table"
