"""One of several processes that record together, for `test_processes`; saves what it gets."""

import sys
from pathlib import Path

import torch

from actlib.attribution import record_attributions
from actlib.processes import rank_and_count
from actlib.recording import record_differences
from actlib.two_passes import record_differences_in_two_passes


def main(folder):
    """Scores of three batches, of one that leaves a process without any, and of two passes."""
    torch.set_num_threads(1)
    donor, target, batches = torch.load(folder / "given.pt", weights_only=False)
    loaders, kept = (lambda: donor, lambda: target), folder / "kept"
    scores = {
        "three": record_differences(donor, target, batches, moments=True),
        "one": record_differences(donor, target, batches[:1], moments=True),
        "attributions": record_attributions(donor, target, batches, points=2),
        "two passes": record_differences_in_two_passes(*loaders, batches, kept, moments=True),
    }
    rank, _ = rank_and_count()
    for name, each in scores.items():
        each.save(folder / f"{name}-{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
