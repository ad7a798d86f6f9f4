"""Several processes that record together, each a share of the batches, and then have one result.

    accelerate launch --num_processes 4 record.py     # one process a GPU
    torchrun --nproc_per_node 2 record.py             # on CPUs
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 record.py

The last line is the same on CPUs: `accelerate launch --cpu` starts one process whatever it is told,
and `--multi_gpu` starts as many, which then find the variable.

Nothing has to be asked for: a process that is one of several finds that out here. Without others
(`Share.current()` gives 0 of 1) every function below does nothing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from accelerate import PartialState
from torch import Tensor, distributed

Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """Which process this is, of how many that record together.

    Attributes:
        rank: number of this process, from 0.
        processes: how many there are.
    """

    rank: int = 0
    processes: int = 1

    @classmethod
    def current(cls) -> "Share":
        """This process's share: of the process group, which is joined first where a launcher ran.

        `accelerate launch` and `torchrun` say in the environment of a process that it is one of
        several; a process group that exists already is taken as it is.
        """
        if not distributed.is_available():
            return cls()
        if not distributed.is_initialized() and _is_launched():
            PartialState()  # joins, with the backend and the device that the launcher chose
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def has(self, number: int) -> bool:
        """Whether the batch of this number is this process's to record; they take turns."""
        return number % self.processes == self.rank

    def gathered(self, value: Any) -> list:
        """What each process gives, in the order of their ranks."""
        if self.processes == 1:
            return [value]
        values = [None] * self.processes
        distributed.all_gather_object(values, value)
        return values

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum over the processes of a tensor on the CPU, the same bits in each of them."""
        if self.processes == 1:
            return tensor
        # NCCL adds on GPUs only.
        on = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        total = tensor.to(on, copy=True)
        distributed.all_reduce(total)
        return total.cpu()

    def together(self, work: Callable[[], Result]) -> Result:
        """Do this process's work; where it fails in any process, it fails in all of them.

        Otherwise the others would wait forever for the one that failed.

        Raises:
            ValueError: it failed in another process; where it failed itself, what it raised.
        """
        failure, results = None, []
        try:
            results = [work()]
        except Exception as error:
            failure = error
        told = self.gathered(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, message in enumerate(told):
            if message is not None:
                raise ValueError(f"process {rank} of {self.processes} failed: {message}")
        return results[0]


def _is_launched() -> bool:
    """Whether a launcher started this process with others; a cluster's WORLD_SIZE does not tell."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return False
    return distributed.is_torchelastic_launched() or "ACCELERATE_MIXED_PRECISION" in os.environ
