"""Finds a model's parameters among the tensors that its files store.

Names differ for some families (GPT-NeoX `embed_out`, GPT-2 without its prefix), and experts that
the model holds packed in one tensor are stored one by one (`experts.3.w1.weight`). transformers
keeps the list of both, and it is asked here. So a parameter is a sequence of stored tensors whose
rows, one after the other, are its own:

    experts.gate_up_proj [experts, 2 * d_mlp, d_model]
        = expert 0's gate, expert 0's up, expert 1's gate, ...
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
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
            matrix [all dimensions but the last, last], each with its first row's number there.
    """

    shape: tuple[int, ...]
    parts: tuple[tuple[int, StoredTensor], ...]

    @classmethod
    def of_parts(cls, shape: tuple[int, ...], parts: Iterable[StoredTensor]) -> "StoredParameter":
        """Line up stored tensors."""
        parts = tuple(parts)
        firsts = accumulate((part.rows for part in parts[:-1]), initial=0)
        return cls(shape, tuple(zip(firsts, parts, strict=True)))

    @property
    def dtype(self) -> str:
        """Type of the numbers by its safetensors name; several names where the parts differ."""
        return "/".join(sorted({part.dtype for _, part in self.parts}))

    def rows(self, folder: Path, start: int, stop: int) -> Float[Tensor, "rows columns"]:
        """Rows from `start` to before `stop` as a matrix: mapped, or put together of several."""
        columns = self.shape[-1] if len(self.shape) > 1 else 1
        pieces = [
            part.open(folder).view(-1, columns)[max(start - first, 0) : stop - first]
            for first, part in self.parts
            if len(self.parts) == 1 or (first < stop and start < first + part.rows)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def stored_parameters(
    stored: Mapping[str, StoredTensor], model: "PreTrainedModel"
) -> tuple[dict[str, StoredParameter], set[str]]:
    """Stored tensors as the model's parameters, by the names that these have in the model.

    Returns:
        The parameters, and the names of those that are stored in a form whose rows are not the
        parameter's (permuted, transposed, split, in part missing).
    """
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
    parameters: dict[str, StoredParameter] = {}
    several: dict[str, dict[str, list[StoredTensor]]] = {}
    # The order in which loading stacks experts: 2 before 10.
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if pattern is None:
            parameters[name] = StoredParameter.of_parts(stored[key].shape, [stored[key]])
        else:
            several.setdefault(name, {}).setdefault(pattern, []).append(stored[key])
    converted: set[str] = set()
    for name, parts in several.items():
        converter = by_pattern[next(iter(parts))]
        sources = [parts.get(pattern, []) for pattern in converter.source_patterns]
        joined = _join(converter, sources)
        if joined is not None:
            parameters[name] = joined
        else:
            first, *others = converter.target_patterns
            converted |= {name, *(name.replace(first, other) for other in others)}
    return parameters, converted


def _join(
    converter: "WeightConverter", sources: Sequence[Sequence[StoredTensor]]
) -> StoredParameter | None:
    """The parameter that a conversion makes of tensors, if that only lines up their rows.

    Args:
        converter: what transformers does.
        sources: for each of its source patterns the tensors, in order of the experts.
    """
    from transformers.core_model_loading import Concatenate, MergeModulelist

    steps = [(type(each), getattr(each, "dim", None)) for each in converter.operations]
    experts, inputs = len(sources[0]), {part.shape[1:] for source in sources for part in source}
    alike = all(len({part.shape for part in source}) == 1 for source in sources)
    if not alike or len(inputs) != 1 or any(len(source) != experts for source in sources):
        return None
    (columns,) = inputs  # of stored matrices [outputs, inputs] alone
    rows = sum(source[0].rows for source in sources)
    parts = (part for group in zip(*sources, strict=True) for part in group)
    if len(columns) == 1:
        if steps in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
            return StoredParameter.of_parts((experts, rows, *columns), parts)
        if steps == [(Concatenate, 0)] and experts == 1:
            return StoredParameter.of_parts((rows, *columns), parts)
    return None
