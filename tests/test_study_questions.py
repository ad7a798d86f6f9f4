"""Every item serves one purpose, tasks are balanced, and doubles are one cluster."""

import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest

from actlib.study import questions as questions_module
from actlib.study.presets import Data, LoadedModel
from actlib.study.questions import (
    PURPOSES,
    cluster_of,
    data_digest,
    load_items,
    partition,
    spread,
)
from actlib.study.recipes import content_digest


def questions(rows):
    return {row["question"] for row in rows}


def test_spread_takes_turns_and_never_more_than_there_are():
    rows = [{"task": task, "n": n} for task, count in (("a", 5), ("b", 2)) for n in range(count)]
    assert [(row["task"], row["n"]) for row in spread(rows, 5)] == [
        *[("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    ]
    assert len(spread(rows, 100)) == 7


def test_partition_gives_every_item_one_purpose_whatever_the_order():
    items = [row for row in load_items() if row["language"] == "en"]
    parts = {purpose: questions(partition(items, purpose)) for purpose in PURPOSES}
    assert set.union(*parts.values()) == questions(items)
    assert sum(map(len, parts.values())) == len(questions(items))
    assert questions(partition(items[::-1], "test")) == parts["test"]
    assert all(len(part) > len(items) / 5 for part in parts.values())


WRITTEN = ["Né où, dis ?", " Né où,  dis ?\n", "Né où,\r\ndis\u00a0?", "\ufeffNé où, dis ?"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("text", WRITTEN)
def test_a_question_stays_one_however_it_is_stored(text, form):
    one = {"domain": "trivia", "question": WRITTEN[0]}
    again = {**one, "question": unicodedata.normalize(form, text)}
    other = {**one, "question": "Née où, dis ?"}
    assert cluster_of(one) == cluster_of(again) != cluster_of(other)
    purposes = [[p for p in PURPOSES if partition([row], p)] for row in (one, again)]
    assert purposes[0] == purposes[1] and len(purposes[0]) == 1


@pytest.mark.parametrize("file", [False, True], ids=["folder", "file"])
@pytest.mark.parametrize(("old", "new"), [("train/a.jsonl", "test/a.jsonl"), ("de.tsv", "fr.tsv")])
def test_a_file_that_is_moved_or_renamed_changes_the_digest(tmp_path, monkeypatch, file, old, new):
    brought, shipped = [], []
    for folder, name in (("one", old), ("again", old), ("moved", new)):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True)
        path.write_text("a\t1\n")
        root = path if file else tmp_path / folder
        monkeypatch.setattr(questions_module, "SHIPPED", root)
        brought.append(data_digest(Data(path=str(root))))
        shipped.append(data_digest(Data()))
    assert brought[0] == brought[1]
    assert brought[0] != brought[2] or (file and Path(old).name == Path(new).name)
    assert len(set(shipped)) == 1  # kept rows refer to the contents alone


def test_the_digest_of_a_folder_of_weights_covers_its_subfolders(tmp_path):
    preset = SimpleNamespace(models={"donor": LoadedModel(load=str(tmp_path))})
    digests = []
    for name in ("config.json", "shards/a.safetensors", "shards/b.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("one")
        digests.append(content_digest(preset, "donor", 0))
    path.write_text("other")
    assert len({*digests, content_digest(preset, "donor", 0)}) == 4
