"""The word `check` of the command line: do two models fit, and how far apart are they?

actlib check DONOR TARGET
actlib check DONOR TARGET --json
"""

import argparse
import json

from actlib.commands.words import add_json, add_step


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add the step `check`."""
    step = add_step(
        steps,
        "check",
        "can two models exchange channels, and how far apart are they?",
        "actlib check path/to/donor path/to/target\nactlib check DONOR TARGET --json",
    )
    step.add_argument("donor", help="model folder or Hub id")
    step.add_argument("target", help="model folder or Hub id")
    add_json(step)
    step.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    """Print the report; status 1 where the models do not fit, so that scripts can ask."""
    from actlib.pairing.reports import pair_report_of

    report = pair_report_of(given.donor, given.target)
    print(json.dumps(report.to_dict(), indent=1) if given.json else report)
    return 0 if report.fits else 1
