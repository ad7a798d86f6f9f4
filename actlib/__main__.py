"""Command line: `actlib STEP …`, or `python -m actlib STEP …`.

actlib run PRESET                  the notebooks on a preset or on a pair of your own; a report
actlib check DONOR TARGET          do two models fit, and how far apart are they?
actlib record, mask                scores of channels; the best of them
actlib transfer, merge, patch      move channels between model folders, or share them
actlib eval MODEL                  scores of a model, by lm-evaluation-harness
actlib trace RESULT                how a result was made, down to its data
actlib step                        one step of the study, as its runner calls it

Each step tells its options and an example with --help, and its result as JSON with --json where it
has one. Exit status: 0 done; 1 something given cannot be used, or a pair does not fit, said in one
sentence; 2 no such step or option; 3 a notebook of `run` failed.
"""

import argparse
import sys

from actlib.commands import channels, check, folders, patch, run, step, trace
from actlib.commands import eval as judging

COMMANDS = (run, check, channels, folders, patch, judging, trace, step)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all steps."""
    parser = argparse.ArgumentParser(
        prog="actlib", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for command in COMMANDS:
        command.add_words(steps)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one step; exit status 1 and one sentence on bad input.

    Args:
        arguments: words of the command line; those of the process if None.

    Returns:
        The exit status; see the module's own text. Words that are no step end the process with 2.
    """
    given = make_parser().parse_args(arguments)
    try:
        return given.run(given) or 0
    except (ValueError, OSError) as error:  # the latter: a file that cannot be read or written
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
