"""How far two models' parameters are from each other, per kind of module.

    found = parameter_changes((name, donor[name], target[name]) for name in names)
    found.overall, found.table()

Tensors come one pair at a time and are worked through in pieces, so that the memory needed is that
of the pair at hand.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from actlib.channels import kind_of

_PIECE = 2**22  # entries at a time: 16 MiB in float32


@dataclass(frozen=True)
class KindChange:
    """The parameters of all modules of one kind.

    Attributes:
        kind: see `channels.kind_of`.
        parameters: how many numbers, biases among them.
        change_norm: Euclidean norm of donor - target over all of them.
        target_norm: that of the target's.
    """

    kind: str
    parameters: int
    change_norm: float
    target_norm: float

    @property
    def relative_norm(self) -> float:
        """||donor - target|| / ||target||; infinite if only the target is zero, 0 if both are."""
        if self.target_norm == 0:
            return math.inf if self.change_norm else 0.0
        return self.change_norm / self.target_norm


@dataclass(frozen=True)
class ParameterChanges:
    """Result of `parameter_changes`.

    Attributes:
        kinds: in the order in which they came.
        not_finite: tensors with a NaN or an infinite entry, such as ``donor's lm_head.weight``.
    """

    kinds: tuple[KindChange, ...]
    not_finite: tuple[str, ...] = ()

    @property
    def overall(self) -> float:
        """||donor - target|| / ||target|| over all parameters; NaN if one is not finite."""
        return self._total().relative_norm

    def _total(self) -> KindChange:
        change = math.sqrt(sum(each.change_norm**2 for each in self.kinds))
        target = math.sqrt(sum(each.target_norm**2 for each in self.kinds))
        parameters = sum(each.parameters for each in self.kinds)
        return KindChange("overall", parameters, change, target)

    def table(self) -> pd.DataFrame:
        """One row a kind: kind, parameters, relative_norm; the last is ``overall``."""
        rows = [
            (each.kind, each.parameters, each.relative_norm)
            for each in ((*self.kinds, self._total()) if self.kinds else ())
        ]
        return pd.DataFrame(rows, columns=["kind", "parameters", "relative_norm"])


@torch.no_grad()
def parameter_changes(tensors: Iterable[tuple[str, Tensor, Tensor]]) -> ParameterChanges:
    """Norm of the difference between two models' parameters per kind of module.

    Differences are taken and squared in float32, whatever the dtypes; the sums over pieces and
    tensors are Python's (64 bits).

    Args:
        tensors: parameter name, the donor's tensor and the target's, of one shape. A tensor that
            two modules share should come once.

    Raises:
        ValueError: two tensors of one name differ in shape.
    """
    sums: dict[str, list[float]] = {}
    not_finite = []
    for name, donor, target in tensors:
        if donor.shape != target.shape:
            shapes = f"{tuple(donor.shape)} against {tuple(target.shape)}"
            raise ValueError(f"{name} is expected in one shape, got {shapes}")
        kind = sums.setdefault(kind_of(_owner(name)), [0, 0.0, 0.0])
        change, size, broken = _squares(donor, target)
        kind[0] += target.numel()
        kind[1] += change
        kind[2] += size
        not_finite += [f"{side} {name}" for side in broken]
        del donor, target  # else they would stay until the next pair is there
    kinds = [
        KindChange(kind, int(count), math.sqrt(change), math.sqrt(size))
        for kind, (count, change, size) in sums.items()
    ]
    return ParameterChanges(tuple(kinds), tuple(not_finite))


def _owner(name: str) -> str:
    """Module of a parameter; one of another name, such as packed experts, counts as its own."""
    owner, _, last = name.rpartition(".")
    return owner if owner and last in ("weight", "bias") else name


def _squares(donor: Tensor, target: Tensor) -> tuple[float, float, list[str]]:
    """Squared norms of donor - target and of target, and whose entries are not all finite."""
    change = size = 0.0
    broken: set[str] = set()
    pieces = [tensor.reshape(-1).split(_PIECE) for tensor in (donor, target)]
    for ours, theirs in zip(*pieces, strict=True):
        theirs = theirs.float()
        ours = ours.to(theirs.device).float()
        norms = [float(torch.linalg.vector_norm(each)) for each in (ours - theirs, theirs)]
        change += norms[0] ** 2
        size += norms[1] ** 2
        if not math.isfinite(sum(norms)):
            sides = {"donor's": ours, "target's": theirs}
            broken |= {side for side, part in sides.items() if not part.isfinite().all()}
    return change, size, sorted(broken)
