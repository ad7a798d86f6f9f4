"""Recording a pair of SmolLM2-135M's shape on the CPU, beside two bare passes over its batches.

python benchmarks/recording.py     # 32 items of 50 tokens, 16 of them answer; writes recording.csv
"""

from functools import partial

import torch
from pairs import SMOLLM_135M, TINY, random_batches, random_pair, run_bare
from turns import Way, Worker, in_turns, options, save, serve, summary

import actlib

BARE = "two bare passes"


def recording_ways(dtype: torch.dtype, tiny: bool) -> dict[str, Way]:
    """Two bare passes, and each recording."""
    config = TINY if tiny else SMOLLM_135M
    pair, batches = random_pair(config, dtype), random_batches(config.vocab_size)
    record = partial(actlib.record_differences, *pair, batches)
    return {
        BARE: lambda: run_bare(pair, batches),
        "record": record,
        "record, with means and deviations": partial(record, moments=True),
        # Forward passes a point are 2/5 of the ratio to BARE, which are two passes.
        "attributions, five points": partial(actlib.record_attributions, *pair, batches, points=5),
    }


def main() -> None:
    """Time both dtypes and write recording.csv."""
    chosen = options(__doc__)
    if chosen.serve:
        return serve(recording_ways(getattr(torch, chosen.serve), chosen.tiny))
    tables = []
    for dtype in ("float32", "bfloat16"):
        worker = Worker(dtype)
        tables.append(summary(dtype, in_turns(worker.ways, chosen.turns), BARE))
        worker.end()
        save(tables, "recording", chosen.results)


if __name__ == "__main__":
    main()
