"""Evaluate a model on questions with known answers: answer NLL and exact match.

    table = evaluate(model, batches(tokenizer, rows, batch_size=16))   # one row an item
    table["nll"].mean(), table["exact"].mean()

Both come from one forward pass: nothing is generated.
"""

from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from actlib.forward import answer_logits
from actlib.hooks import evaluating, mark_answers


def evaluate(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> pd.DataFrame:
    """Answer NLL and exact match of every item, in the order of the items.

    A token's likelihood is read from the logits one position before it, in float32:
    ``NLL(item) = -sum_t log p(answer_t | prompt, answer_<t)``. Exact match by teacher forcing (the
    argmax is right at every answer token) holds exactly when greedy decoding writes the answer.

    Args:
        model: causal language model, on one device or several; its mode is the same afterwards.
        batches: mappings of input_ids, attention_mask and answer_mask, each [batch, seq], padded on
            either side; and ``index``, the number of each item. Items of batches without it
            are numbered as they come.

    Returns:
        One row an item: ``item``, its index; ``nll``, nats per answer token; ``nll_sum``, nats of
        the whole answer; ``tokens`` of the answer, the end of the turn included; ``exact``, 1.0
        where greedy decoding writes the whole answer, else 0.0.

    Raises:
        ValueError: there is no batch; two items have one number; an item has no answer, no prompt
            before it, more tokens than the model's context or one that the model does not know; or
            the logits are not numbers.
    """
    parts, numbers = list[pd.DataFrame](), set[int]()
    with evaluating(model):
        for batch in batches:
            scores = _evaluate_batch(model, batch)
            first = sum(map(len, parts))
            index = batch.get("index", range(first, first + len(scores)))
            scores.insert(0, "item", [int(number) for number in index])
            for number in scores["item"]:
                if number in numbers:
                    raise ValueError(
                        f"two items are number {number} by the batches' `index`; make all batches "
                        "by one call of `batches`, or leave `index` out"
                    )
                numbers.add(number)
            parts.append(scores)
    if not parts:
        raise ValueError("evaluation needs at least one batch, got none")
    table = pd.concat(parts).sort_values("item", kind="stable", ignore_index=True)
    if table["nll"].isna().any():
        item = table.loc[table["nll"].isna(), "item"].iloc[0]
        raise ValueError(
            f"expected logits that are numbers, got NaN for item {item}; load the model in "
            "bfloat16 or float32, or look for NaN among its weights"
        )
    return table


def _evaluate_batch(model: nn.Module, batch: Mapping[str, Tensor]) -> pd.DataFrame:
    """The columns of `evaluate` but ``item``, one row an item of the batch."""
    tokens, logits, labels = answer_logits(model, batch)
    lengths = mark_answers(batch).sum(dim=1)
    # per answer token: [NLL in nats, 1 where the argmax is another token]
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    wrong = (logits.argmax(dim=-1) != labels).float()
    # sum over the answer tokens of each item
    sums = loss.new_zeros(len(lengths), 2)
    sums.index_add_(0, tokens.rows, torch.stack([loss, wrong], dim=1))
    nll_sum, mistakes = sums.cpu().unbind(dim=1)
    columns = {"nll": nll_sum / lengths.cpu(), "nll_sum": nll_sum, "tokens": lengths.cpu()}
    return pd.DataFrame(columns | {"exact": (mistakes == 0).float()})
