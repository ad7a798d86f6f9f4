"""Who gives its activations to whom in a batch, for ablation by resampling.

    swap = exchange({"input_ids": ids, "attention_mask": mask}, seed=0, forward=0)
    values = swap.take(name, values)        # each item now holds another item's

Positions are aligned from each item's last real token, so that padding never counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Exchange:
    """Which item and position gives to each item and position of one batch.

    Attributes:
        rows: the item that gives to each item.
        columns: the position that gives to each position.
        kept: the same among the positions at which the LM head computes logits.
    """

    rows: Int[Tensor, "batch 1"]
    columns: Int[Tensor, "batch seq"]
    kept: Int[Tensor, "batch kept"]

    def take(self, name: str, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What each item and position is given; the shape stays, but for a shared first dimension.

        Raises:
            ValueError: the values are not [batch, seq, ...], the same with the batch flattened into
                the sequence, [1, seq, masked] or [batch, kept, masked].
        """
        batch, seq = self.columns.shape
        flat = values.ndim == 2 and len(values) == batch * seq
        grid = values.reshape(batch, seq, -1) if flat else values
        if grid.ndim == 3 and tuple(grid.shape[:2]) == (1, seq):  # positions shared by all items
            grid = grid.expand(batch, -1, -1)
        for columns in (self.columns, self.kept):
            if grid.ndim > 2 and grid.shape[:2] == columns.shape:
                taken = grid[self.rows.to(grid.device), columns.to(grid.device)]
                return taken.flatten(0, 1) if flat else taken
        raise ValueError(
            f"module {name} returned {tuple(values.shape[:-1])} before its channels, expected "
            f"{batch} x {seq} (batch, seq)"
        )


def exchange(arguments: Mapping[str, Any], seed: int, forward: int) -> Exchange:
    """Draw who gives to whom in one forward, and align their positions."""
    real = _real_tokens(arguments)
    givers = _derangement(len(real), seed, forward)
    keep = arguments.get("logits_to_keep", 0)
    if isinstance(keep, Tensor) and keep.ndim != 1:
        raise ValueError(f"logits_to_keep must be a number or 1-d, got {keep.ndim} dimensions")
    index = keep.cpu() if isinstance(keep, Tensor) else slice(-(keep or 0), None)
    return Exchange(givers[:, None], _aligned(real, givers), _aligned(real[:, index], givers))


def _real_tokens(arguments: Mapping[str, Any]) -> Bool[Tensor, "batch seq"]:
    """True at tokens that are no padding, on the CPU."""
    ids = arguments.get("input_ids")
    shape = tuple((arguments["inputs_embeds"] if ids is None else ids).shape[:2])
    mask = arguments.get("attention_mask")
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    if not isinstance(mask, Tensor) or tuple(mask.shape) != shape:
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask must be of shape {shape}, batch x seq, got {found}")
    return mask.bool().cpu()


def _derangement(items: int, seed: int, forward: int) -> Int[Tensor, " items"]:
    """Draw uniformly from the permutations that leave no item in its place."""
    if items < 2:
        raise ValueError(f"resampling needs a batch of at least 2 items, got {items}")
    generator = np.random.default_rng([seed, forward])
    while True:  # a permutation has no fixed point with probability near 1/e
        drawn = generator.permutation(items)
        if (drawn != np.arange(items)).all():
            return torch.from_numpy(drawn)


def _aligned(
    real: Bool[Tensor, "batch positions"], givers: Int[Tensor, " batch"]
) -> Int[Tensor, "batch positions"]:
    """The giver's position for each of an item's, both counted from their last real tokens.

    Raises:
        ValueError: an item has no real token, or padding between real tokens.
    """
    numbers = torch.arange(real.shape[1])
    first = real.int().argmax(dim=1)
    last = real.shape[1] - 1 - real.flip(1).int().argmax(dim=1)
    whole = real.any(dim=1) & (real.sum(dim=1) == last - first + 1)
    if not whole.all():
        item = int(whole.int().argmin())
        raise ValueError(f"item {item} must have real tokens at kept positions, and in one piece")
    positions = numbers + (last[givers] - last)[:, None]
    return positions.clamp(first[givers][:, None], last[givers][:, None])
