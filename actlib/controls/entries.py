"""Single parameters instead of channels: a control that moves equally many, wherever they are.

    entries = top_entries(donor, target, count)         # the largest |donor - target|
    control = random_entries(target, count, seed=0)     # anywhere
    with entries_transferred(target, donor, entries, scale=0.4):
        evaluate(target)

Masks of the largest entries of a task vector are those of the dataless form of Localize-and-Stitch
(He et al. 2024, arXiv 2408.13656) and of the trimming step of TIES-Merging (Yadav et al. 2023,
arXiv 2306.01708). There the task vector is fine-tuned minus pre-trained; here it is donor minus
target.

Everything goes through the parameters in pieces, so that beside the mask itself, one byte a
parameter, little memory is needed.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from actlib.channels import require_in_memory
from actlib.masks import shortened
from actlib.pairs import require_pair
from actlib.transfer import interpolate, require_scale

Entries = dict[str, Bool[Tensor, "..."]]

_PIECE = 1 << 20  # parameters worked on at a time: a few megabytes, which stay in the cache
_DRAWS = 1 << 23  # random numbers held at a time
_LOW = 16  # bits of a float32 settled in the second pass, of 31 without the sign


def top_entries(donor: nn.Module, target: nn.Module, count: int) -> Entries:
    """The parameters in which donor and target differ most: exactly `count` of |donor - target|.

    Differences are taken in float32. Ties go by the order of `named_parameters()`, then by index.
    A tied tensor counts once; no tensor is left out. The bits of floats that are not negative rank
    like the floats, so the smallest difference that is chosen is found by counting bits: first the
    upper half, then the lower half of those that share its upper half.

    Returns:
        Name in `target.named_parameters()` to bool of the parameter's shape, on the CPU, for every
        parameter.

    Raises:
        ValueError: the models do not fit, the count is not from 1 to the number of parameters, or a
            difference is NaN.
    """
    _require_same_parameters(donor, target)
    _require_count(target, count)
    donated = dict(donor.named_parameters())

    def differences() -> Iterator[Int[Tensor, "..."]]:
        for name, parameter in target.named_parameters():
            for ours, theirs in zip(_pieces(parameter), _pieces(donated[name]), strict=True):
                difference = theirs.to(ours.device, torch.float32) - ours.to(torch.float32)
                yield difference.abs_().view(torch.int32)

    threshold, ties = _threshold(differences, count)
    entries = _no_entries(target)
    pieces = (piece for mask in entries.values() for piece in _pieces(mask))
    for bits, piece in zip(differences(), pieces, strict=True):
        piece.copy_(bits > threshold)
        if ties:
            tied = (bits == threshold).nonzero()[:ties].cpu()
            piece[tuple(tied.T)] = True
            ties -= len(tied)
    return entries


def random_entries(model: nn.Module, count: int, seed: int) -> Entries:
    """Exactly `count` parameters, uniformly at random without replacement over all of the model's.

    A tied tensor counts once. Drawing with replacement until `count` different ones have come up
    makes every set of that size equally likely; above one half, those left out are drawn.

    Args:
        model: whose parameters are drawn from.
        count: number of parameters, from 1 to all of them.
        seed: the same seed gives the same entries on every device.

    Returns:
        As `top_entries`.

    Raises:
        ValueError: the count is out of range.
    """
    _require_count(model, count)
    total = sum(parameter.numel() for parameter in model.parameters())
    flat = torch.zeros(total, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    wanted = min(count, total - count)
    while missing := wanted - int(flat.count_nonzero()):
        # As many draws as are missing cannot overshoot, since each adds at most one.
        flat.index_fill_(
            0, torch.randint(total, (min(missing, _DRAWS),), generator=generator), True
        )
    if wanted != count:
        flat.logical_not_()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    parts = flat.split([math.prod(shape) for shape in shapes.values()])
    return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


@contextmanager
def entries_transferred(
    target: nn.Module,
    donor: nn.Module,
    entries: Mapping[str, Bool[Tensor, "..."]],
    scale: float = 0.4,
) -> Iterator[nn.Module]:
    """The target with single parameters moved towards the donor's, put back on exit, bit for bit.

    Each chosen parameter becomes target + scale * (donor - target), computed in float32 or wider
    and rounded once, as in `actlib.transfer.transfer_`. Only the chosen ones are put back, so
    changes to others inside the block stay. The way back takes a copy of the parameters, save for
    stretches of about a million without a chosen one: entries lie scattered, and whole stretches
    are written faster than single entries.

    Args:
        target: the model that is changed for a while.
        donor: the model that has the ability.
        entries: name in `named_parameters()` to bool of the parameter's shape, for every parameter.
        scale: 0 leaves the target, 1 gives the donor's entries.

    Raises:
        ValueError: the models do not fit, the entries are of another model, or the scale is not
            finite. Nothing is changed then.
    """
    _require_same_parameters(donor, target)
    require_scale(scale)
    _require_entries(target, entries)
    donated, kept = dict(donor.named_parameters()), []
    try:
        with torch.no_grad():
            for name, parameter in target.named_parameters():
                triples = (parameter, donated[name], entries[name])
                for ours, theirs, chosen in zip(*map(_pieces, triples), strict=True):
                    if not chosen.any():
                        continue
                    here = chosen.to(ours.device, copy=True)  # the caller may change it
                    kept.append((ours, here, ours.clone()))
                    ours.copy_(torch.where(here, interpolate(ours, theirs, scale), ours))
        yield target
    finally:
        with torch.no_grad():
            for ours, here, own in kept:
                ours.copy_(torch.where(here, own, ours))


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of a tensor along its first dimension, of about ``_PIECE`` elements each."""
    tensor = tensor.detach()
    tensor = tensor if tensor.ndim else tensor[None]
    return tensor.split(max(1, _PIECE // max(1, math.prod(tensor.shape[1:]))))


def _no_entries(model: nn.Module) -> Entries:
    return {
        name: torch.zeros(parameter.shape, dtype=torch.bool)
        for name, parameter in model.named_parameters()
    }


def _threshold(
    differences: Callable[[], Iterable[Int[Tensor, "..."]]], count: int
) -> tuple[int, int]:
    """The count-th largest of numbers that come in pieces, and how many equal to it are needed."""
    highest = torch.zeros((), dtype=torch.int32)
    upper = torch.zeros(1 << (31 - _LOW), dtype=torch.int64)
    for bits in differences():
        if bits.numel():
            highest = torch.maximum(highest, bits.max().cpu())
            upper = upper + _histogram(bits >> _LOW, 31 - _LOW)
    if highest.view(torch.float32).isnan():
        raise ValueError("the difference of donor and target is NaN and cannot be ranked")
    high, count = _level(upper, count)
    lower = torch.zeros(1 << _LOW, dtype=torch.int64)
    for bits in differences():
        lower = lower + _histogram(bits[bits >> _LOW == high] & ((1 << _LOW) - 1), _LOW)
    low, ties = _level(lower, count)
    return (high << _LOW) + low, ties


def _histogram(values: Int[Tensor, "..."], bits: int) -> Int[Tensor, " levels"]:
    return torch.bincount(values.flatten(), minlength=1 << bits).cpu()


def _level(histogram: Int[Tensor, " levels"], count: int) -> tuple[int, int]:
    """The level of the count-th largest, and how many at that level are among the first."""
    at_least = histogram.flip(0).cumsum(0).flip(0)
    level = int((at_least >= count).nonzero().max())
    return level, count - int(at_least[level] - histogram[level])


def _require_same_parameters(donor: nn.Module, target: nn.Module) -> None:
    """Refuse models of which some parameter, in a channel or not, has no counterpart or is away."""
    require_pair(donor, target)
    require_in_memory(donor, target)
    ours, theirs = (
        {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        for model in (target, donor)
    )
    if differences := _differences(ours, theirs):
        raise ValueError(f"donor and target do not fit: {differences}")


def _require_entries(model: nn.Module, entries: Mapping[str, Tensor]) -> None:
    ours = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    theirs = {name: tuple(chosen.shape) for name, chosen in entries.items()}
    if differences := _differences(ours, theirs):
        raise ValueError(f"the entries are of another model: {differences}")
    kinds = {str(chosen.dtype) for chosen in entries.values()} - {"torch.bool"}
    if kinds:
        raise ValueError(f"entries must be boolean tensors, got {', '.join(sorted(kinds))}")


def _differences(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> str:
    """Names or shapes that differ, in one clause; empty if none does."""
    names = dict.fromkeys([*expected, *found])
    return shortened(
        [
            f"{name} of shape {found.get(name, 'absent')} instead of {expected.get(name, 'absent')}"
            for name in names
            if found.get(name) != expected.get(name)
        ]
    )


def _require_count(model: nn.Module, count: int) -> None:
    total = sum(parameter.numel() for parameter in model.parameters())
    if not 1 <= count <= total:
        raise ValueError(f"count must be from 1 to {total}, the model's parameters, got {count}")
