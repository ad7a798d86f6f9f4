"""Every item serves one purpose, tasks are balanced, and doubles are one cluster."""

from types import SimpleNamespace

import pytest

from actlib.study.presets import Data, LoadedModel
from actlib.study.questions import PURPOSES, cluster_of, data_digest, load_items, partition, spread
from actlib.study.recipes import content_digest


def test_spread_takes_turns_and_never_more_than_there_are():
    rows = [{"task": task, "n": n} for task, count in (("a", 5), ("b", 2)) for n in range(count)]
    taken = [(row["task"], row["n"]) for row in spread(rows, 5)]
    assert taken == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    assert len(spread(rows, 100)) == 7


def test_partition_gives_every_item_one_purpose_whatever_else_there_is():
    items = [row for row in load_items() if row["language"] == "en"]
    parts = {p: {row["question"] for row in partition(items, p)} for p in PURPOSES}
    asked = {row["question"] for row in items}
    assert set.union(*parts.values()) == asked
    assert sum(map(len, parts.values())) == len(asked)
    assert {row["question"] for row in partition(items[1:], "test")} <= parts["test"]
    assert all(len(part) > len(items) / 5 for part in parts.values())


@pytest.mark.parametrize("text", [" Ne\u0301 où,  dis ?\n", "Né où,\r\ndis\u00a0?"])
def test_a_question_stays_one_however_it_is_stored(text):
    one = {"domain": "trivia", "question": "Né où, dis ?"}
    again = {**one, "question": text}
    other = {**one, "question": "Née où, dis ?"}
    assert cluster_of(one) == cluster_of(again) != cluster_of(other)
    purposes = [[p for p in PURPOSES if partition([row], p)] for row in (one, again)]
    assert purposes[0] == purposes[1] and len(purposes[0]) == 1


@pytest.mark.parametrize("ending", ["tsv", "JSONL"])
@pytest.mark.parametrize("file", ["", "a.tsv"])
def test_what_is_moved_between_splits_or_renamed_changes_the_digest(tmp_path, file, ending):
    digests = []
    for name in ("one/train/a", "two/train/a", "three/test/a", "four/train/b"):
        folder, name = name.partition("/")[0], f"{name}.{ending}"
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("a\t1\n")
        digests.append(data_digest(Data(path=str(tmp_path / (name if file else folder)))))
    assert digests[0] == digests[1] != digests[3]
    assert file or digests[0] != digests[2]


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
