"""The word `run` of the command line: the notebooks on a preset, or on a pair of one's own.

actlib run smol
actlib run mine.yaml --notebooks 01-05 --cores 2
actlib run mine.yaml --profile profiles/slurm
"""

import argparse
import json
import os
import sys
import time

from actlib.commands.words import add_json, add_step, require_output

FAILURE = 3
"""Exit status where a notebook, or what it needs, could not be made."""


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add the step `run`."""
    step = add_step(
        steps,
        "run",
        "run the notebooks on a preset or on a pair of your own, and write a report",
        "actlib run mine.yaml\nactlib run mine.yaml --notebooks 01,03 --cores 4 --json",
    )
    step.add_argument("preset", help="name in configs/, or a YAML file")
    step.add_argument("--notebooks", default="", metavar="NUMBERS", help="such as 01-05 or 01,03")
    step.add_argument("--cores", type=int, help="CPU cores; all, or the profile's, if left out")
    step.add_argument("--figures", default="", help="folder of figures and tables")
    step.add_argument("--profile", default="", help="folder of a Snakemake profile, for a cluster")
    add_json(step)
    step.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    from actlib.study.report import write_report
    from actlib.study.runs import DONE, plan, profile_folder, question_counts

    profile, cores = given.profile and profile_folder(given.profile), given.cores
    if cores is None and not profile:
        cores = len(os.sched_getaffinity(0))
    if cores is not None and cores < 1:
        raise ValueError(f"--cores must be at least 1, got {cores}")
    if given.figures:
        require_output(given.figures, option="--figures", folder=True)
    run, started = plan(given.preset, given.notebooks, given.figures), time.monotonic()
    for cell, counts in question_counts(run.preset).items():
        told = ", ".join(f"{count} for {purpose}" for purpose, count in counts.items())
        print(f"questions of {cell}: {told}", file=sys.stderr)
    # Where a program reads the result, the progress goes where people can still see it.
    states = run.execute(cores, sys.stderr if given.json else None, profile)
    report = write_report(run, states, time.monotonic() - started)
    _tell(given, run, states, report)
    return 0 if all(state == DONE for state in states.values()) else FAILURE


def _tell(given: argparse.Namespace, run, states: dict[str, str], report) -> None:
    from actlib.study.report import answer
    from actlib.study.runs import DONE, FAILED

    failed = [name for name, state in states.items() if state == FAILED]
    if given.json:
        told = {}
        for name, state in states.items():
            told[name] = {"state": state, "log": str(run.log(name))}
            if state == DONE:
                path = run.executed(name)
                told[name] |= {"notebook": str(path), "answer": answer(path)}
        result = {"preset": run.preset.name, "notebooks": told, "left_out": run.preset.left_out}
        result |= {"figures": str(run.figures), "report": str(report)}
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        for number, why in run.preset.left_out.items():
            print(f"notebook {number} left out: {why}")
        print(f"report: {report}")
    for name in failed:
        print(f"error: notebook {name} failed; its log: {run.log(name)}", file=sys.stderr)
    if not failed and set(states.values()) != {DONE}:
        missing = ", ".join(name for name, state in states.items() if state != DONE)
        print(f"error: what {missing} read could not be made; see above", file=sys.stderr)
