"""Command line: `actlib STEP …`, or `python -m actlib STEP …`.

actlib run PRESET                  the notebooks on a preset or on a pair of your own; a report
actlib check DONOR TARGET          do two models fit, and how far apart are they?
actlib record, mask                scores of channels; the best of them
actlib transfer, merge, patch      move channels between model folders, or share them
actlib eval MODEL                  scores of a model, by lm-evaluation-harness
actlib trace RESULT                how a result was made, down to its data
actlib step                        one step of the study, as its runner calls it

Each step tells its options and an example with --help, and its result as JSON with --json where it
has one. Exit status:

0  done
1  something given cannot be used, or a pair does not fit, said in one sentence; nothing is written
2  no such step or option, or a number that is none
3  a notebook of `run` failed
4  a defect of actlib, with its traceback
141  whoever read what is printed stopped reading, as `head` does
"""

import argparse
import os
import signal
import sys
import traceback

from actlib.commands import channels, check, folders, patch, run, step, trace
from actlib.commands import eval as judging
from actlib.commands.words import sentence_of

DEFECT = 4
"""Exit status where actlib failed in a way that nobody foresaw."""
UNREAD = 128 + signal.SIGPIPE
"""Exit status where the reader of the output went away, as a shell tells it."""
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

    Bad input is what raises `ValueError` or `OSError`; any other error is taken for a defect.

    Args:
        arguments: words of the command line; those of the process if None.

    Returns:
        The exit status; see the module's own text. Words that are no step end the process with 2.
    """
    given = make_parser().parse_args(arguments)
    try:
        status = given.run(given) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to flush
        return UNREAD
    except (ValueError, OSError) as error:  # the latter: a file that cannot be read or written
        print(f"error: {sentence_of(error)}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        print("error: this was not foreseen; report it with the lines above", file=sys.stderr)
        return DEFECT


if __name__ == "__main__":
    sys.exit(main())
