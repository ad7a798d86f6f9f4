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


class RunningSums:
    """Sums over answer tokens, by module and channel, in float64 on each device that gives some.

    The rows are |a_donor - a_target|, (|a_donor| + |a_target|) / 2, a_donor and a_donor squared:
    32 bytes a channel; or the first of them alone. A device without float64 (MPS) keeps float32.

    Attributes:
        tokens: number of answer tokens, counted by whoever adds them.
    """

    def __init__(self, modules: Mapping[str, ChannelModule], *, values_only: bool = False) -> None:
        """Start at 0 for these modules; `values_only` sums up |a_donor - a_target| and no more."""
        self.modules = modules
        self._rows = 1 if values_only else 4
        self.tokens = 0
        self._ends: dict[str, int] = {}
        end = 0
        for name, each in modules.items():
            self._ends[name] = end = end + each.channels
        self._total = end
        self._sums: dict[torch.device, Float[Tensor, "rows total"]] = {}
        self._buffers: dict[torch.device, Float[Tensor, " numbers"]] = {}
        self._counts = dict.fromkeys(modules, 0)

    def add(self, name: str, ours: Activations, theirs: Activations) -> None:
        """Add what one module gives for the same tokens in the donor and in the target."""
        if isinstance(theirs, Routed):
            assert isinstance(ours, Routed), "both models have one layout"
            ours = ours.to(theirs.values.device)
            found, count = _routed(ours, theirs, self._rows), theirs.count
        else:
            assert not isinstance(ours, Routed), "both models have one layout"
            ours, count = ours.to(theirs.device), len(theirs)
            if theirs.is_cuda:
                found = _by_reduction(ours, theirs, self._rows)
            else:
                found = _by_rows(ours, theirs, self._rows, self._buffer(ours))
        self._of(name, found.device).add_(found)
        self._counts[name] += count

    def require_finite(self) -> None:
        """Refuse NaN and infinity, with one wait for each device and not one for each module.

        Raises:
            ValueError: names the first module that gave any, and in which model.
        """
        if all(sums.sum().isfinite() for sums in self._sums.values()):
            return
        broken = (
            name
            for name in self.modules
            if not all(self._of(name, device).isfinite().all() for device in self._sums)
        )
        name = next(broken)
        # The last two rows, where they are summed up, are the donor's alone.
        sound = all(self._of(name, device)[2:].isfinite().all() for device in self._sums)
        side = "donor or the target" if self._rows < 4 else "target" if sound else "donor"
        raise ValueError(
            f"module {name} gave NaN or infinite activations in the {side}; look at its weights "
            "with `actlib check`, or record in float32 (--dtype float32)"
        )

    def state(self) -> tuple[Float[Tensor, "rows total"], Int[Tensor, " modules"]]:
        """All sums in float64 and all counts, on the CPU: what several processes add up."""
        sums = torch.zeros(self._rows, self._total, dtype=torch.float64)
        for each in self._sums.values():
            sums += each.cpu()
        return sums, torch.tensor(list(self._counts.values()), dtype=torch.int64)

    def set_state(self, sums: Float[Tensor, "rows total"], counts: Int[Tensor, " modules"]) -> None:
        """Go on from these sums and counts instead of one's own."""
        self._sums = {torch.device("cpu"): sums.cpu()}
        self._counts = dict(zip(self.modules, counts.tolist(), strict=True))

    def results(self) -> list[dict[str, Float[Tensor, " channels"]]]:
        """Values, magnitudes, donor's means and spreads in float32 on the CPU, in module order.

        Channels of a module that never ran are 0. All but the values are empty where they alone
        were summed up.
        """
        sums, _ = self.state()
        found: list[dict[str, Tensor]] = [{}, {}, {}, {}]
        for name, each in self.modules.items():
            rows = sums[:, self._ends[name] - each.channels : self._ends[name]]
            rows = rows / max(self._counts[name], 1)
            if self._rows == 4:
                # Rounding can leave a constant channel slightly below 0.
                rows[3] = (rows[3] - rows[2].square()).clamp_min(0).sqrt()
            for part, row in zip(found, rows.float(), strict=False):
                part[name] = row.clone()
        return found

    def _buffer(self, like: Tensor) -> Float[Tensor, " numbers"]:
        """Memory for what `_by_rows` computes, kept: new pages for each module cost as much."""
        needed = 3 * max(CACHED_NUMBERS, like.shape[1])
        if self._buffers.get(like.device, torch.empty(0)).numel() < needed:
            self._buffers[like.device] = torch.empty(needed, device=like.device)
        return self._buffers[like.device]

    def _of(self, name: str, device: torch.device) -> Float[Tensor, "rows channels"]:
        """A module's part of the sums on a device."""
        if device not in self._sums:
            self._sums[device] = torch.zeros(
                self._rows, self._total, dtype=_wide(device), device=device
            )
        end = self._ends[name]
        return self._sums[device][:, end - self.modules[name].channels : end]


def _by_rows(
    ours: Float[Tensor, "tokens channels"],
    theirs: Float[Tensor, "tokens channels"],
    rows: int,
    buffer: Float[Tensor, " numbers"],
) -> Float[Tensor, "rows channels"]:
    """On a CPU: plain sums, many times as fast there as norms, over few tokens at a time.

    All that is computed in between lies in a buffer that the processor's cache can hold.

    Args:
        ours: the donor's activations.
        theirs: the target's.
        rows: 4, or 1 for |a - b| alone.
        buffer: memory that is written over, at least 3 x channels numbers.
    """
    step = max(1, CACHED_NUMBERS // ours.shape[1])
    found: Tensor | None = None
    for a, b in zip(ours.split(step), theirs.split(step), strict=True):
        size = a.numel()
        between, *places = (buffer[k * size : (k + 1) * size].view_as(a) for k in range(3))
        # Numbers of two bytes are widened once, not by each operation, and then written over.
        if a.dtype == torch.float32:
            places = [between, between]
        else:
            a, b = (place.copy_(each) for each, place in zip((a, b), places, strict=True))
        few = _few_rows(a, b, rows, between, places)
        found = few if found is None else found.to(_wide(few.device)).add_(few)
    assert found is not None, "there is an answer token"
    return found


def _few_rows(
    a: Float[Tensor, "tokens channels"],
    b: Float[Tensor, "tokens channels"],
    rows: int,
    between: Float[Tensor, "tokens channels"],
    places: list[Float[Tensor, "tokens channels"]],
) -> Float[Tensor, "rows channels"]:
    """Sums of few tokens; `places` may be `a` and `b` themselves, to work in the least memory."""
    sums = torch.empty(rows, a.shape[1], device=a.device)
    torch.sum(torch.sub(a, b, out=between).abs_(), dim=0, out=sums[0])
    if rows == 1:
        return sums
    torch.sum(torch.abs(b, out=places[1]), dim=0, out=sums[1])
    sums[1].add_(torch.abs(a, out=between).sum(dim=0)).div_(2)
    mean = torch.mean(a, dim=0, out=sums[2])
    torch.sum(torch.sub(a, mean, out=places[0]).square_(), dim=0, out=sums[3])
    return _with_squares(sums, len(a))


def _by_reduction(
    ours: Float[Tensor, "tokens channels"], theirs: Float[Tensor, "tokens channels"], rows: int
) -> Float[Tensor, "rows channels"]:
    """On a GPU, where bytes moved count: reductions that read bf16 as float32 and keep no copy."""
    wide = ours.float()
    difference = torch.linalg.vector_norm(wide - theirs, 1, dim=0)
    if rows == 1:
        return difference[None]
    sizes = [torch.linalg.vector_norm(each, 1, dim=0, dtype=wide.dtype) for each in (ours, theirs)]
    variance, mean = torch.var_mean(wide, dim=0, correction=0)
    sums = torch.stack([difference, (sizes[0] + sizes[1]) / 2, mean, variance * len(ours)])
    return _with_squares(sums, len(ours))


def _with_squares(sums: Float[Tensor, "4 channels"], tokens: int) -> Float[Tensor, "4 channels"]:
    """Sums of a and of a squared in the wider type, out of its mean and squared deviations.

    Deviations from the tokens' own mean keep in float32 what squares of a channel far from zero
    would lose.
    """
    wide = sums.to(_wide(sums.device))
    wide[3].addcmul_(wide[2], wide[2], value=tokens)
    wide[2].mul_(tokens)
    return wide


def _routed(ours: Routed, theirs: Routed, rows: int) -> Float[Tensor, "rows channels"]:
    """The same for experts, wide from the start; a token that an expert did not see adds 0."""
    wide = _wide(ours.values.device)
    ours, theirs = (each.mapped(lambda values: values.to(wide)) for each in (ours, theirs))
    difference = ours.minus(theirs).mapped(torch.abs).by_expert()
    if rows == 1:
        return difference[None]
    sizes = [each.mapped(torch.abs).by_expert() for each in (ours, theirs)]
    squares = ours.mapped(torch.square).by_expert()
    return torch.stack([difference, (sizes[0] + sizes[1]) / 2, ours.by_expert(), squares])


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
