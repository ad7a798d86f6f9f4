"""Runs in turn and what they say: ratios with their spread, and exponents of growth.

    seconds = in_turn({"ours": run_ours, "other": run_other}, turns=5)
    print(ratio(seconds["ours"], seconds["other"]).median)

Standard library only, so that the process that times others stays small.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t by degrees of freedom; the last counts for all above.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)


@dataclass(frozen=True)
class Ratio:
    """Quotients of paired runs.

    Attributes:
        median: of the quotients, one for each turn.
        low: the smallest.
        high: the largest.
        runs: number of turns.
    """

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Exponent:
    """The slope of a line through points on two logarithmic axes.

    Attributes:
        value: b of y = a x^b.
        half_width: half of b's 95 % interval, from the points' scatter about the line.
        factor: a of y = a x^b.
    """

    value: float
    half_width: float
    factor: float


def in_turn(
    ways: Mapping[str, Callable[[], Mapping[str, float]]], turns: int
) -> list[tuple[int, str, Mapping[str, float]]]:
    """Run every way in rounds (A B A B …), so that what else the machine does meets each of them.

    A first round warms up and is not counted.

    Args:
        ways: each runs once and returns its measures by name, such as seconds.
        turns: number of rounds that count.

    Returns:
        Turn (from 1), way and measures of each counted run.

    Raises:
        ValueError: there is no round.
    """
    if turns < 1:
        raise ValueError(f"expected at least 1 counted run of each way, got {turns}")
    found = []
    for turn in range(turns + 1):
        for name, run in ways.items():
            measures = run()
            if turn:
                found.append((turn, name, measures))
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """Quotients of the runs of one turn, so that a slow moment of the machine meets both sides.

    Raises:
        ValueError: the sides differ in their number of runs, or there is none.
    """
    if len(over) != len(under) or not over:
        raise ValueError(f"expected as many runs of both sides, got {len(over)} and {len(under)}")
    each = [a / b for a, b in zip(over, under, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each), len(each))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> Exponent:
    """Least-squares line through (log size, log value), every run a point.

    The interval takes the scatter about the line as independent noise; a curve that bends, such as
    one with a fixed cost, shows in it only as scatter.

    Raises:
        ValueError: there are fewer than three points, or all have one size.
    """
    if len(sizes) != len(values) or len(sizes) < 3 or len(set(sizes)) < 2:
        raise ValueError("an exponent needs at least 3 points of at least 2 sizes")
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    slope, intercept = statistics.linear_regression(x, y)
    left = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y, strict=True))
    middle, freedom = statistics.fmean(x), len(x) - 2
    error = math.sqrt(left / freedom / sum((a - middle) ** 2 for a in x))
    quantile = _T95[min(freedom, len(_T95)) - 1]
    return Exponent(slope, quantile * error, math.exp(intercept))
