"""Read questions with worked answers: JSON lines, MGSM, GSM8K and EXAMS as they lie, or the Hub's.

    rows = load_questions("questions.jsonl")  # a file, a folder, or a name on the Hub
    rows[0]["ability"], rows[0]["question"], rows[0]["answer"]

Every row has the same columns, wherever it came from: id, split, language, domain, ability, task,
question, answer, value (the final answer in plain digits, such as `1200` or `-3.5`, or another
short text; empty where unknown) and operands (of a computation; mostly empty). What a row names
itself wins over what its format or its file's name implies.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from actlib.numerals import format_number, parse_number
from actlib.question_files import Source, file_sources, hub_sources, require_text, shorten

SPLIT_PERCENTS = {"train": 80, "validation": 8, "test": 12}
SPLITS = tuple(SPLIT_PERCENTS)
FORMATS = ("auto", "mgsm", "gsm8k", "exams", "own")
FILE_ENDINGS = (".jsonl", ".tsv", ".json", ".csv", ".txt")
_SPLIT_NAMES = {**dict(zip(SPLITS, SPLITS, strict=True)), "dev": "validation"}
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_CODES = {
    **{"Albanian": "sq", "Arabic": "ar", "Bulgarian": "bg", "Croatian": "hr", "French": "fr"},
    **{"German": "de", "Hungarian": "hu", "Italian": "it", "Lithuanian": "lt", "Polish": "pl"},
    **{"Portuguese": "pt", "Serbian": "sr", "Spanish": "es", "Turkish": "tr", "Vietnamese": "vi"},
    **{"English": "en", "Macedonian": "mk", "North Macedonian": "mk"},
}
"""Codes of the languages that EXAMS names in English."""


def load_questions(path: str | Path, format: str = "auto") -> list[dict]:
    """Questions of a file, of a folder, or of a data set on the Hugging Face Hub.

    Rows need `question` and `answer`; the other columns are optional. An `ability` such as
    `de-maths` gives language and domain where the row does not name them; language and domain give
    the ability. Without a split, a row gets one by a hash of its normalized question, so the same
    question lands on the same side however it is written. MGSM is all test; GSM8K and EXAMS keep
    the split in the file's name. EXAMS questions that were canceled are left out. The number after
    `####`, and a `value` in digits, are read as the row's language writes numbers; MGSM's numbers
    are in English notation in every language.

    Args:
        path: a file; a folder whose `.tsv` and `.jsonl` files are read in the order of their names,
            or laid out as `SPLIT/NAME.jsonl`; or `owner/name` or `owner/name:configuration` on the
            Hub, which needs the package `datasets`.
        format: `auto`, `mgsm`, `gsm8k`, `exams` or `own`.

    Raises:
        ValueError: nothing to read there, an unknown format, a malformed row (which is named), or
            two abilities whose names differ in case alone.
    """
    require_known("format", [format], FORMATS)
    sources = hub_sources(str(path)) if _is_hub_name(path) else file_sources(Path(path))
    rows = []
    for source in sources:
        rows += _read_source(source, format)
    if not rows:
        raise ValueError(f"Found no item in {path}; it needs a question with its answer a line.")
    spellings: dict[str, str] = {}
    for name in sorted(abilities_of(rows)):
        if (other := spellings.setdefault(name.casefold(), name)) != name:
            raise ValueError(
                f"{path}: the abilities {other!r} and {name!r} differ in case alone; write one."
            )
    return rows


def normalize_text(text: str) -> str:
    r"""A text up to how it is stored: Unicode NFC, one space for any white space, none at the ends.

    It identifies a question for splits and clusters; models are given the text as it was written.

    >>> normalize_text("Cafe\u0301\r\n noir ") == "Caf\u00e9 noir"
    True
    """
    return " ".join(unicodedata.normalize("NFC", text).translate(_INVISIBLE).split())


def abilities_of(rows: Iterable[Mapping]) -> list[str]:
    """Abilities that rows are questions of, in the order in which they come."""
    return list(dict.fromkeys(row["ability"] for row in rows))


def split_of(key: str) -> str:
    """Split that a question or a computation belongs to, by a stable hash of its name."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    for split, percent in SPLIT_PERCENTS.items():
        if bucket < percent:
            return split
        bucket -= percent
    raise AssertionError("the split percents do not add up to 100")


def require_known(name: str, given: Iterable[str], choices: Sequence[str]) -> None:
    """Refuse values outside a list of choices.

    Raises:
        ValueError: a value is not among the choices; the sentence names them.
    """
    for value in given:
        if value not in choices:
            raise ValueError(f"Unknown {name} {value!r}; choose from {', '.join(choices)}.")


def _is_hub_name(path: str | Path) -> bool:
    """Whether `owner/name` names nothing here, not even a folder in which a file is missing."""
    if Path(path).exists() or Path(path).parent.is_dir() or Path(path).suffix in FILE_ENDINGS:
        return False
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", str(path)) is not None


def _read_source(source: Source, format: str) -> list[dict]:
    """Rows of one file or split in the common columns."""
    if format == "auto":  # by what the first row holds
        first = source.rows[0][2] if source.rows else {}
        marked = re.search(r"^#### ", str(first.get("answer", "")), re.MULTILINE)
        format = source.format or ("exams" if "choices" in first else "gsm8k" if marked else "own")
    named = [any(map(row.get, ("ability", "language", "domain"))) for _, _, row in source.rows]
    if format == "own" and any(named) and not all(named):
        where = source.rows[named.index(False)][0]
        raise ValueError(
            f"{where}: needs 'ability' (or 'language' or 'domain'), as other lines of the file "
            "have."
        )
    rows = []
    readers = {"gsm8k": _gsm8k, "exams": _exams}
    for where, number, raw in source.rows:
        row = readers[format](where, source.name, raw) if format in readers else raw
        if row is not None:
            rows.append(_complete(where, f"{source.name}-{number:04d}", row, format))
    return rows


def _gsm8k(where: str, name: str, row: dict) -> dict | None:
    """GSM8K: the worked answer without its calculator notes."""
    require_text(where, row, "question", "answer")
    answer = re.sub(r"<<[^>]*>>", "", row["answer"]).strip()
    return {"split": _SPLIT_NAMES.get(name), **row, "answer": answer}


def _exams(where: str, name: str, row: dict) -> dict | None:
    """EXAMS: the choices join the question. None for a canceled question, one without an answer."""
    require_text(where, row, "question", "answer", "language", "subject")
    choices, key = row.get("choices"), row["answer"]
    if not isinstance(choices, dict) or not all(isinstance(c, str) for c in choices.values()):
        raise ValueError(f"{where}: 'choices' must hold texts by letter, got {shorten(choices)}.")
    if key not in choices:
        return None
    listed = "\n".join(f"{letter}) {text}" for letter, text in choices.items())
    return {
        "split": _SPLIT_NAMES.get(name.rpartition("_")[2]),
        "task": row["subject"].lower(),
        **row,
        "language": _CODES.get(row["language"], row["language"]),
        "question": f"{row['question'].strip()}\n{listed}",
        "answer": f"{key}) {choices[key]}".strip(),
        "value": key,
    }


_IMPLIED = {
    "mgsm": ("und", "maths", "word_problem"),
    "gsm8k": ("en", "maths", "word_problem"),
    "exams": ("und", "science", ""),
    "own": ("und", "own", ""),
}
"""Language, domain and task that a format stands for, where a row names nothing else."""


def _complete(where: str, default_id: str, row: dict, format: str) -> dict:
    """A row, checked, with all columns: what it names itself, else what its format implies."""
    require_text(where, row, "question", "answer")
    split = row.get("split") or split_of(normalize_text(row["question"]))
    if split not in SPLITS:
        raise ValueError(
            f"{where}: unknown split {shorten(split)}; choose from {', '.join(SPLITS)}."
        )
    operands = row.get("operands") or []
    numbers = operands if isinstance(operands, list) else [operands]
    if numbers is not operands or any(type(n) is not int or abs(n) >= 2**63 for n in numbers):
        raise ValueError(
            f"{where}: 'operands' must be a list of whole numbers, got {shorten(operands)}."
        )
    language, domain, task = _IMPLIED[format]
    ability = normalize_name(row.get("ability"))
    if ability:
        code, _, rest = ability.partition("-")
        is_code = re.fullmatch("[a-z]{2,3}", code)
        language, domain = (code, rest or domain) if is_code else ("und", ability)
    language = normalize_name(row.get("language")) or language
    domain = normalize_name(row.get("domain")) or domain
    return {
        "id": default_id if row.get("id") is None else str(row["id"]),
        "split": split,
        "language": language,
        "domain": domain,
        "ability": ability or f"{language}-{domain}",
        "task": str(row.get("task") or task or domain),
        "question": row["question"],
        "answer": row["answer"],
        "value": _value(row, _CODES.get(language, language)),
        "operands": operands,
    }


def _value(row: Mapping, language: str) -> str:
    """Final answer of a row: its own value, or the number after `####`; empty where unknown."""
    value = row.get("value")
    if isinstance(value, str):
        number = parse_number(value, language)
        return value if number is None else format_number(number)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53:
        return format_number(value)
    if value is not None:
        return str(value)
    _, marked, final = row["answer"].rpartition("####")
    number = parse_number(final, language) if marked else None
    return "" if number is None else format_number(number)


def normalize_name(name: object) -> str:
    """Name of an ability, a language or a domain: normalized text; empty for none."""
    return "" if name is None else normalize_text(str(name))
