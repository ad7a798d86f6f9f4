"""Put a measurement against its null in words, the same rule everywhere.

A verdict is read off an interval and a null, never typed, so that a notebook run on other models
says what those models show.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

HOLDS, NOT_SEEN, NOT_RUN = "holds", "not seen here", "not run"
"""Verdicts on a claim, beside ``in_part``."""


class Finding(NamedTuple):
    """A verdict on a claim and what it rests on, in words with numbers.

    Attributes:
        shown: all that was measured, with intervals and null.
        verdict: holds, holds in part (how), not seen here, or not run.
        brief: the numbers that the verdict turns on, with interval and null; empty if not run.
    """

    shown: str
    verdict: str
    brief: str = ""


def in_part(how: str) -> str:
    """The verdict that a claim holds in part, and how far."""
    return f"holds in part ({how})"


def every(words: Sequence[str], how: str, mixed: bool = False) -> str:
    """Holds if all are above; in part if some are and, unless ``mixed``, none is below."""
    if set(words) == {"above"}:
        return HOLDS
    return NOT_SEEN if "above" not in words or ("below" in words and not mixed) else in_part(how)


def count(words: Sequence[str], word: str) -> str:
    """How many of the words are this one, such as ``3 of 4``."""
    return f"{list(words).count(word)} of {len(words)}"


def span(values: Iterable[float], digits: int) -> str:
    """The least and the greatest of some values, such as ``0.07 to 0.95``."""
    found = list(values)
    low, high = (f"{end:.{digits}f}" for end in (min(found), max(found)))
    return low if low == high else f"{low} to {high}"


def against(estimate: float, low: float, high: float, null: float) -> str:
    """Where an estimate lies against its null: its interval must exclude the null to differ."""
    if any(map(math.isnan, (estimate, low, high))):
        return "undefined"
    if low > null:
        return "above"
    return "below" if high < null else "not distinguishable from"


def interval(estimate: float, low: float, high: float, digits: int = 2, unit: str = "") -> str:
    """An estimate with its 95 % interval, such as ``0.42 [0.30, 0.55]``."""
    if math.isnan(estimate):
        return "undefined (no clear gap)"
    return f"{estimate:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def tally(verdicts: list[str]) -> str:
    """Counts of the verdicts, such as ``above in 3 of 4, below in 1 of 4``."""
    counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
    return ", ".join(f"{word} in {count} of {len(verdicts)}" for word, count in counts.items())


def overall(verdicts: list[str], wanted: str = "above") -> str:
    """Whether a claim holds over several comparisons with their nulls.

    "holds" if every one went the wanted way; "holds in part" if some did and none the other way;
    "mixed" if more went the wanted way than the other; otherwise "not seen here".
    """
    other = {"above": "below", "below": "above"}[wanted]
    hits, misses = verdicts.count(wanted), verdicts.count(other)
    if verdicts and hits == len(verdicts):
        return "holds"
    if hits <= misses:
        return "not seen here"
    return "mixed" if misses else "holds in part"
