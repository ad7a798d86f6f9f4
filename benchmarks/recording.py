"""Recording a pair of SmolLM2-135M's shape on the CPU, beside two bare passes over its batches.

Each checkout runs in a separate process::

    python benchmarks/recording.py                      # 32 items of 50 tokens, 16 of them answer
    python benchmarks/recording.py --against OTHER      # also by another checkout, in turns
"""

import inspect
import sys
from functools import partial
from pathlib import Path

import torch
from pairs import SMOLLM_135M, TINY, random_batches, random_pair, run_bare
from turns import Way, Worker, in_turns, options, save, serve, summary

import actlib

BARE = "two bare passes"


def recording_ways(dtype: torch.dtype, tiny: bool) -> dict[str, Way]:
    """Two bare passes, and each recording that the checkout at hand can do."""
    config = TINY if tiny else SMOLLM_135M
    pair, batches = random_pair(config, dtype), random_batches(config.vocab_size)
    record = partial(actlib.record_differences, *pair, batches)
    ways: dict[str, Way] = {BARE: lambda: run_bare(pair, batches), "record": record}
    if "moments" in inspect.signature(actlib.record_differences).parameters:
        ways["record, with means and deviations"] = partial(record, moments=True)
    if attribute := getattr(actlib, "record_attributions", None):
        # Forward passes a point are 2/5 of the ratio to BARE, which are two passes.
        ways["attributions, five points"] = partial(attribute, *pair, batches, points=5)
    return ways


def main() -> None:
    """Time both dtypes and write recording.csv."""
    chosen = options(__doc__, against="root of another checkout")
    if chosen.serve:
        return serve(recording_ways(getattr(torch, chosen.serve), chosen.tiny))
    checkouts = {"": Path(actlib.__file__).parents[1]}
    checkouts |= {"other: ": Path(chosen.against).resolve()} if chosen.against else {}
    tables = []
    for dtype in ("float32", "bfloat16"):
        command = [sys.executable, *sys.argv, "--serve", dtype]
        workers = {key: Worker(command, PYTHONPATH=str(path)) for key, path in checkouts.items()}
        ways = {f"{k}{way}": partial(w.run, way) for k, w in workers.items() for way in w.ways}
        runs = in_turns(ways, chosen.turns)
        tables.append(summary(dtype, runs, BARE, *["other: record"][: len(workers) - 1]))
        for worker in workers.values():
            worker.end()
        save(tables, "recording", chosen.results)


if __name__ == "__main__":
    main()
