"""The shipped questions: right, split cleanly, and the same wherever they are generated."""

import re
import sys
from collections import Counter

import pytest
from programs import python

from actlib.questions import SPLITS
from actlib.study.presets import ROOT
from actlib.study.questions import cluster_of

QUESTIONS = ROOT / "data" / "questions"
sys.path.insert(0, str(ROOT / "data"))

import make_questions as generator  # noqa: E402  a script, not part of the package

EQUATION = re.compile(r"(\d+) ([+×>]) (\d+)(?: = (\d+))?")
FORMULA = re.compile(r"\bC\d[A-Za-z\d]*")


@pytest.fixture(scope="module")
def rows():
    return generator.generate()


def test_the_shipped_files_are_what_the_generator_writes(tmp_path):
    # Another process with another hash seed: an order taken from a set would differ.
    python("data/make_questions.py", "--output", tmp_path, PYTHONHASHSEED="7")
    written = {file.relative_to(tmp_path) for file in tmp_path.rglob("*.*")}
    assert len(written) == 3 * 5 + 1  # questions and checksums
    for name in written:
        assert (QUESTIONS / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_every_language_and_task_has_its_count_and_nothing_comes_twice(rows):
    counts = Counter((row["split"], row["language"], row["task"]) for row in rows)
    assert len(counts) == 3 * 5 * 4
    assert all(count == generator.COUNTS[split][task] for (split, _, task), count in counts.items())
    assert len({row["id"] for row in rows}) == len({row["question"] for row in rows}) == len(rows)


def computation(row):
    """The computation as the texts state it, without a look at the row's operands."""
    if row["task"] == "atoms":
        return FORMULA.search(row["question"]).group()
    left, sign, right, _ = EQUATION.search(row["answer"]).groups()
    pair = [int(left), int(right)]
    return (sign, *(sorted(pair) if sign == "+" else pair))


def test_no_computation_of_one_split_occurs_in_another_in_any_language(rows):
    seen = {split: {computation(r) for r in rows if r["split"] == split} for split in SPLITS}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not seen[one] & seen[other]


def test_items_of_one_computation_are_one_cluster_and_no_others(rows):
    clusters = {}
    for row in rows:
        clusters.setdefault(computation(row), set()).add(cluster_of(row))
    assert all(len(names) == 1 for names in clusters.values())
    assert len(set.union(*clusters.values())) == len(clusters)


def test_computations_are_right(rows):
    for row in rows:
        if row["task"] == "atoms":
            counts = re.findall(r"[A-Z][a-z]?(\d*)", computation(row))
            assert int(row["value"]) >= 2 and row["value"] in counts, row
            assert re.search(rf"\b{row['value']} ", row["answer"]), row
            continue
        left, sign, right, result = EQUATION.search(row["answer"]).groups()
        a, b = int(left), int(right)
        value = {"+": a + b, "×": a * b, ">": a}[sign]
        assert value == int(row["value"]) == int(result or a) and (sign != ">" or a > b), row
