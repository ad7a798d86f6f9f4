"""Measures rows: starts their sides, runs them in turn, and returns a tidy table.

    records = measure(ALL["rankings"], Options(scratch=Path("artifacts/benchmarks")))

Each record is one number of one run: case, way, measure, turn, value, note, then the machine's
columns. A row that cannot run here gives one record that says why.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.processes import ROOT, Served
from benchmarks.rows import Growth, Profile, Row
from benchmarks.serving import NotRunError
from benchmarks.side import Setting, facts, ways
from benchmarks.timing import in_turn

Record = dict[str, str | int | float]


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        scratch: folder of made checkpoints.
        quick: tiny sizes and one counted run, to try the scripts; the ratios mean nothing.
        turns: counted runs in place of each row's own number; 0 keeps that.
        peers: Python of another tool's environment, by the tool's name.
        local: run the sides in this process, without watching memory, as tests do.
    """

    scratch: Path
    quick: bool = False
    turns: int = 0
    peers: Mapping[str, str] = field(default_factory=dict)
    local: bool = False


def measure(row: Row | Growth | Profile, options: Options) -> list[Record]:
    """Every number of a row's runs.

    Raises:
        RuntimeError: a side failed.
    """
    cases = row.cases if isinstance(row, Row | Profile) else (row.name.partition("-")[2],)
    told = machine.facts()
    records: list[Record] = []
    for case in cases:
        found: list[Record] = []
        try:
            for record in _case(row, case, options, told):
                found.append(record)
        except NotRunError as reason:
            found = [{"case": case, "measure": "not run", "note": str(reason)}]
        records += [{**record, **told} for record in found]
    return records


class _Local:
    """The same as `Served`, in this process."""

    def __init__(self, module: str, case: str, options: Options) -> None:
        self._made = ways(module, case, Setting(options.scratch, options.quick))
        self.ways, self.facts = list(self._made), facts(module)

    def run(self, way: str) -> dict[str, float]:
        return self._made[way].measure()

    run_watched = run

    def __enter__(self) -> "_Local":
        return self

    def __exit__(self, *_reason: object) -> None:
        """Nothing to end."""


def _case(
    row: Row | Growth | Profile, case: str, options: Options, told: dict[str, str]
) -> Iterator[Record]:
    turns = options.turns or (1 if options.quick else row.turns)
    with ExitStack() as stack:
        ours = stack.enter_context(_ours(row, case, options))
        told |= {key: value for key, value in ours.facts.items() if value}
        if isinstance(row, Row):
            other = ours
            if row.peer:
                other = stack.enter_context(_peer(row, case, options))
                told["peer"] = other.facts["peer"]
            sides = {row.ours: ours} | dict.fromkeys(row.others, other)
            sides |= {row.floor: ours} if row.floor else {}
        else:
            sides = dict.fromkeys(ours.ways, ours)
        runs = {way: lambda way=way, side=side: side.run(way) for way, side in sides.items()}
        for turn, way, measures in in_turn(runs, turns):
            yield from _records(case, way, turn, measures)
    if not isinstance(row, Profile) and row.watched and not options.local:
        yield from _memory(row, case, options, list(sides))


def _memory(
    row: Row | Growth, case: str, options: Options, ways: Iterable[str]
) -> Iterator[Record]:
    """The first run of each way in a process of its own, watched."""
    for way in ways:
        peer = isinstance(row, Row) and row.peer and way in row.others  # the floor is ours
        with (_peer if peer else _ours)(row, case, options) as side:
            measures = side.run_watched(way)
        kept = {name: value for name, value in measures.items() if name.endswith("_bytes")}
        yield from _records(case, way, 1, kept)


def _records(case: str, way: str, turn: int, measures: Mapping[str, float]) -> Iterator[Record]:
    way, _, size = way.partition("|")
    for name, value in measures.items():
        yield {"case": size or case, "way": way, "measure": name, "turn": turn, "value": value}


def _ours(row: Row | Growth | Profile, case: str, options: Options) -> Served | _Local:
    if options.local:
        return _Local(row.module, case, options)
    command = [sys.executable, "-m", "benchmarks.side", row.module, case]
    command += ["--scratch", str(options.scratch), *(["--quick"] if options.quick else [])]
    told = {f"ACT_PEER_{name.upper()}": python for name, python in options.peers.items()}
    return Served(command, told)


def _peer(row: Row, case: str, options: Options) -> Served:
    python = peer_python(row.peer, options.peers)
    script = ROOT / "benchmarks" / "peers" / f"run_{row.peer}.py"
    return Served([python, str(script), case, *(["--quick"] if options.quick else [])])


def peer_python(name: str, peers: Mapping[str, str] | None = None) -> str:
    """Python of another tool's environment, as given or from `ACT_PEER_NAME`.

    Raises:
        NotRunError: none is named, or it is not there.
    """
    variable = f"ACT_PEER_{name.upper()}"
    found = (peers or {}).get(name) or os.environ.get(variable, "")
    if not found:
        raise NotRunError(f"{name} is not installed here ({variable} names no Python)")
    if not Path(found).is_file():
        raise NotRunError(f"{variable} names {Path(found).name}, which is not there")
    return found
