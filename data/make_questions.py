"""Write the study's questions and worked answers, the same ones on every machine.

Two domains of two tasks each, in five languages and two scripts. Number words come from num2words,
units and currencies and plural rules from CLDR through Babel, nuclides from periodictable. Whether
a computation belongs to training, validation or test depends on a hash of its operands alone, so it
falls on the same side in every language, task and domain, whatever the seed.

Run `python data/make_questions.py --output data` to write the shipped files again. It needs Babel,
num2words and periodictable: `pip install -e ".[dev]"`. The wordings are in `phrases.py` beside it.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import periodictable
from babel import Locale
from babel.numbers import get_currency_name
from babel.units import format_unit
from num2words import num2words
from phrases import PHRASES

from actlib.questions import SPLITS, require_known, split_of

LANGUAGES = tuple(PHRASES)
TASK_DOMAINS = {
    "sum_words": "maths",
    "purchase": "maths",
    "neutrons": "science",
    "motion": "science",
}
TASKS = tuple(TASK_DOMAINS)
DOMAINS = tuple(dict.fromkeys(TASK_DOMAINS.values()))
PER_CELL = {"train": 600, "validation": 60, "test": 120}
SMALL_PER_CELL = {"train": 400, "validation": 30, "test": 40}
SMALL_TASKS = ("sum_words", "neutrons")
SMALL_LARGEST = 30  # operand of the small set, for models that learn arithmetic from nothing

ADDENDS = range(2, 100)
COUNTS = range(2, 10)  # things bought, or units of time
RATES = range(2, 61)  # price of one thing, or distance in one unit of time
ATOMIC_NUMBERS = range(2, 61)
CURRENCIES = ("CHF", "USD")  # masculine in Russian, named differently in each language
MOTION_UNITS = (
    ("speed-meter-per-second", "duration-second", "length-meter"),
    ("speed-kilometer-per-hour", "duration-hour", "length-kilometer"),
)
OPERATIONS = {
    "sum_words": "sum",
    "purchase": "product",
    "neutrons": "difference",
    "motion": "product",
}


def operand_key(task: str, operands: Sequence[int]) -> str:
    """Name of a row's computation, such as `sum:14:23`; sums and products are unordered."""
    operation = OPERATIONS[task]
    ordered = operands if operation == "difference" else sorted(operands)
    return ":".join([operation, *map(str, ordered)])


@cache
def isotopes() -> dict[tuple[int, int], str]:
    """Known nuclides of two or more neutrons: (mass number, atomic number) -> `Fe-56`."""
    return {
        (mass, element.number): f"{element.symbol}-{mass}"
        for element in periodictable.elements
        if element.number in ATOMIC_NUMBERS
        for mass in element.isotopes
        if mass - element.number >= 2
    }


@cache
def operand_choices(
    task: str, split: str, largest: int | None = None
) -> tuple[tuple[int, int], ...]:
    """Every pair of operands, none above `largest`, that a task may use in a split, in order."""
    if task == "sum_words":
        pairs: Iterable[tuple[int, int]] = ((a, b) for a in ADDENDS for b in ADDENDS)
    elif task == "neutrons":
        pairs = isotopes()
    else:
        pairs = ((a, b) for a in COUNTS for b in RATES)
    return tuple(
        pair
        for pair in pairs
        if split_of(operand_key(task, pair)) == split and max(pair) <= (largest or max(pair))
    )


@cache
def _words(number: int, language: str) -> str:
    return num2words(number, lang=language)


@cache
def _plural(number: int, language: str) -> str:
    return Locale(language).plural_form(number)


@cache
def _quantity(number: int, unit: str, language: str) -> str:
    return format_unit(number, unit, locale=language).replace("\u00a0", " ")


@cache
def _money(number: int, currency: str, language: str) -> str:
    return f"{number} {get_currency_name(currency, count=number, locale=language)}"


def _counted(number: int, forms: Mapping[str, str], language: str) -> str:
    return f"{number} {forms[_plural(number, language)]}"


def _slots(task: str, a: int, b: int, language: str, rng: random.Random) -> tuple[dict, dict, int]:
    """Fill-ins of the question and of the answer, and the number that the answer comes to."""
    phrases = PHRASES[language]
    if task == "sum_words":
        value = a + b
        question = {"a": _words(a, language), "b": _words(b, language)}
        return question, {"words": _words(value, language)}, value
    if task == "neutrons":
        value = a - b
        question = {
            "isotope": isotopes()[a, b],
            "protons": _counted(b, phrases.protons, language),
        }
        return question, {"neutrons": _counted(value, phrases.neutrons, language)}, value
    value = a * b
    if task == "purchase":
        currency = rng.choice(CURRENCIES)
        one, many = rng.choice(phrases.things)
        question = {
            "name": rng.choice(phrases.names),
            "one": one,
            "things": _counted(a, many, language),
            "price": _money(b, currency, language),
        }
        return question, {"amount": _money(value, currency, language)}, value
    speed, duration, length = rng.choice(MOTION_UNITS)
    opening, inside = rng.choice(phrases.movers)
    question = {
        "Mover": opening,
        "mover": inside,
        "speed": _quantity(b, speed, language),
        "time": _quantity(a, duration, language),
    }
    return question, {"distance": _quantity(value, length, language)}, value


def _row(task: str, operands: tuple[int, int], language: str, rng: random.Random) -> dict:
    """One question with its worked answer."""
    a, b = operands
    asked, answered, value = _slots(task, a, b, language, rng)
    phrases = PHRASES[language]
    return {
        "language": language,
        "domain": TASK_DOMAINS[task],
        "task": task,
        "question": rng.choice(phrases.questions[task]).format(**asked),
        "answer": phrases.answers[task].format(a=a, b=b, value=value, **answered),
        "value": str(value),
        "operands": list(operands),
    }


def _cell(
    split: str, language: str, task: str, count: int, seed: int, largest: int | None
) -> list[dict]:
    """Draw `count` different questions, using every computation once before any comes again."""
    rng = random.Random(f"{seed}/{split}/{language}/{task}")
    choices = list(operand_choices(task, split, largest))
    rows: dict[str, dict] = {}
    for _ in range(50):
        rng.shuffle(choices)
        for operands in choices:
            if len(rows) == count:
                return [
                    {"id": f"{task}-{language}-{split}-{number:04d}", "split": split, **row}
                    for number, row in enumerate(rows.values())
                ]
            row = _row(task, operands, language, rng)
            rows.setdefault(row["question"], row)
    raise ValueError(
        f"Task {task} in {language} has only about {len(rows)} different {split} questions, "
        f"fewer than the {count} asked for."
    )


def generate(
    languages: Sequence[str] = LANGUAGES,
    tasks: Sequence[str] = TASKS,
    per_cell: Mapping[str, int] = PER_CELL,
    seed: int = 0,
    largest: int | None = None,
) -> list[dict]:
    """Rows of every split, language and task, in that order.

    A cell (split, language, task) depends on the seed and its own name only, so asking for fewer
    languages or tasks gives the same rows for those that remain.

    Args:
        languages: codes out of `LANGUAGES`.
        tasks: names out of `TASKS`.
        per_cell: split -> number of questions in each language and task.
        seed: chooses operands and wordings; never the split of a computation.
        largest: operands above it are left out; None for all.

    Returns:
        Rows with id, split, language, domain, task, question, answer, value (text) and operands. No
        question occurs twice.

    Raises:
        ValueError: an unknown language, task or split, or more questions than a cell holds.
    """
    require_known("language", languages, LANGUAGES)
    require_known("task", tasks, TASKS)
    require_known("split", per_cell, SPLITS)
    return [
        row
        for split, count in per_cell.items()
        for language in languages
        for task in tasks
        for row in _cell(split, language, task, count, seed, largest)
    ]


def write(output: Path, seed: int = 0) -> None:
    """Write `output/SPLIT/LANGUAGE.jsonl`, the same under `output/small`, and their checksums."""
    small = generate(tasks=SMALL_TASKS, per_cell=SMALL_PER_CELL, seed=seed, largest=SMALL_LARGEST)
    files: dict[str, list[str]] = {}
    for folder, rows in (("", generate(seed=seed)), ("small/", small)):
        for row in rows:
            name = f"{folder}{row['split']}/{row['language']}.jsonl"
            files.setdefault(name, []).append(json.dumps(row, ensure_ascii=False))
    checksums = []
    for name, lines in sorted(files.items()):
        content = ("\n".join(lines) + "\n").encode()
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(content)
        checksums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (output / "checksums.txt").write_text("".join(checksums), encoding="utf-8", newline="\n")


def main() -> None:
    """Command line of the generator."""
    parser = argparse.ArgumentParser(description="Write the study's data files.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the data files")
    parser.add_argument("--seed", type=int, default=0, help="chooses operands and wordings")
    arguments = parser.parse_args()
    write(arguments.output, arguments.seed)


if __name__ == "__main__":
    main()
