"""Who gives its activations to whom in a batch, for ablation by resampling.

take = exchange_items({"input_ids": ids, "attention_mask": mask}, seed=0, forward=0)
values = take(name, output, channels)       # each item now holds another item's
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from actlib.hooks import arrange_by_token, has_heads_first


def exchange_items(
    arguments: Mapping[str, Any], seed: int, forward: int
) -> Callable[[str, Tensor, Tensor], Tensor]:
    """Draw who gives to whom in one forward, by the seed and the forward's number.

    Returns:
        A function of a module's name, its output and the indices of its masked channels: what each
        item and position is given there, in the order of dimensions of the output.

    Raises:
        ValueError: the batch has one item, or an item's real tokens are none or apart; from the
            function, the output is not batch x seq.
    """
    real = _real_tokens(arguments)
    (batch, seq), givers = real.shape, _derangement(len(real), seed, forward)
    columns = _aligned(real, givers)  # the position that gives to each position

    def take(name: str, output: Tensor, chosen: Tensor) -> Tensor:
        device = output.device
        grid = arrange_by_token(name, output, (batch, seq), seq, output.shape[-1])
        chosen_grid = grid.index_select(-1, chosen)
        exchanged = chosen_grid[givers[:, None].to(device), columns.to(device)]
        if output.ndim == 4 and has_heads_first(output, seq):
            exchanged = exchanged.transpose(1, 2)
        is_shared = output[..., 0].numel() < batch * seq  # positions of all items
        shape = exchanged.shape[:2] if is_shared else output.shape[:-1]
        return exchanged.reshape(*shape, len(chosen))

    return take


def _real_tokens(arguments: Mapping[str, Any]) -> Bool[Tensor, "batch seq"]:
    """True at tokens that are no padding, on the CPU."""
    ids = arguments.get("input_ids")
    shape = tuple((arguments["inputs_embeds"] if ids is None else ids).shape[:2])
    mask = arguments.get("attention_mask")
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    if not isinstance(mask, Tensor) or tuple(mask.shape) != shape:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask must be of shape {shape}, batch x seq, got {got}")
    return mask.bool().cpu()


def _derangement(items: int, seed: int, forward: int) -> Int[Tensor, " items"]:
    """Draw uniformly from the permutations that leave no item in its place."""
    if items < 2:
        raise ValueError(
            f"resampling needs a batch of at least 2 items, got {items}; add it to another batch"
        )
    generator = np.random.default_rng([seed, forward])
    while True:  # a permutation has no fixed point with probability near 1/e
        drawn = generator.permutation(items)
        if (drawn != np.arange(items)).all():
            return torch.from_numpy(drawn)


def _aligned(
    real: Bool[Tensor, "batch positions"], givers: Int[Tensor, " batch"]
) -> Int[Tensor, "batch positions"]:
    """For each position of an item the giver's at the same distance from its last real token."""
    numbers = torch.arange(real.shape[1])
    first = real.int().argmax(dim=1)
    last = real.shape[1] - 1 - real.flip(1).int().argmax(dim=1)
    whole = real.any(dim=1) & (real.sum(dim=1) == last - first + 1)
    if not whole.all():
        item = int(whole.int().argmin())
        raise ValueError(f"item {item} must have real tokens, and in one piece")
    positions = numbers + (last[givers] - last)[:, None]
    return positions.clamp(first[givers][:, None], last[givers][:, None])
