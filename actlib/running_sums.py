"""Sums over answer tokens of two models' activations, from which scores are computed.

sums = RunningSums(modules)
sums.add(name, ours, theirs)            # a donor's and a target's activations of some tokens
values, magnitudes, means, stds = sums.results()
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actlib.activations import Activations
from actlib.channels import ChannelModule
from actlib.experts import Routed
from actlib.sum_loops import add_differences, add_sums, as_numbers

THREAD_NUMBERS = 2**20
"""Numbers that are worth a thread of their own on a CPU: half a millisecond's work."""


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
        self._counts = dict.fromkeys(modules, 0)

    def add(
        self,
        name: str,
        ours: Activations,
        theirs: Activations,
        rows: Int[Tensor, " tokens"] | None = None,
    ) -> None:
        """Add what one module gives for the same tokens in the donor and in the target.

        Args:
            name: the module.
            ours: the donor's activations of the tokens.
            theirs: the target's, of these tokens or of more.
            rows: which of the target's they are, if of more.
        """
        if isinstance(theirs, Routed):
            assert isinstance(ours, Routed), "both models have one layout"
            ours = ours.to(theirs.values.device)
            self._of(name, theirs.values.device).add_(_routed(ours, theirs, self._rows))
            self._counts[name] += theirs.count
            return
        assert not isinstance(ours, Routed), "both models have one layout"
        if theirs.is_cpu:
            self._add_by_loop(name, ours.cpu(), theirs, rows)
        else:
            theirs = theirs if rows is None else theirs.index_select(0, rows)
            found = _by_reduction(ours.to(theirs.device), theirs, self._rows)
            self._of(name, theirs.device).add_(found)
        self._counts[name] += len(ours)

    def _add_by_loop(
        self, name: str, ours: Tensor, theirs: Tensor, rows: Int[Tensor, " tokens"] | None
    ) -> None:
        channels, sums = ours.shape[1], self._on(theirs.device).numpy()
        rows = torch.arange(len(ours)) if rows is None else rows
        loop = add_differences if self._rows == 1 else add_sums
        given, place = (as_numbers(ours), as_numbers(theirs), rows.numpy()), self._place(name)
        threads = min(torch.get_num_threads(), ours.numel() // THREAD_NUMBERS)
        if threads < 2:
            loop(*given, 0, channels, sums, place)
            return
        bounds = [channels * thread // threads for thread in range(threads + 1)]
        shares = zip(bounds, bounds[1:], strict=False)
        list(self._threads.map(lambda share: loop(*given, *share, sums, place), shares))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(torch.get_num_threads(), "sums")

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
        """All sums in float64 and all counts, on the CPU: what several processes add up.

        Sums of a CPU alone are given as they are, not copied.
        """
        found = [each.cpu().double() for each in self._sums.values()]
        found = found or [torch.zeros(self._rows, self._total, dtype=torch.float64)]
        return reduce(torch.add, found), torch.tensor([*self._counts.values()], dtype=torch.int64)

    def set_state(self, sums: Float[Tensor, "rows total"], counts: Int[Tensor, " modules"]) -> None:
        """Go on from these sums and counts instead of one's own."""
        self._sums = {torch.device("cpu"): sums.cpu()}
        self._counts = dict(zip(self.modules, counts.tolist(), strict=True))

    def results(self) -> list[dict[str, Float[Tensor, " channels"]]]:
        """Values, magnitudes, donor's means and stds in float32 on the CPU, in module order.

        Channels of a module that never ran are 0. All but the values are empty where they alone
        were summed up.
        """
        sums, counts = self.state()
        channels = [each.channels for each in self.modules.values()]
        rows = sums / counts.clamp_min(1).repeat_interleave(torch.tensor(channels))
        if self._rows == 4:
            # Rounding can leave a constant channel slightly below 0.
            rows[3] = (rows[3] - rows[2].square()).clamp_min(0).sqrt()
        parts = [
            {name: own.clone() for name, own in zip(self.modules, row.split(channels), strict=True)}
            for row in rows.float()
        ]
        return [*parts, *[{} for _ in range(4 - self._rows)]]

    def _place(self, name: str) -> int:
        """Where a module's channels begin in the sums."""
        return self._ends[name] - self.modules[name].channels

    def _on(self, device: torch.device) -> Float[Tensor, "rows total"]:
        """All sums of a device."""
        if device not in self._sums:
            self._sums[device] = torch.zeros(
                self._rows, self._total, dtype=_wide(device), device=device
            )
        return self._sums[device]

    def _of(self, name: str, device: torch.device) -> Float[Tensor, "rows channels"]:
        """A module's part of the sums on a device."""
        return self._on(device)[:, self._place(name) : self._ends[name]]


def _by_reduction(
    ours: Float[Tensor, "tokens channels"], theirs: Float[Tensor, "tokens channels"], rows: int
) -> Float[Tensor, "rows channels"]:
    """On a GPU, where bytes moved count: reductions that read bf16 as float32 and keep no copy.

    Deviations from the tokens' own mean keep in float32 what squares of a channel far from zero
    would lose; what they say of these squares is worked out in the wider type.
    """
    wide = ours if ours.dtype == torch.float64 else ours.float()
    difference = torch.linalg.vector_norm(wide - theirs, 1, dim=0)
    if rows == 1:
        return difference[None]
    sizes = [torch.linalg.vector_norm(each, 1, dim=0, dtype=wide.dtype) for each in (ours, theirs)]
    variance, mean = torch.var_mean(wide, dim=0, correction=0)
    sums = torch.stack([difference, (sizes[0] + sizes[1]) / 2, mean, variance * len(ours)])
    sums = sums.to(_wide(sums.device))
    sums[3].addcmul_(sums[2], sums[2], value=len(ours))
    sums[2].mul_(len(ours))
    return sums


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
