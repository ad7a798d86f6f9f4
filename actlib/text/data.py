"""Load questions with worked answers: the shipped ones, public benchmarks, or a user's own.

Every loader gives a `datasets.Dataset` with the same columns, so the rest of the study need not
know where an item came from: id, split, language, domain, task, question, answer, value (the final
answer as text, empty where unknown) and operands (empty outside the generated tasks).
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from babel import Locale
from datasets import Dataset, Features, List, Value

from actlib.text.generator import SPLITS, require_known, split_of
from actlib.text.lines import json_lines, read_lines, shown

SHIPPED = Path(__file__).resolve().parents[2] / "data"
COLUMNS = ("id", "split", "language", "domain", "task", "question", "answer", "value")
FEATURES = Features(
    {**{name: Value("string") for name in COLUMNS}, "operands": List(Value("int64"))}
)
_SPLIT_NAMES = {"train": "train", "dev": "validation", "validation": "validation", "test": "test"}


def _dataset(rows: list[dict]) -> Dataset:
    return Dataset.from_list(rows, features=FEATURES)


def select_items(
    items: Dataset,
    *,
    split: str | None = None,
    languages: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    limit_per_cell: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Items of the given split, languages, domains and tasks, in the order they have.

    Args:
        items: a data set of one of the loaders here.
        split: one split; all if None. Likewise for the next three.
        languages: codes such as `fr`.
        domains: such as `maths`.
        tasks: such as `sum_words`.
        limit_per_cell: most items of each split, language and task, drawn without replacement. With
            the same seed, a larger draw holds the smaller one.
        seed: chooses the items drawn.

    Raises:
        ValueError: a name that no item has (the sentence names those there are), a limit below one,
            or nothing left.
    """
    wanted = {
        "split": None if split is None else [split],
        "language": languages,
        "domain": domains,
        "task": tasks,
    }
    columns = {name: items[name][:] for name in wanted}
    kept = set(range(len(items)))
    for name, values in wanted.items():
        if values is not None:
            require_known(name, values, list(dict.fromkeys(columns[name])))
            kept &= {n for n, value in enumerate(columns[name]) if value in values}
    if not kept:
        raise ValueError(f"No item has all of these: {wanted}.")
    if limit_per_cell is not None:
        if limit_per_cell < 1:
            raise ValueError(f"limit_per_cell must be at least 1; got {limit_per_cell}.")
        cells: dict[tuple[str, ...], list[int]] = {}
        for n in sorted(kept):
            cell = tuple(columns[name][n] for name in ("split", "language", "task"))
            cells.setdefault(cell, []).append(n)
        drawn = (_draw(members, cell, seed)[:limit_per_cell] for cell, members in cells.items())
        kept = {n for members in drawn for n in members}
    return items.select(sorted(kept))


def _draw(members: list[int], cell: tuple[str, ...], seed: int) -> list[int]:
    """Shuffle a cell's items by the seed and the cell's name alone."""
    shuffled = list(members)
    random.Random("/".join([str(seed), *cell])).shuffle(shuffled)
    return shuffled


def ability_of(row: Mapping) -> str:
    """Ability that a row is a question of: ``language-domain``, or one name where it has no domain.

    >>> ability_of({"language": "de", "domain": "maths"})
    'de-maths'
    """
    return "-".join(part for part in (row["language"], row["domain"]) if part)


def abilities_of(items: Dataset) -> list[str]:
    """Abilities that items are questions of, in the order in which they come."""
    columns = zip(items["language"][:], items["domain"][:], strict=True)
    return list(dict.fromkeys("-".join(filter(None, pair)) for pair in columns))


def load_items(
    path: str | Path | None = None,
    split: str = "test",
    languages: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    limit_per_cell: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Items of the shipped data, or of a folder laid out like it.

    Args:
        path: folder that holds `SPLIT/LANGUAGE.jsonl`; the shipped one if None.
        split: `train`, `validation` or `test`.
        languages: as the rest, see `select_items`; all if None.
        domains: all if None.
        tasks: all if None.
        limit_per_cell: most items of each language and task; all if None.
        seed: chooses which, under a limit.

    Raises:
        ValueError: the folder is absent, or a name is unknown; the sentence names the choices.
    """
    require_known("split", [split], SPLITS)
    folder = Path(path) if path is not None else SHIPPED
    files = sorted((folder / split).glob("*.jsonl"))
    if not files:
        raise ValueError(f"Found no file like {split}/en.jsonl in the data folder {folder}.")
    rows = [_own(file, number, row) for file in files for number, row in json_lines(file)]
    return select_items(
        _dataset(rows),
        languages=languages,
        domains=domains,
        tasks=tasks,
        limit_per_cell=limit_per_cell,
        seed=seed,
    )


def _mgsm(path: Path) -> list[dict]:
    """MGSM: question, tab, number. The language is the end of the file's name."""
    language = path.stem.rpartition("_")[2]
    rows = []
    for number, line in read_lines(path):
        question, tab, answer = line.rpartition("\t")
        if not tab or not question.strip() or not answer.strip():
            raise ValueError(f"{path}, line {number}: expected question, tab, answer.")
        rows.append(
            {
                "id": f"mgsm-{language}-{number:04d}",
                "split": "test",
                "language": language,
                "domain": "maths",
                "task": "word_problem",
                "question": question,
                "answer": answer.strip(),
                "value": answer.strip().replace(",", ""),
                "operands": [],
            }
        )
    return rows


def _gsm8k(path: Path, number: int, row: dict) -> dict:
    """GSM8K: the worked answer without its calculator notes; the number follows `####`."""
    _require_text(path, number, row, "question", "answer")
    answer = re.sub(r"<<[^>]*>>", "", row["answer"]).strip()
    split = _SPLIT_NAMES.get(path.stem) or split_of(row["question"])
    return {
        "id": f"gsm8k-{path.stem}-{number:04d}",
        "split": split,
        "language": "en",
        "domain": "maths",
        "task": "word_problem",
        "question": row["question"].strip(),
        "answer": answer,
        "value": answer.rpartition("####")[2].strip().replace(",", ""),
        "operands": [],
    }


@cache
def _language_codes() -> dict[str, str]:
    """English name of each language -> its code."""
    return {name: code for code, name in Locale("en").languages.items()}


def _exams(path: Path, number: int, row: dict) -> dict | None:
    """EXAMS: the choices join the question. None for a canceled question, one without an answer."""
    _require_text(path, number, row, *(key for key in ("question", "answer") if key in row))
    choices, key = row["choices"], row["answer"]
    if not isinstance(choices, dict) or not all(isinstance(c, str) for c in choices.values()):
        raise ValueError(
            f"{path}, line {number}: 'choices' must hold texts by letter, got {shown(choices)}."
        )
    if key not in choices:
        return None
    _require_text(path, number, row, *(key for key in ("language", "subject") if key in row))
    name = row["language"].removeprefix("North ")  # CLDR calls the language Macedonian
    listed = "\n".join(f"{letter}) {text}" for letter, text in choices.items())
    return {
        "id": row.get("id", f"exams-{path.stem}-{number:04d}"),
        "split": _SPLIT_NAMES.get(path.stem.rpartition("_")[2]) or split_of(row["question"]),
        "language": _language_codes().get(name, name),
        "domain": "science",
        "task": row["subject"].lower(),
        "question": f"{row['question'].strip()}\n{listed}",
        "answer": f"{key}) {choices[key]}".strip(),
        "value": key,
        "operands": [],
    }


def _own(path: Path, number: int, row: dict) -> dict:
    """A user's row, checked, with what is missing filled in."""
    _require_text(path, number, row, "question", "answer")
    split = row.get("split") or split_of(row["question"])
    if split not in SPLITS:
        raise ValueError(
            f"{path}, line {number}: unknown split {shown(split)}; choose from {', '.join(SPLITS)}."
        )
    operands = row.get("operands") or []
    if not isinstance(operands, list) or not all(_is_count(each) for each in operands):
        raise ValueError(
            f"{path}, line {number}: 'operands' must be a list of whole numbers, got "
            f"{shown(operands)}."
        )
    language, domain = str(row.get("language") or "und"), str(row.get("domain") or "own")
    if row.get("ability"):  # a name in place of language and domain; often the two in one
        language, _, domain = str(row["ability"]).partition("-")
    value = row.get("value")
    return {
        "id": str(row.get("id") or f"{path.stem}-{number:04d}"),
        "split": split,
        "language": language,
        "domain": domain,
        "task": str(row.get("task") or domain),
        "question": row["question"],
        "answer": row["answer"],
        "value": "" if value is None else str(value),
        "operands": operands,
    }


def _require_text(path: Path, number: int, row: Mapping, *names: str) -> None:
    for name in names:
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            told = f"got {shown(value)}" if name in row else "and is missing"
            raise ValueError(f"{path}, line {number}: {name!r} must hold text, {told}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _require_named(path: Path, lines: list[tuple[int, dict]]) -> None:
    """Refuse a line that names no ability where others of its file name one."""
    unnamed = [
        number for number, row in lines if not any(map(row.get, ("ability", "language", "domain")))
    ]
    if unnamed and len(unnamed) < len(lines):
        raise ValueError(
            f"{path.name}, line {unnamed[0]}: needs 'ability' (or 'language' or 'domain'), as "
            "other lines of the file have."
        )


_READERS: dict[str, Callable[[Path, int, dict], dict | None]] = {
    "gsm8k": _gsm8k,
    "exams": _exams,
    "own": _own,
}
FORMATS = ("auto", "mgsm", *_READERS)


def _format_of(path: Path) -> str:
    """Guess a file's format: by its ending, then by what its first row holds."""
    if path.suffix == ".tsv":
        return "mgsm"
    _, row = next(json_lines(path), (0, {}))
    if "choices" in row:
        return "exams"
    return "gsm8k" if re.search(r"^#### ", str(row.get("answer", "")), re.MULTILINE) else "own"


def _read(path: Path, format: str) -> list[dict]:
    format = _format_of(path) if format == "auto" else format
    if format == "mgsm":
        return _mgsm(path)
    lines = list(json_lines(path))
    if format == "own":
        _require_named(path, lines)
    try:
        rows = [_READERS[format](path, number, row) for number, row in lines]
    except KeyError as error:
        raise ValueError(f"{path} has a row without {error}, which {format} needs.") from error
    return [row for row in rows if row is not None]


def load_external(path: str | Path, format: str = "auto") -> Dataset:
    """Items of a benchmark's files as they lie, or of a user's own JSON lines.

    A user's rows need `question` and `answer`; the other columns are optional. An `ability` such as
    `de-maths` stands for language and domain; one without a hyphen is an ability of no domain.
    Without a split, a row gets one by a hash of its question, in the proportions of the shipped
    data. MGSM is all test; GSM8K and EXAMS keep the split in the file's name. EXAMS questions that
    were canceled (no right choice) are left out.

    Args:
        path: a file, or a folder whose `.tsv` and `.jsonl` files are read in the order of their
            names.
        format: `auto`, `mgsm`, `gsm8k`, `exams` or `own`.

    Raises:
        ValueError: nothing to read there, an unknown format, or a malformed row (which is named).
    """
    require_known("format", [format], FORMATS)
    path = Path(path)
    files = [path] if path.is_file() else sorted([*path.glob("*.tsv"), *path.glob("*.jsonl")])
    if not files:
        raise ValueError(f"Found no .tsv or .jsonl file at {path}; name one, or its folder.")
    rows = [row for file in files for row in _read(file, format)]
    if not rows:
        raise ValueError(f"Found no item in {path}; it needs a question with its answer a line.")
    return _dataset(rows)
