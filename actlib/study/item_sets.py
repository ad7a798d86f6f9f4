"""Questions of a study, tokenized once to evaluate many models on.

table = ItemSet.of(tokenizer, rows, about, batch_size=16).evaluate(model)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from actlib.evaluation import evaluate
from actlib.placement import input_device
from actlib.prompts import batches


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Questions tokenized and batched once, by length over all of them.

    Attributes:
        batches: from ``actlib.prompts.batches``.
        about: columns to add to the scores, one row an item, in the order of ``index``: ``item``
            and what the caller adds, such as ``cell`` and ``cluster``.
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

    def evaluate(self, model: PreTrainedModel, *, mixed_precision: bool = False) -> pd.DataFrame:
        """The rows of ``about`` with ``nll`` and ``exact`` of each item that was not left out.

        Args:
            model: causal language model.
            mixed_precision: run the matrix products in bfloat16, for float32 weights of a model
                that is kept in bfloat16.
        """
        with torch.autocast(input_device(model).type, torch.bfloat16, enabled=mixed_precision):
            scores = evaluate(model, self.batches).set_index("item")
        return self.about.loc[scores.index].assign(nll=scores["nll"], exact=scores["exact"])
