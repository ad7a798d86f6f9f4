"""Which questions serve which purpose: training, recording, validation or test; none serves two.

Questions(preset).items("fr-maths", "test")
"""

import hashlib
import html
import random
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from actlib.prompts import Encoded
from actlib.study.presets import ROOT, Data, Preset
from actlib.text.data import abilities_of, load_external, load_items
from actlib.text.generator import require_known

_PROMPT_STYLE = "color:#777"
_ANSWER_STYLE = "background:#cfe8f7;color:#00436b;border:1px solid #0072b2;border-radius:2px"
PURPOSES = {"recording": "train", "validation": "validation", "test": "test"}
"""Split of the shipped data that each purpose draws on."""


def trained_on(preset: Preset) -> Data:
    """Questions that the family is trained on: those judged, unless the preset says otherwise."""
    return preset.training_data or preset.data


def data_folder(data: Data) -> Path | None:
    """File or folder of the questions: as named, from the project's root; None for the shipped."""
    return None if data.path is None else ROOT / data.path


def question_files(data: Data) -> list[Path]:
    """Files that the questions come from."""
    place = data_folder(data) or ROOT / "data"
    if place.is_file():
        return [place]
    return sorted([*place.rglob("*.jsonl"), *place.rglob("*.tsv")])


def data_digest(data: Data) -> str:
    """Digest of the questions themselves, so that a change of the files is noticed."""
    parts = [hashlib.sha256(path.read_bytes()).digest() for path in question_files(data)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def of_cell(items: Dataset, cell: str) -> Dataset:
    """Items of one ability, named ``language-domain``, or as the questions name it.

    Raises:
        ValueError: there are none; the sentence names the abilities there are.
    """
    columns = zip(items["language"][:], items["domain"][:], strict=True)
    found = [n for n, pair in enumerate(columns) if "-".join(filter(None, pair)) == cell]
    if not found:
        require_known("ability", [cell], abilities_of(items))
    return items.select(found)


def training_items(preset: Preset, cells: list[str], seed: int) -> list[dict]:
    """Training questions of some cells, in an order fixed by the seed."""
    data = trained_on(preset)
    items = load_items(data_folder(data), split="train", tasks=data.tasks)
    rows = [row for cell in cells for row in of_cell(items, cell)]
    random.Random(seed).shuffle(rows)
    return rows


def spread(items: Dataset, count: int) -> list[dict]:
    """The first items of each task in turn, ``count`` at most, so that tasks are balanced."""
    groups: dict[str, list[dict]] = {}
    for row in items:
        groups.setdefault(row.get("task") or "", []).append(row)
    longest = max(len(rows) for rows in groups.values())
    turns = [rows[n] for n in range(longest) for rows in groups.values() if n < len(rows)]
    return turns[:count]


def cluster_of(row: Mapping, otherwise: str) -> str:
    """What computation an item asks: its domain and operands; ``otherwise`` where it has none.

    Languages, wordings and tasks of one domain may ask the same computation, so such items are not
    independent; intervals resample computations, not items.

    >>> cluster_of({"domain": "maths", "operands": [6, 20]}, otherwise="item 7")
    'maths 6.20'
    >>> cluster_of({"domain": "trivia", "operands": []}, otherwise="item 7")
    'item 7'
    """
    operands = row.get("operands") or []
    return f"{row['domain']} {'.'.join(map(str, operands))}" if operands else otherwise


def partition(items: Dataset, purpose: str) -> Dataset:
    """Items of data without splits of its own for a purpose: a third each, by hash of the text."""
    order = list(PURPOSES)
    thirds = [
        order[int(hashlib.sha256(row["question"].encode()).hexdigest(), 16) % 3] for row in items
    ]
    return items.select([n for n, third in enumerate(thirds) if third == purpose])


class Questions:
    """The questions of a preset by ability and purpose, each file read once.

    Data with the folders train, validation and test keep to them; other data are parted in thirds.
    """

    def __init__(self, preset: Preset) -> None:
        """Keep the preset; nothing is read yet."""
        self.preset = preset
        path = preset.data.path
        self._has_splits = path is None or (ROOT / path / "train").is_dir()
        self._of_purpose: dict[str, Dataset] = {}

    def items(self, cell: str, purpose: str = "test") -> list[dict]:
        """Questions of an ability for ``recording``, ``validation`` or ``test``; none is in two.

        Every task of the cell gives about as many, up to the preset's number for the purpose.

        Raises:
            ValueError: the purpose is unknown, or there is no such question.
        """
        if purpose not in PURPOSES:
            raise ValueError(f"unknown purpose {purpose!r}: expected one of {', '.join(PURPOSES)}")
        if purpose not in self._of_purpose:
            self._of_purpose[purpose] = self._all(purpose)
        found = of_cell(self._of_purpose[purpose], cell)
        if len(found) == 0:
            raise ValueError(f"the data hold no {purpose} item of {cell!r}")
        return spread(found, getattr(self.preset.evaluation, f"{purpose}_items"))

    def elsewhere(self, cell: str, count: int, folder: str = "") -> tuple[str, list[dict]]:
        """Questions of an ability from another source than those recorded, and which source.

        Args:
            cell: the ability.
            count: most questions to take.
            folder: laid out like the shipped data; the large shipped set if empty.

        Returns:
            ``other_source`` with items of the folder's two tasks of several steps, or, where it
            lacks the ability, ``other_items`` with the ability's own validation items.
        """
        items = load_items(folder or None, split="train", tasks=["purchase", "motion"])
        if cell in abilities_of(items):
            return "other_source", spread(of_cell(items, cell), count)
        return "other_items", self.items(cell, "validation")[:count]

    def training(self, cells: Iterable[str], seed: int) -> list[dict]:
        """Items to fine-tune on, shuffled: the training split, or else the recording items."""
        if self._has_splits:
            return training_items(self.preset, list(cells), seed)
        rows = [row for cell in cells for row in self.items(cell, "recording")]
        random.Random(seed).shuffle(rows)
        return rows

    def _all(self, purpose: str) -> Dataset:
        data, folder = self.preset.data, data_folder(self.preset.data)
        if folder is None or self._has_splits:  # the shipped questions have splits
            return load_items(folder, split=PURPOSES[purpose], tasks=data.tasks)
        return partition(load_external(folder), purpose)


def _runs(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> list[tuple[str, bool]]:
    """Text of each token, and whether it is the answer's; tokens of one character are joined."""
    runs: list[tuple[str, bool]] = []
    pending: list[int] = []
    last = len(encoded.input_ids) - 1
    for position, (token, in_answer) in enumerate(
        zip(encoded.input_ids, encoded.answer_mask, strict=True)
    ):
        pending.append(token)
        text = cast(str, tokenizer.decode(pending))  # a list only for several sequences
        closes = position == last or encoded.answer_mask[position + 1] != in_answer
        if "\ufffd" not in text or closes:
            runs.append((text, in_answer))
            pending = []
    return runs


def highlight(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> Any:
    """Show an item in a notebook: the prompt in gray, the answer's tokens colored and boxed.

    Returns:
        An `IPython.display.HTML` object.
    """
    from IPython.display import HTML

    spans: list[str] = []
    for in_answer, group in groupby(_runs(tokenizer, encoded), key=lambda run: run[1]):
        shown = [html.escape(text).replace("\n", "↵<br>") for text, _ in group]
        style = _ANSWER_STYLE if in_answer else _PROMPT_STYLE
        pieces = shown if in_answer else ["".join(shown)]
        spans.extend(f'<span style="{style}">{piece}</span>' for piece in pieces)
    body = "".join(spans)
    return HTML(f'<div style="font-family:monospace;white-space:pre-wrap">{body}</div>')
