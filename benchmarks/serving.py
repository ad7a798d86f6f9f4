"""The measured side: a process that sets up once, then runs one of its ways each time it is told.

    serve(lambda: {"copy": Way(run_copy), "walk": Way(run_walk, before=reset)}, facts=dict)

Standard library only, so that scripts in other tools' environments can use it. Each line on the
standard input names a way; each answer is a line of JSON. What a library prints meanwhile goes to
the standard error.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ANSWER = "@answer "
"""Begins each answer, since libraries may print before `serve` can stop them."""


class NotRunError(Exception):
    """This machine lacks what a benchmark needs; the message says what."""


@dataclass(frozen=True)
class Way:
    """One way to do the work.

    Attributes:
        run: does it once; may return measures of its own by name.
        before: is called before each run and is not timed.
        after: is called after each run and is not timed.
    """

    run: Callable[[], Mapping[str, float] | None]
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None

    def measure(self) -> dict[str, float]:
        """Run once: `seconds` of wall-clock time, and the measures that the run returned."""
        if self.before:
            self.before()
        start = time.perf_counter()
        found = self.run()
        seconds = time.perf_counter() - start
        if self.after:
            self.after()
        return {"seconds": seconds, **(found or {})}


def serve(make: Callable[[], Mapping[str, Way]], facts: Callable[[], Mapping[str, str]]) -> None:
    """Set up, say so, then answer every line of the standard input until it ends.

    Args:
        make: sets up and returns the ways by name.
        facts: returns what this environment is, such as versions, told with the first answer.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(answer: Mapping[str, object]) -> None:
        answers.write(f"{ANSWER}{json.dumps(answer)}\n")

    try:
        ways = make()
        say({"ready": list(ways), "facts": dict(facts())})
        for line in sys.stdin:
            say({"measures": ways[line.strip()].measure()})
    except NotRunError as reason:
        say({"not_run": str(reason)})
    except Exception as error:
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}"})
