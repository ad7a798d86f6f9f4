"""How many tokens a model takes, and which: asked before it runs.

A model with learned positions fails in an unreadable way beyond its context, one with rotary
positions answers nonsense there; a token that the embedding does not have fails too.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def require_room(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    named: Callable[[int], str] = "item {} of a batch".format,
) -> None:
    """Refuse a batch with more tokens than a model has positions, or with tokens unknown to it.

    The limits are `max_position_embeddings` and `vocab_size` of the configuration; what that does
    not tell is not checked.

    Args:
        model: the model that is to run.
        batch: input_ids and attention_mask, each [batch, seq].
        named: what to call the item of that number in the batch.

    Raises:
        ValueError: names the item, its tokens and the limit.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < batch["attention_mask"].shape[1]:
        lengths = batch["attention_mask"].sum(dim=1)
        if int(lengths.max()) > most:
            raise ValueError(
                f"{named(int(lengths.argmax()))} has {int(lengths.max())} tokens with its answer, "
                f"and the model takes {most} (max_position_embeddings); shorten it or leave it out"
            )
    known, largest = getattr(config, "vocab_size", None), int(batch["input_ids"].max())
    if isinstance(known, int) and 0 < known <= largest:
        raise ValueError(
            f"a batch holds the token {largest}, and the model knows {known} tokens (vocab_size); "
            "use the tokenizer that belongs to the model"
        )
