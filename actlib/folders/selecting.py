"""Transfers channels: moves the masked parameters of a target towards a donor's.

    transfer_(target, donor, mask, scale=0.4)                  # for good
    with transferred(target, donor, mask, scale=0.4):          # for a while, then put back
        evaluate(target)

Written rule for a tied embedding and LM head, which share one [vocab, d_model] tensor: a masked
head channel names a row of it and a masked embedding channel a column. The elements in the union of
those rows and columns move, each once. So the two modules stay tied: whatever moves one of them
moves the other.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from actlib.channels import channel_modules, require_in_memory
from actlib.masks import ChannelMask, require_fit
from actlib.pairs import require_pair

Index = tuple[Tensor | slice, ...]


@dataclass(frozen=True, eq=False)
class Selection:
    """The elements of one parameter tensor that belong to masked channels.

    Attributes:
        name: the tensor's first name in `model.named_parameters()`.
        shape: the tensor's shape.
        rows: bool over dimension 0; of packed experts over the first two together.
        columns: bool over the last dimension; None for a tensor of one dimension.
    """

    name: str
    shape: tuple[int, ...]
    rows: Bool[Tensor, " rows"]
    columns: Bool[Tensor, " columns"] | None

    def pieces(self, outside: "Selection | None" = None) -> list[Index]:
        """Disjoint index expressions that cover the selected elements, each of them once.

        Args:
            outside: leave out the elements that this selection of the same tensor has too.
        """
        rows = self.rows if outside is None else self.rows & ~outside.rows
        if self.columns is None:
            return [(rows.nonzero().flatten(),)] if rows.any() else []
        others = None if outside is None else outside.columns
        others = torch.zeros_like(self.columns) if others is None else others
        columns, free = self.columns & ~others, ~others
        rest = ~self.rows if outside is None else ~(self.rows | outside.rows)
        pieces: list[Index] = []
        if rows.any() and free.all():
            pieces.append(self._at(rows))
        elif rows.any() and free.any():
            pieces.append((rows.nonzero(), free.nonzero().flatten()))
        if columns.any() and rest.all():
            pieces.append((slice(None), columns.nonzero().flatten()))
        elif columns.any() and rest.any():
            pieces.append((rest.nonzero(), columns.nonzero().flatten()))
        return pieces

    @property
    def size(self) -> int:
        """Number of selected elements."""
        rows = int(self.rows.sum())
        if self.columns is None:
            return rows
        columns = int(self.columns.sum())
        return rows * self.shape[-1] + (len(self.rows) - rows) * columns

    def elements(self) -> Bool[Tensor, "..."]:
        """The selection as a boolean view of the tensor's shape."""
        if self.columns is None:
            return self.rows
        if not self.columns.any():
            return self.rows.view(*self.shape[:-1], 1).expand(self.shape)
        if not self.rows.any():
            return self.columns[None, :].expand(self.shape)
        return self.rows[:, None] | self.columns[None, :]

    def _at(self, rows: Bool[Tensor, " rows"]) -> Index:
        """Index of whole rows; of packed experts, of expert and row."""
        return tuple(rows.view(self.shape[:-1]).nonzero().unbind(dim=1))


def selections(model: nn.Module, mask: ChannelMask) -> dict[str, Selection]:
    """What a mask selects of each parameter tensor, for tensors of which it selects anything.

    Names are those of `model.named_parameters()`, where a tied tensor appears once.

    Raises:
        ValueError: the mask is of another model.
    """
    require_fit(model, mask)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sides: dict[str, list[Tensor | None]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for module_name, found in channel_modules(model).items():
        # A copy: whoever keeps a selection must not see later changes to its mask.
        chosen = mask.channels[module_name].to("cpu", copy=True)
        if not chosen.any():
            continue
        for parameter, dimension in found.parameters().values():
            name = names[id(parameter)]
            shapes[name] = tuple(parameter.shape)
            side = sides.setdefault(name, [None, None])
            before = side[dimension]
            side[dimension] = chosen if before is None else before | chosen
    return {name: _selection(name, shapes[name], *side) for name, side in sides.items()}


def parameter_percent(model: nn.Module, mask: ChannelMask) -> float:
    """Parameters that a mask's channels hold, in percent of the model's.

    Channels differ in size: a channel of the embedding holds an entry for every token of the
    vocabulary, one of a norm a single entry. So masks of one count can move very different amounts.

    Raises:
        ValueError: the mask is of another model.
    """
    held = sum(found.size for found in selections(model, mask).values())
    return 100 * held / sum(parameter.numel() for parameter in model.parameters())


def interpolated(
    target: Shaped[Tensor, "*elements"], donor: Shaped[Tensor, "*elements"], scale: float
) -> Shaped[Tensor, "*elements"]:
    """Return target + scale * (donor - target), on the device and in the dtype of `target`.

    Computed in float32 or wider and rounded once to that dtype, so that whatever moves parameters
    this way gives the same bits. Source: ACT.
    """
    wide = torch.promote_types(target.dtype, torch.float32)
    ours, theirs = target.to(wide), donor.to(device=target.device, dtype=wide)
    return (ours + scale * (theirs - ours)).to(target.dtype)


def moved(
    target: Shaped[Tensor, "*elements"], donor: Shaped[Tensor, "*elements"], scale: float, name: str
) -> Shaped[Tensor, "*elements"]:
    """As `interpolated`, and what comes out is finite.

    A NaN among the weights spreads to all that a model says, so that one is never moved silently.

    Raises:
        ValueError: it is not; the sentence says whether the donor, the target or the scale is why.
    """
    values = interpolated(target, donor, scale)
    require_finite(name, values, {"donor": donor, "target": target}, scale)
    return values


def require_finite(
    name: str, values: Tensor, sides: Mapping[str, Tensor], scale: float | str
) -> None:
    """Refuse new values of a parameter that are NaN or infinite.

    Args:
        name: the parameter.
        values: what it would become.
        sides: what they were computed from, by what to call it.
        scale: the scale or scales that went in.

    Raises:
        ValueError: names the parameter, and the side that is not finite itself or else the scale.
    """
    # The sum is not finite if an entry is not; one that only overflows is looked at in full.
    if values.sum().isfinite() or values.isfinite().all():
        return
    broken = [side for side, part in sides.items() if not part.isfinite().all()]
    if broken:
        raise ValueError(
            f"the {broken[0]}'s {name} holds NaN or infinite numbers in the channels to move; find "
            "all such tensors with `actlib check`, and take a sound model"
        )
    dtype = str(values.dtype).removeprefix("torch.")
    raise ValueError(
        f"scale {scale} makes numbers of {name} infinite in {dtype}; expected one near 0 to 1"
    )


def transfer_(target: nn.Module, donor: nn.Module, mask: ChannelMask, scale: float = 0.4) -> None:
    """Move the masked channels of `target` towards `donor`, in place.

    A channel's parameters are its row, column or entry of the weight, and its bias entry; each
    becomes target + scale * (donor - target). Every other parameter keeps its bits. All new values
    are held before the first one is set, as much memory as the masked parameters take. Source: ACT.

    Args:
        target: the model that is changed.
        donor: the model that has the ability.
        mask: channels to move.
        scale: the paper's lambda; 0 leaves the target, 1 gives the donor's channels. The default is
            the value reported to work without fine-tuning.

    Raises:
        ValueError: the models do not fit, parameters of one are offloaded (see
            `transfer_checkpoint`), the mask is of another model, the scale is not finite, or a
            moved parameter would be NaN or infinite. Nothing is changed then.
    """
    _transfer_(target, donor, mask, scale, checked=True)


@contextmanager
def preserved(model: nn.Module, mask: ChannelMask) -> Iterator[nn.Module]:
    """Give the masked channels their parameters back on exit, bit for bit.

    Only those parameters are copied, so changes to others inside the block stay.

    Raises:
        ValueError: the mask is of another model, or parameters are offloaded.
    """
    require_in_memory(model)
    parameters = dict(model.named_parameters())
    copies = []
    for name, selection in selections(model, mask).items():
        for index in selection.pieces():
            copies.append((parameters[name], index, parameters[name].detach()[index]))
    try:
        yield model
    finally:
        with torch.no_grad():
            for parameter, index, values in copies:
                parameter[index] = values


@contextmanager
def transferred(
    target: nn.Module, donor: nn.Module, mask: ChannelMask, scale: float = 0.4
) -> Iterator[nn.Module]:
    """The target with channels transferred as in `transfer_`, put back on exit, bit for bit.

    Raises:
        ValueError: as `transfer_`.
    """
    with preserved(target, mask):  # which also takes back what an error left halfway
        _transfer_(target, donor, mask, scale, checked=False)
        yield target


def _transfer_(
    target: nn.Module, donor: nn.Module, mask: ChannelMask, scale: float, *, checked: bool
) -> None:
    """See `transfer_`; where `checked`, everything is computed before anything changes."""
    require_pair(donor, target)
    require_in_memory(donor, target)
    require_scale(scale)
    chosen = selections(target, mask)
    parameters, donated = dict(target.named_parameters()), dict(donor.named_parameters())
    with torch.no_grad():
        places = ((name, index) for name, each in chosen.items() for index in each.pieces())
        changes = (
            (parameters[name], i, moved(parameters[name][i], donated[name][i], scale, name))
            for name, i in places
        )
        for parameter, index, values in list(changes) if checked else changes:
            parameter[index] = values


def require_scale(scale: float) -> None:
    """Refuse a scale that is NaN or infinite.

    Raises:
        ValueError: names the scale.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale}")


def _selection(
    name: str, shape: tuple[int, ...], rows: Tensor | None, columns: Tensor | None
) -> Selection:
    if rows is None:
        rows = torch.zeros(math.prod(shape[:-1] or shape), dtype=torch.bool)
    if columns is None and len(shape) > 1:
        columns = torch.zeros(shape[-1], dtype=torch.bool)
    return Selection(name, shape, rows, columns)
