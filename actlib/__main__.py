"""Command line of the steps that the runner calls: build a model, record scores, run a sweep.

python -m actlib build --preset tiny --model multilingual --seed 0
python -m actlib record --preset tiny --seed 0
python -m actlib sweep --preset tiny --part transfer --bundle rankings --seed 0
python -m actlib collect --preset tiny

Ability patches, which need no preset (`actlib.commands.patch`):

python -m actlib patch inspect maths.safetensors
"""

import argparse
import json
import sys

from actlib.commands import patch as patch_command
from actlib.study import sweeps
from actlib.study.session import Study
from actlib.study.sweep_merging import merging_sizes, specialities

STEPS = {
    "build": "build one model",
    "record": "record activation differences",
    "sweep": "run one bundle of a sweep",
    "collect": "merge the cells of a sweep into the kept tables",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one step; exit status 1 and one sentence on bad input.

    Args:
        arguments: words of the command line; those of the process if None.
    """
    parser = argparse.ArgumentParser(prog="python -m actlib", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    for name, told in STEPS.items():
        step = steps.add_parser(name, help=told)
        step.add_argument("--preset", default="smol", help="name in configs/ or a YAML file")
        if name != "collect":
            step.add_argument("--seed", type=int, default=0, help="training seed")
    steps.choices["build"].add_argument("--model", required=True, help="name in the preset")
    steps.choices["record"].add_argument(
        "--merging", action="store_true", help="the specialists against the base instead"
    )
    for option, told in (("part", "what is measured"), ("bundle", "methods of it")):
        steps.choices["sweep"].add_argument(f"--{option}", required=True, help=told)
    patch_command.add_words(steps)
    given = parser.parse_args(arguments)
    try:
        _step(given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _step(given: argparse.Namespace) -> None:
    if given.step == "patch":
        patch_command.run(given)
    elif given.step == "build":
        print(Study.open(given.preset).folder(given.model, given.seed))
    elif given.step == "record" and given.merging:
        _record_specialists(Study.open(given.preset), given.seed)
    elif given.step == "record":
        _record(Study.open(given.preset), given.seed)
    elif given.step == "sweep":
        print(sweeps.run(sweeps.open_sweep(given.preset), given.part, given.bundle, given.seed))
    else:
        for path in sweeps.collect(sweeps.open_sweep(given.preset)):
            print(path)


def _record_specialists(study: Study, seed: int) -> None:
    names = {name for found in merging_sizes(study).values() for name in found}
    folders = [
        str(study.recorded(specialities(study, name), seed, name, "base")) for name in sorted(names)
    ]
    _note(study, seed, "specialists", folders)


def _note(study: Study, seed: int, name: str, folders: list[str]) -> None:
    note = study.store / study.preset.name / "scores" / f"seed{seed}" / f"{name}.json"
    note.write_text(json.dumps({"folders": folders}, indent=1) + "\n", encoding="utf-8")


def _record(study: Study, seed: int) -> None:
    # Both donors, where there are two: the notebook on stability compares them. Seeds that only the
    # sweep has do without the second.
    two = study.preset.roles.second_donor and seed in study.seeds
    donors = ["donor", *["second_donor"] * bool(two)]
    folders = [str(study.recorded(study.cells, seed, donor)) for donor in donors]
    _note(study, seed, "recorded", folders)


if __name__ == "__main__":
    sys.exit(main())
