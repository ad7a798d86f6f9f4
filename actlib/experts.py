"""Activations of packed experts, for the tokens that the router sent to each, and no others.

    outputs = routed_outputs(experts, hidden_states, top_k_index)    # name of projection to Routed

An expert's activation for a token is the output of its projection (of the last one before the
router's weight) where the router sent the token to that expert, and 0 where it did not. So of two
models, one of which sends a token to an expert and the other elsewhere, the first one's whole
activation counts as their difference. Ours; the paper has no experts.

Nothing here is ever [tokens, experts x outputs]: a token is listed for its own experts alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from actlib.channels import packed_projections


@dataclass(frozen=True, eq=False)
class Routed:
    """Outputs of one projection of all experts, for pairs of a token and an expert that it went to.

    Attributes:
        values: output of the projection for each pair.
        tokens: token of each pair, ascending within an expert.
        experts: expert of each pair, ascending.
        count: number of tokens, those included that no pair names.
        total: number of experts.
    """

    values: Float[Tensor, "pairs outputs"]
    tokens: Int[Tensor, " pairs"]
    experts: Int[Tensor, " pairs"]
    count: int
    total: int

    def tensors(self) -> dict[str, Tensor]:
        """The three tensors by name."""
        return {"values": self.values, "tokens": self.tokens, "experts": self.experts}

    def to(self, device: torch.device) -> "Routed":
        """Copy on a device."""
        values, tokens, experts = (tensor.to(device) for tensor in self.tensors().values())
        return replace(self, values=values, tokens=tokens, experts=experts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tokens, experts and outputs of each, whatever pairs there are."""
        return self.count, self.total, self.values.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Routed":
        """The same pairs with changed values."""
        return replace(self, values=change(self.values))

    def minus(self, other: "Routed") -> "Routed":
        """Difference of two models' outputs, in float32 or wider; a pair of one model stays whole.

        Say one model has the pairs of expert and token (0, 3), (1, 3) and the other (0, 3), (2, 3).
        Three of the result's four slots are used: that of (0, 3) holds the difference, that of
        (1, 3) the first model's value and that of (2, 3) minus the second's; the last one holds 0.
        """
        keys = torch.cat([each.experts * self.count + each.tokens for each in (self, other)])
        keys, order = keys.sort(stable=True)
        is_new = torch.ones_like(keys)
        is_new[1:] = keys[1:] != keys[:-1]
        slot_of_pair = is_new.cumsum(dim=0) - 1
        values = torch.cat([self.values, -other.values.to(self.values.dtype)])[order]
        # Each slot gets one value or two, whose sum does not depend on their order.
        merged = torch.zeros_like(values).index_add_(0, slot_of_pair, values)
        # Without counting the slots, for which a GPU would have to be waited for.
        merged_keys = torch.zeros_like(keys).scatter_(0, slot_of_pair, keys)
        experts, tokens = merged_keys // self.count, merged_keys % self.count
        return Routed(merged, tokens, experts, self.count, self.total)

    def summed(self, groups: Int[Tensor, " pairs"], size: int) -> Float[Tensor, "size outputs"]:
        """Sum of the values by a group number of each pair, below `size`."""
        sums = self.values.new_zeros(size, self.values.shape[1])
        return sums.index_add_(0, groups, self.values)

    def by_expert(self) -> Float[Tensor, " channels"]:
        """Sum of the values over tokens, by channel: expert after expert, output after output."""
        return self.summed(self.experts, self.total).flatten()


def routed_outputs(
    experts: nn.Module, hidden: Float[Tensor, "tokens d"], chosen: Int[Tensor, "tokens k"]
) -> dict[str, Routed]:
    """Compute the projections of packed experts again, for some tokens, from the experts' inputs.

    So it does not matter by which implementation (eager, batched_mm, grouped_mm) the model runs
    them. Weights that accelerate offloads are brought in once more. A GPU is waited for once.

    Returns:
        Own name of each projection, such as ``down_proj``, to its outputs.
    """
    order = chosen.flatten().sort(stable=True).indices
    tokens, numbers = order // chosen.shape[1], chosen.flatten()[order]
    with align_module_device(experts):
        weights = packed_projections(experts)
        total = next(iter(weights.values())).shape[0]
        # Numbers from `total` on stand for experts of other processes.
        sizes = torch.bincount(numbers, minlength=total)[:total].tolist()
        groups = hidden[tokens[: sum(sizes)]].split(sizes)
        outputs = [_projected(experts, weights, number, rows) for number, rows in enumerate(groups)]
    routes, values = (tokens[: sum(sizes)], numbers[: sum(sizes)], len(hidden), total), {}
    for name in weights:
        values[name] = Routed(torch.cat([each[name] for each in outputs]), *routes)
    return values


def _projected(
    experts: nn.Module, weights: Mapping[str, Tensor], number: int, hidden: Float[Tensor, "rows d"]
) -> dict[str, Float[Tensor, "rows outputs"]]:
    """Outputs of one expert's two projections."""
    (first, into), (last, out) = weights.items()
    if not len(hidden):  # spares an activation function that cannot take no rows
        return {name: hidden.new_empty(0, each.shape[1]) for name, each in weights.items()}
    inner = functional.linear(hidden.to(into.dtype), into[number])
    gate: Any = experts._apply_gate if experts.has_gate else experts.act_fn
    gated = gate(inner)
    return {first: inner, last: functional.linear(gated, out[number])}


def sum_routed(donor: Routed, target: Routed, moments: bool) -> Float[Tensor, "sums channels"]:
    """As `actlib.recording.sum_tokens`; a token that an expert did not see adds 0."""
    ours, theirs = (each.mapped(Tensor.double) for each in (donor, target))
    sizes = [each.mapped(torch.abs).by_expert() for each in (ours, theirs)]
    sums = [ours.minus(theirs).mapped(torch.abs).by_expert(), (sizes[0] + sizes[1]) / 2]
    if moments:
        sums += [ours.by_expert(), ours.mapped(torch.square).by_expert()]
    return torch.stack(sums)
