"""Write the study's questions and worked answers, the same ones on every machine.

Two domains of two tasks each, in five languages and two scripts. Number words come from num2words,
plural rules from CLDR through Babel. Whether a computation belongs to training, validation or test
depends on a hash of task and operands alone, so it falls on the same side in every language and
wording, whatever the seed.

Run `python data/make_questions.py --output data/questions` to write the shipped files again. It
needs Babel and num2words: `pip install -e ".[dev]"`. The wordings are in `phrases.py` beside it.
"""

import argparse
import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from babel import Locale
from num2words import num2words
from phrases import PHRASES, SYMBOLS

from actlib.questions import SPLITS, require_known, split_of

LANGUAGES = tuple(PHRASES)
TASK_DOMAINS = {"sum": "maths", "comparison": "maths", "atoms": "science", "units": "science"}
TASKS = tuple(TASK_DOMAINS)
COUNTS = {  # questions a language and task; small models need many different ones
    "train": {"sum": 800, "comparison": 700, "atoms": 500, "units": 300},
    "validation": dict.fromkeys(TASKS, 20),
    "test": dict.fromkeys(TASKS, 50),
}
ADDENDS = range(2, 10), range(10, 70)
COMPARED = range(2, 60)
QUANTITIES = range(2, 200)  # before conversion
CONVERSIONS = {
    10: (("centimeter", "millimeter"),),
    100: (("meter", "centimeter"),),
    1000: (("kilometer", "meter"), ("kilogram", "gram"), ("liter", "milliliter")),
}

Operands = tuple[int, ...]
Fills = tuple[dict, dict, int]  # of the question, of the answer, and the result


def is_molecule(counts: Operands) -> bool:
    """Whether some molecule has these counts of `SYMBOLS`: valences are even and suffice."""
    carbon, hydrogen, nitrogen, _, _, chlorine = counts
    ends = hydrogen + chlorine
    return (ends + nitrogen) % 2 == 0 and ends <= 2 * carbon + nitrogen + 2


@cache
def computations(task: str, split: str) -> tuple[Operands, ...]:
    """Operands of every computation that a task may use in a split, in order.

    Of a sum and of a comparison the smaller operand comes first; a conversion has its quantity and
    its factor; atoms are counted in a formula, which has its counts of `SYMBOLS`.
    """
    every = {
        "sum": lambda: itertools.product(*ADDENDS),
        "comparison": lambda: itertools.combinations(COMPARED, 2),
        "units": lambda: itertools.product(QUANTITIES, CONVERSIONS),
        "atoms": lambda: filter(
            is_molecule,
            itertools.product(range(2, 13), range(2, 27), range(5), range(7), range(3), range(4)),
        ),
    }
    return tuple(
        operands
        for operands in every[task]()
        if split_of(":".join([task, *map(str, operands)])) == split
    )


def formula_of(counts: Operands) -> str:
    """Molecular formula in Hill's order: carbon, hydrogen, then by the alphabet.

    >>> formula_of((6, 12, 0, 6, 0, 1))
    'C6H12ClO6'
    """
    pairs = dict(zip(SYMBOLS, counts, strict=True))
    order = sorted(pairs, key=lambda symbol: (symbol not in ("C", "H"), symbol))
    return "".join(f"{s}{pairs[s] if pairs[s] > 1 else ''}" for s in order if pairs[s])


def number_words(number: int, language: str, counted: bool = False) -> str:
    """A number in words, as it stands alone or before a masculine noun that it counts."""
    words = num2words(number, lang=language)
    if counted and language == "es":  # veintiún lápices, treinta y un lápices
        words = words.replace("veintiuno", "veintiún").replace("y uno", "y un")
    return words


def agree(number: int, forms: Mapping[str, str], language: str) -> str:
    """The form of a noun after a number, by the plural rules of CLDR."""
    return forms[Locale(language).plural_form(number)]


def _sum(operands: Operands, language: str, rng: random.Random) -> Fills:
    a, b = rng.sample(operands, 2)
    pencils = agree(a, PHRASES[language].pencils, language)
    asked = {
        "a": number_words(a, language),
        "b": number_words(b, language),
        "a_pencils": f"{number_words(a, language, counted=True)} {pencils}",
    }
    return asked, {"a": a, "b": b, "words": number_words(a + b, language)}, a + b


def _comparison(operands: Operands, language: str, rng: random.Random) -> Fills:
    a, b = (number_words(number, language) for number in rng.sample(operands, 2))
    either = "u" if language == "es" and b.startswith("o") else "o"  # siete u ocho
    smaller, larger = operands
    answered = {"a": larger, "b": smaller, "words": number_words(larger, language)}
    return {"a": a, "b": b, "o": either}, answered, larger


def _atoms(operands: Operands, language: str, rng: random.Random) -> Fills:
    symbol = rng.choice([s for s, count in zip(SYMBOLS, operands, strict=True) if count > 1])
    value, forms = operands[SYMBOLS.index(symbol)], PHRASES[language].atoms[symbol]
    asked = {"formula": formula_of(operands), "atoms": forms.get("many") or forms["other"]}
    return asked, {"atoms": agree(value, forms, language)}, value


def _units(operands: Operands, language: str, rng: random.Random) -> Fills:
    a, factor = operands
    source, target = (PHRASES[language].units[name] for name in rng.choice(CONVERSIONS[factor]))
    value = a * factor
    asked = {
        "quantity": f"{a} {agree(a, source.counted, language)}",
        "within": f"{a} {agree(a, source.within or source.counted, language)}",
        "many": target.many,
        "into": target.into,
    }
    result = f"{value} {agree(value, target.counted, language)}"
    return asked, {"a": a, "b": factor, "result": result}, value


FILLS = {"sum": _sum, "comparison": _comparison, "atoms": _atoms, "units": _units}


def _row(task: str, operands: Operands, language: str, rng: random.Random) -> dict:
    """One question with its worked answer."""
    phrases = PHRASES[language]
    asked, answered, value = FILLS[task](operands, language, rng)
    return {
        "language": language,
        "domain": TASK_DOMAINS[task],
        "task": task,
        "question": rng.choice(phrases.questions[task]).format(**asked),
        "answer": phrases.answers[task].format(value=value, **answered),
        "value": str(value),
        "operands": list(operands),
    }


def _draw(split: str, language: str, task: str, count: int, seed: int) -> list[dict]:
    """Draw `count` different questions, using every computation once before any comes again."""
    rng = random.Random(f"{seed}/{split}/{language}/{task}")
    rows: dict[str, dict] = {}
    for _ in range(50):
        choices = list(computations(task, split))
        for operands in rng.sample(choices, len(choices)):
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
    counts: Mapping[str, Mapping[str, int]] = COUNTS,
    seed: int = 0,
) -> list[dict]:
    """Rows of every split, language and task, in that order.

    What is drawn for a split, language and task depends on the seed and these names only, so asking
    for fewer languages or tasks gives the same rows for those that remain.

    Args:
        languages: codes out of `LANGUAGES`.
        tasks: names out of `TASKS`.
        counts: split -> task -> number of questions in each language.
        seed: chooses operands and wordings; never the split of a computation.

    Returns:
        Rows with id, split, language, domain, task, question, answer, value (text) and operands. No
        question occurs twice.

    Raises:
        ValueError: an unknown language, task or split, or more questions than there are.
    """
    require_known("language", languages, LANGUAGES)
    require_known("task", tasks, TASKS)
    require_known("split", counts, SPLITS)
    return [
        row
        for split, count in counts.items()
        for language in languages
        for task in tasks
        for row in _draw(split, language, task, count[task], seed)
    ]


def write(output: Path, seed: int = 0) -> None:
    """Write `output/SPLIT/LANGUAGE.jsonl` and their checksums."""
    files: dict[str, list[str]] = {}
    for row in generate(seed=seed):
        name = f"{row['split']}/{row['language']}.jsonl"
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
