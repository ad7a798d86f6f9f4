"""Command line of the steps that the runner calls: build a model, record the scores of a pair.

python -m actlib build --preset tiny --model multilingual --seed 0
python -m actlib record --preset tiny --seed 0
"""

import argparse
import json
import sys

from .study import Study


def main(arguments: list[str] | None = None) -> int:
    """Run one step; exit status 1 and one sentence on bad input.

    Args:
        arguments: words of the command line; those of the process if None.
    """
    parser = argparse.ArgumentParser(prog="python -m actlib", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    for name, told in (("build", "build one model"), ("record", "record activation differences")):
        step = steps.add_parser(name, help=told)
        step.add_argument("--preset", default="smol", help="name in configs/ or a YAML file")
        step.add_argument("--seed", type=int, default=0, help="training seed")
    steps.choices["build"].add_argument("--model", required=True, help="name in the preset")
    given = parser.parse_args(arguments)
    try:
        study = Study.open(given.preset)
        if given.step == "build":
            print(study.folder(given.model, given.seed))
        else:
            _record(study, given.seed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _record(study: Study, seed: int) -> None:
    # Both donors, where there are two: the notebook on stability compares them.
    donors = ["donor"] + ["second_donor"] * bool(study.preset.roles.second_donor)
    folders = [str(study.recorded(study.cells, seed, donor)) for donor in donors]
    note = study.store / study.preset.name / "scores" / f"seed{seed}" / "recorded.json"
    note.write_text(json.dumps({"folders": folders}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
