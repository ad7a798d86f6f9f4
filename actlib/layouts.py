"""Finds a model's parameters among the tensors that its files store.

Names differ for some families (GPT-NeoX `embed_out`, GPT-2 without its prefix), and experts that
the model holds packed in one tensor are stored one by one (`experts.3.w1.weight`). transformers
keeps the list of both, and it is asked here. So a parameter is a sequence of stored tensors whose
rows, one after the other, are its own:

    experts.gate_up_proj [experts, 2 * d_mlp, d_model]
        = expert 0's gate, expert 0's up, expert 1's gate, ...
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actlib.stored import StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter


@dataclass(frozen=True)
class StoredParameter:
    """One parameter of a model in its files.

    Attributes:
        shape: shape of the parameter.
        parts: stored tensors whose rows, one after the other, are those of the parameter as a
            matrix [all dimensions but the last, last].
    """

    shape: tuple[int, ...]
    parts: tuple[StoredTensor, ...]

    @property
    def dtype(self) -> str:
        """Type of the numbers by its safetensors name; several names where the parts differ."""
        return "/".join(sorted({part.dtype for part in self.parts}))

    @cached_property
    def origins(self) -> tuple[int, ...]:
        """Row of the parameter that is the first of each part."""
        return tuple(accumulate((part.rows for part in self.parts[:-1]), initial=0))

    def open(self, folder: Path) -> Tensor:
        """The parameter: mapped from its file, or put together in memory from several parts."""
        parts = [part.open(folder) for part in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """A model's parameters in its files.

    Attributes:
        parameters: by the name that the parameter has in the model.
        converted: names of parameters that are stored in a form whose rows are not the parameter's
            (permuted, transposed, split), with a clause on how they are stored.
    """

    parameters: dict[str, StoredParameter]
    converted: dict[str, str]

    def __contains__(self, name: str) -> bool:
        """Whether a parameter's rows are stored as such."""
        return name in self.parameters


def layout_of(stored: Mapping[str, StoredTensor], model: "PreTrainedModel") -> Layout:
    """Stored tensors as the model's parameters."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    by_pattern = {key: each for each in converters for key in each.source_patterns}
    state, prefix = model.state_dict(), model.base_model_prefix
    layout = Layout({}, {})
    several: dict[str, dict[str, list[StoredTensor]]] = {}
    # The order in which loading stacks experts: 2 before 10.
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if pattern is None:
            layout.parameters[name] = StoredParameter(stored[key].shape, (stored[key],))
        else:
            several.setdefault(name, {}).setdefault(pattern, []).append(stored[key])
    for name, parts in several.items():
        converter = by_pattern[next(iter(parts))]
        sources = [parts.get(pattern, []) for pattern in converter.source_patterns]
        joined = _joined(converter, sources)
        if joined is not None:
            layout.parameters[name] = joined
            continue
        steps = ", ".join(type(each).__name__ for each in converter.operations)
        whole = len({len(tensors) for tensors in sources}) == 1
        reason = f"in a form that loading converts ({steps})" if whole else "with parts missing"
        first, *others = converter.target_patterns
        made = [name, *(name.replace(first, other) for other in others)]
        layout.converted.update(dict.fromkeys(made, reason))
    return layout


def _joined(
    converter: "WeightConverter", found: Sequence[Sequence[StoredTensor]]
) -> StoredParameter | None:
    """The parameter that a conversion makes of tensors, if that only lines up their rows.

    Args:
        converter: what transformers does.
        found: for each of its source patterns the tensors, in order of the experts.
    """
    from transformers.core_model_loading import Concatenate, MergeModulelist

    steps = [(type(each), getattr(each, "dim", None)) for each in converter.operations]
    shapes = [{each.shape for each in tensors} for tensors in found]
    if any(len(each) != 1 for each in shapes) or len({len(tensors) for tensors in found}) != 1:
        return None
    sizes = [next(iter(each)) for each in shapes]  # [outputs, inputs] of each source
    if any(len(size) != 2 or size[1] != sizes[0][1] for size in sizes):
        return None
    rows, inputs, experts = sum(size[0] for size in sizes), sizes[0][1], len(found[0])
    parts = tuple(tensor for group in zip(*found, strict=True) for tensor in group)
    if steps in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
        return StoredParameter((experts, rows, inputs), parts)
    if steps == [(Concatenate, 0)] and experts == 1:
        return StoredParameter((rows, inputs), parts)
    return None
