"""Judge a model on questions with known answers: answer likelihood and exact match.

    judged = ItemSet.of(tokenizer, rows, about, batch_size=16).judge(model)

Both come from one forward pass. Exact match by teacher forcing (the argmax is right at every answer
token) holds exactly when greedy decoding writes the answer, so nothing is generated.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from actlib.contexts import require_room
from actlib.placement import input_device
from actlib.prompts import batches


@torch.no_grad()
def answer_scores(
    model: PreTrainedModel, batch: Mapping[str, Tensor]
) -> tuple[Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Answer NLL (nats per answer token) and exact match of each item of a left-padded batch.

    The model may take no `position_ids` (it then counts positions by itself, rightly only where it
    knows of the padding) and no `logits_to_keep`; its parts may lie on several devices.

    Raises:
        ValueError: an item has no answer token, its first token belongs to the answer, it is longer
            than the model's context, or a token is unknown to the model.
    """
    require_room(model, batch)
    answers = batch["answer_mask"].bool()
    lengths = answers.sum(1)
    if not bool(lengths.all()) or bool(answers[:, 0].any()):
        raise ValueError("every item needs an answer span that follows at least one prompt token")
    kept = answers.shape[1] - int(answers.int().argmax(1).min())
    device = input_device(model)
    ids = batch["input_ids"].to(device)
    optional = {
        "position_ids": batch["position_ids"].to(device),
        "logits_to_keep": kept + 1,
        "use_cache": False,
    }
    accepted = inspect.signature(model.forward).parameters
    logits = model(
        input_ids=ids,
        attention_mask=batch["attention_mask"].to(device),
        **{key: value for key, value in optional.items() if key in accepted},
    ).logits[:, -kept - 1 : -1]  # a model that cannot keep some logits gives all of them
    ids = ids.to(logits.device)
    rows, columns = torch.nonzero(answers[:, -kept:].to(logits.device), as_tuple=True)
    chosen, wanted = logits[rows, columns].float(), ids[:, -kept:][rows, columns]
    loss = torch.nn.functional.cross_entropy(chosen, wanted, reduction="none")
    wrong = (chosen.argmax(-1) != wanted).float()
    totals = torch.zeros(2, len(ids), device=logits.device)
    totals.index_add_(1, rows, torch.stack([loss, wrong]))
    return totals[0].cpu() / lengths, totals[1].cpu() == 0


def evaluate(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], *, progress: str = ""
) -> pd.DataFrame:
    """Answer NLL and exact match of every item, in the order of the items.

    Args:
        model: causal language model; it is left in the mode that it came in.
        batches: from ``actlib.prompts.batches``; ``index`` numbers the items.
        progress: label of a progress bar; empty for none.

    Returns:
        One row an item: ``item`` (its index), ``nll`` (nats per answer token; lower is better),
        ``exact`` (1.0 where greedy decoding writes the answer).
    """
    was_training, parts = model.training, []
    model.eval()
    try:
        for batch in tqdm(batches, desc=progress, disable=not progress, leave=False):
            nll, exact = answer_scores(model, batch)
            parts.append(pd.DataFrame({"item": batch["index"], "nll": nll, "exact": exact.float()}))
    finally:
        model.train(was_training)
    if not parts:
        raise ValueError("evaluation needs at least one batch, and none was given")
    return pd.concat(parts).sort_values("item", ignore_index=True)


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Questions tokenized and batched once, by length over all of them, to judge many models on.

    Attributes:
        batches: from ``actlib.prompts.batches``.
        about: what is told of each item beside its scores, one row an item, in the order of
            ``index``: ``item`` and what the caller adds, such as ``cell`` and ``cluster``.
    """

    batches: list[dict[str, Tensor]]
    about: pd.DataFrame

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Mapping],
        about: pd.DataFrame,
        batch_size: int,
        max_tokens: int | None = None,
    ) -> "ItemSet":
        """Tokenize rows with ``question`` and ``answer``; see ``actlib.prompts.batches``."""
        return cls(batches(tokenizer, rows, batch_size, max_tokens=max_tokens), about)

    def judge(self, model: PreTrainedModel, *, mixed_precision: bool = False) -> pd.DataFrame:
        """The rows of ``about`` with ``nll`` and ``exact`` of each item that was not left out.

        Args:
            model: causal language model.
            mixed_precision: run the matrix products in bfloat16, for float32 weights of a model
                that is kept in bfloat16.
        """
        with torch.autocast(input_device(model).type, torch.bfloat16, enabled=mixed_precision):
            scores = evaluate(model, self.batches).set_index("item")
        return self.about.loc[scores.index].assign(nll=scores["nll"], exact=scores["exact"])
