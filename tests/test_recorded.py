"""Portions of the recording items, and the columns that cached rows get from pairs of models."""

from collections import Counter
from types import SimpleNamespace

import pytest

from actlib.study import cache, recorded


@pytest.fixture
def study(monkeypatch):
    rows = [{"question": str(n), "task": ("sum", "comparison")[n % 2]} for n in range(24)]
    monkeypatch.setattr(recorded, "drop_long", lambda tokenizer, rows, most: rows)
    monkeypatch.setattr(recorded, "batches", lambda tokenizer, rows, size: rows)
    settings = SimpleNamespace(max_tokens=None, batch_size=8)
    questions = SimpleNamespace(items=lambda ability, purpose: rows)
    preset = SimpleNamespace(evaluation=settings)
    return SimpleNamespace(preset=preset, tokenizer=None, questions=questions)


def test_every_portion_has_all_tasks_and_each_item_lies_in_one(study):
    parts = [recorded.batches_of_part(study, "fr-maths", n) for n in range(recorded.PARTS)]
    tasks = [Counter(row["task"] for row in part) for part in parts]
    assert all(each == {"sum": 2, "comparison": 2} for each in tasks)
    assert sorted(int(row["question"]) for part in parts for row in part) == [*range(24)]


def test_what_is_too_long_is_left_out_before_the_portions(study, monkeypatch):
    too_long = recorded.batches_of_part(study, "fr-maths", 0)  # all of one
    monkeypatch.setattr(
        recorded, "drop_long", lambda _, rows, most: [row for row in rows if row not in too_long]
    )
    parts = [recorded.batches_of_part(study, "fr-maths", n) for n in range(recorded.PARTS)]
    assert [len(part) for part in parts] == [4, 4, 3, 3, 3, 3]


def test_of_two_pairs_each_has_its_own_column(tmp_path):
    pair, other = (recorded.Group(seed, ("donor",), (str(seed),)) for seed in (3, 4))

    @cache.cached
    def agree(pair, other, method):
        return {"jaccard": 0.5}

    before = dict(cache._FOLDERS)
    cache.use_folders(tmp_path)
    try:
        (row,) = agree(pair, other, "halves").to_dict("records")
    finally:
        cache._FOLDERS.update(before)
    assert row == {"jaccard": 0.5, "seed": 3, "other_seed": 4, "method": "halves"}
    assert len(list((tmp_path / "agree").glob("seed3-*.parquet"))) == 1
