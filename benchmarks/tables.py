"""Tables of results: one CSV for each row, and what a report needs out of them.

write(folder, "rankings", measure(ALL["rankings"], options))
table = read(folder, "rankings")
print(table.series("global", "top", "seconds"))
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.rows import Aim
from benchmarks.timing import Ratio, ratio

COLUMNS = ("case", "way", "measure", "turn", "value", "note", *machine.COLUMNS)


@dataclass(frozen=True)
class Table:
    """The records of one row, as read from its file."""

    records: tuple[Mapping[str, str], ...]

    def series(self, case: str, way: str, measure: str) -> list[float]:
        """Values of a measure, one for each run, in the order of the turns."""
        wanted = (case, way, measure)
        found = [
            (int(record["turn"]), float(record["value"]))
            for record in self.records
            if (record["case"], record["way"], record["measure"]) == wanted
        ]
        return [value for _, value in sorted(found)]

    def not_run(self, case: str) -> str:
        """Why a case was not run; "" if it was."""
        for record in self.records:
            if record["case"] == case and record["measure"] == "not run":
                return record["note"]
        return "" if any(record["case"] == case for record in self.records) else "no record"

    def values(self, column: str) -> list[str]:
        """Different values of a column, in order of appearance."""
        return list(dict.fromkeys(record[column] for record in self.records))


@dataclass(frozen=True)
class Verdict:
    """What became of an aim.

    Attributes:
        found: the ratio of the paired runs; for "above" the differences in its fields.
        held: the median reaches the aim.
        always: every run does.
    """

    found: Ratio
    held: bool
    always: bool


def judge(aim: Aim, ours: list[float], other: list[float]) -> Verdict:
    """Compare paired runs with an aim.

    Raises:
        ValueError: there are no runs, or not as many of both.
    """
    if aim.kind == "above":
        gaps = sorted(a - b for a, b in zip(ours, other, strict=True))
        found = Ratio(gaps[len(gaps) // 2], gaps[0], gaps[-1], len(gaps))
    else:
        found = ratio(ours, other) if aim.kind == "times" else ratio(other, ours)
    if aim.kind == "fold":
        return Verdict(found, found.median >= aim.limit, found.low >= aim.limit)
    return Verdict(found, found.median <= aim.limit, found.high <= aim.limit)


def write(folder: Path, name: str, records: Iterable[Mapping[str, object]]) -> Path:
    """Write a row's records to its CSV, numbers at six digits."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        lines = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        lines.writeheader()
        for record in records:
            value = record.get("value", "")
            lines.writerow({**record, "value": f"{value:.6g}" if value != "" else ""})
    return path


def read(folder: Path, name: str) -> Table | None:
    """A row's table; None where it has no file."""
    path = folder / f"{name}.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as stream:
        return Table(tuple(csv.DictReader(stream)))
