"""The file of an ability patch: what it says of itself, and the values it holds.

    save_patch("maths.safetensors", edits, metadata)
    info, edits = load_patch(Path("maths.safetensors"))
    edits["lm_head.weight"].values["after"]

Of each parameter NAME, seen as a matrix (`Selection`), the file holds `NAME.rows` and
`NAME.columns`, which say what is selected, and `NAME.after`, the new values: first those of all
selected rows, then of the other rows those in selected columns, row by row. `NAME.before` are the
original values in this order.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from actlib.files import load_tensors, save_tensors
from actlib.stored import DTYPES
from actlib.transfer import Index, Selection, as_matrix, take_elements

KIND, FORMAT = "AbilityPatch", "2"
"""What a file says that it is, and the format that is written and read."""
PARTS = ("rows", "columns", "after", "before")
"""What a file holds of each parameter."""

Values = Shaped[Tensor, " elements"]


@dataclass(frozen=True)
class PatchInfo:
    """What a patch says of itself.

    Attributes:
        metadata: target, donor, mask, scale, versions, as far as they are stated; all text.
        tensors: name of each touched parameter to its number of selected elements.
        elements: selected elements over all tensors.
        parameter_percent: those in percent of the target's parameters.
        bytes: size of the file.
    """

    metadata: dict[str, str]
    tensors: dict[str, int]
    elements: int
    parameter_percent: float
    bytes: int


@dataclass(frozen=True, eq=False)
class Edit:
    """What a patch changes of one parameter: the selected elements, and their values by side.

    New ones are "after", original ones "before".
    """

    selection: Selection
    values: dict[str, Values]

    @property
    def form(self) -> tuple[int, int, torch.dtype]:
        """Rows, columns and dtype of the changed parameter as a matrix."""
        selection = self.selection
        return len(selection.rows), len(selection.columns), self.values["after"].dtype

    def is_at(self, side: str, parameter: Tensor | None) -> bool:
        """Whether a parameter of the target, if it is there, has a side's values, bit by bit."""
        if parameter is None or (*as_matrix(parameter).shape, parameter.dtype) != self.form:
            return False
        values = selected_values(parameter, self.selection)
        return torch.equal(values.view(torch.uint8), self.values[side].view(torch.uint8))

    def changes(self, side: str) -> Iterator[tuple[Index, Values]]:
        """Indices of the parameter's matrix, and the values of a side there."""
        start, width = 0, len(self.selection.columns)
        for index in self.selection.indices():
            rows, *columns = (cast(Tensor, part) for part in index)
            shape = len(rows), len(columns[0]) if columns else width
            stop = start + math.prod(shape)
            yield index, self.values[side][start:stop].view(shape)
            start = stop


def save_patch(
    path: str | os.PathLike, edits: Mapping[str, Edit], metadata: Mapping[str, object]
) -> PatchInfo:
    """Write a patch atomically, read it again, and return what it says of itself."""
    tensors = dict[str, Tensor]()
    for name, edit in edits.items():
        tensors |= {f"{name}.rows": edit.selection.rows, f"{name}.columns": edit.selection.columns}
        tensors |= {f"{name}.{side}": values for side, values in edit.values.items()}
    stated = {key: str(value) for key, value in metadata.items()}
    save_tensors(path, KIND, tensors, {"format": FORMAT, **stated})
    return load_patch(Path(path))[0]


def load_patch(path: Path) -> tuple[PatchInfo, dict[str, Edit]]:
    """Read a patch: what it says of itself, and what it changes by parameter.

    Raises:
        ValueError: there is no such file, it is no patch, damaged, or contradicts itself.
    """
    tensors, metadata = load_tensors(path, KIND)
    stated = metadata.pop("format", "1")
    if stated != FORMAT:
        raise ValueError(
            f"the patch {path} is of format {stated}, and this version of actlib reads format "
            f"{FORMAT}; take the version that made it, or make it again"
        )
    try:
        names = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
        if {*tensors} != {f"{name}.{part}" for name in names for part in PARTS}:
            raise ValueError("tensors of a parameter are missing, or there are others")
        edits = {name: _read_edit(name, tensors) for name in names}
        sizes = {name: edit.selection.size for name, edit in edits.items()}
        elements, total = sum(sizes.values()), int(metadata["parameters"])
        if total < max(1, elements):
            raise ValueError(f"its metadata state {total} parameters of the target")
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"the patch {path} is damaged: {error}; copy or download it again"
        ) from error
    percent, size = 100 * elements / total, path.stat().st_size
    return PatchInfo(metadata, sizes, elements, percent, size), edits


def selected_values(parameter: Tensor, selection: Selection) -> Values:
    """A parameter's selected elements in the order of a patch, on the CPU."""
    matrix = as_matrix(parameter)
    return torch.cat(
        [take_elements(matrix, index).flatten() for index in selection.indices()]
    ).cpu()


def _read_edit(name: str, tensors: Mapping[str, Tensor]) -> Edit:
    """What the tensors of a file change of a parameter, if they fit together."""
    *flags, after, before = (tensors[f"{name}.{part}"] for part in PARTS)
    if any(each.dtype != torch.bool or each.ndim != 1 for each in flags):
        raise ValueError(f"the rows or columns of {name}")
    selection = Selection(*(each.view(torch.uint8) != 0 for each in flags))  # any byte may be there
    kinds = {(each.shape, each.dtype) for each in (after, before)}
    expected = {((selection.size,), dtype) for dtype in DTYPES.values()}
    if not selection.size or len(kinds) > 1 or not kinds <= expected:
        raise ValueError(f"the values of {name}")
    return Edit(selection, {"after": after, "before": before})
