"""The steps of the study that its Snakefile calls, and the run of its notebooks.

actlib step build --preset tiny --model multilingual --seed 0
actlib step notebook --source notebooks/03_sufficiency.ipynb --out out.ipynb --preset tiny
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from actlib.terminal import NOTEBOOK_FAILED, command, new_app, show

if TYPE_CHECKING:
    from actlib.study.old_session import Study
    from actlib.study.runs import Run

app = new_app("One step of the study, as its runner calls it.")
Preset = Annotated[str, Option(help="name in configs/, or a YAML file")]
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="training seed")]  # what numpy takes


@command(app, "build")
def build(
    model: Annotated[str, Option(help="name in the preset")],
    preset: Preset = "smol",
    seed: Seed = 0,
) -> None:
    """Build one model of a preset.

    Example:
        actlib step build --preset tiny --model multilingual --seed 0
    """
    from actlib.study.old_session import Study

    print(Study.open(preset).folder(model, seed))


@command(app, "record")
def record(
    preset: Preset = "smol",
    seed: Seed = 0,
    merging: Annotated[bool, Option("--merging", help="specialists against the base")] = False,
) -> None:
    """Record activation differences of a preset's models.

    Example:
        actlib step record --preset tiny --seed 0
    """
    from actlib.study.old_session import Study

    study = Study.open(preset)
    if merging:
        _record_specialists(study, seed)
        return
    # Both donors, where there are two: the notebook on stability compares them. Seeds that only the
    # sweep has do without the second.
    two = study.preset.roles.second_donor and seed in study.seeds
    donors = ["donor", *["second_donor"] * bool(two)]
    folders = [str(study.recorded(study.cells, seed, donor)) for donor in donors]
    _note(study, seed, "recorded", folders)


def _record_specialists(study: "Study", seed: int) -> None:
    from actlib.study.sweep_merging import merging_sizes, specialities

    names = {name for models in merging_sizes(study).values() for name in models}
    folders = [
        str(study.recorded(specialities(study, name), seed, name, "base")) for name in sorted(names)
    ]
    _note(study, seed, "specialists", folders)


def _note(study: "Study", seed: int, name: str, folders: list[str]) -> None:
    from actlib.files import write_text

    note = study.store / study.preset.name / "scores" / f"seed{seed}" / f"{name}.json"
    write_text(note, json.dumps({"folders": folders}, indent=1) + "\n")


@command(app, "sweep")
def sweep(
    part: Annotated[str, Option(help="what is measured")],
    bundle: Annotated[str, Option(help="methods of it")],
    preset: Preset = "smol",
    seed: Seed = 0,
) -> None:
    """Run one bundle of a sweep.

    Example:
        actlib step sweep --preset tiny --part transfer --bundle rankings --seed 0
    """
    from actlib.study import sweeps

    print(sweeps.run(sweeps.open_sweep(preset), part, bundle, seed))


@command(app, "collect")
def collect(preset: Preset = "smol") -> None:
    """Merge the settings of a sweep into the kept tables.

    Example:
        actlib step collect --preset tiny
    """
    from actlib.study import sweeps

    for path in sweeps.collect(sweeps.open_sweep(preset)):
        print(path)


@command(app, "notebook")
def notebook(
    source: Annotated[str, Option(help="notebook to run")],
    out: Annotated[str, Option(help="where it goes once it ran")],
    partial: Annotated[str, Option(help="where it is meanwhile, and stays after an error")] = "",
    preset: Preset = "smol",
    figures: Annotated[str, Option(help="folder of its results")] = "",
) -> None:
    """Run one notebook headless.

    Example:
        actlib step notebook --source notebooks/03_sufficiency.ipynb --out out.ipynb
    """
    from actlib.study.executing import execute

    parameters = {"preset": preset} | ({"figures": figures} if figures else {})
    unfinished = Path(partial) if partial else Path(out).with_suffix(".partial.ipynb")
    execute(Path(source), unfinished, Path(out), parameters)


def run_notebooks(
    preset: str, notebooks: str, cores: int | None, figures: str, profile: str, as_json: bool
) -> int:
    """Run notebooks through Snakemake, write the report and print where it lies.

    Args:
        preset: name in ``configs/``, or a YAML file.
        notebooks: such as "01-05" or "01,03"; "" for all.
        cores: of the processor; all, or the profile's, if None.
        figures: folder of figures and tables; "" for the preset's own.
        profile: folder of a Snakemake profile; "" for none.
        as_json: print the result as JSON.

    Returns:
        0, or 3 where a notebook failed.

    Raises:
        ValueError: the preset, the notebooks or the profile do not exist, or do not fit.
    """
    from actlib.study.report import write_report
    from actlib.study.runs import DONE, FAILED, plan, profile_folder, question_counts

    folder = profile and profile_folder(profile)
    if cores is None and not folder:
        cores = len(os.sched_getaffinity(0))
    run, started = plan(preset, notebooks, figures), time.monotonic()
    for ability, counts in question_counts(run.preset).items():
        numbers = ", ".join(f"{count} for {purpose}" for purpose, count in counts.items())
        print(f"questions of {ability}: {numbers}", file=sys.stderr)
    # Where a program reads the result, the progress goes where people can still see it.
    states = run.execute(cores, sys.stderr if as_json else None, folder)
    report = write_report(run, states, time.monotonic() - started)
    left_out = [f"notebook {number} left out: {why}" for number, why in run.preset.left_out.items()]
    show(as_json, _result(run, states, report), "\n".join([*left_out, f"report: {report}"]))
    failed = [name for name, state in states.items() if state == FAILED]
    missing = ", ".join(name for name, state in states.items() if state != DONE)
    for name in failed:
        print(f"error: notebook {name} failed; its log: {run.log(name)}", file=sys.stderr)
    if missing and not failed:
        print(f"error: what {missing} read could not be made; see above", file=sys.stderr)
    return NOTEBOOK_FAILED if missing else 0


def _result(run: "Run", states: dict[str, str], report: Path) -> dict:
    from actlib.study.report import answer
    from actlib.study.runs import DONE

    notebooks = {}
    for name, state in states.items():
        notebooks[name] = {"state": state, "log": str(run.log(name))}
        if state == DONE:
            path = run.executed(name)
            notebooks[name] |= {"notebook": str(path), "answer": answer(path)}
    result = {"preset": run.preset.name, "notebooks": notebooks, "left_out": run.preset.left_out}
    return result | {"figures": str(run.figures), "report": str(report)}
