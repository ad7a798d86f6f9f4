"""Every item serves one purpose, and tasks are balanced."""

from actlib.study.questions import PURPOSES, partition, spread
from actlib.text.data import load_items


def questions(rows):
    return {row["question"] for row in rows}


def test_spread_takes_turns_and_never_more_than_there_are():
    rows = [{"task": task, "n": n} for task, count in (("a", 5), ("b", 2)) for n in range(count)]
    assert [(row["task"], row["n"]) for row in spread(rows, 5)] == [
        *[("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    ]
    assert len(spread(rows, 100)) == 7


def test_partition_gives_every_item_one_purpose_whatever_the_order():
    items = load_items(split="test", languages=["en"])
    parts = {purpose: questions(partition(items, purpose)) for purpose in PURPOSES}
    assert set.union(*parts.values()) == questions(items)
    assert sum(map(len, parts.values())) == len(questions(items))
    turned = items.select(range(len(items) - 1, -1, -1))
    assert questions(partition(turned, "test")) == parts["test"]
    assert all(len(part) > len(items) / 5 for part in parts.values())
