"""The word `trace` of the command line: from a result back to its inputs.

actlib trace figures/smol/tab05_transfer.csv
actlib trace mask.safetensors --json
"""

import argparse
import sys
from pathlib import Path

from actlib.commands.words import add_json, add_step, tell


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add the step `trace`."""
    step = add_step(
        steps,
        "trace",
        "tell how a result was made, and whether what it was made from is still the same",
        "actlib trace figures/smol/tab05_transfer.csv\nactlib trace mask.safetensors --json",
    )
    step.add_argument("result", help="file or model folder that a step or a notebook left")
    add_json(step)
    step.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    from actlib.files.tracing import broken, lines, trace

    node = trace(Path(given.result))
    tell(given, node, "\n".join(lines(node)))
    if lost := broken(node):
        print(f"error: missing or changed since: {', '.join(lost)}", file=sys.stderr)
    return int(bool(lost))
