"""The steps of the study that its runner calls: build a model, record scores, run a sweep.

actlib step build --preset tiny --model multilingual --seed 0
actlib step record --preset tiny --seed 0
actlib step sweep --preset tiny --part transfer --bundle rankings --seed 0
actlib step collect --preset tiny
actlib step notebook --source notebooks/03_sufficiency.ipynb --out out.ipynb --preset tiny
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from actlib.commands.words import add_step, require_at_least
from actlib.files.writing import write_text

if TYPE_CHECKING:
    from actlib.study.session import Study


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add `step` with the words `build`, `record`, `sweep`, `collect` and `notebook`."""
    told, example = "one step of the study, as its runner calls it", __doc__.partition("\n\n")[2]
    words = add_step(steps, "step", told, example).add_subparsers(dest="word", required=True)
    for name, told, run in (
        ("build", "build one model of a preset", _build),
        ("record", "record activation differences of a preset's models", _record),
        ("sweep", "run one bundle of a sweep", _sweep),
        ("collect", "merge the cells of a sweep into the kept tables", _collect),
        ("notebook", "run one notebook headless", _notebook),
    ):
        shown = next(line for line in example.splitlines() if f" {name} " in line)
        step = add_step(words, name, told, shown)
        step.set_defaults(run=run)
        step.add_argument("--preset", default="smol", help="name in configs/ or a YAML file")
        if name not in ("collect", "notebook"):
            step.add_argument("--seed", type=int, default=0, help="training seed")
    words.choices["build"].add_argument("--model", required=True, help="name in the preset")
    words.choices["record"].add_argument(
        "--merging", action="store_true", help="the specialists against the base instead"
    )
    for option, told in (("part", "what is measured"), ("bundle", "methods of it")):
        words.choices["sweep"].add_argument(f"--{option}", required=True, help=told)
    for option, told in (("source", "notebook to run"), ("out", "where it goes once it ran")):
        words.choices["notebook"].add_argument(f"--{option}", required=True, help=told)
    words.choices["notebook"].add_argument(
        "--partial", help="where its cells are meanwhile, and stay after an error"
    )
    words.choices["notebook"].add_argument("--figures", default="", help="folder of its results")


def _require_seed(given: argparse.Namespace) -> None:
    require_at_least(0, given.seed, "--seed", most=2**32 - 1)  # what numpy takes


def _build(given: argparse.Namespace) -> None:
    from actlib.study.session import Study

    _require_seed(given)
    print(Study.open(given.preset).folder(given.model, given.seed))


def _record(given: argparse.Namespace) -> None:
    from actlib.study.session import Study

    _require_seed(given)
    study = Study.open(given.preset)
    if given.merging:
        _record_specialists(study, given.seed)
        return
    # Both donors, where there are two: the notebook on stability compares them. Seeds that only the
    # sweep has do without the second.
    two = study.preset.roles.second_donor and given.seed in study.seeds
    donors = ["donor", *["second_donor"] * bool(two)]
    folders = [str(study.recorded(study.cells, given.seed, donor)) for donor in donors]
    _note(study, given.seed, "recorded", folders)


def _record_specialists(study: "Study", seed: int) -> None:
    from actlib.study.sweep_merging import merging_sizes, specialities

    names = {name for found in merging_sizes(study).values() for name in found}
    folders = [
        str(study.recorded(specialities(study, name), seed, name, "base")) for name in sorted(names)
    ]
    _note(study, seed, "specialists", folders)


def _note(study: "Study", seed: int, name: str, folders: list[str]) -> None:
    note = study.store / study.preset.name / "scores" / f"seed{seed}" / f"{name}.json"
    write_text(note, json.dumps({"folders": folders}, indent=1) + "\n")


def _sweep(given: argparse.Namespace) -> None:
    from actlib.study import sweeps

    _require_seed(given)
    print(sweeps.run(sweeps.open_sweep(given.preset), given.part, given.bundle, given.seed))


def _notebook(given: argparse.Namespace) -> None:
    from actlib.study.executing import execute

    # Only what differs from the notebook's own parameters, so that a default run adds no cell.
    wanted = {"preset": given.preset if given.preset != "smol" else "", "figures": given.figures}
    out = Path(given.out)
    partial = Path(given.partial) if given.partial else out.with_suffix(".partial.ipynb")
    parameters = {name: value for name, value in wanted.items() if value}
    execute(Path(given.source), partial, out, parameters)


def _collect(given: argparse.Namespace) -> None:
    from actlib.study import sweeps

    for path in sweeps.collect(sweeps.open_sweep(given.preset)):
        print(path)
