"""Sums over answer tokens of two models' activations, from which scores are computed.

sums = RunningSums(modules)
sums.add(name, ours, theirs)            # a donor's and a target's activations of some tokens
values, magnitudes, means, spreads = sums.results()
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actlib.activations import Activations
from actlib.channels import ChannelModule
from actlib.experts import Routed

CACHED_NUMBERS = 2**19
"""Numbers of a buffer that is read again and again: 2 MB in float32, about a core's cache."""

Moments = tuple[Tensor, Tensor, Tensor, Tensor]


class RunningSums:
    """Sums over answer tokens, by module and channel, in float64 on each device that gives some.

    The rows are |a_donor - a_target|, (|a_donor| + |a_target|) / 2, a_donor and a_donor squared:
    32 bytes a channel. A device without float64 (MPS) keeps float32.

    Attributes:
        tokens: number of answer tokens, counted by whoever adds them.
    """

    def __init__(self, modules: Mapping[str, ChannelModule]) -> None:
        """Start at 0 for these modules."""
        self.modules = modules
        self.tokens = 0
        self._ends: dict[str, int] = {}
        end = 0
        for name, each in modules.items():
            self._ends[name] = end = end + each.channels
        self._total = end
        self._sums: dict[torch.device, Float[Tensor, "4 total"]] = {}
        self._counts = dict.fromkeys(modules, 0)

    def add(self, name: str, ours: Activations, theirs: Activations) -> None:
        """Add what one module gives for the same tokens in the donor and in the target."""
        if isinstance(theirs, Routed):
            ours = ours.to(theirs.values.device)
            rows, count = _routed_rows(ours, theirs), theirs.count
        else:
            ours = ours.to(theirs.device)
            rows, count = _rows(*moments(ours, theirs), len(theirs)), len(theirs)
        self._of(name, rows.device).add_(rows)
        self._counts[name] += count

    def require_finite(self) -> None:
        """Refuse NaN and infinity, with one wait for each device and not one for each module.

        Raises:
            ValueError: names the first module that gave any.
        """
        if all(sums.sum().isfinite() for sums in self._sums.values()):
            return
        broken = (
            name
            for name in self.modules
            if not all(self._of(name, device).isfinite().all() for device in self._sums)
        )
        raise ValueError(f"module {next(broken)} gave NaN or infinite activations")

    def state(self) -> tuple[Float[Tensor, "4 total"], Int[Tensor, " modules"]]:
        """All sums in float64 and all counts, on the CPU: what several processes add up."""
        sums = torch.zeros(4, self._total, dtype=torch.float64)
        for each in self._sums.values():
            sums += each.cpu()
        return sums, torch.tensor(list(self._counts.values()), dtype=torch.int64)

    def set_state(self, sums: Float[Tensor, "4 total"], counts: Int[Tensor, " modules"]) -> None:
        """Go on from these sums and counts instead of one's own."""
        self._sums = {torch.device("cpu"): sums.cpu()}
        self._counts = dict(zip(self.modules, counts.tolist(), strict=True))

    def results(self) -> list[dict[str, Float[Tensor, " channels"]]]:
        """Values, magnitudes, donor's means and spreads in float32 on the CPU, in module order.

        Channels of a module that never ran are 0.
        """
        sums, _ = self.state()
        found: list[dict[str, Tensor]] = [{}, {}, {}, {}]
        for name, each in self.modules.items():
            rows = sums[:, self._ends[name] - each.channels : self._ends[name]]
            rows = rows / max(self._counts[name], 1)
            # Rounding can leave a constant channel slightly below 0.
            rows[3] = (rows[3] - rows[2].square()).clamp_min(0).sqrt()
            for part, row in zip(found, rows.float(), strict=True):
                part[name] = row.clone()
        return found

    def _of(self, name: str, device: torch.device) -> Float[Tensor, "4 channels"]:
        """A module's part of the sums on a device."""
        if device not in self._sums:
            self._sums[device] = torch.zeros(4, self._total, dtype=_wide(device), device=device)
        end = self._ends[name]
        return self._sums[device][:, end - self.modules[name].channels : end]


def moments(
    ours: Float[Tensor, "tokens channels"], theirs: Float[Tensor, "tokens channels"]
) -> Moments:
    """Sums of |a - b| and of (|a| + |b|) / 2, mean and population variance of a, by channel.

    In float32. Deviations from the tokens' own mean keep there what squares of a channel far from
    zero would lose.
    """
    return _by_reduction(ours, theirs) if ours.device.type == "cuda" else _by_rows(ours, theirs)


def _by_rows(ours: Tensor, theirs: Tensor) -> Moments:
    """On a CPU: plain sums, many times as fast there as norms, over few rows at a time.

    All that is computed in between lies in one buffer that the processor's cache can hold.
    """
    mean = ours.mean(dim=0, dtype=torch.float32)
    rows = max(1, CACHED_NUMBERS // ours.shape[1])
    buffer = torch.empty(min(rows, len(ours)), ours.shape[1], device=ours.device)
    sums: list[Tensor] = []
    for a, b in zip(ours.split(rows), theirs.split(rows), strict=True):
        a, b, between = a.float(), b.float(), buffer[: len(a)]
        found = [
            torch.sub(a, b, out=between).abs_().sum(dim=0),
            torch.abs(a, out=between).sum(dim=0).add_(torch.abs(b, out=between).sum(dim=0)),
            torch.sub(a, mean, out=between).square_().sum(dim=0),
        ]
        sums = [one.add_(new) for one, new in zip(sums, found, strict=False)] or found
    difference, size, square = sums
    return difference, size.div_(2), mean, square.div_(len(ours))


def _by_reduction(ours: Tensor, theirs: Tensor) -> Moments:
    """On a GPU, where bytes moved count: reductions that read bf16 as float32 and keep no copy."""
    wide = ours.float()
    difference = torch.linalg.vector_norm(wide - theirs, 1, dim=0)
    sizes = [torch.linalg.vector_norm(each, 1, dim=0, dtype=wide.dtype) for each in (ours, theirs)]
    variance, mean = torch.var_mean(wide, dim=0, correction=0)
    return difference, (sizes[0] + sizes[1]) / 2, mean, variance


def _rows(
    difference: Tensor, size: Tensor, mean: Tensor, variance: Tensor, count: int
) -> Float[Tensor, "4 channels"]:
    """What a batch adds to the sums: the mean's own square is taken in the wider type."""
    wide = _wide(mean.device)
    mean, variance = mean.to(wide), variance.to(wide)
    squares = variance.addcmul_(mean, mean).mul_(count)
    return torch.stack([difference.to(wide), size.to(wide), mean * count, squares])


def _routed_rows(ours: Routed, theirs: Routed) -> Float[Tensor, "4 channels"]:
    """The same for experts, wide from the start; a token that an expert did not see adds 0."""
    wide = _wide(ours.values.device)
    ours, theirs = (each.mapped(lambda values: values.to(wide)) for each in (ours, theirs))
    sizes = [each.mapped(torch.abs).by_expert() for each in (ours, theirs)]
    difference = ours.minus(theirs).mapped(torch.abs).by_expert()
    squares = ours.mapped(torch.square).by_expert()
    return torch.stack([difference, (sizes[0] + sizes[1]) / 2, ours.by_expert(), squares])


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
