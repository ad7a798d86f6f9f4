"""Moves the masked channels of a target's parameters towards a donor's (ACT).

    transfer_(target, donor, mask, scale=0.4)                  # for good
    with transferred(target, donor, mask, scale=0.4):          # for a while, then put back
        evaluate(target)

What a mask selects of a parameter, seen as a matrix: the channels of a linear layer, of an LM head
and of packed experts are rows of the weight, those of an embedding and of a Conv1D are columns,
those of a norm and of a bias single entries. A tied embedding and LM head share one
[vocab, d_model] tensor: a masked head channel names a row of it and a masked embedding channel a
column. The elements in the union of those rows and columns move, each once, and the two modules
stay tied.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from actlib.channels import channel_modules, unwrapped
from actlib.masks import ChannelMask, require_fit
from actlib.pairs import require_pair
from actlib.vocabulary import shared_rows
from actlib.weights import require_in_memory, require_writable

CHUNK = 2**17
"""Elements that are computed at a time: in float32 half a megabyte, which stays in the cache."""
Index = tuple[Tensor | slice, ...]
"""Of some elements of a matrix, as brackets take it."""


def interpolate(
    target: Float[Tensor, "*elements"], donor: Float[Tensor, "*elements"], scale: float
) -> Float[Tensor, "*elements"]:
    """Target + scale * (donor - target), on the device and in the dtype of `target`.

    Computed in float32 or wider and rounded once to that dtype, so that whatever moves parameters
    this way gives the same bits. Source: ACT.
    """
    wide = torch.promote_types(target.dtype, torch.float32)
    target_, donor_ = target.to(wide), donor.to(device=target.device, dtype=wide)
    # target + scale * (donor - target), in one buffer
    return (donor_ - target_).mul_(scale).add_(target_).to(target.dtype)


@dataclass(frozen=True, eq=False)
class Selection:
    """The elements of one parameter, as a matrix, that belong to masked channels.

    Attributes:
        rows: selected rows; of a vector its entries, of packed experts those of all experts.
        columns: selected columns; a vector has a single column, which is never selected.
    """

    rows: Bool[Tensor, " rows"]
    columns: Bool[Tensor, " columns"]

    def indices(self, chunk: int = CHUNK) -> Iterator[Index]:
        """Disjoint indices of the matrix that cover the selected elements, each of them once.

        Their order is that of a patch's values: who changes it changes `patch_file.FORMAT`.
        """
        rows, columns = self.rows.nonzero().flatten(), self.columns.nonzero().flatten()
        if len(rows):
            yield from ((part,) for part in rows.split(max(1, chunk // len(self.columns))))
        others = (~self.rows).nonzero().flatten()
        if len(others) and len(columns):
            # [rows, 1] and [columns] index a grid
            step = max(1, chunk // len(columns))
            yield from ((part[:, None], columns) for part in others.split(step))

    def at(self, index: Index = (slice(None),)) -> Bool[Tensor, "rows columns"]:
        """True where elements are selected, of those at an index of the matrix."""
        columns = self.columns[index[1]] if len(index) > 1 else self.columns
        return self.rows[index[0]].view(-1, 1) | columns

    @property
    def size(self) -> int:
        """Number of selected elements."""
        rows, columns = int(self.rows.sum()), int(self.columns.sum())
        return rows * len(self.columns) + (len(self.rows) - rows) * columns


def selections(model: nn.Module, mask: ChannelMask) -> dict[str, Selection]:
    """What a mask selects of each parameter of which it selects anything.

    Names are those of `model.named_parameters()`, where a tied tensor appears once, with the rows
    or columns that any of its modules selects.

    Raises:
        ValueError: the mask is of another model.
    """
    require_fit(model, mask)
    names = {id(each): name for name, each in unwrapped(model).named_parameters()}
    selected: dict[str, Selection] = {}
    for module_name, module in channel_modules(model).items():
        channels = mask.channels[module_name].cpu()
        if not channels.any():
            continue
        for parameter, dimension in module.parameters().values():
            sizes = as_matrix(parameter).shape
            empty = Selection(*(torch.zeros(size, dtype=torch.bool) for size in sizes))
            selection = selected.setdefault(names[id(parameter)], empty)
            (selection.rows, selection.columns)[dimension].logical_or_(channels)
    return selected


def transfer_(target: nn.Module, donor: nn.Module, mask: ChannelMask, scale: float = 0.4) -> None:
    """Move the masked channels of `target` towards `donor`, in place.

    A channel's parameters are its row, column or entry of the weight, and its bias entry; each
    becomes target + scale * (donor - target). Every other parameter keeps its bits. All new values
    are computed before the first one is set, which takes as much memory as the masked parameters.
    Source: ACT.

    Args:
        target: the model that is changed.
        donor: the model that has the ability.
        mask: channels to move.
        scale: the paper's lambda; 0 leaves the target, 1 gives the donor's channels up to rounding.
            The default is the value reported of the paper. In the study's family `tiny` it brings
            back next to nothing; the findings are at 1.

    Raises:
        ValueError: the models do not fit or are one, parameters of one are offloaded (see
            `transfer_checkpoint`), the mask is of another model, the scale is not finite, or a
            moved parameter would be NaN or infinite. Nothing is changed then.
    """
    require_movable(donor, target)
    selected = selections(target, mask)
    write_(
        target, selected, interpolation(dict(unwrapped(donor).named_parameters()), selected, scale)
    )


@contextmanager
def preserved(model: nn.Module, mask: ChannelMask) -> Iterator[nn.Module]:
    """Give the masked channels their parameters back on exit, bit for bit.

    Only those parameters are copied, so changes to others inside the block stay. In a model that
    was moved or converted there they are put back on its device and in its dtype.

    Raises:
        ValueError: the mask is of another model, or parameters are offloaded; at exit too.
    """
    require_writable(model)
    parameters = dict(unwrapped(model).named_parameters())
    copies: dict[str, list[tuple[Index, Tensor]]] = {}
    for name, selection in selections(model, mask).items():
        matrix = as_matrix(parameters[name])
        copies[name] = [(index, matrix[index]) for index in selection.indices()]
    try:
        yield model
    finally:
        write_(model, copies, lambda name, _matrix: copies[name])


@contextmanager
def transferred(
    target: nn.Module, donor: nn.Module, mask: ChannelMask, scale: float = 0.4
) -> Iterator[nn.Module]:
    """The target with channels transferred as in `transfer_`, put back on exit, bit for bit.

    Raises:
        ValueError: the models do not fit or are one, parameters are offloaded, the mask is of
            another model, the scale is not finite, or a moved parameter would be NaN or infinite.
    """
    with preserved(target, mask):
        transfer_(target, donor, mask, scale)
        yield target


Change = Callable[[str, Tensor], Iterable[tuple[Index, Tensor]]]
"""Called with a parameter's name and matrix; yields where in it values change, and to what."""


def interpolation(
    donor: Mapping[str, Tensor], selected: Mapping[str, Selection], scale: float
) -> Change:
    """What a transfer makes of the selected elements, chunk by chunk.

    Raises:
        ValueError: the scale is not finite; from the result, as `require_finite`.
    """
    require_scale(scale)

    def change(name: str, target: Tensor) -> Iterator[tuple[Index, Tensor]]:
        donated = shared_rows(as_matrix(donor[name]), target)
        for index in selected[name].indices():
            before, donor_values = take_elements(target, index), take_elements(donated, index)
            values = interpolate(before, donor_values, scale)
            require_finite(name, values, {"the donor": donor_values, "the target": before}, scale)
            yield index, values

    return change


def write_(model: nn.Module, names: Iterable[str], change: Change) -> None:
    """Set new values of some parameters; all are computed before the first one is set.

    Raises:
        ValueError: as `require_writable`.
    """
    require_writable(model)
    parameters = dict(unwrapped(model).named_parameters())
    matrices = {name: as_matrix(parameters[name]) for name in names}
    changes = [
        (matrix, index, values)
        for name, matrix in matrices.items()
        for index, values in change(name, matrix)
    ]
    for matrix, index, values in changes:
        matrix[index] = values.to(matrix)
    torch.clear_autocast_cache()  # in which the old values would live on


def as_matrix(parameter: Shaped[Tensor, "..."]) -> Shaped[Tensor, "rows columns"]:
    """A view with all dimensions but the last as rows; of a vector each entry is a row."""
    return parameter.detach().view(-1, parameter.shape[-1] if parameter.ndim > 1 else 1)


def take_elements(matrix: Shaped[Tensor, "rows columns"], index: Index) -> Shaped[Tensor, "..."]:
    """The elements at an index; of whole rows several times as fast as by brackets."""
    if len(index) == 1 and isinstance(index[0], Tensor):
        return matrix.index_select(0, index[0].to(matrix.device))
    return matrix[index]


def require_movable(donor: nn.Module, target: nn.Module) -> None:
    """Raise ValueError for models that do not fit, are offloaded, or share all their tensors."""
    require_pair(donor, target)
    require_in_memory(donor, target)
    pairs = zip(donor.parameters(), target.parameters(), strict=False)
    if all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs):
        raise ValueError(
            "donor and target are the same model, or share all tensors, so nothing would move; "
            "name another as the donor"
        )


def require_finite(
    name: str, values: Tensor, sources: Mapping[str, Tensor], scale: float | str
) -> None:
    """Raise ValueError for new values that are NaN or infinite, naming the source or scale."""
    # The sum is not finite if an entry is not; one that only overflows is looked at in full.
    if values.sum().isfinite() or values.isfinite().all():
        return
    broken = [source for source, part in sources.items() if not part.isfinite().all()]
    if broken:
        raise ValueError(
            f"{name} of {broken[0]} holds NaN or infinite numbers in the channels to move; find "
            "all such tensors with `actlib check`, and take a sound model"
        )
    dtype = str(values.dtype).removeprefix("torch.")
    raise ValueError(
        f"scale {scale} makes numbers of {name} infinite in {dtype}; expected one near 0 to 1"
    )


def require_scale(scale: float) -> None:
    """Raise ValueError for a scale that is NaN or infinite."""
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale}")
