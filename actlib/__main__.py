"""Command line: `actlib STEP …`, or `python -m actlib STEP …`.

actlib check DONOR TARGET          do two models fit, and how far apart are they?
actlib record, mask                scores of channels; the best of them
actlib transfer, merge, patch      move channels between model folders, or share them
actlib step                        one step of the study, as its runner calls it

Each step tells its options with --help.
"""

import argparse
import sys

from actlib.commands import channels, check, folders, patch, step

COMMANDS = (check, channels, folders, patch, step)


def main(arguments: list[str] | None = None) -> int:
    """Run one step; exit status 1 and one sentence on bad input.

    Args:
        arguments: words of the command line; those of the process if None.
    """
    parser = argparse.ArgumentParser(
        prog="actlib", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for command in COMMANDS:
        command.add_words(steps)
    given = parser.parse_args(arguments)
    try:
        return given.run(given) or 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
