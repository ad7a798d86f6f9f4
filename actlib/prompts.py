"""Turn questions and answers into left-padded token batches in which the answer span is exact.

    for batch in batches(tokenizer, rows, batch_size=16):  # rows with `question` and `answer`
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], ...)

Prompt and answer are tokenized as one text, so the ids are those that the tokenizer gives the whole
conversation. The answer begins at the first token that is not the prompt's own, and ends with the
token that ends its turn. Padding on the left lets the answers of a batch share its last positions.
"""

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, NamedTuple, cast

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from actlib.questions import require_text

_QUESTION = "QUESTION-GOES-HERE"
_ANSWER = "ANSWER-GOES-HERE"
_DATE = dict(  # for templates that write today's: what those of Llama 3.2 fall back to
    pair.split("=")
    for pair in "%F=2024-07-26 %Y=2024 %y=24 %m=07 %B=July %b=Jul %-d=26 %d=26 "
    "%A=Friday %a=Fri %j=208 %H=00 %M=00 %S=00".split()
)
_REPLACED = "".join(f" | replace('{code}', '{text}')" for code, text in _DATE.items())
_TODAY = f"{{% macro strftime_now(format) %}}{{{{ format{_REPLACED} }}}}{{% endmacro %}}\n"


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt with its answer, and which of them are the answer's."""

    input_ids: list[int]
    answer_mask: list[bool]


class _Frame(NamedTuple):
    """What surrounds a question and its answer: texts, and the id that ends them."""

    before: str
    between: str
    after: str
    end_id: int


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping[str, Any]],
    system_prompt: str = "",
) -> list[Encoded]:
    """Token ids of questions with their answers, and the positions of the answers.

    With a chat template, it writes the turns, with an explicit system message, empty or not, so
    that it adds no default of its own; of several named templates, the one named `default`. What it
    writes before the answer, such as an empty block of thoughts, is the prompt's; its today is
    always 26 July 2024, so that a question is the same on every day. Without, the form is
    `Question: ...` and, on the next line, `Answer: ...`.

    Args:
        tokenizer: of the model that the items are for.
        rows: with `question` and `answer`: a list of dicts or a `datasets.Dataset`.
        system_prompt: text of the system message; it goes before the question where the template
            takes none.

    Returns:
        One item a row, whose mask is true at the answer's tokens, the end-of-turn token included.

    Raises:
        ValueError: a question or an answer is empty, the tokenizer has no token to end with or none
            for an answer, its template cannot be used or rewrites a row, such as one with thoughts,
            or it has none and puts special tokens elsewhere than around a text.
    """
    pairs = []
    for number, row in enumerate(rows):
        require_text(f"row {number}", row, "question", "answer")
        pairs.append((row["question"].strip(), row["answer"].strip()))
    if not pairs:
        return []
    frame = _frame(tokenizer, system_prompt, pairs)
    asked = [f"{frame.before}{question}{frame.between}" for question, _ in pairs]
    texts = [f"{ask}{answer}{frame.after}" for ask, (_, answer) in zip(asked, pairs, strict=True)]
    options = {"add_special_tokens": False, "return_attention_mask": False}
    # tokenizers join a space with the word after it, so one before the answer is the answer's
    prompt_ids = tokenizer([ask.rstrip(" ") for ask in asked], **options)["input_ids"]
    empty_ids = tokenizer([f"{ask}{frame.after}" for ask in asked], **options)["input_ids"]
    joint_ids = tokenizer(texts, **options)["input_ids"]
    encoded, start_ids = [], _start(tokenizer, texts[0], joint_ids[0])
    for prompt, empty, joint, (_, answer) in zip(
        prompt_ids, empty_ids, joint_ids, pairs, strict=True
    ):
        own = _inserted(empty, joint)
        if {*own} <= {tokenizer.unk_token_id} or not str(tokenizer.decode(own)).strip():
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path} has no token for the answer {answer!r}."
            )
        ids = [*start_ids, *joint, frame.end_id]
        n_prompt = len(start_ids) + len(os.path.commonprefix([prompt, joint]))
        encoded.append(Encoded(ids, [False] * n_prompt + [True] * (len(ids) - n_prompt)))
    return encoded


def batches(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping[str, Any]],
    batch_size: int,
    *,
    max_tokens: int | None = None,
    system_prompt: str = "",
    sort_by_length: bool = True,
) -> list[dict[str, Tensor]]:
    """Left-padded batches of questions with their answers.

    A last batch of one item joins the batch before it, since statistics over a batch, and ablation
    by resampling, need two.

    Args:
        tokenizer: of the model that the batches are for.
        rows: with `question` and `answer`: a list of dicts or a `datasets.Dataset`.
        batch_size: items in a batch.
        max_tokens: longer items are left out with a warning; `index` lacks their numbers.
        system_prompt: text of the system message.
        sort_by_length: put items of like length together, which saves padding.

    Returns:
        Mappings of input_ids, attention_mask, answer_mask (bool) and position_ids, each
        batch x seq, and `index`, the number of each item in `rows`.

    Raises:
        ValueError: the batch size is below one, no item is left, or as `encode_rows`.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1; got {batch_size}.")
    encoded = encode_rows(tokenizer, rows, system_prompt)
    order = _within(encoded, max_tokens)
    if not order:
        raise ValueError(f"No item to batch: {len(encoded)}, none within {max_tokens} tokens.")
    if sort_by_length:
        order.sort(key=lambda n: len(encoded[n].input_ids))
    starts = list(range(0, len(order), batch_size))
    if batch_size > 1 and len(starts) > 1 and starts[-1] == len(order) - 1:
        starts.pop()
    chunks = [order[i:j] for i, j in zip(starts, [*starts[1:], len(order)], strict=True)]
    return [
        {**pad_left([encoded[n] for n in chunk]), "index": torch.tensor(chunk)} for chunk in chunks
    ]


def drop_long(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict], max_tokens: int | None
) -> list[dict]:
    """Rows that have at most `max_tokens` tokens, answer included; a warning counts the others."""
    if max_tokens is None:
        return rows
    return [rows[n] for n in _within(encode_rows(tokenizer, rows), max_tokens)]


def pad_left(encoded: list[Encoded]) -> dict[str, Tensor]:
    """Tensors of one batch, each batch x seq: input_ids, attention_mask, answer_mask, position_ids.

    Padding has the id 0, whatever token that is: the attention mask keeps it from being read.
    """
    width = max(len(item.input_ids) for item in encoded)
    padding = [width - len(item.input_ids) for item in encoded]
    items = list(zip(padding, encoded, strict=True))
    attention = torch.tensor([[0] * n + [1] * (width - n) for n in padding])
    return {
        "input_ids": torch.tensor([[0] * n + item.input_ids for n, item in items]),
        "attention_mask": attention,
        "answer_mask": torch.tensor([[False] * n + item.answer_mask for n, item in items]),
        "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
    }


def _within(encoded: list[Encoded], max_tokens: int | None) -> list[int]:
    """Numbers of the items that are not too long; a warning counts the others."""
    if max_tokens is None:
        return list(range(len(encoded)))
    fitting = [n for n, item in enumerate(encoded) if len(item.input_ids) <= max_tokens]
    if len(fitting) < len(encoded):
        left_out = len(encoded) - len(fitting)
        warnings.warn(f"Left out {left_out} items longer than {max_tokens} tokens.", stacklevel=3)
    return fitting


def _frame(
    tokenizer: PreTrainedTokenizerBase, system_prompt: str, pairs: list[tuple[str, str]]
) -> _Frame:
    """What a tokenizer's template, or the plain form, writes around question and answer."""
    if template := _chat_template(tokenizer):
        template = _TODAY * ("strftime_now" in template) + template
        before, between, tail = _render(tokenizer, template, system_prompt, pairs)
    else:
        opening = f"{system_prompt}\n\n" if system_prompt else ""
        before, between, tail = f"{opening}Question: ", "\nAnswer: ", ""
    return _Frame(before, between, *_end(tokenizer, tail))


def _start(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> list[int]:
    """Special tokens that a tokenizer puts before a text of these ids; a template writes them."""
    if _chat_template(tokenizer):
        return []
    full = tokenizer(text)["input_ids"]
    for start in range(len(full)):
        if full[start : start + len(ids)] == ids:
            return full[:start]
    raise ValueError(
        f"The tokenizer {tokenizer.name_or_path} puts its special tokens elsewhere than around a "
        "text; set its chat_template, which writes them."
    )


def _inserted(before: list[int], after: list[int]) -> list[int]:
    """What is put in at one place to make one list of the other."""
    start = len(os.path.commonprefix([before, after]))
    ends = after[start:][::-1], before[start:][::-1]
    return ends[0][len(os.path.commonprefix(ends)) :][::-1]


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that transformers would use without tools, or None where there is none."""
    templates = tokenizer.chat_template
    if not isinstance(templates, dict) or not templates:
        return templates or None
    if "default" not in templates:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path} has chat templates named "
            f"{', '.join(sorted(templates))} and none named default; set tokenizer.chat_template "
            "to one of them."
        )
    return templates["default"]


def _render(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    system_prompt: str,
    pairs: list[tuple[str, str]],
) -> tuple[str, str, str]:
    """What the chat template writes before the question, up to the answer, and after it."""

    def write(turns: Mapping[str, str], as_parts: bool) -> str:
        parts = {r: [{"type": "text", "text": t}] if as_parts else t for r, t in turns.items()}
        messages: list[Any] = [{"role": role, "content": part} for role, part in parts.items()]
        options: dict[str, Any] = {"chat_template": template, "tokenize": False}
        return cast(str, tokenizer.apply_chat_template(messages, **options))

    folded = f"{system_prompt}\n\n{_QUESTION}".strip()
    separate = {"system": system_prompt, "user": _QUESTION, "assistant": _ANSWER}
    name, reason = tokenizer.name_or_path, "it does not write each message once"
    # Some templates refuse or skip a system message, and some want a message as a list of parts.
    for as_parts in (False, True):
        for turns in (separate, {"user": folded, "assistant": _ANSWER}):
            try:
                text = write(turns, as_parts)
                before, _, rest = text.partition(_QUESTION)
                between, _, tail = rest.partition(_ANSWER)
                once = [text.count(part) for part in (_QUESTION, _ANSWER)] == [1, 1]
                if not (once and _ANSWER in rest and system_prompt.strip() in before):
                    continue
                for question, answer in pairs:
                    user = turns["user"].replace(_QUESTION, question)
                    written = write({**turns, "user": user, "assistant": answer}, as_parts)
                    if not written.endswith(f"{question}{between}{answer}{tail}"):
                        row = " or its answer ".join(map(Repr().repr, (question, answer)))
                        raise ValueError(
                            f"The chat template of the tokenizer {name} rewrites {row}; leave out "
                            "what it rewrites, such as <think>, or take the template away."
                        )
                return before, between, tail
            except (TemplateError, TypeError) as error:
                reason = reason if as_parts else str(error)
    raise ValueError(
        f"The chat template of the tokenizer {name} cannot be used ({reason}); mend it, or take it "
        "away to ask without one."
    )


def _end(tokenizer: PreTrainedTokenizerBase, tail: str) -> tuple[str, int]:
    """What a template writes after an answer up to the token that ends the turn, and that token.

    Where it writes none, the answer ends with the end-of-text token.
    """
    added = {t.content: n for n, t in tokenizer.added_tokens_decoder.items() if t.content.strip()}
    ends = sorted((tail.index(text), -len(text), text) for text in added if text in tail)
    if ends:
        place, _, text = ends[0]
        return tail[:place], added[text]
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path} has no end-of-text token, so an answer cannot "
            "be ended; set eos_token in its tokenizer_config.json."
        )
    return "", tokenizer.eos_token_id
