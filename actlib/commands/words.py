"""What the steps of the command line share: how one is added, and how a result is told."""

import argparse
import json
from collections.abc import Mapping


def add_step(steps: argparse._SubParsersAction, name: str, told: str, example: str):
    """Add a step whose help ends with an example.

    Args:
        steps: of the parser.
        name: word of the step.
        told: one line for the list of steps; also heads its own help.
        example: one command line or several.

    Returns:
        The step's parser.
    """
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    plural = "s" if len(example.strip().splitlines()) > 1 else ""
    return steps.add_parser(
        name,
        help=told,
        description=told[0].upper() + told[1:] + ("" if told.endswith("?") else "."),
        epilog=f"example{plural}:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_json(step: argparse.ArgumentParser) -> None:
    """Add the option ``--json``."""
    step.add_argument("--json", action="store_true", help="tell the result as JSON")


def tell(given: argparse.Namespace, result: Mapping, line: str) -> None:
    """Print a result: as JSON where that is asked for, otherwise as a line for people."""
    print(json.dumps(dict(result), indent=1, ensure_ascii=False) if given.json else line)
