"""The steps of the study that its Snakefile calls, and `actlib run`, which calls Snakemake."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from actlib.terminal import NOTEBOOK_FAILED, Json, command, new_app, show

app = new_app("One step of the study, as its runner calls it.")
Preset = Annotated[str, Option(help="name in configs/, or a YAML file")]
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="training seed")]  # what numpy takes
IS_FOLDER: dict = {"exists": True, "file_okay": False, "resolve_path": True}
Profile = Annotated[Path | None, Option(help="folder of a profile of Snakemake", **IS_FOLDER)]


@command(app, "build")
def build(
    model: Annotated[str, Option(help="name in the preset")],
    preset: Preset = "tiny",
    seed: Seed = 0,
) -> None:
    """Build one model of a preset.

    Example:
        actlib step build --preset tiny --model multilingual --seed 0
    """
    from actlib.study.session import Study

    print(Study.open(preset).place(model, seed))


@command(app, "record")
def record(
    preset: Preset = "tiny",
    kind: Literal["differences", "attributions"] = "differences",
    seed: Seed = 0,
) -> None:
    """Record scores of donor and target, differences of a second donor too.

    Example:
        actlib step record --preset tiny --kind attributions --seed 0
    """
    from actlib.files import write_text
    from actlib.study.recorded import PARTS, recorded_files
    from actlib.study.session import Study

    study = Study.open(preset)
    pairs = [study.pair(seed)]
    if kind == "differences" and study.preset.roles.second_donor:
        pairs.append(study.pair(seed, donor="second_donor"))
    files = [
        str(path.relative_to(study.folder))
        for pair in pairs
        for path in recorded_files(study, pair, study.abilities, range(PARTS), kind)
    ]
    note = study.folder / "scores" / f"{kind}-seed{seed}.json"
    write_text(note, json.dumps(files, indent=1) + "\n")


def run(
    preset: Annotated[str, Argument(help="name in configs/, or a YAML file")],
    notebooks: Annotated[str, Option(help="such as 01-05 or 01,03; all if left out")] = "",
    cores: Annotated[int | None, Option(min=1, help="CPU cores; all, or the profile's")] = None,
    profile: Profile = None,
    as_json: Json = False,
) -> int:
    """Run the notebooks on a preset or on your own pair, with a report.

    Example:
        actlib run mine.yaml --notebooks 01,03 --cores 4 --json
    """
    from actlib.study import runs
    from actlib.study.report import answer, write_report

    if cores is None and not profile:
        cores = len(os.sched_getaffinity(0))
    run, started = runs.plan(preset, notebooks), time.monotonic()
    # Where a program reads the result, the progress goes where people can still see it.
    progress = sys.stderr if as_json else sys.stdout
    for ability, counts in run.questions.items():
        print(f"questions of {ability}: {runs.describe_counts(counts)}", file=progress, flush=True)
    states = runs.execute(run, cores, profile, progress)
    report = write_report(run, states, time.monotonic() - started)
    result: dict = {"preset": run.preset.name, "notebooks": {}, "left_out": run.left_out}
    for name, state in states.items():
        result["notebooks"][name] = {"state": state, "log": str(run.log(name))}
        if state in (runs.DONE, runs.EARLIER):
            more = {"notebook": str(run.executed(name)), "answer": answer(run, name)}
            result["notebooks"][name] |= more
    result |= {"results": str(run.folder / "results"), "report": str(report)}
    left_out = [f"notebook {number} left out: {why}" for number, why in run.left_out.items()]
    show(as_json, result, "\n".join([*left_out, f"report: {report}"]))
    if set(states.values()) == {runs.DONE}:
        return 0
    failed = "; ".join(f"{what} failed{why}" for what, why in runs.failures(run).items())
    print(f"error: {failed}", file=sys.stderr)
    return NOTEBOOK_FAILED
