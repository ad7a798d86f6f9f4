"""Which questions serve which purpose: recording, validation or test; none serves two of them.

Recording draws on the questions that models are trained on.

rows = Questions(preset).items("fr-maths", "test")
cluster_of(rows[0])   # what a question asks, whatever its language and wording
"""

import hashlib
import html
import random
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from actlib.prompts import Encoded, batches
from actlib.question_files import KINDS
from actlib.questions import SPLITS, abilities_of, load_questions, normalize_text
from actlib.study.presets import ROOT, Data, Preset
from actlib.wording import require_known

_PROMPT_STYLE = "color:#777"
_ANSWER_STYLE = "background:#cfe8f7;color:#00436b;border:1px solid #0072b2;border-radius:2px"
SHIPPED = ROOT / "data" / "questions"
PURPOSES = {"recording": "train", "validation": "validation", "test": "test"}
"""Split of the shipped data that each purpose draws on."""


def data_folder(data: Data) -> Path:
    """File or folder of the questions: as named, from the project's root, or the shipped ones."""
    return SHIPPED if data.path is None else ROOT / data.path


def data_digest(data: Data) -> str:
    """Digest of the questions, so that a change of the files, and a move of one, is noticed.

    Of the shipped ones, to which kept rows refer, the contents alone.
    """
    source = data_folder(data)
    inside = sorted(path for path in source.rglob("*") if path.suffix.lower() in KINDS)
    root, files = (source.parent, [source]) if source.is_file() else (source, inside)
    named = [("" if data.path is None else f"{p.relative_to(root)}\0", p) for p in files]
    parts = [hashlib.sha256(name.encode() + path.read_bytes()).digest() for name, path in named]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def load_items(folder: Path | str | None = None, split: str = "test") -> list[dict]:
    """Rows of a split of the shipped questions, or of a folder laid out as they are.

    Args:
        folder: holds `SPLIT/NAME.jsonl`; the shipped one if None.
        split: `train`, `validation` or `test`.

    Raises:
        ValueError: the split is unknown, or there is no such file.
    """
    require_known("split", [split], SPLITS)
    return load_questions(Path(folder or SHIPPED) / split)


def of_ability(items: Iterable[dict], ability: str) -> list[dict]:
    """Items of one ability.

    Raises:
        ValueError: there are none; the sentence names the abilities there are.
    """
    items = list(items)
    require_known("ability", [ability], abilities_of(items))
    return [row for row in items if row["ability"] == ability]


def training_items(preset: Preset, abilities: list[str], seed: int) -> list[dict]:
    """Training questions of some abilities, in an order fixed by the seed."""
    items = load_items(data_folder(preset.data), "train")
    rows = [row for ability in abilities for row in of_ability(items, ability)]
    random.Random(seed).shuffle(rows)
    return rows


def spread(items: Iterable[dict], count: int) -> list[dict]:
    """The first items of each task in turn, ``count`` at most, so that tasks are balanced."""
    groups: dict[str, list[dict]] = {}
    for row in items:
        groups.setdefault(row.get("task") or "", []).append(row)
    turns = zip_longest(*groups.values())
    return [row for turn in turns for row in turn if row is not None][:count]


def shared_part(one: str, other: str) -> str:
    """What two abilities, ``language-domain``, share: "same language", "same domain", "neither"."""
    (language, _, domain), (language_2, _, domain_2) = one.partition("-"), other.partition("-")
    if language == language_2:
        return "same language"
    return "same domain" if domain and domain == domain_2 else "neither"


def cluster_of(row: Mapping) -> str:
    """What an item asks: its task and operands, or else its text, however it is stored.

    Languages and wordings may ask the same computation, and a text may come twice. Such items are
    not independent; intervals resample clusters, not items.

    >>> cluster_of({"task": "sum", "operands": [6, 20]})
    'sum 6.20'
    """
    if row.get("operands"):
        return f"{row['task']} {'.'.join(map(str, row['operands']))}"
    return f"text {_text_digest(row)[:16]}"


def partition(items: Iterable[dict], purpose: str) -> list[dict]:
    """Items of data without its own splits for a purpose: a third each, by hash of the text."""
    third = list(PURPOSES).index(purpose)
    return [row for row in items if int(_text_digest(row), 16) % 3 == third]


def _text_digest(row: Mapping) -> str:
    return hashlib.sha256(normalize_text(row["question"]).encode()).hexdigest()


class Questions:
    """The questions of a preset by ability and purpose, each file read once.

    Data with the folders train, validation and test keep to them; other data are parted in thirds.
    """

    def __init__(self, preset: Preset) -> None:
        """Keep the preset; no question is read yet.

        Raises:
            ValueError: some of the three folders are there, and others are not.
        """
        self.preset, folder = preset, data_folder(preset.data)
        missing = [name for name in SPLITS if not (folder / name).is_dir()]
        if 0 < len(missing) < len(SPLITS):
            raise ValueError(
                f"{folder} lacks the folder {missing[0]}: give all of {', '.join(SPLITS)}, or, to "
                "have questions parted by hash, one folder of files with none of these names"
            )
        self._has_splits = not missing
        self._of_purpose: dict[str, list[dict]] = {}
        self._serves: dict[str, str] = {}  # text of a question -> its purpose
        self._inputs: dict[tuple[str, str], tuple[list[dict], list[str]]] = {}

    def items(self, ability: str, purpose: str = "test") -> list[dict]:
        """Questions of an ability for ``recording``, ``validation`` or ``test``; none is in two.

        Every task of the ability gives about as many, up to the preset's number for the purpose.

        Raises:
            ValueError: the purpose is unknown, there is no such question, or one serves two.
        """
        require_known("purpose", [purpose], list(PURPOSES))
        rows = of_ability(self.read(purpose), ability)
        rows = spread(rows, getattr(self.preset.evaluation, f"{purpose}_items"))
        for row in rows:
            other = self._serves.setdefault(_text_digest(row), purpose)
            if other != purpose:
                raise ValueError(
                    f"the question {row['id']} of {ability} serves {other} and {purpose}; keep it "
                    "in one split"
                )
        return rows

    def inputs(
        self, tokenizer: PreTrainedTokenizerBase, ability: str, purpose: str
    ) -> tuple[list[dict], list[str]]:
        """Batches of an ability's questions, made once, and the cluster of each question."""
        key = ability, purpose
        if key not in self._inputs:
            rows, settings = self.items(ability, purpose), self.preset.evaluation
            encoded = batches(tokenizer, rows, settings.batch_size, max_tokens=settings.max_tokens)
            self._inputs[key] = encoded, [cluster_of(row) for row in rows]
        return self._inputs[key]

    def training(self, abilities: Iterable[str], seed: int) -> list[dict]:
        """Items to fine-tune on, shuffled: the training split, or else the recording items."""
        if self._has_splits:
            return training_items(self.preset, list(abilities), seed)
        rows = [row for ability in abilities for row in self.items(ability, "recording")]
        random.Random(seed).shuffle(rows)
        return rows

    def read(self, purpose: str) -> list[dict]:
        """All questions for a purpose, of every ability."""
        if purpose not in self._of_purpose:
            folder = data_folder(self.preset.data)
            if self._has_splits:
                rows = load_items(folder, PURPOSES[purpose])
            else:
                rows = partition(load_questions(folder), purpose)
            self._of_purpose[purpose] = rows
        return self._of_purpose[purpose]


def highlight(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> Any:
    """Show an item in a notebook: the prompt in gray, the answer's tokens colored and boxed.

    Tokens that are parts of one character share a box.

    Returns:
        An `IPython.display.HTML` object.
    """
    from IPython.display import HTML

    ids, start = encoded.input_ids, encoded.answer_mask.index(True)
    prompt = cast(str, tokenizer.decode(ids[:start]))  # a list only for several sequences
    boxes, body = list[str](), ""
    for end in range(start + 1, len(ids) + 1):
        text = cast(str, tokenizer.decode(ids[start:end]))
        if "\ufffd" not in text or end == len(ids):
            boxes.append(text)
            start = end
    for style, text in [(_PROMPT_STYLE, prompt), *((_ANSWER_STYLE, box) for box in boxes)]:
        escaped = html.escape(text).replace("\n", "↵<br>")
        body += f'<span style="{style}">{escaped}</span>'
    return HTML(f'<div style="font-family:monospace;white-space:pre-wrap">{body}</div>')
