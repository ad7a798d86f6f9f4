"""Turn questions and answers into token batches in which the answer span is exact.

The prompt and the answer are tokenized apart and joined, so no token straddles the two. The answer
ends with the end-of-turn token, which belongs to it. Batches are padded on the left, so that the
answers of a batch share its last positions.
"""

import html
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, cast

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

_QUESTION = "QUESTION-GOES-HERE"
_ANSWER = "ANSWER-GOES-HERE"
_PROMPT_STYLE = "color:#777"
_ANSWER_STYLE = "background:#cfe8f7;color:#00436b;border:1px solid #0072b2;border-radius:2px"


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt with its answer, and which of them are the answer's."""

    input_ids: list[int]
    answer_mask: list[bool]


@dataclass(frozen=True)
class _Frame:
    """What surrounds a question and an answer: text before and after, and the ids at either end."""

    start_ids: tuple[int, ...]
    before: str
    after: str
    lead: str
    end_ids: tuple[int, ...]


def _end_ids(tokenizer: PreTrainedTokenizerBase, tail: str = "") -> tuple[int, ...]:
    """First special token of what a template writes after an answer, or the end-of-text token."""
    special = set(tokenizer.all_special_ids)
    special.update(k for k, token in tokenizer.added_tokens_decoder.items() if token.special)
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else ():
        if token in special:
            return (token,)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path} has no end-of-text token, so an answer cannot "
            "be ended; set eos_token in its tokenizer_config.json."
        )
    return (tokenizer.eos_token_id,)


def _render(tokenizer: PreTrainedTokenizerBase, system_prompt: str, answer: str | None) -> str:
    """Text of the chat template up to the answer, or with the answer and what closes its turn."""
    user = {"role": "user", "content": _QUESTION}
    reply = [] if answer is None else [{"role": "assistant", "content": answer}]
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": answer is None}
    system = {"role": "system", "content": system_prompt}
    try:
        return cast(str, tokenizer.apply_chat_template([system, user, *reply], **options))
    except TemplateError:  # some templates refuse a system message
        folded = {**user, "content": f"{system_prompt}\n\n{_QUESTION}".strip()}
        try:
            return cast(str, tokenizer.apply_chat_template([folded, *reply], **options))
        except TemplateError as error:
            raise ValueError(
                f"The chat template of the tokenizer {tokenizer.name_or_path} cannot be used "
                f"({error}); mend it, or take it away to ask without one."
            ) from error


@lru_cache(maxsize=16)
def _frame(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None, system_prompt: str
) -> _Frame:
    """Find once what a tokenizer's template writes around question and answer.

    `chat_template` is the tokenizer's own, an argument because the cache must notice a change.
    """
    if not chat_template:
        starts = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        start_ids = (tokenizer.bos_token_id,) if starts else ()
        opening = f"{system_prompt}\n\n" if system_prompt else ""
        before, after = f"{opening}Question: ", "\nAnswer:"
        return _Frame(start_ids, before, after, " ", _end_ids(tokenizer))
    prompt = _render(tokenizer, system_prompt, None)
    if prompt.count(_QUESTION) != 1:
        raise ValueError(
            f"The chat template of the tokenizer {tokenizer.name_or_path} does not write the "
            "user's message exactly once; mend it, or take it away to ask without one."
        )
    before, after = prompt.split(_QUESTION)
    written, _, tail = _render(tokenizer, system_prompt, _ANSWER).partition(_ANSWER)
    lead = written.removeprefix(prompt) if written.startswith(prompt) else ""
    return _Frame((), before, after, lead, _end_ids(tokenizer, tail))


def encode(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, system_prompt: str = ""
) -> Encoded:
    """Token ids of a question and its answer, with the answer's positions.

    With a chat template, the turn is written by it, with an explicit system message, empty or not,
    so that the template adds no default of its own. Otherwise the form is `Question: ...` and, on
    the next line, `Answer: ...`.

    Returns:
        The ids, and a mask that is true at the answer's tokens, the end-of-turn token included.

    Raises:
        ValueError: the question or the answer is empty, or the tokenizer has no token to end with.
    """
    question, answer = question.strip(), answer.strip()
    if not question or not answer:
        raise ValueError(f"Question and answer must hold text; got {question!r} and {answer!r}.")
    frame = _frame(tokenizer, tokenizer.chat_template, system_prompt)
    prompt = f"{frame.before}{question}{frame.after}"
    prompt_ids = [*frame.start_ids, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    answer_ids = tokenizer(f"{frame.lead}{answer}", add_special_tokens=False)["input_ids"]
    answer_ids = [*answer_ids, *frame.end_ids]
    mask = [False] * len(prompt_ids) + [True] * len(answer_ids)
    return Encoded(prompt_ids + answer_ids, mask)


def pad_left(encoded: list[Encoded], pad_id: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of one batch, each batch x seq: input_ids, attention_mask, answer_mask, position_ids.

    Raises:
        ValueError: there is no item.
    """
    if not encoded:
        raise ValueError("A batch needs at least one item.")
    width = max(len(item.input_ids) for item in encoded)
    padding = [width - len(item.input_ids) for item in encoded]
    rows = list(zip(padding, encoded, strict=True))
    attention = torch.tensor([[0] * n + [1] * (width - n) for n in padding])
    return {
        "input_ids": torch.tensor([[pad_id] * n + item.input_ids for n, item in rows]),
        "attention_mask": attention,
        "answer_mask": torch.tensor([[False] * n + item.answer_mask for n, item in rows]),
        "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
    }


def batches(
    tokenizer: PreTrainedTokenizerBase,
    items: Iterable[Mapping[str, Any]],
    batch_size: int,
    *,
    max_tokens: int | None = None,
    system_prompt: str = "",
    sort_by_length: bool = True,
) -> list[dict[str, torch.Tensor]]:
    """Left-padded batches of questions with their answers.

    Args:
        tokenizer: of the model that the batches are for.
        items: rows with `question` and `answer`: a list of dicts or a `datasets.Dataset`.
        batch_size: most items in a batch.
        max_tokens: longer items are left out with a warning; `index` lacks their numbers.
        system_prompt: text of the system message.
        sort_by_length: put items of like length together, which saves padding.

    Returns:
        Mappings of input_ids, attention_mask, answer_mask (bool) and position_ids, each
        batch x seq, and `index`, the number of each item in `items`.

    Raises:
        ValueError: the batch size is below one, an answer is empty, or no item is left.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1; got {batch_size}.")
    encoded = [encode(tokenizer, item["question"], item["answer"], system_prompt) for item in items]
    order = list(range(len(encoded)))
    if max_tokens is not None:
        order = [n for n in order if len(encoded[n].input_ids) <= max_tokens]
        if len(order) < len(encoded):
            left_out = len(encoded) - len(order)
            warnings.warn(
                f"Left out {left_out} items longer than {max_tokens} tokens.", stacklevel=2
            )
    if not order:
        raise ValueError(
            f"No item to batch: {len(encoded)} given, none within {max_tokens} tokens."
        )
    if sort_by_length:
        order.sort(key=lambda n: len(encoded[n].input_ids))
    pad_id = next((n for n in (tokenizer.pad_token_id, tokenizer.eos_token_id) if n is not None), 0)
    chunks = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    return [
        {**pad_left([encoded[n] for n in chunk], pad_id), "index": torch.tensor(chunk)}
        for chunk in chunks
    ]


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
