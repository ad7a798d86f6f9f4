"""Measure rows and write their tables, RESULTS.md and the figure of growth.

python -m benchmarks                                  # every row
python -m benchmarks rankings recording-cpu           # some of them
python -m benchmarks --peer nnsight=PATH/bin/python recording-nnsight
python -m benchmarks --quick --results SCRATCH        # tiny sizes, to try the scripts
python -m benchmarks --report                         # only write anew what was measured before
"""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.measuring import Options, measure
from benchmarks.processes import ROOT
from benchmarks.report import report
from benchmarks.rows import ALL
from benchmarks.tables import write

HERE = ROOT / "benchmarks"


def main(words: list[str] | None = None) -> int:
    """Run what the command line names; exit status 1 where a row failed."""
    given = _parsed(words)
    results = given.results or HERE / "results"
    if given.quick and results.resolve() == (HERE / "results").resolve():
        print("error: --quick needs --results FOLDER, since its numbers mean nothing")
        return 1
    failed = []
    for name in () if given.report else given.rows or ALL:
        start = time.perf_counter()
        print(f"{name} …", end=" ", flush=True)
        try:
            records = measure(ALL[name], _options(given))
        except RuntimeError as error:
            failed.append(name)
            print(f"failed: {error}")
            continue
        write(results, name, records)
        print(f"{time.perf_counter() - start:.0f} s")
    text = report(results)
    (results.parent / "RESULTS.md").write_text(text, encoding="utf-8")
    _draw(results)
    print(text)
    return 1 if failed else 0


def _draw(results: Path) -> None:
    from benchmarks.drawing import draw_growth

    draw_growth(results)


def _options(given: argparse.Namespace) -> Options:
    made = {path.parents[1].name: path for path in given.peers.glob("*/bin/python")}
    named = dict(pair.split("=", 1) for pair in given.peer)
    peers = {name: str(Path(path).absolute()) for name, path in (made | named).items()}
    scratch = given.scratch.resolve()
    return Options(scratch, given.quick, given.turns, peers, given.local)


def _parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ALL)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one counted run")
    parser.add_argument("--turns", type=int, default=0, help="counted runs of each way")
    parser.add_argument("--results", type=Path, help="folder of the tables")
    parser.add_argument(
        "--scratch", type=Path, default=ROOT / "artifacts" / "benchmarks", help="made checkpoints"
    )
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help="other tool's Python"
    )
    parser.add_argument(
        "--peers", type=Path, default=ROOT / "artifacts" / "peers", help="folder of environments"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--local", action="store_true", help="in this process, no memory watched")
    given = parser.parse_args(words)
    unknown = [name for name in given.rows if name not in ALL]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}, expected of {', '.join(ALL)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
