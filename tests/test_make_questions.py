"""The shipped questions: right, split cleanly, and the same wherever they are generated."""

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from num2words import num2words

from actlib.questions import SPLITS
from actlib.study.questions import cluster_of

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ROOT / "data" / "questions"
sys.path.insert(0, str(ROOT / "data"))

import make_questions as generator  # noqa: E402  a script, not part of the package

EQUATION = re.compile(r"(\d+) ([+×>]) (\d+)(?: = (\d+))?")
FORMULA = re.compile(r"\bC\d[A-Za-z\d]*")
ELEMENTS = {  # by the stem of their names in five languages
    "C": "carb|kohlenst|углерод",
    "H": "hydrog|wasserst|hidróg|водород",
    "N": "nitr|stickst|azote|азот",
    "O": "ox[yí]g|sauerst|кислород",
    "S": "sulf|schwefel|azufre|soufre|сер",
    "Cl": "chlor|cloro|хлор",
}


@pytest.fixture(scope="module")
def rows():
    return generator.generate()


def test_the_shipped_files_are_what_the_generator_writes(tmp_path):
    # Another process with another hash seed: an order taken from a set would differ.
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "data/make_questions.py", "--output", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    written = {file.relative_to(tmp_path) for file in tmp_path.rglob("*.*")}
    assert len(written) == 3 * 5 + 1  # questions and their checksums
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


@cache
def number_words(language):
    """Number words, the longest first: `treinta y cinco` is 35, not 30 and 5."""
    words = {num2words(number, lang=language): number for number in range(2, 100)}
    return dict(sorted(words.items(), key=lambda pair: -len(pair[0])))


def numbers_of(text, language):
    words = number_words(language)
    return [words[found] for found in re.findall(rf"\b({'|'.join(words)})\b", text)]


def test_computations_are_right_and_their_numbers_stand_in_the_question(rows):
    for row in rows:
        if row["task"] == "atoms":
            continue
        left, sign, right, result = EQUATION.search(row["answer"]).groups()
        a, b = int(left), int(right)
        value = {"+": a + b, "×": a * b, ">": a}[sign]
        assert value == int(row["value"]) == int(result or a), row
        if row["task"] == "units":
            assert re.findall(r"\d+", row["question"]) == [left], row
            continue
        question = row["question"].replace("veintiún ", "veintiuno ").replace("y un ", "y uno ")
        asked = numbers_of(question, row["language"])
        assert asked == [a, b] if sign == "+" else a > b and sorted(asked) == [b, a], row
        closing = num2words(value, lang=row["language"])
        assert re.search(rf": {closing}\.$", row["answer"]), row


def test_atoms_are_those_of_the_element_that_the_question_names(rows):
    for row in rows:
        if row["task"] != "atoms":
            continue
        formula = FORMULA.search(row["question"]).group()
        counts = {s: int(n or 1) for s, n in re.findall(r"(Cl|[CHNOS])(\d*)", formula)}
        asked = row["question"].replace(formula, "").lower()
        (symbol,) = [s for s, stems in ELEMENTS.items() if re.search(rf"\b({stems})", asked)]
        assert counts[symbol] == int(row["value"]) >= 2, row
        assert re.search(rf"\b{row['value']} ", row["answer"]), row


def test_conversions_are_those_of_the_metric_system(rows):
    prefixes = {"kilo": 1000, "centi": 0.01, "milli": 0.001}
    for row in rows:
        if (row["task"], row["language"]) == ("units", "en"):
            units = re.findall(r"(kilo|centi|milli|)(meters|grams|liters)", row["question"])
            target = re.search(r"(kilo|centi|milli|)(meters|grams|liters)", row["answer"]).groups()
            source = next(unit for unit in units if unit != target)
            assert source[1] == target[1] and set(units) == {source, target}
            factor = prefixes.get(source[0], 1) / prefixes.get(target[0], 1)
            assert row["operands"][1] == round(factor)
