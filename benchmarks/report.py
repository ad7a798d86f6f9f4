"""RESULTS.md out of the tables in results/, and nothing else.

Path("benchmarks/RESULTS.md").write_text(report(Path("benchmarks/results")))
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.rows import GROWTHS, LOADS, PROFILES, ROWS, Aim, Growth, Profile, Row
from benchmarks.tables import Table, judge, read
from benchmarks.timing import exponent, ratio

_TITLE = """# Results

Written by `python -m benchmarks --report` from the tables in [results](results), never by hand;
what the rows mean and how fair they are is in [README.md](README.md). A ratio is the median over
runs in turn (A B A B, the first of each not counted), in brackets the smallest and the largest; it
is held if the median is. What stands behind a semicolon is the floor: what no implementation can do
without, in runs of the same turns, and how that compares with the other. Letters name
the machine and the commit, at the end.
"""
_UNITS = {"seconds": "time", "extra_bytes": "extra memory", "peak_bytes": "peak memory"}
_UNITS |= {"gpu_peak_bytes": "GPU memory"}
_GIB = 2**30


def report(folder: Path) -> str:
    """The whole text."""
    marks: dict[tuple[str, ...], str] = {}
    parts = [_TITLE, _comparisons(folder, marks), _growth(folder, marks), _load(folder, marks)]
    parts += [_profile(folder, row, marks) for row in PROFILES]
    return "\n".join([*parts, _machines(marks)])


def fitted(folder: Path, rows: Sequence[Growth] = GROWTHS) -> list[dict[str, str | float]]:
    """Exponents of growth: row, axis, way, exponent, half of its 95 % interval, factor, runs."""
    found = []
    for row in rows:
        table = read(folder, row.name)
        for way in table.values("way") if table else ():
            runs = [r for r in table.records if r["way"] == way and r["measure"] == "seconds"]
            if len({record["case"] for record in runs}) < 3:
                continue
            line = exponent(
                [float(record["case"]) for record in runs],
                [float(record["value"]) for record in runs],
            )
            told = {"row": row.name, "axis": row.axis, "way": way, "runs": len(runs)}
            told |= {"exponent": line.value, "half_width": line.half_width, "factor": line.factor}
            found.append(told)
    return found


def _comparisons(folder: Path, marks: dict) -> str:
    lines = ["## Against others", ""]
    lines += _head("row", "what", "against", "aim", "measured", "held", "ours", "other", "memory")
    for row in ROWS:
        table = read(folder, row.name)
        if table is None:
            lines.append(_missing(f"`{row.name}`", row, "not run"))
            continue
        for case in row.cases:
            lines += _case_lines(row, case, table, marks)
    return "\n".join(lines) + "\n"


def _case_lines(row: Row, case: str, table: Table, marks: dict) -> list[str]:
    named = f"`{row.name}`" + (f" {case}" if len(row.cases) > 1 else "")
    reason = table.not_run(case)
    if reason:
        return [_missing(named, row, f"not run ({reason})")]
    lines = []
    for place, other in enumerate(row.others):
        counts = place == 0 and case in (row.reached_in or row.cases)
        against = row.against if place == 0 else f"{row.against}: {other}"
        aims = row.aims if counts else tuple(Aim(a.measure, a.kind, 0) for a in row.aims)
        told = [_measured(row, aim, case, other, table, counts) for aim in aims]
        texts = ["<br>".join(each) for each in zip(*told, strict=True)]
        times = [_seconds(table.series(case, way, "seconds")) for way in (row.ours, other)]
        memory = _memory(row, case, other, table)
        mark = _mark(table, case, marks)
        lines.append(_line(f"{named} [{mark}]", row.what, against, *texts, *times, memory))
    return lines


def _missing(named: str, row: Row, reason: str) -> str:
    aims = "<br>".join(_bound(aim) for aim in row.aims)
    return _line(named, row.what, row.against, aims, reason, *["–"] * 4)


def _measured(
    row: Row, aim: Aim, case: str, other: str, table: Table, counts: bool
) -> tuple[str, str, str]:
    """Aim, what was measured, and whether it held; the aim is empty where none counts."""
    ours, theirs = (table.series(case, way, aim.measure) for way in (row.ours, other))
    bound = _bound(aim) if counts else "–"
    if not ours or not theirs:
        return bound, "not measured", "–"
    verdict = judge(aim, ours, theirs)
    found = verdict.found
    if aim.kind == "above":
        text = f"{_signed(found.median)} [{_signed(found.low)}, {_signed(found.high)}]"
    else:
        text = f"{_number(found.median)} × [{_number(found.low)}, {_number(found.high)}]"
    text = f"{text}, n = {found.runs}" + _reachable(row, aim, case, theirs, table)
    if not counts:
        return bound, text, "–"
    held = "**no**" if not verdict.held else "yes" if verdict.always else "yes, not in every run"
    return bound, text, held


def _reachable(row: Row, aim: Aim, case: str, theirs: list[float], table: Table) -> str:
    """The floor beside the other way, as the aim compares them, from the same turns."""
    least = table.series(case, row.floor, aim.measure)
    if aim.measure != "seconds" or len(least) != len(theirs) or not least:
        return ""
    found = ratio(theirs, least) if aim.kind == "fold" else ratio(least, theirs)
    return f"; {row.floor}: {_number(found.median)} ×"


def _bound(aim: Aim) -> str:
    name = _UNITS[aim.measure]
    if aim.kind == "fold" and aim.measure == "seconds":
        return f"≥ {aim.limit:g} × faster"
    if aim.kind == "times":
        return f"{name} ≤ {aim.limit:g} ×"
    if aim.kind == "above":
        return f"{name} ≤ the other's + {aim.limit / _GIB:g} GiB"
    return f"≥ {aim.limit:g} × less {name}"


def _memory(row: Row, case: str, other: str, table: Table) -> str:
    """Every measure of memory that the row has, ours and the other's."""
    told = []
    for measure in ("extra_bytes", "peak_bytes", "resident_bytes", "gpu_peak_bytes"):
        pair = [table.series(case, way, measure) for way in (row.ours, other)]
        if all(pair):
            ours, theirs = (_size(statistics.median(values)) for values in pair)
            told.append(f"{measure.removesuffix('_bytes').replace('_', ' ')} {ours}, {theirs}")
    return "<br>".join(told) or "–"


def _growth(folder: Path, marks: dict) -> str:
    if not any(read(folder, row.name) for row in GROWTHS):
        return "## Growth\n\nnot run\n"
    lines = [
        "## Growth",
        "",
        "Seconds go with size to the power of the exponent; the line is fitted",
    ]
    lines += ["on logarithmic axes through every run ([figure](results/growth.pdf)).", ""]
    lines += _head("row", "what grows", "way", "exponent (95 %)", "smallest", "largest", "runs")
    for fit in fitted(folder):
        table = read(folder, fit["row"])
        sizes = sorted(set(table.values("case")), key=float)
        ends = [
            f"{size}: {_seconds(table.series(size, fit['way'], 'seconds'))}"
            for size in (sizes[0], sizes[-1])
        ]
        power = f"{fit['exponent']:.2f} ± {fit['half_width']:.2f}"
        mark = _mark(table, sizes[0], marks)
        named = f"`{fit['row']}` [{mark}]"
        lines.append(_line(named, fit["axis"], fit["way"], power, *ends, str(fit["runs"])))
    return "\n".join(lines) + "\n"


def _load(folder: Path, marks: dict) -> str:
    """Times at the smallest and the largest size, and the memory that each size took."""
    lines = ["## Load", "", "Sizes far above the study's; seconds go with size to the power of the"]
    lines += ["exponent, and memory is what the first run took above what it was given.", ""]
    lines += _head("row", "what grows", "way", "exponent (95 %)", "smallest", "largest", "memory")
    for fit in fitted(folder, LOADS):
        table = read(folder, fit["row"])
        series = {
            size: [table.series(size, fit["way"], name) for name in ("seconds", "extra_bytes")]
            for size in sorted(table.values("case"), key=float)
        }
        known = {size: pair for size, pair in series.items() if pair[0]}
        ends = [
            f"{size}: {_seconds(known[size][0])}"
            for size in (min(known, key=float), max(known, key=float))
        ]
        memory = ", ".join(_size(pair[1][0]) for pair in known.values() if pair[1]) or "–"
        power = f"{fit['exponent']:.2f} ± {fit['half_width']:.2f}"
        named = f"`{fit['row']}` [{_mark(table, next(iter(known)), marks)}]"
        lines.append(_line(named, fit["axis"], fit["way"], power, *ends, memory))
    return "\n".join(lines) + "\n"


def _profile(folder: Path, row: Profile, marks: dict) -> str:
    """Parts of each way side by side, the longest first, then the arithmetic of the floor."""
    lines = [f"## Profile of {row.what}", ""]
    table = read(folder, row.name)
    for case in row.cases if table else ():
        ways = [way for way in _heads(table, case) if way != "floor"]
        lines += [f"{case} [{_mark(table, case, marks)}], seconds:", "", *_head("part", *ways)]
        times = {way: _parts(table, case, way) for way in ways}
        parts = dict.fromkeys(part for way in ways for part in times[way])
        order = sorted(parts, key=lambda part: -max(times[way].get(part, 0) for way in ways))
        for part in order:
            cells = (f"{times[way][part]:.3g}" if part in times[way] else "–" for way in ways)
            lines.append(_line(f"`{part}`", *cells))
        lines += ["", *_head("floor", "value")]
        floor = _parts(table, case, "floor")
        lines += [_line(part, f"{value:.3g}") for part, value in floor.items()] + [""]
    return "\n".join(lines if table else [*lines, "not run", ""])


def _heads(table: Table, case: str) -> list[str]:
    measures = (r["measure"] for r in table.records if r["case"] == case)
    return list(dict.fromkeys(m.partition("/")[0] for m in measures if "/" in m))


def _parts(table: Table, case: str, way: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for record in table.records:
        head, _, part = record["measure"].partition("/")
        if record["case"] == case and head == way and part:
            found.setdefault(part, []).append(float(record["value"]))
    return {part: statistics.median(values) for part, values in found.items()}


def _mark(table: Table, case: str, marks: dict[tuple[str, ...], str]) -> str:
    record = next(record for record in table.records if record["case"] == case)
    key = tuple(record[column] for column in machine.COLUMNS)
    return marks.setdefault(key, chr(ord("a") + len(marks)))


def _machines(marks: dict[tuple[str, ...], str]) -> str:
    lines = ["## Measured on", "", *_head("", *machine.COLUMNS)]
    lines += [_line(mark, *(cell or "–" for cell in key)) for key, mark in marks.items()]
    return "\n".join(lines) + "\n"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), _line(*["---"] * len(cells))]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(values: Sequence[float]) -> str:
    return f"{_number(statistics.median(values))} s" if values else "–"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _size(value: float) -> str:
    return f"{value / _GIB:.3g} GiB"


def _signed(value: float) -> str:
    return f"{value / _GIB:+.3g} GiB"
