"""Activations of packed experts, for the tokens that the router sent to each, and no others.

    outputs = routed_outputs(experts, hidden_states, top_k_index)    # by name of projection

An expert's activation for a token is the output of its projection (of the last one before the
router's weight) where the router sent the token to that expert, and 0 where it did not. So of two
models, one of which sends a token to an expert and the other elsewhere, the first one's whole
activation counts as their difference. Ours; the paper has no experts.

Outputs are [tokens, experts, outputs] and sparse in the first two: a token is listed for its own
experts alone.
"""

from typing import Any

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from actlib.channels import packed_projections


def routed_outputs(
    experts: nn.Module, hidden: Float[Tensor, "tokens d"], chosen: Int[Tensor, "tokens k"]
) -> dict[str, Float[Tensor, "tokens experts outputs"]]:
    """Compute the projections of packed experts again, for some tokens, from the experts' inputs.

    So it does not matter by which implementation (eager, batched_mm, grouped_mm) the model runs
    them. Weights that accelerate offloads are brought in once more. A GPU is waited for once.

    Returns:
        Own name of each projection, such as ``down_proj``, to its outputs.
    """
    order = chosen.flatten().sort(stable=True).indices
    tokens, numbers = order // chosen.shape[1], chosen.flatten()[order]
    with align_module_device(experts):
        (first, into), (last, out) = packed_projections(experts).items()
        gate: Any = experts._apply_gate if experts.has_gate else experts.act_fn
        groups = hidden[tokens].split(torch.bincount(numbers, minlength=len(into)).tolist())
        inner, outer = list[Tensor](), list[Tensor]()
        for number, rows in enumerate(groups):
            if len(rows):  # some activation functions cannot take none
                inner.append(functional.linear(rows.to(into.dtype), into[number]))
                outer.append(functional.linear(gate(inner[-1]), out[number]))
    outputs, indices = dict[str, Tensor](), torch.stack([tokens, numbers])
    for name, values in ((first, torch.cat(inner)), (last, torch.cat(outer))):
        shape = len(hidden), len(into), values.shape[1]
        outputs[name] = torch.sparse_coo_tensor(indices, values, shape, check_invariants=False)
    return outputs
