"""What a model answers, beside how likely it finds the right answer: the ability, or the language?

generate_answers(model, tokenizer, rows)   # greedy outputs, each with its language
evaluate_parts(model, tokenizer, rows)     # NLL of equations, results, words and the end
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import pandas as pd
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from actlib.evaluation import evaluate
from actlib.forward import input_device
from actlib.prompts import Encoded, encode_rows, pad_left
from actlib.study.presets import ROOT
from actlib.study.questions import load_items

ANSWER_PARTS = ("equation", "result", "words", "end")
"""Of a worked answer: `9 + 38 =`, `47`, `: forty-seven.`, and the token that ends the turn."""
UNKNOWN = "not distinguished"
WORD = re.compile(r"[^\W\d_]{2,}")


def generate_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping]
) -> pd.DataFrame:
    """Greedy outputs, at most eight tokens longer than the longest right answer.

    Of the model's own settings of generation, only the tokens that end an output count.

    Returns:
        One row a question: ``ability``, ``question``, ``answer`` (the right one), ``output``, and
        ``language`` of the output (`guess_language`), "not distinguished" for a question in a
        language that the shipped answers lack.
    """
    encoded = encode_rows(tokenizer, rows)
    lengths = [sum(item.answer_mask) for item in encoded]
    ends = zip(encoded, lengths, strict=True)
    prompts = [Encoded(e.input_ids[:-n], e.answer_mask[:-n]) for e, n in ends]
    batch = pad_left(prompts)
    own = model.generation_config
    try:
        model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id)
        written = cast(Any, model).generate(
            **{key: batch[key].to(input_device(model)) for key in ("input_ids", "attention_mask")},
            do_sample=False,
            max_new_tokens=8 + max(lengths),
            pad_token_id=tokenizer.pad_token_id or 0,
        )
    finally:
        model.generation_config = own
    new = written[:, batch["input_ids"].shape[1] :]
    outputs = [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    table = pd.DataFrame(list(rows))[["ability", "question", "answer"]]
    known = [row.get("language") in _vocabularies() for row in rows]
    pairs = zip(outputs, known, strict=True)
    guesses = [guess_language(text) if is_known else UNKNOWN for text, is_known in pairs]
    return table.assign(output=outputs, language=guesses)


def guess_language(text: str) -> str:
    """Language whose shipped answers have the most words of a text; empty for none or a tie."""
    words = WORD.findall(text.lower())
    hits = {code: sum(word in own for word in words) for code, own in _vocabularies().items()}
    first, second = sorted(hits, key=lambda code: -hits[code])[:2]
    return first if hits[first] > hits[second] else ""


@cache
def _vocabularies() -> dict[str, set[str]]:
    """The words of the shipped answers, by language."""
    words: dict[str, set[str]] = {}
    for row in load_items(split="train"):
        words.setdefault(row["language"], set()).update(WORD.findall(row["answer"].lower()))
    return words


def evaluate_parts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping]
) -> pd.DataFrame:
    """NLL of each part of the answers, all tokens before it given; an answer may lack a part.

    Returns:
        Rows of `actlib.evaluation.evaluate` with a column ``part``, one of `ANSWER_PARTS`.
    """
    encoded = encode_rows(tokenizer, rows)
    labels = [label_tokens(tokenizer, *pair) for pair in zip(encoded, rows, strict=True)]
    tables = []
    for part in ANSWER_PARTS:
        index = [n for n, own in enumerate(labels) if part in own]
        items = [Encoded(encoded[n].input_ids, [p == part for p in labels[n]]) for n in index]
        if items:
            batch = pad_left(items) | {"index": torch.tensor(index)}
            tables.append(evaluate(model, [batch]).assign(part=part))
    return pd.concat(tables, ignore_index=True)


def evaluate_prose(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """NLL of plain English, a row of `actlib.evaluation.evaluate` a paragraph of english.txt.

    Of each paragraph of `data/english.txt` its first 256 tokens are read, and all but the first
    are scored.
    """
    lines = (ROOT / "data" / "english.txt").read_text(encoding="utf-8").splitlines()
    texts = [tokenizer(line)["input_ids"][:256] for line in lines]
    items = [Encoded(ids, [n > 0 for n in range(len(ids))]) for ids in texts]
    return evaluate(model, [pad_left([item]) for item in items])


def label_tokens(tokenizer: PreTrainedTokenizerBase, encoded: Encoded, row: Mapping) -> list[str]:
    """The part that each token belongs to by its first visible character; empty in the prompt.

    The result is the row's ``value``, where it comes last (nowhere if the answer writes it another
    way, such as `1,200` for 1200); other digits and signs are equation.
    """
    start = encoded.answer_mask.index(True)
    ids = encoded.input_ids[start:]
    texts = [str(tokenizer.decode(ids[:n])) for n in range(len(ids))]  # before each token
    result = texts[-1].rfind(row["value"])
    labels = [""] * start
    for before, after in zip(texts, texts[1:], strict=False):
        piece = after[len(before) :]
        position = len(after) - len(piece.lstrip())
        in_result = 0 <= result <= position < result + len(row["value"])
        is_sign = piece.strip()[:1].isdigit() or piece.strip()[:1] in set("+-×=><")
        labels.append("result" if in_result else "equation" if is_sign else "words")
    return [*labels, "end"]
