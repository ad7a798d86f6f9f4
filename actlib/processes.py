"""Several processes that record together, each a share of the batches, and then have one result.

    accelerate launch --num_processes 4 record.py     # one process a GPU
    torchrun --nproc_per_node 2 record.py             # on CPUs

Each process has both models on its own device, goes through the same batches and returns the scores
of all; docs/clusters.md has a whole script. A process that is one of several finds that out here,
and in a process alone every function below does nothing. (`accelerate launch --cpu` starts one
process whatever it is asked; ACCELERATE_USE_CPU=true with --multi_gpu starts several.)
"""

import os
from typing import Any

from accelerate import PartialState
from torch import Tensor, distributed


def rank_and_count() -> tuple[int, int]:
    """Number of this process, from 0, and how many record together.

    A process that a launcher started joins the others first. A cluster that only names a WORLD_SIZE
    does not make it one of several. (`PartialState` counts one process where it joins several on
    CPUs, so the process group itself is asked.)
    """
    if not distributed.is_available():
        return 0, 1
    is_launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 and (
        distributed.is_torchelastic_launched() or "ACCELERATE_MIXED_PRECISION" in os.environ
    )
    if is_launched and not distributed.is_initialized():
        PartialState()  # joins, with the backend and the device that the launcher chose
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def is_own_batch(number: int) -> bool:
    """Whether the batch of this number is this process's; they take turns."""
    rank, count = rank_and_count()
    return number % count == rank


def gather(value: Any) -> list:
    """What each process gives, in the order of their ranks."""
    _, count = rank_and_count()
    values = [value] * count
    if count > 1:
        distributed.all_gather_object(values, value)
    return values


def add_up(tensor: Tensor) -> Tensor:
    """Sum over the processes of a tensor on the CPU, the same bits in each of them."""
    if rank_and_count()[1] == 1:
        return tensor
    total = tensor.to("cuda" if distributed.get_backend() == "nccl" else "cpu", copy=True)
    distributed.all_reduce(total)
    return total.cpu()
