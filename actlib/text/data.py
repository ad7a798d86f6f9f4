"""Load questions with worked answers: the shipped ones, public benchmarks, or a user's own.

Every loader gives a `datasets.Dataset` with the same columns, so the rest of the study need not
know where an item came from: id, split, language, domain, task, question, answer, value (the final
answer as text, empty where unknown) and operands (empty outside the generated tasks).
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset, Features, List, Value

from actlib.text.formats import FORMATS, own_row, rows_of
from actlib.text.generator import SPLITS, require_known
from actlib.text.lines import json_lines

SHIPPED = Path(__file__).resolve().parents[2] / "data"
COLUMNS = ("id", "split", "language", "domain", "task", "question", "answer", "value")
FEATURES = Features(
    {**{name: Value("string") for name in COLUMNS}, "operands": List(Value("int64"))}
)


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
    rows = [own_row(file, number, row) for file in files for number, row in json_lines(file)]
    return select_items(
        _dataset(rows),
        languages=languages,
        domains=domains,
        tasks=tasks,
        limit_per_cell=limit_per_cell,
        seed=seed,
    )


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
    rows = [row for file in files for row in rows_of(file, format)]
    if not rows:
        raise ValueError(f"Found no item in {path}; it needs a question with its answer a line.")
    return _dataset(rows)
