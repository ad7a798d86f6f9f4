"""Read questions with answers: JSON lines, MGSM, GSM8K and EXAMS as they are, or from the Hub.

    rows = load_questions("questions.jsonl")  # a file, a folder, or a name on the Hub
    rows[0]["ability"], rows[0]["question"], rows[0]["answer"]

Every row has the same columns, wherever it came from: id, split, language, domain, ability, task,
question, answer, value (the final answer in plain digits, such as `1200` or `-3.5`, or another
short text; empty where unknown) and operands (of a computation; mostly empty). What a row names
itself wins over what its format or its file's name implies.
"""

import hashlib
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from actlib.numerals import format_number, parse_number
from actlib.question_files import SPLIT_NAMES, Rows, read_sources
from actlib.wording import require_known

SPLITS = ("train", "validation", "test")
_IMPLIED = {
    "mgsm": ("und", "maths", "word_problem"),
    "gsm8k": ("en", "maths", "word_problem"),
    "exams": ("und", "science", ""),
    "own": ("und", "own", ""),
}
"""Language, domain and task that a format stands for, where a row names nothing else."""
_CODES = dict(
    pair.split(":")
    for pair in "albanian:sq arabic:ar bulgarian:bg croatian:hr english:en french:fr german:de "
    "hungarian:hu italian:it lithuanian:lt macedonian:mk polish:pl portuguese:pt serbian:sr "
    "spanish:es turkish:tr vietnamese:vi".split()
) | {"north macedonian": "mk"}
"""Codes of the languages that EXAMS names in English."""
_FINAL = re.compile(r"^#### ", re.MULTILINE)
_ONE_FORM = {
    **dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff\u200e\u200f\u061c")),  # not seen
    **{0xFF01 + n: 0x21 + n for n in range(94)},  # full width
    **dict.fromkeys((0x2010, 0x2011), "-"),
}


def load_questions(path: str | Path) -> list[dict]:
    """Questions of a file, of a folder, or of a data set on the Hugging Face Hub.

    Rows need `question` and `answer`; the other columns are optional. An `ability` such as
    `de-maths` gives language and domain where the row does not name them; language and domain give
    the ability. Without a split, a row gets one by a hash of its normalized question, so the same
    question lands on the same side however it is written. A folder that is called by a split gives
    it to the rows of its files (`dev` is validation); elsewhere MGSM is all test, and GSM8K and
    EXAMS keep the split in the file's name. EXAMS questions that were canceled are left out. The
    number after `####`, and a `value` in digits, are read as the row's language writes numbers;
    MGSM's numbers are in English notation in every language.

    Args:
        path: a file; a folder whose `.tsv` and `.jsonl` files are read in the order of their names,
            or laid out as `SPLIT/NAME.jsonl`; or `owner/name` or `owner/name:configuration` on the
            Hub, which needs the package `datasets`.

    Raises:
        ValueError: nothing to read there, a malformed row (which is named), or two abilities whose
            names differ in case alone.
    """
    rows = [row for file, raw in read_sources(path) for row in _complete_rows(file, raw)]
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
    r"""A text up to how it is stored: NFC, half width, one space for any white space, none at ends.

    It identifies a question for splits and clusters; models are given the text as it was written.

    >>> normalize_text("Cafe\u0301\r\n noir ") == "Caf\u00e9 noir"
    True
    """
    return " ".join(unicodedata.normalize("NFC", text).translate(_ONE_FORM).split())


def normalize_name(name: object) -> str:
    """Name of an ability, a language or a domain: normalized text; empty for none."""
    return "" if name is None else normalize_text(str(name))


def abilities_of(rows: Iterable[Mapping]) -> list[str]:
    """Abilities that rows are questions of, in the order in which they come."""
    return list(dict.fromkeys(row["ability"] for row in rows))


def first_of_each(rows: Iterable[dict], count: int | None) -> list[dict]:
    """The first rows of each ability, at most as many as the count, or all if it is None."""
    seen, chosen = Counter[str](), []
    for row in rows:
        seen[row["ability"]] += 1
        if count is None or seen[row["ability"]] <= count:
            chosen.append(row)
    return chosen


def split_of(key: str) -> str:
    """Split that a question or a computation belongs to, by a stable hash of its name."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 80 else "validation" if bucket < 88 else "test"


def require_text(where: str, row: Mapping, *names: str) -> None:
    """Raise ValueError, naming row and column, where one of some columns holds no text."""
    for name in names:
        value = row.get(name)
        if not isinstance(value, str) or not normalize_text(value):
            got = f"got {reprlib.repr(value)}" if name in row else "and is missing"
            raise ValueError(f"{where}: {name!r} must hold text, {got}.")
        if re.search("[\ud800-\udfff]", value):
            raise ValueError(f"{where}: {name!r} holds half of a character (a lone surrogate).")


def read_exams(where: str, row: Mapping) -> dict:
    """A question of EXAMS, as published (`question.stem`, `answerKey`, `info`) or flattened.

    Returns:
        question, choices (texts by letter), answer (the letter), language and subject.

    Raises:
        ValueError: the row has neither form.
    """
    if isinstance(row.get("question"), dict):
        asked = row["question"]
        try:
            choices = {choice["label"]: choice["text"] for choice in asked["choices"]}
            row = {**row["info"], "question": asked["stem"], "answer": row["answerKey"]}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{where}: expected a row of EXAMS, got one without {error}."
            ) from error
        row["choices"] = choices
    require_text(where, row, "question", "answer", "language", "subject")
    listed = row.get("choices")
    if not isinstance(listed, dict) or not all(isinstance(c, str) for c in listed.values()):
        raise ValueError(
            f"{where}: 'choices' must hold texts by letter, got {reprlib.repr(listed)}."
        )
    names = ("question", "choices", "answer", "language", "subject")
    return {name: row[name] for name in names}


def _complete_rows(file: str, rows: Rows) -> Iterator[dict]:
    """Rows of one file or split in the common columns; its first row shows the format."""
    first = next(iter(rows.values()), {})
    format = "own"
    if file.lower().endswith(".tsv"):
        format = "mgsm"
    elif "choices" in first or isinstance(first.get("question"), dict):
        format = "exams"
    elif _FINAL.search(str(first.get("answer", ""))):
        format = "gsm8k"
    unnamed = [
        where
        for where, row in rows.items()
        if not any(map(row.get, ("ability", "language", "domain")))
    ]
    if format in ("own", "gsm8k") and 0 < len(unnamed) < len(rows):
        raise ValueError(
            f"{unnamed[0]}: needs 'ability' (or 'language' or 'domain'), as other lines of the "
            "file have."
        )
    name = Path(file).stem
    named = "test" if format == "mgsm" else name.rpartition("_")[2]
    split = SPLIT_NAMES.get(named) if format != "own" else None
    for number, (where, row) in enumerate(rows.items(), start=1):
        row = {"split": split} | row
        if format == "gsm8k":  # the worked answer without its calculator notes
            require_text(where, row, "answer")
            if _FINAL.search(row["answer"]):  # a file of one's own may have other rows too
                row["answer"] = re.sub(r"<<[\d\s.,+*/()=%-]*>>", "", row["answer"]).strip()
        elif format == "exams":
            exam = read_exams(where, row)
            if exam["answer"] not in exam["choices"]:  # canceled, one without an answer
                continue
            row = {"task": exam["subject"].lower()} | row | _choose(exam)
        yield _complete(where, f"{name}-{number:04d}", row, format)


def _choose(exam: Mapping) -> dict:
    """Columns of a question of EXAMS: the choices join the question."""
    listed = "\n".join(f"{letter}) {text}" for letter, text in exam["choices"].items())
    key = exam["answer"]
    row = {"question": f"{exam['question'].strip()}\n{listed}", "value": key}
    return row | {"answer": f"{key}) {exam['choices'][key]}".strip(), "language": exam["language"]}


def _complete(where: str, default_id: str, row: dict, format: str) -> dict:
    """A row, checked, with all columns: what it names itself, else what its format implies."""
    require_text(where, row, "question", "answer")
    split = row.get("split") or split_of(normalize_text(row["question"]))
    require_known(f"{where}: split", [split], SPLITS)
    operands = row.get("operands")
    language, domain, task = _IMPLIED[format]
    ability = normalize_name(row.get("ability"))
    if ability:
        code, _, rest = ability.partition("-")
        is_code = re.fullmatch("[a-z]{2,3}", code)
        language, domain = (code, rest or domain) if is_code else ("und", ability)
    language = normalize_name(row.get("language")) or language
    language = _CODES.get(language.lower(), language)
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
        "value": _value(row, language),
        "operands": operands if isinstance(operands, list) else [],
    }


def _value(row: Mapping, language: str) -> str:
    """Final answer of a row: its own value, or the number after `####`; empty where unknown."""
    value = row.get("value")
    if value is None:
        _, marked, final = row["answer"].rpartition("####")
        number = parse_number(final, language) if marked else None
        return "" if number is None else format_number(number)
    number = parse_number(value, language) if isinstance(value, str) else value
    if number is None and parse_number(value, "en") is not None:  # it depends on the language
        return ""
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 1e300:
        return str(value)
    return format_number(number)
