"""The shipped questions: right, split cleanly, and the same wherever they are generated."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import periodictable
import pytest
from num2words import num2words

from actlib.questions import SPLITS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))

import make_questions as generator  # noqa: E402  a script, not part of the package

NUMBER = re.compile(r"\d+")
EQUATION = re.compile(r"(\d+) ([-+×]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def rows():
    return generator.generate()


@pytest.fixture(scope="module")
def small():
    return generator.generate(
        tasks=generator.SMALL_TASKS,
        per_cell=generator.SMALL_PER_CELL,
        largest=generator.SMALL_LARGEST,
    )


def test_the_shipped_files_are_what_the_generator_writes(tmp_path):
    # Another process with another hash seed: an order taken from a set would differ.
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "data/make_questions.py", "--output", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    written = {file.relative_to(tmp_path) for file in tmp_path.rglob("*.*")}
    assert len(written) == 2 * 3 * 5 + 1
    for name in written:
        assert (ROOT / "data" / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_checksums_are_those_of_the_files():
    lines = (ROOT / "data" / "checksums.txt").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    shipped = {file.relative_to(ROOT / "data").as_posix() for file in ROOT.glob("data/**/*.jsonl")}
    assert set(listed) == shipped
    for name, checksum in listed.items():
        assert sha256((ROOT / "data" / name).read_bytes()).hexdigest() == checksum, name


def test_every_cell_has_its_count(rows, small):
    for part, tasks, per_cell in (
        (rows, generator.TASKS, generator.PER_CELL),
        (small, generator.SMALL_TASKS, generator.SMALL_PER_CELL),
    ):
        cells = Counter((row["split"], row["language"], row["task"]) for row in part)
        assert len(cells) == 3 * 5 * len(tasks)
        assert all(count == per_cell[split] for (split, _, _), count in cells.items())
        assert len({row["id"] for row in part}) == len(part)


def test_the_small_set_holds_small_operands_only(small):
    largest = generator.SMALL_LARGEST
    assert max(max(row["operands"]) for row in small) <= largest
    assert {row["task"] for row in small} == set(generator.SMALL_TASKS)
    drawn = {tuple(row["operands"]) for row in small if row["task"] == "sum_words"}
    assert (largest, 2) in drawn or (2, largest) in drawn


def _computation(row):
    """The computation as the answer states it, read from the text rather than from the row."""
    left, sign, right, _ = EQUATION.search(row["answer"]).groups()
    pair = [int(left), int(right)]
    return (sign, *(pair if sign == "-" else sorted(pair)))


def test_no_question_and_no_computation_of_the_test_split_occurs_in_training(rows, small):
    # Taken together, so that a model trained on one set cannot have seen the other's test items.
    seen = {
        split: (
            {row["question"] for row in [*rows, *small] if row["split"] == split},
            {_computation(row) for row in [*rows, *small] if row["split"] == split},
        )
        for split in SPLITS
    }
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not seen[one][0] & seen[other][0]
        assert not seen[one][1] & seen[other][1]
    for part in (rows, small):
        assert len({row["question"] for row in part}) == len(part)


def test_the_test_split_has_enough_different_computations(rows, small):
    for part, signs in ((rows, "+-×"), (small, "+-")):
        per_operation = {}
        for row in part:
            if row["split"] == "test":
                sign, *pair = _computation(row)
                per_operation.setdefault(sign, set()).add(tuple(pair))
        assert {sign: len(pairs) >= 15 for sign, pairs in per_operation.items()} == dict.fromkeys(
            signs, True
        )


def test_answers_are_right_by_their_own_text(rows, small):
    results = {"+": int.__add__, "-": int.__sub__, "×": int.__mul__}
    for row in [*rows, *small]:
        left, sign, right, result = EQUATION.search(row["answer"]).groups()
        assert results[sign](int(left), int(right)) == int(result) == int(row["value"]), row
        assert row["operands"] == [int(left), int(right)], row


def test_questions_state_the_operands(rows):
    for row in rows:
        left, right = row["operands"]
        if row["task"] == "sum_words":
            words = [num2words(number, lang=row["language"]) for number in (left, right)]
            positions = [row["question"].find(word) for word in words]
            assert min(positions) >= 0 and not NUMBER.search(row["question"]), row
            closing = num2words(left + right, lang=row["language"])
            assert row["answer"].endswith(f": {closing}."), row
        else:
            assert sorted(map(int, NUMBER.findall(row["question"]))) == sorted(row["operands"]), row


def test_isotopes_are_known_ones_with_their_own_proton_number(rows):
    asked = [row for row in rows if row["task"] == "neutrons"]
    for row in asked:
        symbol, mass = re.search(r"([A-Z][a-z]?)-(\d+)", row["question"]).groups()
        element = periodictable.elements.symbol(symbol)
        assert int(mass) in element.isotopes
        assert row["operands"] == [int(mass), element.number]


def test_languages_draw_different_operands_and_the_sentences_are_short(rows):
    for task in generator.TASKS:
        drawn = {
            language: [
                tuple(row["operands"])
                for row in rows
                if (row["task"], row["language"], row["split"]) == (task, language, "train")
            ]
            for language in generator.LANGUAGES
        }
        assert len({tuple(pairs) for pairs in drawn.values()}) == len(drawn)
    assert max(len(row["question"].split()) for row in rows) < 25
    assert not [row for row in rows if "\u00a0" in row["question"] or "{" in row["question"]]


@pytest.mark.parametrize(
    ("number", "form"), [(1, "нейтрон"), (21, "нейтрон"), (34, "нейтрона"), (11, "нейтронов")]
)
def test_russian_nouns_agree_with_their_number(number, form):
    counted = generator._counted(number, generator.PHRASES["ru"].neutrons, "ru")
    assert counted == f"{number} {form}"


def test_a_seed_changes_the_draw_but_never_the_split():
    counts = {"train": 50, "test": 20}
    keys = {}
    for seed in (0, 1):
        for row in generator.generate(per_cell=counts, seed=seed):
            key = generator.operand_key(row["task"], row["operands"])
            assert keys.setdefault(key, row["split"]) == row["split"]
    first, second = (generator.generate(per_cell=counts, seed=seed) for seed in (0, 1))
    assert first != second


def test_a_cell_does_not_depend_on_the_others():
    everything = generator.generate(per_cell={"test": 20})
    alone = generator.generate(languages=["ru"], tasks=["motion"], per_cell={"test": 20})
    chosen = [r for r in everything if (r["language"], r["task"]) == ("ru", "motion")]
    assert json.dumps(alone) == json.dumps(chosen)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"languages": ["xx"]}, "en, de"),
        ({"tasks": ["poetry"]}, "sum_words"),
        ({"per_cell": {"dev": 5}}, "validation"),
        ({"tasks": ["neutrons"], "per_cell": {"test": 100_000}}, "neutrons"),
    ],
)
def test_bad_arguments_are_refused_with_the_choices(arguments, named):
    with pytest.raises(ValueError, match=named):
        generator.generate(**arguments)


def test_the_card_shows_an_example_of_every_cell_that_is_in_the_data(rows):
    card = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    table = card.rpartition("| --- |\n")[2].splitlines()
    shown = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]
    columns = ("domain", "task", "language", "question", "answer")
    assert set(shown) <= {tuple(row[name] for name in columns) for row in rows}
    assert len({example[:3] for example in shown}) == 5 * 4
